//! What is guessed of the inputs of matrices that are being converted, each kept from its first chunk of rows to its last.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aurora_quantizers::gptq::{self, Guess};

use super::{Rounding, blocks};
use crate::model::{ModelGraph, ParamId, Role};
use crate::plan::{Plan, TensorPlan};
use crate::weights::Weights;

/// One matrix: not looked at yet, or what was found.
type Slot = Mutex<Option<Option<Arc<Guess>>>>;

/// The guesses of a conversion.
pub(super) struct Guesses {
    /// For each tensor of the plan, one slot for each expert's matrix; none where weights are rounded on their own.
    slots: Vec<Vec<Slot>>,
    /// Chunks of each tensor that are not done.
    left: Vec<AtomicUsize>,
}

impl Guesses {
    /// `chunks`: how many each tensor of the plan has.
    pub(super) fn new(graph: &ModelGraph, plan: &Plan, rounding: Rounding, chunks: &[usize]) -> Guesses {
        let linears = if rounding.reference || rounding.nearest { BTreeMap::new() } else { linears(graph) };
        let slots = |t: &TensorPlan| {
            let count = linears.get(&t.param).filter(|_| Guess::helps(t.actual));
            (0..count.copied().unwrap_or(0)).map(|_| Slot::default()).collect()
        };
        Guesses {
            slots: plan.tensors.iter().map(slots).collect(),
            left: chunks.iter().map(|n| AtomicUsize::new(*n)).collect(),
        }
    }

    /// How many matrices a tensor is, where their inputs are guessed at.
    pub(super) fn matrices(&self, tensor: usize) -> Option<usize> {
        Some(self.slots[tensor].len()).filter(|n| *n > 0)
    }

    /// What is guessed of matrix `expert` of a tensor; looked at by who comes first. `importance`: of its columns.
    pub(super) fn of(
        &self,
        weights: &Weights,
        t: &TensorPlan,
        (tensor, expert): (usize, usize),
        rounding: Rounding,
        importance: Option<&[f32]>,
    ) -> Option<Arc<Guess>> {
        let slots = &self.slots[tensor];
        let mut slot = slots.get(expert)?.lock().expect("no panics under the lock");
        let found = slot.get_or_insert_with(|| {
            let (cols, height) = (t.cols(), t.rows() / slots.len());
            let mut sample = Vec::new();
            for rows in gptq::sample(height) {
                let (rows, at) = (expert * height + rows.start..expert * height + rows.end, sample.len());
                sample.resize(at + rows.len() * cols, 0.0);
                weights.rows(t.param, rows.clone(), &mut sample[at..]);
                if let Some(solved) = rounding.solved {
                    blocks::apply(weights.graph(), &solved.factors, t.param, rows.start, &mut sample[at..]);
                }
            }
            Guess::of(&sample, cols, importance).map(Arc::new)
        });
        found.clone()
    }

    /// A chunk of a tensor is done; after its last nothing is kept of it.
    pub(super) fn done(&self, tensor: usize) {
        if self.left[tensor].fetch_sub(1, Ordering::AcqRel) == 1 {
            for slot in &self.slots[tensor] {
                slot.lock().expect("no panics under the lock").take();
            }
        }
    }
}

/// How many matrices each weight of a linear is. Tables that are looked up as well are left out: a row is then a result itself.
fn linears(graph: &ModelGraph) -> BTreeMap<ParamId, usize> {
    let mut found = BTreeMap::new();
    for reader in graph.sites().iter().flat_map(|site| &site.readers) {
        if graph.param(reader.weight).role != Role::Embedding {
            *found.entry(reader.weight).or_insert(0) += 1;
        }
    }
    found
}
