//! The right-hand side of a product: activations as floats and, once asked for, rounded to 8 bits.
//!
//! Rounded as llama.cpp does for its block types: 32 at a time share a scale `amax / 127`, stored in half precision.
//! The sum of a block's codes, which types with a bias or an offset need, is kept as an exact integer.

use std::sync::OnceLock;

use rayon::prelude::*;

use super::isa::{Isa, Task};
use super::simd::Simd;

/// Values under one scale.
pub(super) const BLOCK: usize = 32;
/// Codes lie within plus and minus this.
const TOP: f32 = 127.0;
/// The largest number below one half. Adding a half itself would carry 0.49999997 over to one.
const BELOW_HALF: f32 = 0.5 - f32::EPSILON / 4.0;
/// Values that one thread rounds at a time.
const CHUNK: usize = 64 * 1024;

/// Activations of some tokens: what matrices are multiplied with.
///
/// Make one for all matrices that read the same input: the 8-bit form is made by the first that needs it.
pub struct Acts<'a> {
    x: &'a [f32],
    tokens: usize,
    cols: usize,
    rounded: OnceLock<Rounded>,
}

/// The 8-bit form.
pub(super) struct Rounded {
    /// `[tokens, cols]`, signed bytes.
    pub codes: Vec<u8>,
    /// `[tokens, cols / 32]`.
    pub blocks: Vec<Block>,
}

/// What 32 codes share.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Block {
    /// `value = scale * code`; a half-precision number.
    pub scale: f32,
    /// Sum of the codes.
    pub sum: i32,
}

impl<'a> Acts<'a> {
    /// `x`: `[tokens, cols]` row-major.
    ///
    /// # Panics
    /// If the length is not `tokens * cols`.
    pub fn new(x: &'a [f32], tokens: usize, cols: usize) -> Acts<'a> {
        assert_eq!(Some(x.len()), tokens.checked_mul(cols), "{tokens} tokens of {cols} values");
        Acts { x, tokens, cols, rounded: OnceLock::new() }
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

    /// The 8-bit form. `cols` must be a multiple of 32.
    pub(super) fn rounded(&self, isa: Isa) -> &Rounded {
        if self.rounded.get().is_none() {
            // Not within `get_or_init`: a thread that waits for its share of this work may be given another matrix's
            // product with the same activations, and would then wait for itself. Made twice does no harm.
            let _ = self.rounded.set(round_all(isa, self.x));
        }
        self.rounded.get().expect("set above")
    }
}

fn round_all(isa: Isa, x: &[f32]) -> Rounded {
    let mut codes = vec![0; x.len()];
    let mut blocks = vec![Block::default(); x.len() / BLOCK];
    if x.len() <= CHUNK {
        isa.run(Round { x, codes: &mut codes, blocks: &mut blocks });
    } else {
        let chunks = codes.par_chunks_mut(CHUNK).zip(blocks.par_chunks_mut(CHUNK / BLOCK));
        chunks.zip(x.par_chunks(CHUNK)).for_each(|((codes, blocks), x)| isa.run(Round { x, codes, blocks }));
    }
    Rounded { codes, blocks }
}

/// Rounds whole blocks.
pub(super) struct Round<'a> {
    pub x: &'a [f32],
    pub codes: &'a mut [u8],
    pub blocks: &'a mut [Block],
}

impl Task for Round<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let x = self.x.as_chunks::<BLOCK>().0;
        let codes = self.codes.as_chunks_mut::<BLOCK>().0;
        for ((x, codes), block) in x.iter().zip(codes).zip(self.blocks) {
            *block = round(x, codes);
        }
    }
}

/// Plain loops over lanes: the compiler makes vectors of them. Operations that round come one by one, none fused, so
/// every instruction set gives the same codes.
#[inline(always)]
fn round(x: &[f32; BLOCK], codes: &mut [u8; BLOCK]) -> Block {
    let mut tops = [0.0f32; 8];
    for chunk in x.as_chunks::<8>().0 {
        for i in 0..8 {
            let v = chunk[i].abs();
            tops[i] = if v > tops[i] { v } else { tops[i] };
        }
    }
    let mut top = 0.0;
    for v in tops {
        top = if v > top { v } else { top };
    }
    let scale = top / TOP;
    // Below 2^-128 the inverse overflows; the half-precision scale is zero then.
    let inverse = 1.0 / scale;
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let mut sum = 0;
    for i in 0..BLOCK {
        let v = x[i] * inverse;
        let v = v + BELOW_HALF.copysign(v);
        // Saturating both ways costs a few instructions; NaN becomes 0. The executor looks for NaN elsewhere.
        let code = (v as i32).clamp(-127, 127);
        codes[i] = code as i8 as u8;
        sum += code;
    }
    Block { scale: half::f16::from_f32(scale).to_f32(), sum }
}
