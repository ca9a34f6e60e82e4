//! Float products: float types, and every type when activations are to stay as they are.
//!
//! With few tokens each row is read once and multiplied as it comes: 4 accumulators of 8 lanes, added up in a fixed
//! order. With many, a panel of rows is decoded to f32, a part of their length at a time, laid out for the register
//! tile (tokens by 16 rows) and multiplied with every token; a sum then runs along the row one column after the other.

use std::marker::PhantomData;
use std::ops::Range;

use super::acts::{Acts, BATCH, DEPTH};
use super::dense::Dense;
use super::isa::{KernelIsa, Task};
use super::out::{Out, PANEL};
use super::simd::{Simd, sum, unroll8};

/// Rows in one tile.
const ROWS: usize = 16;
/// Tokens whose `DEPTH` columns stay in the second-level cache beside the panel.
const TOKENS: usize = 96;

/// How a dot product reads a type without decoding it first.
pub(super) trait Stored<const N: usize>: Send + Sync + 'static {
    /// Eight values. Must be `#[inline(always)]`.
    fn load<S: Simd>(s: S, x: &[[u8; N]; 8]) -> S::F;
}

/// 32-bit floats.
pub(super) struct F32;
/// Half precision.
pub(super) struct F16;
/// The upper half of an F32.
pub(super) struct BF16;

impl Stored<4> for F32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[[u8; 4]; 8]) -> S::F {
        let mut values = [0.0; 8];
        for i in 0..8 {
            values[i] = f32::from_le_bytes(x[i]);
        }
        s.load(&values)
    }
}

impl Stored<2> for F16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[[u8; 2]; 8]) -> S::F {
        s.f16(x)
    }
}

impl Stored<2> for BF16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[[u8; 2]; 8]) -> S::F {
        s.bf16(x)
    }
}

/// `sum(w[i] * x[i])` in the order that every float product with few tokens uses.
#[inline(always)]
pub(super) fn dot<S: Simd, L: Stored<N>, const N: usize>(s: S, w: &[[u8; N]], x: &[f32]) -> f32 {
    let n = w.len().min(x.len());
    let (w, x) = (&w[..n], &x[..n]);
    let ((w32, w_rest), (x32, x_rest)) = (w.as_chunks::<32>(), x.as_chunks::<32>());
    let mut acc = [s.splat(0.0); 4];
    for (w, x) in w32.iter().zip(x32) {
        let (w, x) = (w.as_chunks::<8>().0, x.as_chunks::<8>().0);
        for i in 0..4 {
            acc[i] = s.mul_add(L::load(s, &w[i]), s.load(&x[i]), acc[i]);
        }
    }
    let (w8, w_rest) = w_rest.as_chunks::<8>();
    let (x8, x_rest) = x_rest.as_chunks::<8>();
    for (w, x) in w8.iter().zip(x8) {
        acc[0] = s.mul_add(L::load(s, w), s.load(x), acc[0]);
    }
    if !x_rest.is_empty() {
        let (mut w, mut x) = ([[0; N]; 8], [0.0; 8]);
        w[..w_rest.len()].copy_from_slice(w_rest);
        x[..x_rest.len()].copy_from_slice(x_rest);
        acc[1] = s.mul_add(L::load(s, &w), s.load(&x), acc[1]);
    }
    sum(s, s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

/// The product of `out`'s rows with all tokens; the type's values are read by `L`.
pub(super) fn product<L: Stored<N>, const N: usize>(isa: KernelIsa, w: &Dense, x: &Acts, out: Out) {
    if out.tokens() < BATCH {
        isa.run(Rows::<L, N> { w, x, out, layout: PhantomData });
    } else {
        isa.run(Batch::<Values<L, N>> { w, x, out, source: PhantomData });
    }
}

/// The product of `out`'s rows with all tokens, for any type that can be decoded.
pub(super) fn decoded(isa: KernelIsa, w: &Dense, x: &Acts, mut out: Out) {
    if out.tokens() >= BATCH {
        return isa.run(Batch::<Decoded> { w, x, out, source: PhantomData });
    }
    let mut row = vec![0.0; w.cols()];
    for r in out.rows() {
        w.store().decode(w.row(r), &mut row);
        for t in 0..out.tokens() {
            out.put(t, r, &[isa.run(Dot { a: &row, b: x.row(t) })], 1);
        }
    }
}

/// `sum(a[i] * b[i])`.
pub(super) struct Dot<'a> {
    pub a: &'a [f32],
    pub b: &'a [f32],
}

impl Task for Dot<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let n = self.a.len().min(self.b.len());
        let (a, b) = (&self.a[..n], &self.b[..n]);
        dot_f32(s, a, b)
    }
}

