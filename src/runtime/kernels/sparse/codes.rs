//! Sparse codes of 8 and of 4 bits: the product with one token, and a row made dense.
//!
//! One row at a time, eight blocks of 32 columns in the lanes of a vector: as it is stored, so that all parts are read
//! in one go. A block's term is that of the dense product, `(scale_w * scale_x) * sum of code * x`, and eight rows'
//! terms are then added up block after block, so the bits are those of the dense product too.

use std::marker::PhantomData;

use super::expand::{Expand, Mask};
use super::matrix::{Row, SLACK, Sparse};
use crate::runtime::kernels::acts::{Acts, RUN, Single};
use crate::runtime::kernels::isa::{KernelIsa, Task};
use crate::runtime::kernels::out::{Out, by_rows};
use crate::runtime::kernels::simd::{Simd, unroll8};

/// Rows whose sums are made together, and blocks that are worked on together.
pub(super) const LANES: usize = 8;
/// How far ahead codes are asked for, in bytes.
const AHEAD: usize = 1024;

/// How codes are stored. All methods must be `#[inline(always)]`.
pub(super) trait Coded: Send + Sync + 'static {
    /// Bytes of a dense block.
    const BLOCK: usize;
    /// Whether sums of four products stay below 16384.
    const SMALL: bool;
    /// What codes are more than they stand for.
    const BIAS: i32;

    /// A row's codes a byte each, and at least 32 bytes after them; `buffer` may hold them.
    fn bytes<'a, S: Expand>(s: S, row: &Row<'a>, buffer: &'a mut Vec<u8>) -> &'a [u8];
    /// The sums of a block's products with activations, eight lanes of them.
    fn dot<S: Expand, M: Mask>(s: S, codes: &[u8; 32], mask: u32, x: S::B) -> S::I;
    /// The block's dense codes.
    fn dense<S: Expand, M: Mask>(s: S, codes: &[u8; 32], mask: u32, out: &mut [u8]);
}

/// Signed bytes.
pub(super) struct Eight;
/// Nibbles, 8 more than they stand for.
pub(super) struct Four;

impl Coded for Eight {
    const BLOCK: usize = 34;
    const SMALL: bool = false;
    const BIAS: i32 = 0;

    #[inline(always)]
    fn bytes<'a, S: Expand>(_: S, row: &Row<'a>, _: &'a mut Vec<u8>) -> &'a [u8] {
        row.values
    }
    #[inline(always)]
    fn dot<S: Expand, M: Mask>(s: S, codes: &[u8; 32], mask: u32, x: S::B) -> S::I {
        s.dot_signed(s.expand_bytes::<M>(codes, mask), x)
    }
    #[inline(always)]
    fn dense<S: Expand, M: Mask>(s: S, codes: &[u8; 32], mask: u32, out: &mut [u8]) {
        out.copy_from_slice(&s.bytes_to_array(s.expand_bytes::<M>(codes, mask)));
    }
}

impl Coded for Four {
    const BLOCK: usize = 18;
    const SMALL: bool = true;
    const BIAS: i32 = 8;

    #[inline(always)]
    fn bytes<'a, S: Expand>(s: S, row: &Row<'a>, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        let (whole, rest) = row.values[..row.bytes].as_chunks::<16>();
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        // Room for the codes and for what is read beyond them.
        let needed = 32 * (whole.len() + 1) + SLACK;
        if buffer.len() < needed {
            buffer.resize(needed, 0);
        }
        for (out, x) in buffer.as_chunks_mut::<32>().0.iter_mut().zip(whole.iter().chain([&last])) {
            *out = s.bytes_to_array(s.nibbles_in_order(x));
        }
        buffer
    }
    #[inline(always)]
    fn dot<S: Expand, M: Mask>(s: S, codes: &[u8; 32], mask: u32, x: S::B) -> S::I {
        // What is not there was zero before its top bit is flipped back, and is 8 afterwards: the code of zero.
        s.dot(s.flip(s.expand_bytes::<M>(codes, mask), 8), x)
    }
    #[inline(always)]
    fn dense<S: Expand, M: Mask>(s: S, codes: &[u8; 32], mask: u32, out: &mut [u8]) {
        let codes = s.bytes_to_array(s.flip(s.expand_bytes::<M>(codes, mask), 8));
        let out: &mut [u8; 16] = out.first_chunk_mut().expect("a block's codes");
        for i in 0..16 {
            out[i] = codes[i] | codes[16 + i] << 4;
        }
    }
}

