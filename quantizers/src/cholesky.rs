//! Cholesky factorisation of a large symmetric matrix, in double precision and in place.
//!
//! Written here, not taken from a library: every sum has a fixed order and no fused multiply-add, so the factor is the
//! same for any number of threads and on every machine, and with it every code that a solver derives from it.
//!
//! Left-looking by panels of columns. With the columns before a panel known, each row's part of the panel is
//! A_iJ - L_i L_J^T; rows are independent of each other, so threads share them. Eight rows are worked on side by side,
//! one in each lane of a vector. The panel's own square is then factored by one thread, and the rows below are solved
//! against it.

use ndarray::ArrayViewMut2;
use rayon::prelude::*;

use crate::par;
use crate::simd::{Isa, dispatch};
use crate::view::elements_mut;

/// Columns in a panel: what is read of a row meets that many others.
const PANEL: usize = 96;
/// Rows side by side: two AVX2 registers of doubles.
const LANES: usize = 8;
/// Tiles of [`LANES`] rows that a thread takes at a time.
const TILES: usize = 6;
/// Products are summed over this many columns at a time, so that the panel's part (96 * 256 * 8 bytes) stays in the
/// second cache while the tiles meet it.
const DEPTH: usize = 256;
/// Columns whose sums are kept in registers together: eight AVX2 registers.
const ACROSS: usize = 4;

/// One column of eight rows.
type Lanes = [f64; LANES];

/// A pivot below this share of the diagonal element it came from is rounding, not information: a few hundred units in
/// the last place of a double.
const LEAST_PIVOT: f64 = 1e-13;

/// Where a factorisation stopped: the matrix is not positive definite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NotPositive {
    /// The row at which it was seen.
    pub row: usize,
    /// What was left of the diagonal there; NaN where something overflowed.
    pub pivot: f64,
}

/// Replaces the lower triangle of `a` by L with A = L L^T.
///
/// `a`: `[n, n]`; of the upper triangle nothing is read, and what is left there means nothing. Costs n^3 / 3
/// operations.
///
/// # Errors
/// [`NotPositive`] at the first row whose pivot is not above 1e-13 of its diagonal; `a` is then half done.
///
/// # Panics
/// If `a` is not square, or its rows do not lie [one after the other](crate::view).
pub fn factor(a: ArrayViewMut2<'_, f64>) -> Result<(), NotPositive> {
    let n = a.nrows();
    assert_eq!(a.ncols(), n, "rows and columns of a square matrix");
    let a = elements_mut(a);
    let isa = Isa::best();
    let diagonal: Vec<f64> = (0..n).map(|i| a[i * n + i]).collect();
    let mut known = Known::default();
    let least = par::rows_for(par::CHUNK_WEIGHTS, n);
    for first in (0..n).step_by(PANEL) {
        let width = PANEL.min(n - first);
        let (above, below) = a.split_at_mut((first + width) * n);
        let panel = &mut above[first * n..];
        known.load(panel, n, first);
        let square = vec![0.0; width * width];
        panel
            .par_chunks_mut(LANES * n)
            .with_min_len(least.div_ceil(LANES))
            .for_each(|rows| update(isa, rows, n, &known, &square));
        let square = factor_square(isa, panel, n, first, &diagonal)?;
        let rest = below.par_chunks_mut(TILES * LANES * n).with_min_len(least.div_ceil(TILES * LANES));
        rest.for_each(|rows| update(isa, rows, n, &known, &square));
    }
    Ok(())
}

/// Factors the panel's square in place, and hands out what rows below are solved with: L with its diagonal inverted.
///
/// Column by column: what a column means to those behind is added to their sums at once, so that no sum waits for
/// itself.
#[inline(always)]
fn factor_square_of(panel: &mut [f64], n: usize, first: usize, diagonal: &[f64]) -> Result<Vec<f64>, NotPositive> {
    let width = panel.len() / n;
    let (mut square, mut sums) = (vec![0.0; width * width], vec![0.0; width * width]);
    let mut column = vec![0.0; width];
    for k in 0..width {
        let pivot = panel[k * n + first + k] - sums[k * width + k];
        // Not `<=`: NaN must stop here too.
        if !(pivot > LEAST_PIVOT * diagonal[first + k].abs() && pivot < f64::INFINITY) {
            return Err(NotPositive { row: first + k, pivot });
        }
        let root = pivot.sqrt();
        panel[k * n + first + k] = root;
        let by = 1.0 / root;
        square[k * width + k] = by;
        for i in k + 1..width {
            let value = (panel[i * n + first + k] - sums[i * width + k]) * by;
            panel[i * n + first + k] = value;
            square[i * width + k] = value;
            column[i] = value;
            let sums = &mut sums[i * width..][k + 1..=i];
            sums.iter_mut().zip(&column[k + 1..=i]).for_each(|(sum, v)| *sum += value * v);
        }
    }
    Ok(square)
}

