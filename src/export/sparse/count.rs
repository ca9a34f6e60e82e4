//! What of dense matrices is zero, and which of them become smaller without it.

use std::ops::Range;

use aurora_quantizers::par;
use aurora_quantizers::sparse::{Packing, SparseError, SparseLayout};
use rayon::prelude::*;

use super::dense::DenseTensor;
use super::form::Form;
use crate::checkpoint::mmap::Map;
use crate::watch::Watch;
use crate::{Error, Result};

/// Chunks whose pages are given back together.
const GROUP: usize = 32;

/// How a tensor is written.
pub(crate) enum Decided {
    /// As it is.
    Dense,
    /// Without zeros. `before`: values before each row, and in all.
    Sparse { layout: SparseLayout, before: Vec<u64> },
}

/// Looks at all tensors, and decides.
///
/// # Errors
/// If no tensor can be stored sparse or would be smaller, or the watch says to stop.
pub(crate) fn count(tensors: &[DenseTensor], maps: &[Map], form: Form, watch: &dyn Watch) -> Result<Vec<Decided>> {
    let mut decided = Vec::with_capacity(tensors.len());
    // Of the matrices that stay dense, the one with the most zeros, for the error: without the pattern, and too large.
    let (mut unfit, mut large) = (None, None);
    let mut nearest = (f64::INFINITY, f64::INFINITY);
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
                let share = beginning(t, &maps[t.file]);
                if share < nearest.0 {
                    (nearest.0, unfit) = (share, Some((&t.name, e)));
                }
                decided.push(Decided::Dense);
            }
            Ok(before) => {
                let stored = before[rows];
                if form.pays(&layout, rows, stored, t.range.len() as u64) {
                    decided.push(Decided::Sparse { layout, before });
                } else {
                    let share = stored as f64 / (rows as f64 * cols as f64);
                    if share < nearest.1 {
                        (nearest.1, large) = (share, Some((&t.name, share)));
                    }
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
            format!("no matrix has the pattern; {name}: {e}. {method} 2:4, or use bitmask"),
        ),
        (None, Some((name, share))) => {
            let share = 100.0 * share;
            let what = format!(
                "no matrix would become smaller; even of {name}, the sparsest, {share:.1} % of the weights are not \
                 zero. {method}, or leave `sparse` out"
            );
            Error::setting("sparse", form.packing().name(), what)
        }
        (None, None) => {
            Error::setting("sparse", form.packing().name(), "the output has no matrix that can be stored so")
        }
    })
}

/// The share of the first rows of a matrix that is not zero.
fn beginning(t: &DenseTensor, map: &Map) -> f64 {
    let (rows, cols) = t.dim();
    let Ok(layout) = SparseLayout::new(Packing::Bitmask, t.store, cols) else { return 1.0 };
    let (few, mut counts) = (0..par::rows_for(par::CHUNK_WEIGHTS, cols).min(rows), Vec::new());
    let counted = layout.count(&map.bytes()[part(t, &layout, &few)], &mut counts);
    counted.map_or(1.0, |()| counts.iter().sum::<u64>() as f64 / (few.len() * cols) as f64)
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
