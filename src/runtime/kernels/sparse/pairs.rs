//! 2:4 with one token: instead of putting weights into their columns, the activations that they meet are picked.
//!
//! A value's place among its four is two bits of the mask, so a vector of values takes its bits from known places, and
//! nothing depends on what came before. Codes have exact sums, whose order does not matter: the bits are those of the
//! dense product. Floats are added up in another order than there.

use std::marker::PhantomData;

use super::codes::{LANES, add_up, terms};
use super::expand::{Expand, arranged};
use super::matrix::{Row, Sparse};
use crate::runtime::kernels::acts::{Acts, RUN, Single};
use crate::runtime::kernels::floats::Stored;
use crate::runtime::kernels::isa::{KernelIsa, Task};
use crate::runtime::kernels::out::{Out, by_rows};
use crate::runtime::kernels::simd::sum;

/// The product of all rows of floats with one token.
pub(super) fn floats<L: Stored<N>, const N: usize>(
    isa: KernelIsa,
    w: &Sparse,
    x: &Acts,
    chunk: usize,
    out: &mut [f32],
) {
    let rows = out.len();
    let mut padded = x.row(0).to_vec();
    padded.resize(padded.len().next_multiple_of(16), 0.0);
    let x = padded.as_chunks().0;
    by_rows(out, 1, rows, chunk, |out| isa.run(Floats::<L, N> { w, x, out, layout: PhantomData }));
}

struct Floats<'a, L, const N: usize> {
    w: &'a Sparse<'a>,
    /// Zeros up to whole vectors.
    x: &'a [[f32; 16]],
    out: Out<'a>,
    layout: PhantomData<L>,
}

impl<L: Stored<N>, const N: usize> Task for Floats<'_, L, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Expand>(mut self, s: S) {
        for r in self.out.rows() {
            let sum = dot::<S, L, N>(s, &self.w.row(r), self.x);
            self.out.put(0, r, &[sum], 1);
        }
    }
}

#[inline(always)]
fn dot<S: Expand, L: Stored<N>, const N: usize>(s: S, row: &Row, x: &[[f32; 16]]) -> f32 {
    let (values, value_rest) = row.values[..row.bytes].as_chunks::<N>().0.as_chunks::<8>();
    let (masks, mask_rest) = row.mask.as_chunks::<2>();
    let whole = values.len();
    let mut acc = [s.splat(0.0); 4];
    let (fours, rest) = values.as_chunks::<4>();
    for ((values, masks), x) in fours.iter().zip(masks.as_chunks::<4>().0).zip(x.as_chunks::<4>().0) {
        s.prefetch(values.as_ptr().cast::<u8>().wrapping_add(AHEAD));
        for i in 0..4 {
            let x = s.pick_floats(&x[i], u16::from_le_bytes(masks[i]));
            acc[i] = s.mul_add(L::load(s, &values[i]), x, acc[i]);
        }
    }
    let done = whole - rest.len();
    for ((values, mask), x) in rest.iter().zip(&masks[done..]).zip(&x[done..]) {
        acc[0] = s.mul_add(L::load(s, values), s.pick_floats(x, u16::from_le_bytes(*mask)), acc[0]);
    }
    if !value_rest.is_empty() {
        // Columns that are missing have zeros on both sides.
        let mut mask = [0; 2];
        let left = masks.get(whole).map_or(mask_rest, |mask| mask);
        mask[..left.len()].copy_from_slice(left);
        let mut last = [[0; N]; 8];
        last[..value_rest.len()].copy_from_slice(value_rest);
        acc[1] = s.mul_add(L::load(s, &last), s.pick_floats(&x[whole], u16::from_le_bytes(mask)), acc[1]);
    }
    sum(s, s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

/// Codes of 32 bytes, two of every four of 64 columns.
const N: usize = 32;

/// How far ahead values are asked for, in bytes. What is there does not matter.
const AHEAD: usize = 1024;

/// Two blocks of activations.
const TWO: usize = 2 * RUN;
/// Eight of them.
type Acts8 = [[u8; TWO]; LANES / 2];

/// One token's activations, zeros up to whole vectors.
struct Token {
    codes: Vec<Acts8>,
    scales: Vec<[f32; LANES]>,
}

/// The product of all rows of codes with one token.
pub(super) fn codes(isa: KernelIsa, w: &Sparse, x: &Acts, chunk: usize, out: &mut [f32]) {
    let rounded = x.rounded::<Single>(isa);
    let each = rounded.blocks.len().div_ceil(LANES);
    let mut x = Token { codes: vec![[[0; TWO]; LANES / 2]; each], scales: vec![[0.0; LANES]; each] };
    for (some, out) in rounded.codes.chunks(TWO).zip(x.codes.as_flattened_mut()) {
        let mut two = [0; TWO];
        two[..some.len()].copy_from_slice(some);
        *out = arranged(&two);
    }
    for (block, scale) in rounded.blocks.iter().zip(x.scales.as_flattened_mut()) {
        *scale = block.scale;
    }
    let rows = out.len();
    by_rows(out, 1, rows, chunk, |out| isa.run(Rows { w, x: &x, out }));
}

struct Rows<'a> {
    w: &'a Sparse<'a>,
    x: &'a Token,
    out: Out<'a>,
}

impl Task for Rows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Expand>(mut self, s: S) {
        let each = self.x.scales.len();
        let mut sums = vec![[0.0; LANES]; LANES * each];
        let span = self.out.rows();
        for first in span.clone().step_by(LANES) {
            let n = LANES.min(span.end - first);
            for (r, sums) in (first..first + n).zip(sums.chunks_exact_mut(each.max(1))) {
                multiply(s, &self.w.row(r), self.x, sums);
            }
            self.out.put(0, first, &add_up(s, &sums, each), n);
        }
    }
}

