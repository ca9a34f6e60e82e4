//! Pruning by the alternating direction method of multipliers (Boža 2024, "Fast and Effective Weight Update for Pruned
//! Large Language Models", algorithm 2): weights that fit the inputs and weights that are sparse pull at each other
//! until they agree, while the share that goes grows from round to round.
//!
//! Weights are in units of their part of an output, w_j |x_j|, so that what is small counts little. Of those, each round
//! takes W = argmin of (W - W0) H (W - W0)^T + rho |W - Z + U|^2, then Z = the largest of W + U, then U += W - Z.

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::kernels::{LANES, Lanes};
use super::lanes::{Columns, Factored};
use super::{Hessian, Order};
use crate::prune::{Sparsity, drop_lowest};
use crate::view::{elements, elements_mut};
use crate::{BitMask, NumError};

/// What is put into the diagonal of H, whose elements are one; and how hard the two pull.
const RIDGE: f64 = 0.1;
const RHO: f64 = 1.0;

/// Least |x_j| beside the root mean square over channels: a channel without input has weights, too.
const FLOOR: f64 = 1e-4;

/// Chooses what stays of each row, and gives it values for which least squares need little more. `w`: `[rows, cols]`;
/// `h`: E\[x x^T\], `[cols, cols]`. `rounds`: of which the first three quarters raise the share that goes.
///
/// # Errors
/// As [`Hessian::prepare`].
///
/// # Panics
/// If shapes do not belong together, rows do not lie [one after the other](crate::view), or a pattern does not divide
/// them.
pub fn admm(
    w: ArrayView2<'_, f32>,
    h: ArrayView2<'_, f32>,
    sparsity: Sparsity,
    rounds: usize,
) -> Result<(BitMask, Array2<f32>), NumError> {
    let (rows, cols) = w.dim();
    assert_eq!(h.dim(), (cols, cols), "a Hessian for the columns");
    assert!(sparsity.divides(cols), "{sparsity} in rows of {cols}");
    let mean = h.diag().iter().map(|d| f64::from(*d)).sum::<f64>() / cols.max(1) as f64;
    let norms: Vec<f64> = h.diag().iter().map(|d| f64::from(*d).sqrt().max(FLOOR * mean.sqrt())).collect();
    let mut scaled = h.to_owned();
    scaled.indexed_iter_mut().for_each(|((i, j), h)| *h = (f64::from(*h) / (norms[i] * norms[j])) as f32);
    let hessian = Hessian::prepare(scaled.view(), RIDGE + RHO, Order::Natural)?.without_products();
    drop(scaled);
    let factored = Factored::new(&hessian);
    let norms: Vec<f32> = norms.iter().map(|norm| *norm as f32).collect();
    let (mut weights, mut stays) = (Array2::zeros((rows, cols)), vec![true; rows * cols]);
    let each = elements_mut(weights.view_mut()).par_chunks_mut(LANES * cols).zip(stays.par_chunks_mut(LANES * cols));
    each.zip(elements(w).par_chunks(LANES * cols)).for_each(|((values, stays), w)| {
        values.copy_from_slice(w);
        values.chunks_exact_mut(cols).for_each(|row| row.iter_mut().zip(&norms).for_each(|(w, norm)| *w *= norm));
        tile(factored, sparsity, rounds, values, stays);
        values.chunks_exact_mut(cols).for_each(|row| row.iter_mut().zip(&norms).for_each(|(w, norm)| *w /= norm));
    });
    Ok((BitMask::pack(rows, cols, &stays), weights))
}

/// Sixteen rows. `values`: the scaled weights; become those that stay.
fn tile(factored: Factored<'_>, sparsity: Sparsity, rounds: usize, values: &mut [f32], stays: &mut [bool]) {
    // In the units of the factor.
    let rho = (RHO / (RIDGE + RHO) * factored.hessian.damping()) as f32;
    let w0 = factored.load(values);
    // W0 (H + ridge).
    let mut pull = factored.times(&w0);
    each(&mut pull, &w0, |pull, w0| pull - rho * w0);
    let (mut w, mut u) = (w0, factored.zeros());
    let mut bits = Vec::new();
    for round in 0..rounds {
        // W + U in rows, of which the lowest go.
        each(&mut w, &u, |w, u| w + u);
        factored.store(&w, values);
        mask(sparsity, part(round, rounds), factored.hessian.channels(), values, stays, &mut bits);
        let z = factored.load(values);
        // U += W - Z, of which W + U is there.
        for ((u, wu), z) in u.iter_mut().zip(&w).zip(&z) {
            for l in 0..LANES {
                u[l] = wu[l] - z[l];
            }
        }
        w.copy_from_slice(&pull);
        for ((w, z), u) in w.iter_mut().zip(&z).zip(&u) {
            for l in 0..LANES {
                w[l] += rho * (z[l] - u[l]);
            }
        }
        factored.solve(&mut w);
    }
    // What the weights alone say, on the last mask.
    factored.store(&w, values);
    values.iter_mut().zip(stays).for_each(|(value, stays)| {
        if !*stays {
            *value = 0.0;
        }
    });
}

fn each(a: &mut Columns, b: &[Lanes], f: impl Fn(f32, f32) -> f32) {
    for (a, b) in a.iter_mut().zip(b) {
        for l in 0..LANES {
            a[l] = f(a[l], b[l]);
        }
    }
}

/// Which part of what goes in the end goes in a round: less and less is added, as in Zhu & Gupta 2017.
fn part(round: usize, rounds: usize) -> f64 {
    let grow = (rounds * 3 / 4).max(1);
    1.0 - (1.0 - ((round + 1) as f64 / grow as f64).min(1.0)).powi(3)
}

/// Sets to zero what goes of some rows.
fn mask(sparsity: Sparsity, part: f64, cols: usize, values: &mut [f32], stays: &mut [bool], bits: &mut Vec<u32>) {
    let (few, goes) = match sparsity {
        Sparsity::Share(_) => (cols, sparsity.pruned(cols)),
        Sparsity::Pattern { keep, of } => (of, of - keep),
    };
    let count = (part * goes as f64).round() as usize;
    let mut scores = vec![0.0; few];
    stays.fill(true);
    for (values, stays) in values.chunks_exact_mut(few).zip(stays.chunks_exact_mut(few)) {
        scores.iter_mut().zip(&*values).for_each(|(score, value)| *score = value.abs());
        drop_lowest(&scores, count, bits, stays);
        values.iter_mut().zip(stays).filter(|(_, stays)| !**stays).for_each(|(value, _)| *value = 0.0);
    }
}
