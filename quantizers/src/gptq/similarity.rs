//! What columns of weights have in common, made into the Hessian of a [`Guess`](super::Guess) for one strip of them.

use std::ops::Range;

use super::kernels::{self, LANES, Lanes};
use super::{Hessian, Order};
use crate::matrix;
use crate::simd::{Isa, dispatch};

/// What correlations of weights count for those of inputs. Of 0.3, 0.6 and 0.9 the middle one had the smallest true
/// loss.
const TRUST: f64 = 0.6;

/// The root mean square of what is guessed is at most this. That of true correlations was 0.1 to 0.18 on two trained
/// models; queries and keys, whose rows fill few dimensions, have columns that are far more alike.
const LARGEST: f64 = 0.1;

/// Guesses that are noise for more than nine tenths are not used.
const LEAST_ORDER: f64 = 0.1;

/// Columns count at least this much of their strip's mean importance: one that counted nothing would take up all errors
/// of others, and come out anywhere.
const LEAST_IMPORTANCE: f32 = 0.01;

/// Added to the diagonal, as a share of its mean: the guess is positive definite without, by `1 - TRUST` at least.
const DAMPING: f64 = 1e-6;

/// Rows scaled to length one, both as the columns that they have and as they are: one operand of a product each.
struct Operands {
    /// `[columns, rows]`
    transposed: Vec<f32>,
    /// `[columns / LANES, rows]`, zeros past the last column.
    lanes: Vec<Lanes>,
}

/// Fills in sixteen rows from `first` on; `w`: them, at most.
#[inline(always)]
fn lay_out_of(operands: &mut Operands, w: &[f32], cols: usize, columns: &Range<usize>, first: usize) {
    let (n, count) = (columns.len(), w.len() / cols);
    let rows = operands.transposed.len() / n;
    let mut tile = vec![[0.0; LANES]; n];
    for (l, row) in w.chunks_exact(cols).enumerate() {
        tile.iter_mut().zip(&row[columns.clone()]).for_each(|(to, w)| to[l] = *w);
    }
    let mut top = [0.0f32; LANES];
    for column in &tile {
        for l in 0..LANES {
            top[l] = top[l].max(column[l].abs());
        }
    }
    // A row of zeros stays one.
    let top = top.map(|top| if top == 0.0 { 1.0 } else { top });
    let mut squares = [0.0f64; LANES];
    for column in &mut tile {
        for l in 0..LANES {
            column[l] /= top[l];
            squares[l] += f64::from(column[l]) * f64::from(column[l]);
        }
    }
    let length = squares.map(|square| if square == 0.0 { 1.0 } else { square.sqrt() as f32 });
    for column in &mut tile {
        for l in 0..LANES {
            column[l] /= length[l];
        }
    }
    for (to, column) in operands.transposed.chunks_exact_mut(rows).zip(&tile) {
        to[first..first + count].copy_from_slice(&column[..count]);
    }
    for (to, columns) in operands.lanes.chunks_exact_mut(rows).zip(tile.chunks(LANES)) {
        for (l, to) in to[first..first + count].iter_mut().enumerate() {
            to.iter_mut().zip(columns).for_each(|(to, column)| *to = column[l]);
        }
    }
}

dispatch!(
    fn lay_out(operands: &mut Operands, w: &[f32], cols: usize, columns: &Range<usize>, first: usize) = lay_out_of
);

/// Sums of products of columns, every row scaled to length one first: `[n, n]`, lower triangle; no row, no sum.
pub(super) fn correlations(w: &[f32], cols: usize, columns: Range<usize>) -> Vec<f32> {
    let (n, rows, isa) = (columns.len(), w.len() / cols, Isa::best());
    let mut operands =
        Operands { transposed: vec![0.0; n * rows], lanes: vec![[0.0; LANES]; n.div_ceil(LANES) * rows] };
    for (at, w) in w.chunks(LANES * cols).enumerate() {
        lay_out(isa, &mut operands, w, cols, &columns, at * LANES);
    }
    let Operands { transposed, lanes } = operands;
    let mut products = vec![0.0; n * n];
    for (at, lanes) in lanes.chunks_exact(rows).enumerate() {
        let first = at * LANES;
        let mut sums = vec![[0.0; LANES]; n - first];
        kernels::add_products(isa, &mut sums, &transposed[first * rows..], rows, lanes);
        for (row, sums) in products.chunks_exact_mut(n).skip(first).zip(&sums) {
            let width = LANES.min(n - first);
            row[first..first + width].copy_from_slice(&sums[..width]);
        }
    }
    products
}

/// The guess for one strip, from the sums of products of its columns over `rows` rows; `None` where nothing goes
/// together.
pub(super) fn prepare(mut like: Vec<f32>, n: usize, rows: usize, importance: Option<&[f32]>) -> Option<Hessian> {
    let down: Vec<f32> =
        (0..n).map(|i| like[i * (n + 1)]).map(|v| if v > 0.0 { v.sqrt().recip() } else { 0.0 }).collect();
    let mut square = 0.0;
    for i in 0..n {
        for j in 0..i {
            like[i * n + j] *= down[i] * down[j];
            square += f64::from(like[i * n + j]).powi(2);
        }
    }
    let (mean, noise) = (square / (n * (n - 1) / 2).max(1) as f64, 1.0 / rows.max(1) as f64);
    let order = 1.0 - noise / mean;
    // A mean of zero gives minus infinity, or NaN.
    if order.is_nan() || order < LEAST_ORDER {
        return None;
    }
    let sizes = sizes(importance, n);
    let trust = (TRUST * order).min(LARGEST / (mean - noise).sqrt()) as f32;
    for i in 0..n {
        for j in 0..i {
            let v = trust * like[i * n + j] * sizes[i] * sizes[j];
            (like[i * n + j], like[j * n + i]) = (v, v);
        }
        like[i * (n + 1)] = sizes[i] * sizes[i];
    }
    Hessian::prepare(matrix(&like, n), DAMPING, Order::Static).ok().map(Hessian::without_products)
}

/// Roots of the importances, in units of their mean; ones where they say nothing.
fn sizes(importance: Option<&[f32]>, n: usize) -> Vec<f32> {
    let top = importance.map_or(0.0, |all| all.iter().fold(0.0f32, |top, v| top.max(*v)));
    let Some(all) = importance.filter(|_| top > 0.0 && top.is_finite()) else { return vec![1.0; n] };
    let shares: Vec<f32> = all.iter().map(|v| if *v > 0.0 { v / top } else { 0.0 }).collect();
    let mean = shares.iter().sum::<f32>() / n as f32;
    shares.iter().map(|v| (v / mean).max(LEAST_IMPORTANCE).sqrt()).collect()
}
