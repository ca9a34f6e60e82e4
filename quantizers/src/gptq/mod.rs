//! GPTQ: rounding that makes up for its own errors (Frantar et al. 2022), on the grid of any block format.
//!
//! A linear computes W x. What rounding W to W - E costs is, over the calibration tokens, the mean of |E x|^2 = tr(E H
//! E^T) with H = E\[x x^T\]: the proxy loss. Columns are rounded one after the other, each from the value that best
//! makes up for the errors of the columns before it ([`Hessian`] says how). Afterwards codes are improved one by one,
//! each given all others, and the scales given the codes (coordinate descent on the same loss). A row whose loss ends
//! above that of rounding to nearest keeps the latter.
//!
//! Rows are independent of each other. They go through in chunks of a fixed size, and every sum has a fixed order: the
//! same bytes for any number of threads.

mod admm;
mod descent;
mod exchange;
mod factor;
mod guess;
mod hessian;
mod kernels;
mod lanes;
mod options;
mod prune;
mod refit;
mod rows;
mod shrink;
mod similarity;
mod triangle;

use ndarray::ArrayView2;
use rayon::prelude::*;

pub use admm::Admm;
pub use exchange::exchange;
pub use guess::{Guess, Sample, Strip, sample};
pub use hessian::{Hessian, Preparation};
pub use options::{Order, RowLoss, SolveOptions, Solved};
pub use prune::{Pruned, prune};
pub use refit::{Refit, losses, refit};
pub use shrink::shrink;

use crate::view::elements;
use crate::{BitMask, BlockFormat, NumError, scan};

/// Rounds a linear's weights to `format` so that its outputs on the calibration inputs change least.
///
/// `w`: `[rows, channels]`. `mask`: which of them stay, if not all; the others become zero, and what stays makes up for
/// them, too. `out`: exactly their bytes in the format.
///
/// # Errors
/// [`NumError::NotFinite`] and [`NumError::NotRepresentable`] for weights that the format cannot hold.
///
/// # Panics
/// If the lengths do not belong together, blocks do not divide a row, rows do not lie
/// [one after the other](crate::view), or there is a mask and the format has no exact zero.
pub fn solve(
    format: &dyn BlockFormat,
    w: ArrayView2<'_, f32>,
    mask: Option<&BitMask>,
    hessian: &Hessian,
    options: SolveOptions,
    out: &mut [u8],
) -> Result<Solved, NumError> {
    let (cols, spec) = (hessian.channels(), format.spec());
    let row_bytes = spec.bytes_for(cols).unwrap_or_else(|| panic!("{}: rows of {cols} columns", spec.name));
    assert_eq!(w.ncols(), cols, "columns of the weights and channels of the Hessian");
    if let Some(mask) = mask {
        assert_eq!((mask.rows(), mask.cols()), w.dim(), "a mask for the weights");
        assert!(format.has_zero(), "{}: no exact zero", spec.name);
    }
    let w = elements(w);
    crate::store::check_lengths(spec, w.len(), out.len());
    scan(w).check(spec)?;
    let chunks: Vec<Solved> = w
        .par_chunks(rows::CHUNK * cols)
        .zip(out.par_chunks_mut(rows::CHUNK * row_bytes))
        .enumerate()
        .map(|(i, (w, out))| rows::solve(format, w, mask.map(|mask| (mask, i * rows::CHUNK)), hessian, options, out))
        .collect();
    let mut solved = Solved::default();
    for chunk in chunks {
        solved.rows.extend(chunk.rows);
        solved.kept_nearest += chunk.kept_nearest;
        solved.descended += chunk.descended;
    }
    Ok(solved)
}