/// A row's terms, one for each block.
#[inline(always)]
fn multiply<S: Expand>(s: S, row: &Row, x: &Token, out: &mut [[f32; LANES]]) {
    let masks = row.mask.as_chunks::<8>().0.as_chunks::<{ LANES / 2 }>().0;
    let values = row.values[..row.bytes].as_chunks::<N>().0.as_chunks::<{ LANES / 2 }>().0;
    let (scales, scale_rest) = row.scales.as_chunks::<LANES>();
    let whole = scales.len();
    let all = masks.iter().zip(values).zip(scales).zip(x.codes.iter().zip(&x.scales));
    for ((((masks, values), scales), (x, scales_x)), out) in all.zip(&mut *out) {
        *out = eight(s, masks, values, scales, x, scales_x);
    }
    if let Some(out) = out.get_mut(whole) {
        // Blocks of nothing after the last.
        let (mut masks, mut values, mut scales) = ([[0; 8]; LANES / 2], [[0; N]; LANES / 2], [[0; 2]; LANES]);
        let left = &row.mask[whole * 4 * LANES..];
        masks.as_flattened_mut()[..left.len()].copy_from_slice(left);
        let left = &row.values[whole * N * LANES / 2..row.bytes];
        values.as_flattened_mut()[..left.len()].copy_from_slice(left);
        scales[..scale_rest.len()].copy_from_slice(scale_rest);
        *out = eight(s, &masks, &values, &scales, &x.codes[whole], &x.scales[whole]);
    }
}

/// The terms of eight blocks.
#[inline(always)]
fn eight<S: Expand>(
    s: S,
    masks: &[[u8; 8]; LANES / 2],
    values: &[[u8; N]; LANES / 2],
    scales: &[[u8; 2]; LANES],
    x: &Acts8,
    scales_x: &[f32; LANES],
) -> [f32; LANES] {
    let ahead = values.as_ptr().cast::<u8>().wrapping_add(AHEAD);
    for line in 0..(N * LANES / 2).div_ceil(64) {
        s.prefetch(ahead.wrapping_add(64 * line));
    }
    let mut sums = [s.int_splat(0); LANES / 2];
    for i in 0..LANES / 2 {
        sums[i] = s.dot_signed(s.bytes(&values[i]), s.pick_bytes(&x[i], &masks[i]));
    }
    terms::<S>(s, s.half_totals(sums), scales, scales_x)
}
