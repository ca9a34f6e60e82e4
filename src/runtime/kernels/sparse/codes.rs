//! Sparse codes of 8 bits: the product with one token, and a row made dense.
//!
//! One row at a time, eight blocks of 32 columns in the lanes of a vector: as it is stored, so that all parts are read
//! in one go. A block's term is that of the dense product, `(scale_w * scale_x) * sum of code * x`, and eight rows'
//! terms are then added up block after block, so the bits are those of the dense product too.

use std::marker::PhantomData;

use super::expand::{Expand, Mask};
use super::matrix::{Row, Sparse};
use crate::runtime::kernels::acts::{Acts, RUN, Single};
use crate::runtime::kernels::isa::{KernelIsa, Task};
use crate::runtime::kernels::out::{Out, by_rows};
use crate::runtime::kernels::simd::{Simd, unroll8};

/// Rows whose sums are made together, and blocks that are worked on together.
pub(super) const LANES: usize = 8;
/// How far ahead codes are asked for, in bytes.
const AHEAD: usize = 1024;

/// Bytes of a dense block.
const BLOCK: usize = 34;

/// One token's activations.
struct Token<'a> {
    codes: &'a [[u8; RUN]],
    /// Of every block, and zeros up to whole vectors.
    scales: Vec<f32>,
}

/// The product of all rows with one token.
pub(super) fn alone<M: Mask>(isa: KernelIsa, w: &Sparse, x: &Acts, chunk: usize, out: &mut [f32]) {
    let rounded = x.rounded::<Single>(isa);
    let blocks = rounded.blocks.len().next_multiple_of(LANES);
    let mut x = Token { codes: rounded.codes.as_chunks().0, scales: vec![0.0; blocks] };
    for (block, scale) in rounded.blocks.iter().zip(&mut x.scales) {
        *scale = block.scale;
    }
    let rows = out.len();
    by_rows(out, 1, rows, chunk, |out| isa.run(Rows::<M> { w, x: &x, out, layout: PhantomData }));
}

struct Rows<'a, M> {
    w: &'a Sparse<'a>,
    x: &'a Token<'a>,
    out: Out<'a>,
    layout: PhantomData<M>,
}

impl<M: Mask> Task for Rows<'_, M> {
    type Out = ();

    #[inline(always)]
    fn run<S: Expand>(mut self, s: S) {
        let each = self.x.scales.len() / LANES;
        let mut terms = vec![[0.0; LANES]; LANES * each];
        let span = self.out.rows();
        for first in span.clone().step_by(LANES) {
            let n = LANES.min(span.end - first);
            for (r, terms) in (first..first + n).zip(terms.chunks_exact_mut(each.max(1))) {
                multiply::<S, M>(s, &self.w.row(r), self.x, terms);
            }
            self.out.put(0, first, &add_up(s, &terms, each), n);
        }
    }
}

/// A row's terms, one for each block.
#[inline(always)]
fn multiply<S: Expand, M: Mask>(s: S, row: &Row, x: &Token, terms: &mut [[f32; LANES]]) {
    let mut codes = row.values;
    let (masks, mask_rest) = row.mask.as_chunks::<4>().0.as_chunks::<LANES>();
    let (scales, scale_rest) = row.scales.as_chunks::<LANES>();
    let (acts, act_rest) = x.codes.as_chunks::<LANES>();
    let scales_x = x.scales.as_chunks::<LANES>().0;
    let (whole, last) = terms.split_at_mut(masks.len());
    let all = masks.iter().zip(scales).zip(acts).zip(scales_x).zip(&mut *whole);
    for ((((masks, scales), acts), scales_x), out) in all {
        let (term, read) = eight::<S, M>(s, masks, codes, acts, scales, scales_x);
        *out = term;
        codes = &codes[read..];
    }
    if let Some(out) = last.first_mut() {
        let (mut masks, mut scales, mut acts) = ([[0; 4]; LANES], [[0; 2]; LANES], [[0; RUN]; LANES]);
        masks[..mask_rest.len()].copy_from_slice(mask_rest);
        scales[..scale_rest.len()].copy_from_slice(scale_rest);
        acts[..act_rest.len()].copy_from_slice(act_rest);
        // Blocks of nothing after the last.
        *out = eight::<S, M>(s, &masks, codes, &acts, &scales, &scales_x[whole.len()]).0;
    }
}

/// The terms of eight blocks, and how many codes they have.
#[inline(always)]
fn eight<S: Expand, M: Mask>(
    s: S,
    masks: &[[u8; 4]; LANES],
    codes: &[u8],
    acts: &[[u8; RUN]; LANES],
    scales: &[[u8; 2]; LANES],
    scales_x: &[f32; LANES],
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
        sums[b] = s.dot_signed(s.expand_bytes::<M>(some, mask), s.bytes(&acts[b]));
        at += M::before(mask, 4);
    });
    (terms::<S>(s, s.totals::<false>(sums), scales, scales_x), at)
}

/// The terms of blocks with these sums, which are below 2^24: floats hold them exactly.
#[inline(always)]
pub(super) fn terms<S: Simd>(s: S, sums: S::I, scales: &[[u8; 2]; LANES], scales_x: &[f32; LANES]) -> [f32; LANES] {
    s.to_array(s.mul(s.mul(s.f16(scales), s.load(scales_x)), s.to_float(sums)))
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
pub(super) fn unpack<M: Mask>(isa: KernelIsa, w: &Sparse, r: usize, out: &mut [u8]) {
    isa.run(Unpack::<M> { row: w.row(r), out, layout: PhantomData });
}

struct Unpack<'a, M> {
    row: Row<'a>,
    out: &'a mut [u8],
    layout: PhantomData<M>,
}

impl<M: Mask> Task for Unpack<'_, M> {
    type Out = ();

    #[inline(always)]
    fn run<S: Expand>(self, s: S) {
        let mut codes = self.row.values;
        let blocks = self.out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(self.row.mask.as_chunks::<4>().0);
        for ((out, mask), scale) in blocks.zip(self.row.scales) {
            let mask = u32::from_le_bytes(*mask);
            let some = codes.first_chunk().expect("codes, and some more");
            out[..2].copy_from_slice(scale);
            out[2..].copy_from_slice(&s.bytes_to_array(s.expand_bytes::<M>(some, mask)));
            codes = &codes[M::before(mask, 4)..];
        }
    }
}
