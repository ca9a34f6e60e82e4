//! The best values of what stays: least squares on the survivors of a mask, row by row.
//!
//! Of all weights V that are zero where the mask says so, those with the least loss (W - V) H (W - V)^T solve normal
//! equations in the survivors of each row. Conjugate gradients find them (as ALPS does, Meng et al. 2024, section 3.2):
//! a round is one product with H for all rows, and every round lowers the loss.

use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

use super::Hessian;
use super::kernels::{LANES, Lanes};
use super::lanes::{Columns, Factored};
use crate::BitMask;
use crate::view::{elements, elements_mut};

/// What least squares found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Refit {
    /// e H e^T of every row before, in the units of the Hessian.
    pub before: Vec<f64>,
    /// The same after.
    pub after: Vec<f64>,
}

/// e H e^T of every row of `w` less `values`, both `[rows, channels]`, in the units of the Hessian.
///
/// # Panics
/// If shapes differ, or rows do not lie [one after the other](crate::view).
pub fn losses(w: ArrayView2<'_, f32>, values: ArrayView2<'_, f32>, hessian: &Hessian) -> Vec<f64> {
    assert!(w.dim() == values.dim() && w.ncols() == hessian.channels(), "weights, values and channels");
    let (factored, part) = (Factored::new(hessian), LANES * w.ncols());
    let tiles = elements(w).par_chunks(part).zip(elements(values).par_chunks(part));
    let each = tiles.flat_map_iter(|(w, values)| {
        let (_, losses) = factored.slopes(&factored.load(w), &factored.load(values));
        losses.into_iter().take(w.len() / hessian.channels())
    });
    each.collect()
}

/// Gives what stays of `values` its best values, beginning with those that it has. A row whose loss would not fall is
/// left as it is.
///
/// `w`: the weights as they were, `[rows, channels]`; `values`: `[rows, channels]`, zero where the mask says so.
/// `rounds`: of conjugate gradients.
///
/// # Panics
/// If shapes differ, or rows do not lie [one after the other](crate::view).
pub fn refit(
    w: ArrayView2<'_, f32>,
    mask: &BitMask,
    hessian: &Hessian,
    rounds: usize,
    values: ArrayViewMut2<'_, f32>,
) -> Refit {
    let (rows, cols) = w.dim();
    assert_eq!(cols, hessian.channels(), "columns of the weights and channels of the Hessian");
    assert_eq!((mask.rows(), mask.cols()), (rows, cols), "a mask for the weights");
    assert_eq!(values.dim(), (rows, cols), "values for the weights");
    let factored = Factored::new(hessian);
    let tiles = elements(w).par_chunks(LANES * cols).zip(elements_mut(values).par_chunks_mut(LANES * cols));
    let found: Vec<(Vec<f64>, Vec<f64>)> = tiles
        .enumerate()
        .map(|(i, (w, values))| {
            let stays = factored.stays(mask, i * LANES, w.len() / cols);
            tile(factored, w, &stays, rounds, values)
        })
        .collect();
    let mut out = Refit::default();
    for (before, after) in found {
        out.before.extend(before);
        out.after.extend(after);
    }
    out
}

fn tile(factored: Factored<'_>, w: &[f32], stays: &[Lanes], rounds: usize, values: &mut [f32]) -> (Vec<f64>, Vec<f64>) {
    let rows = w.len() / factored.hessian.channels();
    let (given, start) = (factored.load(w), factored.load(values));
    let (first, before) = factored.slopes(&given, &start);
    let mut now = start.clone();
    descend(factored, stays, &first, rounds, &mut now);
    // Errors anew, so that what is said of them is true of the weights and not of what rounds added up.
    let (_, mut after) = factored.slopes(&given, &now);
    for l in 0..rows {
        // NaN is no gain either.
        let gains = after[l] < before[l];
        if !gains {
            after[l] = before[l];
            now.iter_mut().zip(&start).for_each(|(now, start)| now[l] = start[l]);
        }
    }
    factored.store(&now, values);
    (before[..rows].to_vec(), after[..rows].to_vec())
}

/// Conjugate gradients with the diagonal as preconditioner, each row for itself. `slopes`: e (H + damping) at the start.
pub(super) fn descend(factored: Factored<'_>, stays: &[Lanes], slopes: &[Lanes], rounds: usize, values: &mut [Lanes]) {
    let scale = by_diagonal(factored);
    let dot = |a: &[Lanes], b: &[Lanes]| {
        let mut sums = [0.0_f64; LANES];
        for (a, b) in a.iter().zip(b) {
            for l in 0..LANES {
                sums[l] += f64::from(a[l]) * f64::from(b[l]);
            }
        }
        sums
    };
    let masked =
        |x: &[Lanes]| -> Columns { x.iter().zip(stays).map(|(x, m)| std::array::from_fn(|l| x[l] * m[l])).collect() };
    let scaled = |x: &[Lanes]| -> Columns { x.iter().zip(&scale).map(|(x, by)| x.map(|x| x * by)).collect() };
    let mut residual = masked(slopes);
    let mut towards = scaled(&residual);
    let mut size = dot(&residual, &towards);
    for _ in 0..rounds {
        let along = masked(&factored.times(&towards));
        let curve = dot(&towards, &along);
        let step: [f32; LANES] = std::array::from_fn(|l| ratio(size[l], curve[l]));
        for (c, towards) in towards.iter().enumerate() {
            for l in 0..LANES {
                values[c][l] += step[l] * towards[l];
                residual[c][l] -= step[l] * along[c][l];
            }
        }
        let next = scaled(&residual);
        let left = dot(&residual, &next);
        let turn: [f32; LANES] = std::array::from_fn(|l| ratio(left[l], size[l]));
        for (towards, next) in towards.iter_mut().zip(&next) {
            for l in 0..LANES {
                towards[l] = next[l] + turn[l] * towards[l];
            }
        }
        size = left;
    }
}

/// Zero where there is nothing left to gain.
fn ratio(a: f64, b: f64) -> f32 {
    if a > 0.0 && b > 0.0 { (a / b) as f32 } else { 0.0 }
}

/// One by the damped diagonal of H, in the order and units of the factor; zero past the last channel.
fn by_diagonal(factored: Factored<'_>) -> Vec<f32> {
    let mut scale: Vec<f32> = damped_diagonal(factored.hessian).iter().map(|h| 1.0 / h).collect();
    scale.resize(factored.padded(), 0.0);
    scale
}

/// The damped diagonal of H, in the order and units of the factor.
pub(super) fn damped_diagonal(hessian: &Hessian) -> Vec<f32> {
    let each = hessian.order().iter().map(|c| f64::from(hessian.importance()[*c as usize]) * hessian.unit());
    each.map(|h| (h + hessian.damping()) as f32).collect()
}
