//! Integer products: block types against activations rounded to 8 bits.
//!
//! Rows are worked on 8 at a time, one in each lane of the float accumulator. For every row, whether it is alone with
//! one token or in a batch, the arithmetic is the same: block after block along the row,
//! `acc += (scale_w * scale_x) * sum of (code - bias) * x`, the sum an exact integer (in super-blocks with the factors
//! of the scale in it), then, in types with an offset, `acc += offset * (scale_x * sum of x)`; none of it fused. So a
//! batch gives the bits of its tokens run one by one, and every instruction set gives the same bits.

use std::marker::PhantomData;
use std::ops::Range;

use super::acts::{Acts, RUN, Rounded, Shared};
use super::block_type::{Codes, Kind, ROWS, Sums};
use super::dense::Dense;
use super::isa::{KernelIsa, Task};
use super::kinds::floats;
use super::out::{Out, by_rows};
use super::simd::{Simd, unroll8};

/// Rows unpacked at a time for a batch, and runs of 32 columns of each: 16 KiB of codes, which stay in the nearest
/// cache.
const PANEL: usize = 32;
const DEPTH: usize = 16;
/// Tokens multiplied at a time with an unpacked tile: their sums fit the registers.
const TOKENS: usize = 4;
/// From this many tokens on unpacking pays: that many products share its cost. Timed on Zen 3, batch against row
/// by row: at 6 tokens 0.92 (Q4_0), 0.94 (Q4_K), 0.82 (Q6_K), at 8 tokens 1.34, 1.20, 1.07.
const BATCH: usize = 7;

/// The product of all rows with all tokens into `out`, `chunk` rows at a time.
pub(super) fn product<L: Codes<N>, const N: usize>(isa: KernelIsa, w: &Dense, x: &Acts, chunk: usize, out: &mut [f32]) {
    let tokens = x.tokens();
    let x = x.rounded::<L::Kind>(isa);
    by_rows(out, tokens, w.rows(), chunk, |out| part::<L, N>(isa, w, x, out));
}

/// The product of `out`'s rows with all tokens.
pub(super) fn part<L: Codes<N>, const N: usize>(isa: KernelIsa, w: &Dense, x: &Rounded<L::Kind>, out: Out) {
    if out.tokens() < BATCH {
        isa.run(Rows::<L, N> { w, x, out });
    } else {
        isa.run(Batch::<L, N> { w, x, out, layout: PhantomData });
    }
}

/// Eight stored rows, from `first` on; those beyond `end` repeat the last.
#[inline(always)]
fn tile<'a>(w: &'a Dense, first: usize, end: usize) -> [&'a [u8]; ROWS] {
    let mut rows: [&[u8]; ROWS] = [&[]; ROWS];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = w.row((first + i).min(end - 1));
    }
    rows
}

/// The float arithmetic: one block of eight rows added to their sums.
#[inline(always)]
fn add<S: Simd, L: Codes<N>, const N: usize>(
    s: S,
    acc: S::F,
    sums: Sums<S>,
    floats: (S::F, S::F),
    scale_x: f32,
) -> S::F {
    let (scale, offset) = floats;
    let acc = s.add(acc, s.mul(s.mul(scale, s.splat(scale_x)), s.to_float(sums.sum)));
    if L::OFFSET { s.add(acc, s.mul(offset, sums.whole)) } else { acc }
}

/// Row by row straight from where the weights are stored.
struct Rows<'a, L: Codes<N>, const N: usize> {
    w: &'a Dense<'a>,
    x: &'a Rounded<L::Kind>,
    out: Out<'a>,
}

impl<L: Codes<N>, const N: usize> Task for Rows<'_, L, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Range { start: from, end } = self.out.rows();
        let runs = self.w.cols() / RUN;
        let blocks = runs / L::Kind::RUNS;
        for first in (from..end).step_by(ROWS) {
            let rows = tile(self.w, first, end);
            let ahead = rows[0].as_ptr().wrapping_add(ROWS * rows[0].len());
            for t in 0..self.out.tokens() {
                let codes = &self.x.codes.as_chunks::<RUN>().0[t * runs..(t + 1) * runs];
                let x = &self.x.blocks[t * blocks..(t + 1) * blocks];
                let sums = tile_dot::<S, L, N>(s, rows, ahead, codes, x);
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
    codes: &[[u8; RUN]],
    x: &[L::Kind],
) -> [f32; ROWS] {
    /// Bytes that one prefetch brings.
    const LINE: usize = 64;
    let n = x.len();
    let mut w: [&[[u8; N]]; ROWS] = [&[]; ROWS];
    unroll8!(r, { w[r] = &rows[r].as_chunks::<N>().0[..n] });
    let mut acc = s.splat(0.0);
    for (b, (x, codes)) in x.iter().zip(codes.chunks_exact(L::Kind::RUNS)).enumerate() {
        // While this tile is read, the next is on its way: as many bytes as this step reads.
        let ahead = ahead.wrapping_add(b * ROWS * N);
        for line in 0..(ROWS * N).div_ceil(LINE) {
            s.prefetch(ahead.wrapping_add(line * LINE));
        }
        let mut block = [&w[0][b]; ROWS];
        unroll8!(r, { block[r] = &w[r][b] });
        let sums = x.stored::<S, L, N>(s, block, codes);
        acc = add::<S, L, N>(s, acc, sums, floats::<S, L, N>(s, block), x.scale());
    }
    s.to_array(acc)
}

/// A panel of rows is unpacked, a part of their length at a time, and multiplied with every token.
struct Batch<'a, L: Codes<N>, const N: usize> {
    w: &'a Dense<'a>,
    x: &'a Rounded<L::Kind>,
    out: Out<'a>,
    layout: PhantomData<L>,
}

