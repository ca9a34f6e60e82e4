//! Integer products: block types against activations rounded to 8 bits.
//!
//! Rows are worked on 8 at a time, one in each lane of the float accumulator. For every row, whether it is alone with
//! one token or in a batch, the arithmetic is the same: block after block along the row,
//! `acc += (scale_w * scale_x) * sum of (code - bias) * x`, the sum an exact integer, then, in types with an offset,
//! `acc += offset * (scale_x * sum of x)`; none of it fused. So a batch gives the bits of its tokens run one by one,
//! and every instruction set gives the same bits.

use std::marker::PhantomData;
use std::ops::Range;

use super::Matrix;
use super::acts::{BLOCK, Block, Rounded};
use super::codes::{Codes, offset, scale};
use super::isa::{Isa, Task};
use super::out::Out;
use super::simd::{Simd, unroll8};

/// Rows in one tile: the lanes of a vector.
const ROWS: usize = 8;
/// Rows unpacked at a time for a batch, and blocks of each: 16 KiB of codes, which stay in the nearest cache.
const PANEL: usize = 32;
const DEPTH: usize = 16;
/// Tokens multiplied at a time with an unpacked tile: their sums fit the registers.
const TOKENS: usize = 4;
/// From this many tokens on unpacking should pay: its cost is shared by so many products. Reasoned, not yet timed.
const BATCH: usize = 6;

/// The product of `out`'s rows with all tokens.
pub(super) fn product<L: Codes<N>, const N: usize>(isa: Isa, w: &Matrix, x: &Rounded, out: Out) {
    if out.tokens() < BATCH {
        isa.run(Rows::<L, N> { w, x, out, layout: PhantomData });
    } else {
        isa.run(Batch::<L, N> { w, x, out, layout: PhantomData });
    }
}

/// Eight stored rows, from `first` on; those beyond `end` repeat the last.
#[inline(always)]
fn tile<'a>(w: &'a Matrix, first: usize, end: usize) -> [&'a [u8]; ROWS] {
    let mut rows: [&[u8]; ROWS] = [&[]; ROWS];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = w.row((first + i).min(end - 1));
    }
    rows
}

/// Row by row straight from where the weights are stored.
struct Rows<'a, L, const N: usize> {
    w: &'a Matrix<'a>,
    x: &'a Rounded,
    out: Out<'a>,
    layout: PhantomData<L>,
}

impl<L: Codes<N>, const N: usize> Task for Rows<'_, L, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Range { start: from, end } = self.out.rows();
        let per_token = self.w.cols() / BLOCK;
        for first in (from..end).step_by(ROWS) {
            let rows = tile(self.w, first, end);
            let ahead = rows[0].as_ptr().wrapping_add(ROWS * rows[0].len());
            for t in 0..self.out.tokens() {
                let codes = &self.x.codes.as_chunks::<BLOCK>().0[t * per_token..(t + 1) * per_token];
                let blocks = &self.x.blocks[t * per_token..(t + 1) * per_token];
                let sums = tile_dot::<S, L, N>(s, rows, ahead, codes, blocks);
                self.out.put(t, first, &sums, end - first);
            }
        }
    }
}

/// Eight rows with one token. `ahead`: where the next eight begin if they follow these.
#[inline(always)]
fn tile_dot<S: Simd, L: Codes<N>, const N: usize>(
    s: S,
    rows: [&[u8]; ROWS],
    ahead: *const u8,
    codes: &[[u8; BLOCK]],
    blocks: &[Block],
) -> [f32; ROWS] {
    /// Bytes that one prefetch brings.
    const LINE: usize = 64;
    let n = codes.len().min(blocks.len());
    let (codes, blocks) = (&codes[..n], &blocks[..n]);
    let mut w: [&[[u8; N]]; ROWS] = [&[]; ROWS];
    unroll8!(r, { w[r] = &rows[r].as_chunks::<N>().0[..n] });
    let mut acc = s.splat(0.0);
    for b in 0..n {
        // While this tile is read, the next is on its way: as many bytes as this step reads.
        let ahead = ahead.wrapping_add(b * ROWS * N);
        for line in 0..(ROWS * N).div_ceil(LINE) {
            s.prefetch(ahead.wrapping_add(line * LINE));
        }
        let x = s.bytes(&codes[b]);
        let mut sums = [s.int_splat(0); ROWS];
        let (mut scales, mut offsets) = ([0; ROWS], [0; ROWS]);
        unroll8!(r, {
            let block = &w[r][b];
            let stored = L::codes(s, block);
            sums[r] = if L::SIGNED { s.dot_signed(stored, x) } else { s.dot(stored, x) };
            scales[r] = scale(block);
            if L::OFFSET {
                offsets[r] = offset(block);
            }
        });
        let mut sum = if L::MAX <= 31 { s.totals::<true>(sums) } else { s.totals::<false>(sums) };
        if !L::SIGNED && L::BIAS != 0 {
            sum = s.int_sub(sum, s.int_splat(L::BIAS * blocks[b].sum));
        }
        let scale_x = s.splat(blocks[b].scale);
        acc = s.add(acc, s.mul(s.mul(s.f16_bits(scales), scale_x), s.to_float(sum)));
        if L::OFFSET {
            let whole = s.splat(blocks[b].scale * blocks[b].sum as f32);
            acc = s.add(acc, s.mul(s.f16_bits(offsets), whole));
        }
    }
    s.to_array(acc)
}

