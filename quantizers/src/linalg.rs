//! Matrix products: a thin face over faer.
//!
//! faer's own threads may split a sum differently for another number of them. So every product here is cut into tiles
//! of a fixed size, each computed by one thread: the same bits for any number of threads (of one machine: faer's
//! blocking follows the caches and the instruction set).

use std::ops::Range;

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Rows and columns of a tile: 256 KiB of f32, so that a tile and the strips that make it stay in a core's cache.
pub const TILE: usize = 256;

/// `out = X^T X` for columns `i` against columns `j`, on the calling thread. `x`: `[tokens, cols]` row-major; `out`:
/// `[i.len(), j.len()]`. If `i == j` only the lower triangle is computed, the rest is left as it was.
///
/// # Panics
/// If the lengths do not belong together.
pub fn gram_tile(x: &[f32], cols: usize, i: Range<usize>, j: Range<usize>, out: &mut [f32]) {
    assert!(cols > 0 && x.len().is_multiple_of(cols), "{} numbers in rows of {cols}", x.len());
    let tokens = x.len() / cols;
    let x = MatRef::from_row_major_slice(x, tokens, cols);
    let (a, b) = (x.subcols(i.start, i.len()).transpose(), x.subcols(j.start, j.len()));
    let out = MatMut::from_row_major_slice_mut(out, i.len(), j.len());
    if i == j {
        let (lower, full) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
        triangular::matmul(out, lower, Accum::Replace, a, full, b, full, 1.0, Par::Seq);
    } else {
        faer::linalg::matmul::matmul(out, Accum::Replace, a, b, 1.0, Par::Seq);
    }
}

/// `out = A B^T`. `a`: `[m, k]`, `b`: `[n, k]`, `out`: `[m, n]`, all row-major.
///
/// # Panics
/// If the lengths do not belong together.
pub fn matmul_transposed(a: &[f32], b: &[f32], k: usize, out: &mut [f32]) {
    assert!(k > 0 && a.len().is_multiple_of(k) && b.len().is_multiple_of(k), "rows of {k} numbers");
    let (m, n) = (a.len() / k, b.len() / k);
    assert_eq!(out.len(), m * n, "length of a product of {m} by {n}");
    if out.is_empty() {
        return;
    }
    let b = MatRef::from_row_major_slice(b, n, k);
    out.par_chunks_mut(TILE * n).zip(a.par_chunks(TILE * k)).for_each(|(out, a)| {
        let rows = a.len() / k;
        let a = MatRef::from_row_major_slice(a, rows, k);
        let out = MatMut::from_row_major_slice_mut(out, rows, n);
        faer::linalg::matmul::matmul(out, Accum::Replace, a, b.transpose(), 1.0, Par::Seq);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, salt: u32) -> Vec<f32> {
        let mut state = salt;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..n).map(next).collect()
    }

    /// f32 sums of k terms of magnitude one are off by at most k roundings of magnitude k.
    fn bound(k: usize) -> f64 {
        (k * k) as f64 * f64::from(f32::EPSILON) / 2.0 + 1e-6
    }

    #[test]
    fn products_are_those_of_the_plain_loops() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (257, 2, 33), (300, 65, 16), (2, 513, 100)] {
            let (a, b) = (numbers(m * k, 1), numbers(n * k, 2));
            let mut out = vec![f32::NAN; m * n];
            matmul_transposed(&a, &b, k, &mut out);
            for i in 0..m {
                for j in 0..n {
                    let want: f64 = (0..k).map(|c| f64::from(a[i * k + c]) * f64::from(b[j * k + c])).sum();
                    assert!((f64::from(out[i * n + j]) - want).abs() <= bound(k), "{m} {n} {k} at {i} {j}");
                }
            }
        }
    }

    #[test]
    fn no_number_of_threads_changes_a_product() {
        let (a, b) = (numbers(700 * 130, 3), numbers(90 * 130, 4));
        let run = |threads| {
            let mut out = vec![0.0; 700 * 90];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| matmul_transposed(&a, &b, 130, &mut out));
            out
        };
        let one = run(1);
        assert!([2, 3, 7].map(run).iter().all(|other| *other == one));
    }
}
