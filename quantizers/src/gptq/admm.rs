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

/// The inputs of some matrices, prepared for pruning all of them.
#[derive(Debug, Clone)]
pub struct Admm {
    /// Of channels in units of their size.
    hessian: Hessian,
    /// |x_j|.
    norms: Vec<f32>,
}

impl Admm {
    /// Scales and factors H. `h`: E\[x x^T\], `[n, n]`.
    ///
    /// # Errors
    /// As [`Hessian::prepare`].
    ///
    /// # Panics
    /// If `h` is not square.
    pub fn prepare(h: ArrayView2<'_, f32>) -> Result<Admm, NumError> {
        assert_eq!(h.nrows(), h.ncols(), "rows and columns of a Hessian");
        let mean = h.diag().iter().map(|d| f64::from(*d)).sum::<f64>() / h.ncols().max(1) as f64;
        let norms: Vec<f64> = h.diag().iter().map(|d| f64::from(*d).sqrt().max(FLOOR * mean.sqrt())).collect();
        let mut scaled = h.to_owned();
        scaled.indexed_iter_mut().for_each(|((i, j), h)| *h = (f64::from(*h) / (norms[i] * norms[j])) as f32);
        let hessian = Hessian::prepare(scaled.view(), RIDGE + RHO, Order::Natural)?.without_products();
        Ok(Admm { hessian, norms: norms.iter().map(|norm| *norm as f32).collect() })
    }

    /// Chooses what stays of each row, and gives it values for which least squares need little more. `w`:
    /// `[rows, channels]`. `rounds`: of which the first three quarters raise the share that goes.
    ///
    /// # Panics
    /// If `w` has another number of columns or not its rows [one after the other](crate::view), or a pattern does not
    /// divide them.
    pub fn prune(&self, w: ArrayView2<'_, f32>, sparsity: Sparsity, rounds: usize) -> (BitMask, Array2<f32>) {
        let (rows, cols) = w.dim();
        assert_eq!(cols, self.norms.len(), "columns of the weights and channels of the Hessian");
        assert!(sparsity.divides(cols), "{sparsity} in rows of {cols}");
        let factored = Factored::new(&self.hessian);
        let (mut weights, mut stays) = (Array2::zeros((rows, cols)), vec![true; rows * cols]);
        let each = elements_mut(weights.view_mut()).par_chunks_mut(LANES * cols);
        let each = each.zip(stays.par_chunks_mut(LANES * cols)).zip(elements(w).par_chunks(LANES * cols));
        each.for_each(|((values, stays), w)| {
            let scale = |values: &mut [f32], by: fn(f32, f32) -> f32| {
                let rows = values.chunks_exact_mut(cols);
                rows.for_each(|row| row.iter_mut().zip(&self.norms).for_each(|(w, norm)| *w = by(*w, *norm)));
            };
            values.copy_from_slice(w);
            scale(values, |w, norm| w * norm);
            tile(factored, sparsity, rounds, values, stays);
            scale(values, |w, norm| w / norm);
        });
        (BitMask::pack(rows, cols, &stays), weights)
    }
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