/// What the rows of a panel have in the columns before it, in the order in which [`add_products`] meets it.
#[derive(Default)]
struct Known {
    /// Columns before the panel.
    first: usize,
    /// For every [`DEPTH`] columns, the last ones fewer: `[rows / ACROSS, columns]`, zeros past the last row.
    fours: Vec<[f64; ACROSS]>,
}

impl Known {
    /// `panel`: whole rows of `n`.
    fn load(&mut self, panel: &[f64], n: usize, first: usize) {
        let fours = (panel.len() / n).div_ceil(ACROSS);
        self.first = first;
        self.fours.clear();
        self.fours.resize(fours * first, [0.0; ACROSS]);
        let depths = self.fours.par_chunks_mut((fours * DEPTH).max(1)).enumerate();
        depths.with_min_len(par::rows_for(par::CHUNK_WEIGHTS, fours * ACROSS * DEPTH)).for_each(|(at, known)| {
            let depth = known.len() / fours;
            for (rows, known) in panel.chunks(ACROSS * n).zip(known.chunks_exact_mut(depth)) {
                for (c, row) in rows.chunks_exact(n).enumerate() {
                    known.iter_mut().zip(&row[at * DEPTH..]).for_each(|(known, v)| known[c] = *v);
                }
            }
        });
    }
}

/// rows[:, J] = (rows[:, J] - rows[:, ..first] known^T) L_JJ^-T, J the `width` columns from `first` on.
///
/// `square`: L_JJ, `[width, width]`, with its diagonal inverted; zeros on the diagonal leave the last step out.
#[inline(always)]
fn update_rows(rows: &mut [f64], n: usize, known: &Known, square: &[f64]) {
    let (first, width) = (known.first, square.len().isqrt());
    let fours = width.div_ceil(ACROSS);
    let mut sums = vec![[[0.0; LANES]; ACROSS]; rows.len().div_ceil(LANES * n) * fours];
    let mut columns = [[0.0; LANES]; DEPTH];
    for (at, known) in known.fours.chunks((fours * DEPTH).max(1)).enumerate() {
        let depth = known.len() / fours;
        for (rows, sums) in rows.chunks(LANES * n).zip(sums.chunks_exact_mut(fours)) {
            // Lanes without a row keep what was there: nothing reads their sums.
            for (l, row) in rows.chunks_exact(n).enumerate() {
                for (column, v) in columns.iter_mut().zip(&row[at * DEPTH..][..depth]) {
                    column[l] = *v;
                }
            }
            add_products(sums, known, &columns[..depth]);
        }
    }
    let solve = square.first().is_some_and(|v| *v != 0.0);
    for (rows, sums) in rows.chunks_mut(LANES * n).zip(sums.chunks_exact_mut(fours)) {
        let sums = &mut sums.as_flattened_mut()[..width];
        for c in 0..width {
            let mut left = [0.0; LANES];
            for (l, row) in rows.chunks_exact(n).enumerate() {
                left[l] = row[first + c] - sums[c][l];
            }
            if solve {
                for (m, done) in square[c * width..][..c].iter().zip(&*sums) {
                    for l in 0..LANES {
                        left[l] -= m * done[l];
                    }
                }
                for left in &mut left {
                    *left *= square[c * width + c];
                }
            }
            sums[c] = left;
        }
        for (l, row) in rows.chunks_exact_mut(n).enumerate() {
            for (v, solved) in row[first..].iter_mut().zip(&*sums) {
                *v = solved[l];
            }
        }
    }
}