/// A panel of rows is unpacked, a part of their length at a time, and multiplied with every token.
struct Batch<'a, L, const N: usize> {
    w: &'a Matrix<'a>,
    x: &'a Rounded,
    out: Out<'a>,
    layout: PhantomData<L>,
}

/// One block of eight rows, unpacked.
#[derive(Clone, Copy)]
struct Unpacked {
    /// `[8 groups of 4 columns][8 rows][4 columns]`, unsigned.
    codes: [[u8; BLOCK]; BLOCK / 4],
    scale: [f32; ROWS],
    offset: [f32; ROWS],
}

impl<L: Codes<N>, const N: usize> Task for Batch<'_, L, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        const ZERO: Unpacked = Unpacked { codes: [[0; BLOCK]; BLOCK / 4], scale: [0.0; ROWS], offset: [0.0; ROWS] };
        let mut panel = [[ZERO; DEPTH]; PANEL / ROWS];
        let per_token = self.w.cols() / BLOCK;
        let (tokens, span) = (self.out.tokens(), self.out.rows());
        for first in span.clone().step_by(PANEL) {
            let end = span.end.min(first + PANEL);
            for from in (0..per_token).step_by(DEPTH) {
                let depth = DEPTH.min(per_token - from);
                for (i, first) in (first..end).step_by(ROWS).enumerate() {
                    unpack::<S, L, N>(s, tile(self.w, first, end), from, &mut panel[i][..depth]);
                }
                let mut part = Part { x: self.x, out: &mut self.out, per_token, from, first, end };
                let mut t = 0;
                while t + TOKENS <= tokens {
                    part.tokens::<S, L, N, TOKENS>(s, &panel, depth, t);
                    t += TOKENS;
                }
                while t < tokens {
                    part.tokens::<S, L, N, 1>(s, &panel, depth, t);
                    t += 1;
                }
            }
        }
    }
}

/// Blocks `from..` of eight rows.
#[inline(always)]
fn unpack<S: Simd, L: Codes<N>, const N: usize>(s: S, rows: [&[u8]; ROWS], from: usize, out: &mut [Unpacked]) {
    for (r, row) in rows.iter().enumerate() {
        let blocks = &row.as_chunks::<N>().0[from..from + out.len()];
        for (block, out) in blocks.iter().zip(out.iter_mut()) {
            let flip = if L::SIGNED { 0x80 } else { 0 };
            let codes = s.bytes_to_array(L::codes(s, block));
            for g in 0..BLOCK / 4 {
                for c in 0..4 {
                    out.codes[g][4 * r + c] = codes[4 * g + c] ^ flip;
                }
            }
            out.scale[r] = super::simd::f16_value(scale(block).to_le_bytes());
            if L::OFFSET {
                out.offset[r] = super::simd::f16_value(offset(block).to_le_bytes());
            }
        }
    }
}

/// What one unpacked panel is multiplied with, and where the sums go.
struct Part<'a, 'o> {
    x: &'a Rounded,
    out: &'a mut Out<'o>,
    per_token: usize,
    from: usize,
    first: usize,
    end: usize,
}

impl Part<'_, '_> {
    /// Tokens `t..t + T`.
    #[inline(always)]
    fn tokens<S: Simd, L: Codes<N>, const N: usize, const T: usize>(
        &mut self,
        s: S,
        panel: &[[Unpacked; DEPTH]; PANEL / ROWS],
        depth: usize,
        t: usize,
    ) {
        let all = self.x.codes.as_chunks::<BLOCK>().0;
        let mut codes: [&[[u8; BLOCK]]; T] = [&[]; T];
        let mut blocks: [&[Block]; T] = [&[]; T];
        for i in 0..T {
            let from = (t + i) * self.per_token + self.from;
            codes[i] = &all[from..from + depth];
            blocks[i] = &self.x.blocks[from..from + depth];
        }
        for (tile, first) in panel.iter().zip((self.first..self.end).step_by(ROWS)) {
            let tile = &tile[..depth];
            let rows = ROWS.min(self.end - first);
            let mut acc = [s.splat(0.0); T];
            if self.from > 0 {
                for (i, acc) in acc.iter_mut().enumerate() {
                    *acc = s.load(&self.out.get(t + i, first, rows));
                }
            }
            for b in 0..depth {
                let mut x = [&[0; BLOCK]; T];
                for i in 0..T {
                    x[i] = &codes[i][b];
                }
                let sums = match L::MAX {
                    ..=15 => s.block::<15, T>(&tile[b].codes, x),
                    16..=31 => s.block::<31, T>(&tile[b].codes, x),
                    _ => s.block::<255, T>(&tile[b].codes, x),
                };
                let scale_w = s.load(&tile[b].scale);
                for i in 0..T {
                    let block = blocks[i][b];
                    let mut sum = sums[i];
                    if L::BIAS != 0 {
                        sum = s.int_sub(sum, s.int_splat(L::BIAS * block.sum));
                    }
                    let scale_x = s.splat(block.scale);
                    acc[i] = s.add(acc[i], s.mul(s.mul(scale_w, scale_x), s.to_float(sum)));
                    if L::OFFSET {
                        let whole = s.splat(block.scale * block.sum as f32);
                        acc[i] = s.add(acc[i], s.mul(s.load(&tile[b].offset), whole));
                    }
                }
            }
            for (i, acc) in acc.iter().enumerate() {
                self.out.put(t + i, first, &s.to_array(*acc), rows);
            }
        }
    }
}