/// One block of eight rows, unpacked.
#[derive(Clone, Copy, Default)]
struct Unpacked<K: Kind> {
    codes: K::Unpacked,
    scale: [f32; ROWS],
    offset: [f32; ROWS],
}

impl<L: Codes<N>, const N: usize> Task for Batch<'_, L, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let deep = DEPTH / L::Kind::RUNS;
        let mut panel = vec![Unpacked::<L::Kind>::default(); PANEL / ROWS * deep];
        let blocks = self.w.cols() / RUN / L::Kind::RUNS;
        let (tokens, span) = (self.out.tokens(), self.out.rows());
        for first in span.clone().step_by(PANEL) {
            let end = span.end.min(first + PANEL);
            for from in (0..blocks).step_by(deep) {
                let depth = deep.min(blocks - from);
                for (panel, first) in panel.chunks_exact_mut(deep).zip((first..end).step_by(ROWS)) {
                    unpack::<S, L, N>(s, tile(self.w, first, end), from, &mut panel[..depth]);
                }
                let mut product =
                    Product { x: self.x, out: &mut self.out, panel: &panel, blocks, from, depth, first, end };
                for t in (0..tokens).step_by(TOKENS) {
                    product.tokens::<S, L, N>(s, t, tokens);
                }
            }
        }
    }
}

/// Blocks `from..` of eight rows.
#[inline(always)]
fn unpack<S: Simd, L: Codes<N>, const N: usize>(s: S, rows: [&[u8]; ROWS], from: usize, out: &mut [Unpacked<L::Kind>]) {
    let mut w: [&[[u8; N]]; ROWS] = [&[]; ROWS];
    unroll8!(r, { w[r] = &rows[r].as_chunks::<N>().0[from..from + out.len()] });
    for (b, out) in out.iter_mut().enumerate() {
        let mut block = [&w[0][b]; ROWS];
        unroll8!(r, { block[r] = &w[r][b] });
        L::Kind::unpack::<S, L, N>(s, block, &mut out.codes);
        let (scale, offset) = floats::<S, L, N>(s, block);
        (out.scale, out.offset) = (s.to_array(scale), s.to_array(offset));
    }
}

/// What one unpacked panel is multiplied with, and where the sums go.
struct Product<'a, 'o, K: Kind> {
    x: &'a Rounded<K>,
    out: &'a mut Out<'o>,
    panel: &'a [Unpacked<K>],
    /// Of a row.
    blocks: usize,
    from: usize,
    depth: usize,
    first: usize,
    end: usize,
}

impl<K: Kind> Product<'_, '_, K> {
    /// Tokens from `t` on: four, or those before `end`, the last of which stands in for the missing.
    #[inline(always)]
    fn tokens<S: Simd, L: Codes<N, Kind = K>, const N: usize>(&mut self, s: S, t: usize, end: usize) {
        const T: usize = TOKENS;
        let n = T.min(end - t);
        let all = self.x.codes.as_chunks::<RUN>().0;
        let mut codes: [&[[u8; RUN]]; T] = [&[]; T];
        let mut blocks: [&[K]; T] = [&[]; T];
        for i in 0..T {
            let from = (t + i.min(n - 1)) * self.blocks + self.from;
            codes[i] = &all[from * K::RUNS..(from + self.depth) * K::RUNS];
            blocks[i] = &self.x.blocks[from..from + self.depth];
        }
        let panel = self.panel.chunks_exact(DEPTH / K::RUNS);
        for (tile, first) in panel.zip((self.first..self.end).step_by(ROWS)) {
            let rows = ROWS.min(self.end - first);
            let mut acc = [s.splat(0.0); T];
            if self.from > 0 {
                for (i, acc) in acc.iter_mut().enumerate() {
                    *acc = s.load(&self.out.get(t + i.min(n - 1), first, rows));
                }
            }
            for (b, w) in tile[..self.depth].iter().enumerate() {
                let x = blocks.map(|blocks| &blocks[b]);
                let codes = codes.map(|codes| &codes[b * K::RUNS..(b + 1) * K::RUNS]);
                let sums = K::unpacked::<S, L, N, T>(s, &w.codes, codes, x);
                for i in 0..T {
                    acc[i] = add::<S, L, N>(s, acc[i], sums[i], (s.load(&w.scale), s.load(&w.offset)), x[i].scale());
                }
            }
            for (i, acc) in acc[..n].iter().enumerate() {
                self.out.put(t + i, first, &s.to_array(*acc), rows);
            }
        }
    }
}