/// `sums[c] += sum over k of known[c, k] * columns[k]`, four c at a time.
#[inline(always)]
fn add_products(sums: &mut [[Lanes; ACROSS]], known: &[[f64; ACROSS]], columns: &[Lanes]) {
    for (out, known) in sums.iter_mut().zip(known.chunks_exact(columns.len())) {
        let mut sums = *out;
        for (known, column) in known.iter().zip(columns) {
            for c in 0..ACROSS {
                for l in 0..LANES {
                    sums[c][l] += known[c] * column[l];
                }
            }
        }
        *out = sums;
    }
}

dispatch!(
    fn factor_square(panel: &mut [f64], n: usize, first: usize, diagonal: &[f64]) -> Result<Vec<f64>, NotPositive>
        = factor_square_of
);
dispatch!(fn update(rows: &mut [f64], n: usize, known: &Known, square: &[f64]) = update_rows);

#[cfg(test)]
mod tests {
    use super::*;

    fn factored(a: &mut [f64], n: usize) -> Result<(), NotPositive> {
        factor(ArrayViewMut2::from_shape((n, n), a).unwrap())
    }

    /// The textbook's loop, one element after the other.
    fn plain(a: &mut [f64], n: usize) {
        for i in 0..n {
            for j in 0..=i {
                let sum: f64 = (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum();
                let left = a[i * n + j] - sum;
                a[i * n + j] = if i == j { left.sqrt() } else { left / a[j * n + j] };
            }
        }
    }

    /// X^T X / rows + `damp` I of pseudo-random X.
    fn matrix(n: usize, rows: usize, damp: f64) -> Vec<f64> {
        let mut state = 12_345u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
        };
        let x: Vec<f64> = (0..rows * n).map(|_| uniform()).collect();
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] = x.chunks(n).map(|row| row[i] * row[j]).sum::<f64>() / rows as f64;
            }
            a[i * n + i] += damp;
        }
        a
    }

    #[test]
    fn agrees_with_the_textbook_at_every_edge_of_a_panel() {
        for n in [0, 1, 2, 3, 7, 95, 96, 97, 100, 144, 145, 193, 300] {
            let a = matrix(n, n + 3, 1e-3);
            let (mut fast, mut slow) = (a.clone(), a.clone());
            factored(&mut fast, n).expect("positive definite");
            plain(&mut slow, n);
            for i in 0..n {
                for j in 0..=i {
                    let (f, s) = (fast[i * n + j], slow[i * n + j]);
                    assert!((f - s).abs() <= 1e-11 * (1.0 + s.abs()), "n {n}: [{i}, {j}] {f} and {s}");
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_and_thread_count_gives_the_same_bits() {
        let n = 203;
        let a = matrix(n, 300, 1e-6);
        let with = |threads: usize| {
            let mut a = a.clone();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| factored(&mut a, n)).expect("positive definite");
            a
        };
        let one = with(1);
        for threads in [2, 7] {
            assert!(one.iter().zip(with(threads)).all(|(a, b)| a.to_bits() == b.to_bits()), "{threads} threads");
        }
        let rows = &a[..50 * n];
        let mut known = Known::default();
        known.load(&a[50 * n..70 * n], n, 150);
        let square: Vec<f64> = (0..20 * 20).map(|i| if i % 21 == 0 { 0.5 } else { a[i] }).collect();
        let results: Vec<Vec<f64>> = Isa::present()
            .into_iter()
            .map(|isa| {
                let mut rows = rows.to_vec();
                update(isa, &mut rows, n, &known, &square);
                rows
            })
            .collect();
        assert!(results.iter().all(|r| *r == results[0]));
    }

    #[test]
    fn what_is_not_positive_definite_is_refused_where_it_shows() {
        let n = 150;
        let zero = NotPositive { row: 0, pivot: 0.0 };
        assert_eq!(factored(&mut vec![0.0; n * n], n), Err(zero));
        // Rank 40: forty pivots, then nothing but rounding.
        let found = factored(&mut matrix(n, 40, 0.0), n).expect_err("rank 40");
        assert_eq!(found.row, 40);
        let mut indefinite = matrix(n, 200, 0.1);
        indefinite[120 * n + 120] *= -1.0;
        assert_eq!(factored(&mut indefinite, n).expect_err("negative diagonal").row, 120);
        let mut nan = matrix(n, 200, 0.1);
        nan[130 * n + 7] = f64::NAN;
        let found = factored(&mut nan, n).expect_err("NaN");
        assert!(found.row == 130 && found.pivot.is_nan());
    }
}
