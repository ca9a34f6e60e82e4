//! Cholesky factorisation of a large symmetric matrix, in double precision and in place.
//!
//! Written here, not taken from a library: every sum has a fixed order and no fused multiply-add, so the factor is the same
//! for any number of threads and on every machine, and with it every code that a solver derives from it.
//!
//! Left-looking by panels of columns. With the columns before a panel known, each row's part of the panel is
//! A_iJ - L_i L_J^T, a product of rows with rows: both are contiguous, and rows are independent of each other, so threads share
//! them. The panel's own square is then factored by one thread, and the rows below are solved against it.

use rayon::prelude::*;

use crate::simd::{Isa, dispatch};

/// Columns in a panel: whole tiles of [`DOWN`] and [`ACROSS`]; its rows are read once per run of other rows.
const PANEL: usize = 96;
/// Rows of the matrix that a thread takes at a time: whole tiles of [`DOWN`].
const RUN: usize = 48;
/// Products are summed over this many columns at a time, so that the panel's part (96 * 256 * 8 bytes) stays in the
/// second cache.
const DEPTH: usize = 256;
/// A tile of sums that are held in registers: 4 by 3, each of [`LANES`] partial sums.
const DOWN: usize = 4;
const ACROSS: usize = 3;
const LANES: usize = 4;

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
/// `a`: `[n, n]` row-major; only the lower triangle with the diagonal is read and written. Costs n^3 / 3 operations.
///
/// # Errors
/// [`NotPositive`] at the first row whose pivot is not above 1e-13 of its diagonal; `a` is then half done.
///
/// # Panics
/// If `a` is not n * n long.
pub fn factor(a: &mut [f64], n: usize) -> Result<(), NotPositive> {
    assert_eq!(Some(a.len()), n.checked_mul(n), "elements of a square matrix with {n} rows");
    let isa = Isa::best();
    let diagonal: Vec<f64> = (0..n).map(|i| a[i * n + i]).collect();
    for first in (0..n).step_by(PANEL) {
        let width = PANEL.min(n - first);
        let (above, below) = a.split_at_mut((first + width) * n);
        let panel = &mut above[first * n..];
        for i in 0..width {
            // Row i needs the panel's rows up to itself only: later elements of the row are never read.
            let (done, row) = panel.split_at_mut(i * n);
            let row = &mut row[..n];
            for j in 0..i {
                let other = &done[j * n..];
                row[first + j] = (row[first + j] - dot(isa, &row[..first + j], other)) / other[first + j];
            }
            let pivot = row[first + i] - dot(isa, &row[..first + i], row);
            // Not `<=`: NaN must stop here too.
            if !(pivot > LEAST_PIVOT * diagonal[first + i].abs() && pivot < f64::INFINITY) {
                return Err(NotPositive { row: first + i, pivot });
            }
            row[first + i] = pivot.sqrt();
        }
        let panel = &*panel;
        below.par_chunks_mut(RUN * n).for_each(|rows| {
            subtract_products(isa, rows, panel, n, first, width);
            for row in rows.chunks_exact_mut(n) {
                for j in 0..width {
                    let other = &panel[j * n..];
                    let sum = dot(isa, &row[first..first + j], &other[first..]);
                    row[first + j] = (row[first + j] - sum) / other[first + j];
                }
            }
        });
    }
    Ok(())
}

/// rows[:, first..first + width] -= rows[:, ..first] panel[:, ..first]^T
#[inline(always)]
fn subtract_products_of(rows: &mut [f64], panel: &[f64], n: usize, first: usize, width: usize) {
    let count = rows.len() / n;
    let mut from = 0;
    while from < first {
        let to = (from + DEPTH).min(first);
        let mut i = 0;
        while i < count {
            let down = DOWN.min(count - i);
            let mut j = 0;
            while j < width {
                let across = ACROSS.min(width - j);
                let sums = if (down, across) == (DOWN, ACROSS) {
                    tile(
                        std::array::from_fn(|d| &rows[(i + d) * n + from..(i + d) * n + to]),
                        std::array::from_fn(|c| &panel[(j + c) * n + from..(j + c) * n + to]),
                    )
                } else {
                    // The same sums: what a row gets must not depend on where a run of rows ends.
                    let at = |d: usize| (i + d.min(down - 1)) * n;
                    let beside = |c: usize| (j + c.min(across - 1)) * n;
                    tile(
                        std::array::from_fn(|d| &rows[at(d) + from..at(d) + to]),
                        std::array::from_fn(|c| &panel[beside(c) + from..beside(c) + to]),
                    )
                };
                for (d, sums) in sums.iter().enumerate().take(down) {
                    for (c, sum) in sums.iter().enumerate().take(across) {
                        rows[(i + d) * n + first + j + c] -= sum;
                    }
                }
                j += across;
            }
            i += down;
        }
        from = to;
    }
}