/// One token's activations.
struct Token<'a> {
    codes: &'a [[u8; RUN]],
    /// Of every block, and zeros up to whole vectors.
    scales: Vec<f32>,
    /// What the bias adds to a block's sum, negative or zero; whole numbers.
    shifts: Vec<f32>,
}

/// The product of all rows with one token.
pub(super) fn alone<M: Mask, C: Coded>(isa: KernelIsa, w: &Sparse, x: &Acts, chunk: usize, out: &mut [f32]) {
    let rounded = x.rounded::<Single>(isa);
    let blocks = rounded.blocks.len().next_multiple_of(LANES);
    let mut x = Token { codes: rounded.codes.as_chunks().0, scales: vec![0.0; blocks], shifts: vec![0.0; blocks] };
    for (block, (scale, shift)) in rounded.blocks.iter().zip(x.scales.iter_mut().zip(&mut x.shifts)) {
        *scale = block.scale;
        *shift = -(C::BIAS * block.sum) as f32;
    }
    let rows = out.len();
    by_rows(out, 1, rows, chunk, |out| isa.run(Rows::<M, C> { w, x: &x, out, layout: PhantomData }));
}

struct Rows<'a, M, C> {
    w: &'a Sparse<'a>,
    x: &'a Token<'a>,
    out: Out<'a>,
    layout: PhantomData<(M, C)>,
}

impl<M: Mask, C: Coded> Task for Rows<'_, M, C> {
    type Out = ();

    #[inline(always)]
    fn run<S: Expand>(mut self, s: S) {
        let mut buffer = Vec::new();
        let each = self.x.scales.len() / LANES;
        let mut terms = vec![[0.0; LANES]; LANES * each];
        let span = self.out.rows();
        for first in span.clone().step_by(LANES) {
            let n = LANES.min(span.end - first);
            for (r, terms) in (first..first + n).zip(terms.chunks_exact_mut(each.max(1))) {
                let row = self.w.row(r);
                let codes = C::bytes(s, &row, &mut buffer);
                multiply::<S, M, C>(s, &row, codes, self.x, terms);
            }
            self.out.put(0, first, &add_up(s, &terms, each), n);
        }
    }
}

/// A row's terms, one for each block.
#[inline(always)]
fn multiply<S: Expand, M: Mask, C: Coded>(s: S, row: &Row, mut codes: &[u8], x: &Token, terms: &mut [[f32; LANES]]) {
    let (masks, mask_rest) = row.mask.as_chunks::<4>().0.as_chunks::<LANES>();
    let (scales, scale_rest) = row.scales.as_chunks::<LANES>();
    let (acts, act_rest) = x.codes.as_chunks::<LANES>();
    let (scales_x, shifts) = (x.scales.as_chunks::<LANES>().0, x.shifts.as_chunks::<LANES>().0);
    let (whole, last) = terms.split_at_mut(masks.len());
    let all = masks.iter().zip(scales).zip(acts).zip(scales_x.iter().zip(shifts)).zip(&mut *whole);
    for ((((masks, scales), acts), (scales_x, shifts)), out) in all {
        let (term, read) = eight::<S, M, C>(s, masks, codes, acts, scales, scales_x, shifts);
        *out = term;
        codes = &codes[read..];
    }
    if let Some(out) = last.first_mut() {
        let (mut masks, mut scales, mut acts) = ([[0; 4]; LANES], [[0; 2]; LANES], [[0; RUN]; LANES]);
        masks[..mask_rest.len()].copy_from_slice(mask_rest);
        scales[..scale_rest.len()].copy_from_slice(scale_rest);
        acts[..act_rest.len()].copy_from_slice(act_rest);
        // Blocks of nothing after the last.
        *out = eight::<S, M, C>(s, &masks, codes, &acts, &scales, &scales_x[whole.len()], &shifts[whole.len()]).0;
    }
}

