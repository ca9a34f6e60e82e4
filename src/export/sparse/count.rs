//! What of dense matrices is zero, and which of them become smaller without it.

use std::ops::Range;

use aurora_quantizers::sparse::{Packing, SparseError, SparseLayout};
use aurora_quantizers::{Store, par};
use rayon::prelude::*;

use super::form::Form;
use crate::checkpoint::mmap::Map;
use crate::watch::Watch;
use crate::{Error, Result};

/// Chunks whose pages are given back together.
const GROUP: usize = 32;

/// A tensor in a mapped file.
#[derive(Debug, Clone)]
pub(in super::super) struct DenseTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub store: &'static dyn Store,
    /// Which of the files it is in, and where.
    pub file: usize,
    pub range: Range<usize>,
    /// Whether it is a matrix that may be stored sparse.
    pub matrix: bool,
}

impl DenseTensor {
    /// Rows over all outer dimensions, and columns.
    pub fn dim(&self) -> (usize, usize) {
        let (cols, outer) = self.shape.split_last().expect("no tensor is a single number");
        (outer.iter().product(), *cols)
    }
}

/// How a tensor is written.
pub(in super::super) enum Decided {
    /// As it is.
    Dense,
    /// Without zeros. `before`: values before each row, and in all.
    Sparse { layout: SparseLayout, before: Vec<u64> },
}

/// Looks at all tensors, and decides.
///
/// # Errors
/// If no tensor can be stored sparse or would be smaller, or the watch says to stop.
pub(in super::super) fn count(
    tensors: &[DenseTensor],
    maps: &[Map],
    form: Form,
    watch: &dyn Watch,
) -> Result<Vec<Decided>> {
    let mut decided = Vec::with_capacity(tensors.len());
    // The first matrix without the pattern, and the first that would not be smaller.
    let (mut unfit, mut large) = (None, None);
    for t in tensors {
        let (rows, cols) = t.dim();
        let layout = SparseLayout::new(form.packing(), t.store, cols);
        let Some(layout) = layout.ok().filter(|_| t.matrix && form.takes(t)) else {
            decided.push(Decided::Dense);
            continue;
        };
        watch.stage(&format!("counting zeros of {}", t.name));
        match before(t, &maps[t.file], &layout, watch)? {
            Err(e) => {
                unfit.get_or_insert_with(|| (t.name.clone(), e));
                decided.push(Decided::Dense);
            }
            Ok(before) => {
                let stored = before[rows];
                if form.pays(&layout, rows, stored, t.range.len() as u64) {
                    decided.push(Decided::Sparse { layout, before });
                } else {
                    large.get_or_insert_with(|| (t.name.clone(), rows as u64 * cols as u64, stored));
                    decided.push(Decided::Dense);
                }
            }
        }
    }
    if decided.iter().any(|d| matches!(d, Decided::Sparse { .. })) {
        return Ok(decided);
    }
    let method = "Prune in the same run with `method` (such as magnitude) and `sparsity`";
    Err(match (unfit, large) {
        (Some((name, e)), _) => Error::setting(
            "sparse",
            Packing::TwoFour.name(),
            format!("no matrix has the pattern, the first of them is {name}: {e}. {method} 2:4, or use bitmask"),
        ),
        (None, Some((name, weights, stored))) => {
            let share = 100.0 * stored as f64 / weights as f64;
            let what = format!(
                "no matrix would become smaller; of {name}, the first, {share:.1} % of the weights are not zero. \
                 {method}, or leave `sparse` out"
            );
            Error::setting("sparse", form.packing().name(), what)
        }
        (None, None) => Error::setting("sparse", form.packing().name(), "the output has no matrix that can be stored so"),
    })
}

/// How many values are stored before each row, and in all; or why the rows cannot be stored so.
fn before(
    t: &DenseTensor,
    map: &Map,
    layout: &SparseLayout,
    watch: &dyn Watch,
) -> Result<std::result::Result<Vec<u64>, SparseError>> {
    let rows = t.dim().0;
    let mut before = Vec::with_capacity(rows + 1);
    before.push(0);
    for group in groups(rows, layout.cols()) {
        watch.go_on()?;
        let counted = chunks(group.clone(), layout.cols()).into_par_iter().map(|rows| {
            let mut counts = Vec::with_capacity(rows.len());
            let dense = &map.bytes()[part(t, layout, &rows)];
            layout.count(dense, &mut counts).map(|()| counts).map_err(|e| below(e, rows.start))
        });
        let counted: Vec<_> = counted.collect();
        map.release(part(t, layout, &group));
        for counts in counted {
            let counts = match counts {
                Ok(counts) => counts,
                Err(e) => return Ok(Err(e)),
            };
            for n in counts {
                before.push(before.last().copied().unwrap_or(0) + n);
            }
        }
    }
    Ok(Ok(before))
}

/// The same about a row that was counted from another.
fn below(e: SparseError, first: usize) -> SparseError {
    match e {
        SparseError::Dense { row, col, stored } => SparseError::Dense { row: row + first, col, stored },
        other => other,
    }
}

/// Where rows of a tensor are in its file.
pub(super) fn part(t: &DenseTensor, layout: &SparseLayout, rows: &Range<usize>) -> Range<usize> {
    t.range.start + rows.start * layout.dense_row()..t.range.start + rows.end * layout.dense_row()
}

/// Runs of rows whose pages are given back together.
pub(super) fn groups(rows: usize, cols: usize) -> impl Iterator<Item = Range<usize>> {
    let step = par::rows_for(par::CHUNK_WEIGHTS, cols) * GROUP;
    (0..rows).step_by(step).map(move |from| from..(from + step).min(rows))
}

/// Runs of rows that one thread works on.
pub(super) fn chunks(rows: Range<usize>, cols: usize) -> Vec<Range<usize>> {
    let step = par::rows_for(par::CHUNK_WEIGHTS, cols);
    rows.clone().step_by(step).map(|from| from..(from + step).min(rows.end)).collect()
}
