//! The Hessian of one site, prepared once for all linears that read the site.

use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

use super::Order;
use super::factor::Factor;
use super::kernels::STRIP;
use crate::view::elements;
use crate::{NumError, cholesky, par};

/// Largest damping tried, in mean diagonal elements: the matrix is then more damping than Hessian.
const MOST_DAMPING: f64 = 1.0;

/// What [`Hessian::prepare`] found and did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preparation {
    /// Added to every diagonal element, as a share of the mean diagonal of the living channels.
    pub damping: f64,
    /// How often the factorisation failed and damping was raised.
    pub retries: usize,
    /// Channels whose input was always zero: they count nothing and are rounded to nearest.
    pub dead: usize,
    /// Living channels of which, given the channels after them in the order, no more is left than about the damping: as
    /// many dimensions the calibration inputs did not fill.
    pub explained: usize,
}

/// A symmetric matrix H = E\[x x^T\], permuted to the order in which columns are rounded, and its factor.
///
/// With H + damping = M D M^T, M unit upper triangular, the loss of an error row e is sum_k D_k (e M)_k^2, and (e M)_k
/// vanishes when column k is rounded from w_k + sum_{j<k} e_j M_jk. That is GPTQ (Frantar et al. 2022): its row k of
/// the upper Cholesky factor of H^-1, divided by the diagonal, holds the same compensation, as Chee et al. 2023
/// (QuIP, theorem 6) show. This form needs no inverse: M comes from one Cholesky factorisation of H read backwards.
#[derive(Debug, Clone)]
pub struct Hessian {
    n: usize,
    /// The column at each place of the order.
    order: Vec<u32>,
    /// H in that order, times `unit`.
    h: Squares,
    factor: Factor,
    /// D, times `unit`.
    pivots: Vec<f64>,
    /// Added to the diagonal, times `unit`.
    damping: f64,
    /// A power of two that brings the mean diagonal near one: exact, and nothing overflows later.
    unit: f64,
    /// Diagonal of H, by column.
    importance: Vec<f32>,
    prepared: Preparation,
}

impl Hessian {
    /// Checks, permutes, damps and factors H; in parallel on the current rayon pool, but for a matrix of at most
    /// [`CHUNK_WEIGHTS`](crate::par::CHUNK_WEIGHTS) elements by the caller alone, who may then hold what other jobs
    /// wait for. Costs n^3 / 3 operations in double precision; the result takes 6 n^2 bytes, making it another 8 n^2.
    ///
    /// `h`: E\[x x^T\] over the calibration tokens, `[n, n]`. `damp`: added to the diagonal, as a share of its mean
    /// over living channels; doubled as often as needed until the factorisation succeeds, up to one.
    ///
    /// # Errors
    /// [`NumError::NotFinite`]; [`NumError::NotSymmetric`]; [`NumError::NotSemidefinite`] for a negative diagonal, for
    /// a dead channel that still correlates with others, and for a matrix that no damping up to one makes positive;
    /// [`NumError::NoActivations`] if H is zero.
    ///
    /// # Panics
    /// If `h` is not square, its rows do not lie [one after the other](crate::view), or `damp` is no positive number.
    pub fn prepare(h: ArrayView2<'_, f32>, damp: f64, order: Order) -> Result<Hessian, NumError> {
        let n = h.nrows();
        assert_eq!(h.ncols(), n, "rows and columns of a Hessian");
        let h = elements(h);
        assert!(damp > 0.0 && damp.is_finite(), "damping {damp}: need a positive number");
        check(h, n)?;
        let importance: Vec<f32> = (0..n).map(|i| h[i * n + i]).collect();
        let dead = importance.iter().filter(|d| **d == 0.0).count();
        if dead == n {
            return Err(NumError::NoActivations { channels: n });
        }
        let mean = importance.iter().map(|d| f64::from(*d)).sum::<f64>() / (n - dead) as f64;
        let unit = 2f64.powi(-(mean.log2().round() as i32));
        let mean = mean * unit;
        let order = order.of(&importance);
        let permuted = Squares::new(n, |k, row| {
            let from = &h[order[k] as usize * n..][..n];
            for (out, &j) in row.iter_mut().zip(&order) {
                *out = (f64::from(from[j as usize]) * unit) as f32;
            }
        });
        let (mut share, mut retries) = (damp, 0);
        let mut lower = vec![0.0; n * n];
        loop {
            load_backwards(&permuted, share * mean, &mut lower);
            let failed = match cholesky::factor(ArrayViewMut2::from_shape((n, n), &mut lower).expect("n rows of n")) {
                Ok(()) => None,
                Err(at) => Some((at.row, at.pivot)),
            };
            let Some((row, pivot)) = failed else { break };
            if share >= MOST_DAMPING {
                let channel = order[n - 1 - row] as usize;
                return Err(NumError::NotSemidefinite { channel, found: pivot / unit, damping: share });
            }
            share = (share * 2.0).min(MOST_DAMPING);
            retries += 1;
        }
        let damping = share * mean;
        let pivots: Vec<f64> = (0..n).map(|k| lower[(n - 1 - k) * (n + 1)].powi(2)).collect();
        let factor = Factor::new(&lower, n);
        let living = |k: &usize| importance[order[*k] as usize] > 0.0;
        let explained = (0..n).filter(living).filter(|k| pivots[*k] <= 2.0 * damping).count();
        let prepared = Preparation { damping: share, retries, dead, explained };
        Ok(Hessian { n, order, h: permuted, factor, pivots, damping, unit, importance, prepared })
    }

    /// Without H itself, which only coordinate descent needs: half the memory.
    pub(super) fn without_products(mut self) -> Hessian {
        self.h = Squares::default();
        self
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.n
    }

