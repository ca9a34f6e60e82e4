//! Products of small f32 matrices that lie in a near cache: what attention does with a tile of keys or values.

use std::ops::Range;

/// `c` = a b, or `c` += a b with `add`. `a`: rows of `k` numbers, of which the columns `depth` count; `b`: `[k, n]`, of
/// which the rows `depth` count; `c`: as many rows as `a`, of `n` numbers. Every number of `c` is summed in the order of
/// `depth`, whatever the number of rows.
///
/// # Panics
/// If lengths do not belong together.
pub fn product(a: &[f32], k: usize, depth: Range<usize>, b: &[f32], n: usize, c: &mut [f32], add: bool) {
    let rows = a.len() / k;
    assert!(depth.end <= k && b.len() >= depth.end * n, "columns {depth:?} of {k}, {} numbers", b.len());
    assert_eq!((a.len(), c.len()), (rows * k, rows * n), "sizes of a and c");
    for row in (0..rows).step_by(4) {
        let left = (rows - row).min(4);
        let mut column = 0;
        while column < n {
            let cols = n - column;
            let at = (row, column);
            match (left, cols) {
                (4, 16..) => block::<4, 16>(a, k, &depth, b, n, c, add, at),
                (3, 16..) => block::<3, 16>(a, k, &depth, b, n, c, add, at),
                (2, 16..) => block::<2, 16>(a, k, &depth, b, n, c, add, at),
                (1, 16..) => block::<1, 16>(a, k, &depth, b, n, c, add, at),
                (_, 4..) => (0..left).for_each(|r| block::<1, 4>(a, k, &depth, b, n, c, add, (row + r, column))),
                _ => (0..left).for_each(|r| block::<1, 1>(a, k, &depth, b, n, c, add, (row + r, column))),
            }
            column += [1, 4, 16][usize::from(cols >= 4) + usize::from(cols >= 16)];
        }
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the plain numbers of a matrix product")]
fn block<const R: usize, const N: usize>(
    a: &[f32],
    k: usize,
    depth: &Range<usize>,
    b: &[f32],
    n: usize,
    c: &mut [f32],
    add: bool,
    (row, column): (usize, usize),
) {
    let mut sums = [[0.0_f32; N]; R];
    let rows: [&[f32]; R] = std::array::from_fn(|r| &a[(row + r) * k..][depth.clone()]);
    for (i, b) in b[depth.start * n..depth.end * n].chunks_exact(n).enumerate() {
        let b: &[f32; N] = b[column..column + N].try_into().expect("N numbers");
        for (sums, a) in sums.iter_mut().zip(&rows) {
            let x = a[i];
            for (s, b) in sums.iter_mut().zip(b) {
                *s += x * b;
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let c = &mut c[(row + r) * n + column..][..N];
        for (c, s) in c.iter_mut().zip(sums) {
            *c = if add { *c + s } else { *s };
        }
    }
}