/// [`dot`] of two slices of floats: the same order.
#[inline(always)]
pub(super) fn dot_f32<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a32, a_rest), (b32, b_rest)) = (a.as_chunks::<32>(), b.as_chunks::<32>());
    let mut acc = [s.splat(0.0); 4];
    for (a, b) in a32.iter().zip(b32) {
        let (a, b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
        for i in 0..4 {
            acc[i] = s.mul_add(s.load(&a[i]), s.load(&b[i]), acc[i]);
        }
    }
    let (a8, a_rest) = a_rest.as_chunks::<8>();
    let (b8, b_rest) = b_rest.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        acc[0] = s.mul_add(s.load(a), s.load(b), acc[0]);
    }
    if !a_rest.is_empty() {
        let (mut a, mut b) = ([0.0; 8], [0.0; 8]);
        a[..a_rest.len()].copy_from_slice(a_rest);
        b[..b_rest.len()].copy_from_slice(b_rest);
        acc[1] = s.mul_add(s.load(&a), s.load(&b), acc[1]);
    }
    sum(s, s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

/// Row by row straight from where the weights are stored.
struct Rows<'a, L, const N: usize> {
    w: &'a Dense<'a>,
    x: &'a Acts<'a>,
    out: Out<'a>,
    layout: PhantomData<L>,
}

impl<L: Stored<N>, const N: usize> Task for Rows<'_, L, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for r in self.out.rows() {
            let row = self.w.row(r).as_chunks::<N>().0;
            for t in 0..self.out.tokens() {
                let sum = dot::<S, L, N>(s, row, self.x.row(t));
                self.out.put(t, r, &[sum], 1);
            }
        }
    }
}

/// A panel of rows is decoded, a part of their length at a time, and multiplied with every token.
struct Batch<'a, R> {
    w: &'a Dense<'a>,
    x: &'a Acts<'a>,
    out: Out<'a>,
    source: PhantomData<R>,
}

/// How some columns of a row become floats.
trait Source {
    /// Must be `#[inline(always)]`.
    fn read<S: Simd>(s: S, w: &Dense, row: usize, columns: Range<usize>, out: &mut [f32]);
}

/// With the type's decoder.
struct Decoded;

impl Source for Decoded {
    #[inline(always)]
    fn read<S: Simd>(_: S, w: &Dense, row: usize, columns: Range<usize>, out: &mut [f32]) {
        w.decode(row, columns, out);
    }
}

/// Value by value, which spares a call for every row.
struct Values<L, const N: usize>(PhantomData<L>);

impl<L: Stored<N>, const N: usize> Source for Values<L, N> {
    #[inline(always)]
    fn read<S: Simd>(s: S, w: &Dense, row: usize, columns: Range<usize>, out: &mut [f32]) {
        let (values, rest) = w.row(row).as_chunks::<N>().0[columns].as_chunks::<8>();
        let (out, out_rest) = out.as_chunks_mut::<8>();
        for (values, out) in values.iter().zip(out) {
            *out = s.to_array(L::load(s, values));
        }
        let mut last = [[0; N]; 8];
        last[..rest.len()].copy_from_slice(rest);
        out_rest.copy_from_slice(&s.to_array(L::load(s, &last))[..out_rest.len()]);
    }
}

impl<R: Source> Task for Batch<'_, R> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let cols = self.w.cols();
        let (tokens, span) = (self.out.tokens(), self.out.rows());
        let mut panel = vec![[0.0; ROWS]; PANEL / ROWS * DEPTH];
        let mut rows = vec![0.0; ROWS * DEPTH];
        let mut sums = vec![[0.0; ROWS]; if cols > DEPTH { PANEL / ROWS * tokens } else { 0 }];
        for first in span.clone().step_by(PANEL) {
            let end = span.end.min(first + PANEL);
            for from in (0..cols).step_by(DEPTH) {
                let columns = from..cols.min(from + DEPTH);
                let acts = self.x.strip(from);
                for (tile, first) in panel.chunks_exact_mut(DEPTH).zip((first..end).step_by(ROWS)) {
                    unpack::<S, R>(s, self.w, first..end.min(first + ROWS), columns.clone(), &mut rows, tile);
                }
                for some in (0..tokens).step_by(TOKENS) {
                    let last = tokens.min(some + TOKENS);
                    let mut sums = sums.get_mut(PANEL / ROWS * some..).unwrap_or_default();
                    for (tile, first) in panel.chunks_exact(DEPTH).zip((first..end).step_by(ROWS)) {
                        let tile = &tile[..columns.len()];
                        let stage = Stage { first: from == 0, last: columns.end == cols };
                        let here = sums.split_off_mut(..sums.len().min(last - some)).expect("not longer");
                        let n = ROWS.min(end - first);
                        let mut product =
                            Product { x: acts, out: &mut self.out, tile, sums: here, from: some, stage, first, n };
                        let mut t = some;
                        if S::TOKENS > 6 {
                            t = product.all::<S, 12>(s, t, last);
                        }
                        t = product.all::<S, 6>(s, t, last);
                        t = product.all::<S, 2>(s, t, last);
                        product.all::<S, 1>(s, t, last);
                    }
                }
            }
        }
    }
}