/// The terms of eight blocks, and how many codes they have.
#[inline(always)]
fn eight<S: Expand, M: Mask, C: Coded>(
    s: S,
    masks: &[[u8; 4]; LANES],
    codes: &[u8],
    acts: &[[u8; RUN]; LANES],
    scales: &[[u8; 2]; LANES],
    scales_x: &[f32; LANES],
    shifts: &[f32; LANES],
) -> ([f32; LANES], usize) {
    let codes: &[u8; LANES * RUN] = codes.first_chunk().expect("codes, and some more");
    for line in 0..2 {
        s.prefetch(codes.as_ptr().wrapping_add(AHEAD + line * 64));
    }
    let mut sums = [s.int_splat(0); LANES];
    let mut at = 0;
    unroll8!(b, {
        let mask = u32::from_le_bytes(masks[b]);
        let some = codes[at..].first_chunk().expect("32 columns have at most 32 codes");
        sums[b] = C::dot::<S, M>(s, some, mask, s.bytes(&acts[b]));
        at += M::before(mask, 4);
    });
    (terms::<S>(s, total::<S, C>(s, sums), scales, scales_x, shifts), at)
}

#[inline(always)]
fn total<S: Expand, C: Coded>(s: S, sums: [S::I; LANES]) -> S::I {
    if C::SMALL { s.totals::<true>(sums) } else { s.totals::<false>(sums) }
}

/// The terms of blocks with these sums. `shifts`: what is added to the sums; whole numbers.
#[inline(always)]
pub(super) fn terms<S: Simd>(
    s: S,
    sums: S::I,
    scales: &[[u8; 2]; LANES],
    scales_x: &[f32; LANES],
    shifts: &[f32; LANES],
) -> [f32; LANES] {
    // All are whole numbers below 2^24, so nothing is rounded.
    let sums = s.add(s.to_float(sums), s.load(shifts));
    s.to_array(s.mul(s.mul(s.f16(scales), s.load(scales_x)), sums))
}

/// The sums of eight rows' terms, each row's in order. `terms`: `[8 rows][each]`.
#[inline(always)]
pub(super) fn add_up<S: Simd>(s: S, terms: &[[f32; LANES]], each: usize) -> [f32; LANES] {
    let mut acc = s.splat(0.0);
    for b in 0..each {
        let mut rows = [s.splat(0.0); LANES];
        unroll8!(r, { rows[r] = s.load(&terms[r * each + b]) });
        let blocks = s.turn(rows);
        unroll8!(g, { acc = s.add(acc, blocks[g]) });
    }
    s.to_array(acc)
}

/// Row `r`, dense.
pub(super) fn unpack<M: Mask, C: Coded>(isa: KernelIsa, w: &Sparse, r: usize, out: &mut [u8]) {
    isa.run(Unpack::<M, C> { row: w.row(r), out, layout: PhantomData });
}

struct Unpack<'a, M, C> {
    row: Row<'a>,
    out: &'a mut [u8],
    layout: PhantomData<(M, C)>,
}

impl<M: Mask, C: Coded> Task for Unpack<'_, M, C> {
    type Out = ();

    #[inline(always)]
    fn run<S: Expand>(self, s: S) {
        let mut buffer = Vec::new();
        let mut codes = C::bytes(s, &self.row, &mut buffer);
        let blocks = self.out.chunks_exact_mut(C::BLOCK).zip(self.row.mask.as_chunks::<4>().0);
        for ((out, mask), scale) in blocks.zip(self.row.scales) {
            let mask = u32::from_le_bytes(*mask);
            out[..2].copy_from_slice(scale);
            C::dense::<S, M>(s, codes.first_chunk().expect("codes, and some more"), mask, &mut out[2..]);
            codes = &codes[M::before(mask, 4)..];
        }
    }
}