    /// The diagonal, by column: E\[x_col^2\], what a scale search takes as importance.
    pub fn importance(&self) -> &[f32] {
        &self.importance
    }

    /// What preparing it found and did.
    pub fn prepared(&self) -> Preparation {
        self.prepared
    }

    pub(super) fn order(&self) -> &[u32] {
        &self.order
    }

    /// H itself.
    pub(super) fn products(&self) -> &Squares {
        &self.h
    }

    /// M^T.
    pub(super) fn factor(&self) -> &Factor {
        &self.factor
    }

    pub(super) fn pivots(&self) -> &[f64] {
        &self.pivots
    }

    pub(super) fn damping(&self) -> f64 {
        self.damping
    }

    pub(super) fn unit(&self) -> f64 {
        self.unit
    }
}

impl Order {
    fn of(self, importance: &[f32]) -> Vec<u32> {
        let mut order: Vec<u32> = (0..importance.len() as u32).collect();
        if self == Order::Static {
            // Stable: equal channels stay in their natural order.
            order.sort_by(|a, b| importance[*b as usize].total_cmp(&importance[*a as usize]));
        }
        order
    }
}

/// How far two halves of a symmetric matrix may differ, in units of sqrt(H_ii H_jj): sums of products that were added
/// in another order differ by far less.
const ASYMMETRY: f64 = 1e-4;

fn check(h: &[f32], n: usize) -> Result<(), NumError> {
    let seen = crate::scan(h);
    if let Some(first) = seen.first {
        return Err(NumError::NotFinite { nan: seen.nan, inf: seen.inf, first });
    }
    let diagonal = |i: usize| f64::from(h[i * n + i]);
    for i in 0..n {
        if diagonal(i) < 0.0 {
            return Err(NumError::NotSemidefinite { channel: i, found: diagonal(i), damping: 0.0 });
        }
    }
    let rows = (0..n).into_par_iter().with_min_len(par::rows_for(par::CHUNK_WEIGHTS, n));
    let fault = rows.find_map_first(|i| {
        (0..i).find_map(|j| {
            let (a, b) = (h[i * n + j], h[j * n + i]);
            let size = (diagonal(i) * diagonal(j)).sqrt();
            if (f64::from(a) - f64::from(b)).abs() > ASYMMETRY * size {
                Some(NumError::NotSymmetric { row: i, col: j, lower: a, upper: b })
            } else if size == 0.0 && a != 0.0 {
                // x_i is always zero, so is every product with it.
                let channel = if diagonal(i) == 0.0 { i } else { j };
                Some(NumError::NotSemidefinite { channel, found: 0.0, damping: 0.0 })
            } else {
                None
            }
        })
    });
    fault.map_or(Ok(()), Err)
}

/// Lower triangle of J (H + damping) J, J the reversal of rows.
fn load_backwards(h: &Squares, damping: f64, lower: &mut [f64]) {
    let n = h.n;
    let rows = lower.par_chunks_mut(n.max(1)).with_min_len(par::rows_for(par::CHUNK_WEIGHTS, n));
    rows.enumerate().for_each_init(
        || vec![0.0; n],
        |from, (i, row)| {
            h.copy_row(n - 1 - i, from);
            for (out, h) in row[..=i].iter_mut().zip(from.iter().rev()) {
                *out = f64::from(*h);
            }
            row[i] += damping;
        },
    );
}

/// A square matrix in squares of [`STRIP`] rows and columns, 16 KiB each: what descent reads at a time lies in one
/// piece and stays in the nearest cache, where rows of a large matrix would lie a power of two apart and push each
/// other out.
#[derive(Debug, Clone, Default)]
pub(super) struct Squares {
    n: usize,
    /// `[rows / STRIP][columns / STRIP][STRIP]`, zeros past the edges.
    strips: Vec<[f32; STRIP]>,
}

impl Squares {
    /// `fill` is handed every row once, by any thread.
    fn new(n: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let across = n.div_ceil(STRIP);
        let mut strips = vec![[0.0; STRIP]; across * across * STRIP];
        let blocks = strips.par_chunks_mut((across * STRIP).max(1));
        let least = par::rows_for(par::CHUNK_WEIGHTS, n).div_ceil(STRIP);
        blocks.with_min_len(least).enumerate().for_each_init(
            || vec![0.0; n],
            |row, (block, strips)| {
                for k in block * STRIP..n.min((block + 1) * STRIP) {
                    fill(k, row);
                    for (square, part) in strips.chunks_exact_mut(STRIP).zip(row.chunks(STRIP)) {
                        square[k % STRIP][..part.len()].copy_from_slice(part);
                    }
                }
            },
        );
        Squares { n, strips }
    }

    /// Columns `STRIP * s..` of row `k`; zeros past the last.
    pub(super) fn strip(&self, k: usize, s: usize) -> &[f32; STRIP] {
        &self.square(k / STRIP, s)[k % STRIP]
    }

    /// Rows from `STRIP * i` and columns from `STRIP * j` on.
    pub(super) fn square(&self, i: usize, j: usize) -> &[[f32; STRIP]] {
        &self.strips[(i * self.n.div_ceil(STRIP) + j) * STRIP..][..STRIP]
    }

    pub(super) fn at(&self, i: usize, j: usize) -> f32 {
        self.strip(i, j / STRIP)[j % STRIP]
    }

    fn copy_row(&self, k: usize, out: &mut [f32]) {
        for (s, out) in out.chunks_mut(STRIP).enumerate() {
            out.copy_from_slice(&self.strip(k, s)[..out.len()]);
        }
    }
}