/// Decodes some columns of at most 16 rows into `[columns][16 rows]`; rows that are missing become zeros.
#[inline(always)]
fn unpack<S: Simd, R: Source>(
    s: S,
    w: &Dense,
    rows: Range<usize>,
    columns: Range<usize>,
    buffer: &mut [f32],
    tile: &mut [[f32; ROWS]],
) {
    let n = columns.len();
    for (i, r) in rows.clone().enumerate() {
        R::read(s, w, r, columns.clone(), &mut buffer[i * DEPTH..i * DEPTH + n]);
    }
    buffer[rows.len() * DEPTH..].fill(0.0);
    // Eight columns of eight rows at a time, transposed in registers, then what is left of the columns.
    let (tiles, rest) = tile[..n].as_chunks_mut::<8>();
    let transposed = 8 * tiles.len();
    for (k, tile) in tiles.iter_mut().enumerate() {
        for (half, eight) in buffer.chunks_exact(8 * DEPTH).enumerate() {
            let mut rows = [s.splat(0.0); 8];
            unroll8!(i, { rows[i] = s.load(&eight[i * DEPTH..(i + 1) * DEPTH].as_chunks().0[k]) });
            let columns = s.turn(rows);
            unroll8!(g, { tile[g].as_chunks_mut().0[half] = s.to_array(columns[g]) });
        }
    }
    for (k, out) in rest.iter_mut().enumerate() {
        for (i, out) in out.iter_mut().enumerate() {
            *out = buffer[i * DEPTH + transposed + k];
        }
    }
}

/// One decoded tile, what it is multiplied with, and where the sums go.
struct Product<'a, 'o> {
    /// Of every token the columns that the tile is of.
    x: &'a [f32],
    out: &'a mut Out<'o>,
    tile: &'a [[f32; ROWS]],
    /// Of every token from `from` on what the columns before came to. Side by side: in the result they lie a row apart,
    /// often a power of two, and push each other out of the caches.
    sums: &'a mut [[f32; ROWS]],
    from: usize,
    stage: Stage,
    first: usize,
    n: usize,
}

/// Whether columns are the first of their row, and whether they are the last.
#[derive(Clone, Copy)]
struct Stage {
    first: bool,
    last: bool,
}

impl Product<'_, '_> {
    /// Tokens `t..last`, `T` at a time while there are that many; returns the first that is left.
    #[inline(always)]
    fn all<S: Simd, const T: usize>(&mut self, s: S, mut t: usize, last: usize) -> usize {
        while t + T <= last {
            self.tokens::<S, T>(s, t);
            t += T;
        }
        t
    }

    #[inline(always)]
    fn tokens<S: Simd, const T: usize>(&mut self, s: S, t: usize) {
        let depth = self.tile.len();
        let mut acc = [s.wide_load(&[0.0; ROWS]); T];
        if !self.stage.first {
            let sums: &[_; T] = self.sums[t - self.from..].first_chunk().expect("sums of every token");
            for i in 0..T {
                acc[i] = s.wide_load(&sums[i]);
            }
        }
        let x = &self.x[t * depth..(t + T) * depth];
        match (self.tile.first_chunk::<DEPTH>(), x.as_chunks::<DEPTH>().0.first_chunk::<T>()) {
            // The usual case: all of x at known distances from one address, for want of registers.
            (Some(tile), Some(x)) => {
                for k in 0..DEPTH {
                    let w = s.wide_load(&tile[k]);
                    for i in 0..T {
                        acc[i] = s.wide_mul_add(x[i][k], w, acc[i]);
                    }
                }
            }
            _ => {
                for (k, w) in self.tile.iter().enumerate() {
                    let w = s.wide_load(w);
                    for i in 0..T {
                        acc[i] = s.wide_mul_add(x[i * depth + k], w, acc[i]);
                    }
                }
            }
        }
        if self.stage.last {
            for (i, acc) in acc.iter().enumerate() {
                let mut sums = [0.0; ROWS];
                s.wide_store(*acc, &mut sums);
                self.out.put(t + i, self.first, &sums, self.n);
            }
        } else {
            let sums: &mut [_; T] = self.sums[t - self.from..].first_chunk_mut().expect("sums of every token");
            for i in 0..T {
                s.wide_store(acc[i], &mut sums[i]);
            }
        }
    }
}
