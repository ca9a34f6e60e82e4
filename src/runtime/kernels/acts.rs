//! The right-hand side of a product: activations as floats and, once asked for, rounded to 8 bits.
//!
//! Rounded as llama.cpp does for its block types. For types with blocks of 32 weights, 32 values at a time share a
//! scale `amax / 127`, stored in half precision. For super-blocks it is 256, and the scale stays an f32, so that a
//! whole super-block is summed in integers. Sums of codes, which types with a bias or an offset need, are exact
//! integers.

use std::sync::OnceLock;

use aurora_quantizers::elements;
use ndarray::ArrayView2;
use rayon::prelude::*;

use super::isa::{KernelIsa, Task};
use super::simd::Simd;

/// Columns of a batch that are multiplied at a time.
pub(super) const DEPTH: usize = 256;

/// From this many tokens on decoding for the tile pays: its cost is shared. Timed on Zen 3, batch against row by row:
/// at 12 tokens 1.08 (BF16), 0.83 (F16), at 16 tokens 1.06, 0.95, at 24 tokens 1.28, 1.13.
pub(super) const BATCH: usize = 16;

/// Values that kernels take at a time.
pub(super) const RUN: usize = 32;
/// Runs in a super-block.
pub(super) const RUNS: usize = 8;
/// Codes lie within plus and minus this.
const TOP: f32 = 127.0;
/// The largest number below one half. Adding a half itself would carry 0.49999997 over to one.
const BELOW_HALF: f32 = 0.5 - f32::EPSILON / 4.0;
/// Values that one thread rounds at a time.
const CHUNK: usize = 64 * 1024;

/// Activations of some tokens: what matrices are multiplied with.
///
/// Make one for all matrices that read the same input: an 8-bit form is made by the first that needs it.
pub struct Acts<'a> {
    x: &'a [f32],
    tokens: usize,
    cols: usize,
    strips: OnceLock<Vec<Vec<f32>>>,
    singles: OnceLock<Rounded<Single>>,
    supers: OnceLock<Rounded<Super>>,
}

/// The 8-bit form.
pub(super) struct Rounded<K> {
    /// `[tokens, cols]`, signed bytes.
    pub codes: Vec<u8>,
    /// `[tokens, cols / values under one scale]`.
    pub blocks: Vec<K>,
}

/// What the codes under one scale share.
pub(super) trait Shared: Copy + Default + Send + Sync + 'static {
    /// Runs of 32 codes under the scale.
    const RUNS: usize;

    /// Rounds the values that share a scale. Must be `#[inline(always)]`.
    fn round(x: &[f32], codes: &mut [u8]) -> Self;
    /// `value = scale * code`.
    fn scale(&self) -> f32;
    /// Where the activations keep this form.
    fn slot<'a>(acts: &'a Acts) -> &'a OnceLock<Rounded<Self>>;
}

/// What 32 codes share.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Single {
    /// A half-precision number.
    pub scale: f32,
    /// Sum of the codes.
    pub sum: i32,
}

/// What 256 codes share.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Super {
    pub scale: f32,
    /// Sums of the codes of each run's first half, then of each one's second half.
    pub halves: [i16; 2 * RUNS],
    /// Sums of each run.
    pub wholes: [i16; RUNS],
}

impl<'a> Acts<'a> {
    /// `x`: `[tokens, cols]`.
    ///
    /// # Panics
    /// If its rows do not lie one after the other.
    pub fn new(x: ArrayView2<'a, f32>) -> Acts<'a> {
        let ((tokens, cols), x) = (x.dim(), elements(x));
        Acts { x, tokens, cols, strips: OnceLock::new(), singles: OnceLock::new(), supers: OnceLock::new() }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Values per token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The values of token `t`.
    pub(super) fn row(&self, t: usize) -> &'a [f32] {
        &self.x[t * self.cols..(t + 1) * self.cols]
    }

    /// The columns from `from` on, [`DEPTH`] of them or as many as there are, of all tokens, side by side: rows that
    /// lie a power of two apart would push each other out of the caches. `from`: a multiple of [`DEPTH`].
    pub(super) fn strip(&self, from: usize) -> &[f32] {
        if self.cols <= DEPTH {
            return self.x;
        }
        if self.strips.get().is_none() {
            // See `rounded`.
            let _ = self.strips.set(self.lay_strips());
        }
        &self.strips.get().expect("set above")[from / DEPTH]
    }

    /// Makes once, before several threads want it, what a product with 32 weights to a block (`integer`), or one in
    /// floats, reads.
    pub(super) fn prepare(&self, isa: KernelIsa, integer: bool) {
        if integer {
            self.rounded::<Single>(isa);
        } else if self.tokens >= BATCH {
            self.strip(0);
        }
    }

    /// A buffer for every strip: small enough that memory comes from the last strips, not page by page from the system.
    fn lay_strips(&self) -> Vec<Vec<f32>> {
        let strip = |from: usize| {
            let columns = from..self.cols.min(from + DEPTH);
            let mut strip = Vec::with_capacity(columns.len() * self.tokens);
            self.x.chunks_exact(self.cols).for_each(|row| strip.extend_from_slice(&row[columns.clone()]));
            strip
        };
        (0..self.cols).into_par_iter().step_by(DEPTH).map(strip).collect()
    }

    /// The 8-bit form. `cols` must be a multiple of the values under one scale.
    pub(super) fn rounded<K: Shared>(&self, isa: KernelIsa) -> &Rounded<K> {
        let slot = K::slot(self);
        if slot.get().is_none() {
            // Not within `get_or_init`: a thread that waits for its share of this work may be given another matrix's
            // product with the same activations, and would then wait for itself. Made twice does no harm.
            let _ = slot.set(round_all(isa, self.x));
        }
        slot.get().expect("set above")
    }
}

fn round_all<K: Shared>(isa: KernelIsa, x: &[f32]) -> Rounded<K> {
    let span = K::RUNS * RUN;
    let mut codes = vec![0; x.len()];
    let mut blocks = vec![K::default(); x.len() / span];
    if x.len() <= CHUNK {
        isa.run(Round { x, codes: &mut codes, blocks: &mut blocks });
    } else {
        let chunks = codes.par_chunks_mut(CHUNK).zip(blocks.par_chunks_mut(CHUNK / span));
        chunks.zip(x.par_chunks(CHUNK)).for_each(|((codes, blocks), x)| isa.run(Round { x, codes, blocks }));
    }
    Rounded { codes, blocks }
}

/// Rounds whole blocks.
pub(super) struct Round<'a, K> {
    pub x: &'a [f32],
    pub codes: &'a mut [u8],
    pub blocks: &'a mut [K],
}

