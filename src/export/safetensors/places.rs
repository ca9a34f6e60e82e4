//! Where each row of a parameter goes in the checkpoint's tensors: the import, backwards.

use std::collections::BTreeMap;
use std::ops::Range;

use aurora_quantizers::Spec;

use super::super::Contents;
use super::super::shards::Entry;
use super::stored::{self, Run};
use crate::Result;
use crate::model::Import;

/// Tensors of the output, and where the rows of every planned tensor go in them.
pub(super) struct Places {
    /// By name.
    pub entries: Vec<Entry>,
    /// For every tensor of the plan; empty if it is computed.
    pub targets: Vec<Vec<Target>>,
}

/// A run of a planned tensor's rows that is also consecutive in one output tensor (before permutation).
pub(super) struct Target {
    /// Rows of the planned tensor.
    pub rows: Range<usize>,
    /// One for each field of what it is stored as.
    pub entries: Vec<usize>,
    /// The first of them in the entries.
    pub to: usize,
    pub spec: &'static Spec,
}

impl Places {
    pub fn of(contents: Contents<'_>) -> Result<Places> {
        let Contents { source, weights, plan, request, .. } = contents;
        let chosen = stored::chosen(request)?;
        let all: Vec<Vec<Run>> = plan.tensors.iter().map(|t| stored::runs(weights, source, t.param, chosen)).collect();
        let fields = |run: &Run| {
            let fields = stored::store(run.spec).fields(&run.shape);
            fields.iter().map(|field| Entry::of(&run.name, field)).collect::<Vec<_>>()
        };
        let mut found: BTreeMap<String, Entry> = BTreeMap::new();
        for entry in all.iter().flatten().flat_map(fields) {
            found.entry(entry.name.clone()).or_insert(entry);
        }
        let index: BTreeMap<&str, usize> = found.keys().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
        let targets = all.iter().map(|runs| {
            let mut from = 0;
            let target = |run: &Run| {
                let rows = from..from + run.rows;
                from = rows.end;
                let entries = fields(run).iter().map(|entry| index[entry.name.as_str()]).collect();
                Target { rows, entries, to: run.to, spec: run.spec }
            };
            runs.iter().map(target).collect()
        });
        let targets = targets.collect();
        Ok(Places { targets, entries: found.into_values().collect() })
    }
}

/// The stored row (or vector element) of a canonical one. `total`: how many there are.
pub(super) fn stored_row(import: &Import, row: usize, total: usize) -> usize {
    match import {
        Import::RopePermute { heads } => {
            let dim = total / heads;
            let (head, i) = (row / dim, row % dim);
            head * dim + i / 2 + (i % 2) * (dim / 2)
        }
        _ => row,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_pairs_become_halves_head_by_head() {
        let import = Import::RopePermute { heads: 2 };
        let rows: Vec<_> = (0..8).map(|row| stored_row(&import, row, 8)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