/// All products of four rows with three others, equally long.
#[inline(always)]
fn tile(a: [&[f64]; DOWN], b: [&[f64]; ACROSS]) -> [[f64; ACROSS]; DOWN] {
    let len = a[0].len();
    let mut sums = [[[0.0; LANES]; ACROSS]; DOWN];
    let a = a.map(|row| row[..len].as_chunks::<LANES>());
    let b = b.map(|row| row[..len].as_chunks::<LANES>());
    for k in 0..len / LANES {
        for d in 0..DOWN {
            for c in 0..ACROSS {
                for lane in 0..LANES {
                    sums[d][c][lane] += a[d].0[k][lane] * b[c].0[k][lane];
                }
            }
        }
    }
    let mut out = [[0.0; ACROSS]; DOWN];
    for d in 0..DOWN {
        for c in 0..ACROSS {
            let rest: f64 = a[d].1.iter().zip(b[c].1).map(|(a, b)| a * b).sum();
            out[d][c] = sums[d][c].iter().sum::<f64>() + rest;
        }
    }
    out
}

/// Sum of products over the length of `a`; `b` may be longer.
#[inline(always)]
fn dot_of(a: &[f64], b: &[f64]) -> f64 {
    const WIDE: usize = 4 * LANES;
    let b = &b[..a.len()];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<WIDE>(), b.as_chunks::<WIDE>());
    let mut sums = [0.0; WIDE];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..WIDE {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

dispatch!(fn dot(a: &[f64], b: &[f64]) -> f64 = dot_of);
dispatch!(fn subtract_products(rows: &mut [f64], panel: &[f64], n: usize, first: usize, width: usize) = subtract_products_of);

#[cfg(test)]
mod tests {
    use super::*;

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
            factor(&mut fast, n).expect("positive definite");
            plain(&mut slow, n);
            for i in 0..n {
                for j in 0..=i {
                    let (f, s) = (fast[i * n + j], slow[i * n + j]);
                    assert!((f - s).abs() <= 1e-11 * (1.0 + s.abs()), "n {n}: [{i}, {j}] {f} and {s}");
                }
                for j in i + 1..n {
                    assert_eq!(fast[i * n + j], a[i * n + j], "the upper triangle is left alone");
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
            pool.install(|| factor(&mut a, n)).expect("positive definite");
            a
        };
        let one = with(1);
        for threads in [2, 7] {
            assert!(one.iter().zip(with(threads)).all(|(a, b)| a.to_bits() == b.to_bits()), "{threads} threads");
        }
        let (rows, panel) = (&a[..50 * n], &a[50 * n..70 * n]);
        let results: Vec<Vec<f64>> = Isa::present()
            .into_iter()
            .map(|isa| {
                let mut rows = rows.to_vec();
                subtract_products(isa, &mut rows, panel, n, 150, 20);
                rows.push(dot(isa, &a[..n], &a[n..]));
                rows
            })
            .collect();
        assert!(results.iter().all(|r| *r == results[0]));
    }

    #[test]
    fn what_is_not_positive_definite_is_refused_where_it_shows() {
        let n = 150;
        let zero = NotPositive { row: 0, pivot: 0.0 };
        assert_eq!(factor(&mut vec![0.0; n * n], n), Err(zero));
        // Rank 40: forty pivots, then nothing but rounding.
        let found = factor(&mut matrix(n, 40, 0.0), n).expect_err("rank 40");
        assert_eq!(found.row, 40);
        let mut indefinite = matrix(n, 200, 0.1);
        indefinite[120 * n + 120] *= -1.0;
        assert_eq!(factor(&mut indefinite, n).expect_err("negative diagonal").row, 120);
        let mut nan = matrix(n, 200, 0.1);
        nan[130 * n + 7] = f64::NAN;
        let found = factor(&mut nan, n).expect_err("NaN");
        assert!(found.row == 130 && found.pivot.is_nan());
    }
}