impl<K: Shared> Task for Round<'_, K> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let span = K::RUNS * RUN;
        let codes = self.codes.chunks_exact_mut(span);
        for ((x, codes), block) in self.x.chunks_exact(span).zip(codes).zip(self.blocks) {
            *block = K::round(x, codes);
        }
    }
}

impl Shared for Single {
    const RUNS: usize = 1;

    #[inline(always)]
    fn round(x: &[f32], codes: &mut [u8]) -> Single {
        let (scale, inverse) = scale(x);
        let sum =
            x.as_chunks().0.iter().zip(codes.as_chunks_mut().0).map(|(x, codes)| half_run(x, codes, inverse)).sum();
        Single { scale: half::f16::from_f32(scale).to_f32(), sum }
    }
    #[inline(always)]
    fn scale(&self) -> f32 {
        self.scale
    }
    fn slot<'a>(acts: &'a Acts) -> &'a OnceLock<Rounded<Single>> {
        &acts.singles
    }
}

impl Shared for Super {
    const RUNS: usize = RUNS;

    #[inline(always)]
    fn round(x: &[f32], codes: &mut [u8]) -> Super {
        let (scale, inverse) = scale(x);
        let mut block = Super { scale, ..Super::default() };
        for (i, (x, codes)) in x.as_chunks().0.iter().zip(codes.as_chunks_mut().0).enumerate() {
            // 16 codes of at most 127 each.
            let sum = half_run(x, codes, inverse) as i16;
            block.halves[i % 2 * RUNS + i / 2] = sum;
            block.wholes[i / 2] += sum;
        }
        block
    }
    #[inline(always)]
    fn scale(&self) -> f32 {
        self.scale
    }
    fn slot<'a>(acts: &'a Acts) -> &'a OnceLock<Rounded<Super>> {
        &acts.supers
    }
}

// Plain loops over lanes: the compiler makes vectors of them. Operations that round come one by one, none fused, so
// every instruction set gives the same codes.

/// The scale of some values, and its inverse.
#[inline(always)]
fn scale(x: &[f32]) -> (f32, f32) {
    let (mut tops, mut zeros) = ([0.0f32; 8], [0.0f32; 8]);
    for chunk in x.as_chunks::<8>().0 {
        for i in 0..8 {
            let v = chunk[i].abs();
            tops[i] = if v > tops[i] { v } else { tops[i] };
            zeros[i] += v * 0.0;
        }
    }
    let (mut top, mut zero) = (0.0, 0.0);
    for (v, z) in tops.into_iter().zip(zeros) {
        top = if v > top { v } else { top };
        zero += z;
    }
    // NaN has no code. As the scale it reaches every output, where the executor finds it.
    let scale = top / TOP + zero;
    // Below 2^-128 the inverse overflows: such values become zeros.
    let inverse = 1.0 / scale;
    (scale, if inverse.is_finite() { inverse } else { 0.0 })
}

/// Rounds; returns the sum of the codes.
#[inline(always)]
fn half_run(x: &[f32; RUN / 2], codes: &mut [u8; RUN / 2], inverse: f32) -> i32 {
    let mut sum = 0;
    for i in 0..RUN / 2 {
        let v = x[i] * inverse;
        let v = v + BELOW_HALF.copysign(v);
        // Saturating both ways costs a few instructions; NaN becomes 0 beside a scale of NaN.
        let code = (v as i32).clamp(-127, 127);
        codes[i] = code as i8 as u8;
        sum += code;
    }
    sum
}
