//! Products of small f32 matrices that lie in a near cache: what attention does with a tile of keys or values.

use std::ops::Range;

use super::isa::{KernelIsa, Task};
use super::simd::Simd;

/// Columns of one vector of sums.
const WIDE: usize = 16;
/// Rows whose sums are kept in registers: six of two AVX registers each keep both units busy.
const MOST_ROWS: usize = 6;

/// The factors of a product.
#[derive(Clone)]
pub struct Factors<'a> {
    /// Rows of `k` numbers.
    pub a: &'a [f32],
    /// Length of a row of `a`, rows of `b`.
    pub k: usize,
    /// Rows of `n` numbers.
    pub b: &'a [f32],
    /// Length of a row of `b`.
    pub n: usize,
    /// Which columns of `a` and rows of `b` count.
    pub depth: Range<usize>,
}

/// `c` = a b, or `c` += a b with `add`. Every number of `c` is summed in the order of `depth`, whatever the number of
/// rows: a row alone gives the bits that it gives among others.
///
/// # Panics
/// If lengths do not belong together.
pub fn product(f: Factors<'_>, c: &mut [f32], add: bool) {
    product_with(KernelIsa::best(), f, c, add);
}

/// [`product`] for an instruction set of the caller's choice.
///
/// # Panics
/// As [`product`].
pub fn product_with(isa: KernelIsa, f: Factors<'_>, c: &mut [f32], add: bool) {
    let rows = f.a.len() / f.k;
    assert!(f.depth.start <= f.depth.end && f.depth.end <= f.k, "columns {:?} of {}", f.depth, f.k);
    assert!(f.b.len() >= f.depth.end * f.n, "{} numbers for rows {:?} of {}", f.b.len(), f.depth, f.n);
    assert_eq!((f.a.len(), c.len()), (rows * f.k, rows * f.n), "sizes of a and c");
    isa.run(Product { f, c, add });
}

struct Product<'a> {
    f: Factors<'a>,
    c: &'a mut [f32],
    add: bool,
}

impl Task for Product<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let rows = self.f.a.len() / self.f.k;
        for row in (0..rows).step_by(MOST_ROWS) {
            match rows - row {
                1 => self.rows::<S, 1>(s, row),
                2 => self.rows::<S, 2>(s, row),
                3 => self.rows::<S, 3>(s, row),
                4 => self.rows::<S, 4>(s, row),
                5 => self.rows::<S, 5>(s, row),
                _ => self.rows::<S, MOST_ROWS>(s, row),
            }
        }
    }
}

impl Product<'_> {
    /// `R` rows from `row` on.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, s: S, row: usize) {
        let n = self.f.n;
        for column in (0..n / WIDE * WIDE).step_by(WIDE) {
            self.block::<S, R>(s, row, column, WIDE, |b| {
                s.wide_load(b[column..].first_chunk().expect("a whole vector"))
            });
        }
        let column = n / WIDE * WIDE;
        if column < n {
            self.block::<S, R>(s, row, column, n - column, |b| {
                let mut padded = [0.0; WIDE];
                padded[..n - column].copy_from_slice(&b[column..]);
                s.wide_load(&padded)
            });
        }
    }

    /// Some columns of these rows. `load`: those of a row of `b`.
    #[inline(always)]
    fn block<S: Simd, const R: usize>(
        &mut self,
        s: S,
        row: usize,
        column: usize,
        cols: usize,
        load: impl Fn(&[f32]) -> S::W,
    ) {
        let Factors { a, k, b, n, depth } = &self.f;
        let b = &b[depth.start * n..depth.end * n];
        let a: [&[f32]; R] = std::array::from_fn(|r| &a[(row + r) * k..][depth.clone()]);
        let mut sums = [s.wide_load(&[0.0; WIDE]); R];
        for (i, b) in b.chunks_exact(*n).enumerate() {
            let b = load(b);
            for r in 0..R {
                sums[r] = s.wide_mul_add(a[r][i], b, sums[r]);
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let mut plain = [0.0; WIDE];
            s.wide_store(sums, &mut plain);
            let c = &mut self.c[(row + r) * n + column..][..cols];
            for (c, sum) in c.iter_mut().zip(plain) {
                *c = if self.add { *c + sum } else { sum };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against sums in f64, with sizes around the vectors' and what lies outside `depth` poisoned.
    #[test]
    fn products_are_those_of_a_plain_loop_on_every_instruction_set() {
        let number = |i: usize| (i * 7919 % 1013) as f32 / 506.5 - 1.0;
        for isa in KernelIsa::present() {
            for (rows, k, n) in [(1, 1, 1), (4, 8, 16), (5, 64, 8), (7, 33, 80), (3, 64, 17), (6, 10, 31)] {
                for depth in [0..k, k / 3..k - k / 4, 0..0] {
                    let inside = |i: usize| if depth.contains(&i) { 0.0 } else { f32::NAN };
                    let a: Vec<f32> = (0..rows * k).map(|i| number(i) + inside(i % k)).collect();
                    let b: Vec<f32> = (0..k * n).map(|i| number(i + 5) + inside(i / n)).collect();
                    for add in [false, true] {
                        let mut c: Vec<f32> = (0..rows * n).map(number).collect();
                        let exact = |i: usize| {
                            let (r, j) = (i / n, i % n);
                            let sum = depth.clone().map(|d| f64::from(a[r * k + d]) * f64::from(b[d * n + j]));
                            sum.sum::<f64>() + if add { f64::from(number(i)) } else { 0.0 }
                        };
                        let f = Factors { a: &a, k, b: &b, n, depth: depth.clone() };
                        product_with(isa, f, &mut c, add);
                        for (i, c) in c.iter().enumerate() {
                            // k products below one each, k + 1 roundings.
                            let bound = (k * (k + 1)) as f64 * f64::from(f32::EPSILON);
                            let error = (f64::from(*c) - exact(i)).abs();
                            assert!(error <= bound, "{isa:?} {rows}x{k}x{n} {depth:?} {add}: {i} off by {error:e}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_alone_gives_the_bits_it_gives_among_others() {
        let a: Vec<f32> = (0..7 * 24).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..24 * 40).map(|i| (i as f32 * 0.73).cos()).collect();
        let factors = |a| Factors { a, k: 24, b: &b, n: 40, depth: 0..24 };
        let mut all = vec![0.0; 7 * 40];
        product(factors(&a), &mut all, false);
        for (a, together) in a.chunks(24).zip(all.chunks(40)) {
            let mut alone = vec![0.0; 40];
            product(factors(a), &mut alone, false);
            assert_eq!(alone, together);
        }
    }
}
