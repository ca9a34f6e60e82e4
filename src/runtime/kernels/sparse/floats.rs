//! Sparse floats: the product with one token, and a row made dense.
//!
//! Sums are made in the order of the dense product, so on one instruction set they have the same bits.

use std::marker::PhantomData;

use super::expand::{Expand, Mask};
use super::matrix::{Row, Sparse};
use crate::runtime::kernels::acts::Acts;
use crate::runtime::kernels::floats::{BF16, F16, F32};
use crate::runtime::kernels::isa::{KernelIsa, Task};
use crate::runtime::kernels::out::{Out, by_rows};
use crate::runtime::kernels::simd::sum;

/// How far ahead values are asked for, in bytes. What is there does not matter. Two streams read in short steps leave
/// the processor's own prefetch behind: without this a product from memory takes 8 % longer on Zen 4.
const AHEAD: usize = 2048;

/// How values of `N` bytes get to their columns. All methods must be `#[inline(always)]`.
pub(super) trait Values<const N: usize>: Send + Sync + 'static {
    /// Eight columns as floats.
    fn floats<S: Expand, M: Mask>(s: S, values: &[[u8; N]; 8], mask: u8) -> S::F;
    /// Eight columns as they are stored.
    fn stored<S: Expand, M: Mask>(s: S, values: &[[u8; N]; 8], mask: u8) -> [[u8; N]; 8];
}

impl Values<4> for F32 {
    #[inline(always)]
    fn floats<S: Expand, M: Mask>(s: S, values: &[[u8; 4]; 8], mask: u8) -> S::F {
        s.expand_f32::<M>(values, mask)
    }
    #[inline(always)]
    fn stored<S: Expand, M: Mask>(s: S, values: &[[u8; 4]; 8], mask: u8) -> [[u8; 4]; 8] {
        s.to_array(s.expand_f32::<M>(values, mask)).map(f32::to_le_bytes)
    }
}

impl Values<2> for F16 {
    #[inline(always)]
    fn floats<S: Expand, M: Mask>(s: S, values: &[[u8; 2]; 8], mask: u8) -> S::F {
        s.expand_f16::<M>(values, mask)
    }
    #[inline(always)]
    fn stored<S: Expand, M: Mask>(s: S, values: &[[u8; 2]; 8], mask: u8) -> [[u8; 2]; 8] {
        s.expand_words::<M>(values, mask)
    }
}

impl Values<2> for BF16 {
    #[inline(always)]
    fn floats<S: Expand, M: Mask>(s: S, values: &[[u8; 2]; 8], mask: u8) -> S::F {
        s.expand_bf16::<M>(values, mask)
    }
    #[inline(always)]
    fn stored<S: Expand, M: Mask>(s: S, values: &[[u8; 2]; 8], mask: u8) -> [[u8; 2]; 8] {
        s.expand_words::<M>(values, mask)
    }
}

/// The product of all rows with one token.
pub(super) fn alone<M: Mask, L: Values<N>, const N: usize>(
    isa: KernelIsa,
    w: &Sparse,
    x: &Acts,
    chunk: usize,
    out: &mut [f32],
) {
    let rows = out.len();
    let x = x.row(0);
    by_rows(out, 1, rows, chunk, |out| isa.run(Rows::<M, L, N> { w, x, out, layout: PhantomData }));
}

struct Rows<'a, M, L, const N: usize> {
    w: &'a Sparse<'a>,
    x: &'a [f32],
    out: Out<'a>,
    layout: PhantomData<(M, L)>,
}

impl<M: Mask, L: Values<N>, const N: usize> Task for Rows<'_, M, L, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Expand>(mut self, s: S) {
        for r in self.out.rows() {
            let sum = dot::<S, M, L, N>(s, &self.w.row(r), self.x);
            self.out.put(0, r, &[sum], 1);
        }
    }
}

/// The product of a row with a token, in the order of the dense one.
#[inline(always)]
fn dot<S: Expand, M: Mask, L: Values<N>, const N: usize>(s: S, row: &Row, x: &[f32]) -> f32 {
    let mut values = row.values.as_chunks::<N>().0;
    let (x32, x_rest) = x.as_chunks::<32>();
    let (masks, mask_rest) = row.mask.split_at(4 * x32.len());
    let mut acc = [s.splat(0.0); 4];
    for (mask, x) in masks.as_chunks::<4>().0.iter().zip(x32) {
        let x = x.as_chunks::<8>().0;
        let some: &[[u8; N]; 32] = values.first_chunk().expect("values, and some more");
        s.prefetch(some.as_ptr().cast::<u8>().wrapping_add(AHEAD));
        let all = u32::from_le_bytes(*mask);
        for i in 0..4 {
            let eight = some[M::before(all, i)..].first_chunk().expect("eight columns have at most eight values");
            acc[i] = s.mul_add(L::floats::<S, M>(s, eight, mask[i]), s.load(&x[i]), acc[i]);
        }
        values = &values[M::before(all, 4)..];
    }
    let (x8, x_rest) = x_rest.as_chunks::<8>();
    for (mask, x) in mask_rest.iter().zip(x8) {
        let eight = values.first_chunk().expect("values, and some more");
        acc[0] = s.mul_add(L::floats::<S, M>(s, eight, *mask), s.load(x), acc[0]);
        values = &values[M::count(*mask)..];
    }
    if let Some(mask) = mask_rest.get(x8.len()) {
        let mut last = [0.0; 8];
        last[..x_rest.len()].copy_from_slice(x_rest);
        let eight = values.first_chunk().expect("values, and some more");
        acc[1] = s.mul_add(L::floats::<S, M>(s, eight, *mask), s.load(&last), acc[1]);
    }
    sum(s, s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

/// Row `r`, dense.
pub(super) fn unpack<M: Mask, L: Values<N>, const N: usize>(isa: KernelIsa, w: &Sparse, r: usize, out: &mut [u8]) {
    isa.run(Unpack::<M, L, N> { row: w.row(r), out, layout: PhantomData });
}

struct Unpack<'a, M, L, const N: usize> {
    row: Row<'a>,
    out: &'a mut [u8],
    layout: PhantomData<(M, L)>,
}

impl<M: Mask, L: Values<N>, const N: usize> Task for Unpack<'_, M, L, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Expand>(self, s: S) {
        let mut values = self.row.values.as_chunks::<N>().0;
        let (eights, rest) = self.out.as_chunks_mut::<N>().0.as_chunks_mut::<8>();
        for (mask, out) in self.row.mask.iter().zip(&mut *eights) {
            *out = L::stored::<S, M>(s, values.first_chunk().expect("values, and some more"), *mask);
            values = &values[M::count(*mask)..];
        }
        if let Some(mask) = self.row.mask.get(eights.len()) {
            let last = L::stored::<S, M>(s, values.first_chunk().expect("values, and some more"), *mask);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}
