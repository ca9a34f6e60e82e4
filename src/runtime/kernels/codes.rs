//! The block types that have an integer product: where their codes, scales and offsets lie.
//!
//! `value(i) = scale * (code(i) - BIAS) + offset` in blocks of 32 weights; in super-blocks (`supers`) every 32 or 16
//! weights moreover have a small whole factor each for scale and offset. The layouts are those of the number formats
//! (`aurora_quantizers`), read here straight into vectors; a test holds the two together.

use super::acts::Single;
use super::block_type::{Codes, part};
use super::simd::Simd;

/// Eight blocks' scales as floats.
#[inline(always)]
pub(super) fn scales<S: Simd, L: Codes<N>, const N: usize>(s: S, stored: [u16; 8]) -> S::F {
    if !L::POWER {
        return s.f16_bits(stored);
    }
    let mut powers = [0.0; 8];
    for i in 0..8 {
        let e = u32::from(stored[i]);
        // 2^(e - 128): the first two are below the normal numbers.
        powers[i] = f32::from_bits(if e < 2 { 0x20_0000 << e } else { (e - 1) << 23 });
    }
    s.load(&powers)
}

/// What the codes of IQ4_NL and IQ4_XS stand for: levels closer to each other around zero (llama.cpp's
/// `kvalues_iq4nl`), signed.
pub(super) const LEVELS: [u8; 16] = {
    let levels: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let mut bytes = [0; 16];
    let mut i = 0;
    while i < 16 {
        bytes[i] = levels[i].cast_unsigned();
        i += 1;
    }
    bytes
};

/// Twice the values of FP4 (E2M1; OCP Microscaling Formats 1.0, table 5), and 12 added: from 0 to 24.
const FP4: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// Eight bits, signed.
pub(super) struct Q8_0;
/// Four bits.
pub(super) struct Q4_0;
/// Four bits and an offset.
pub(super) struct Q4_1;
/// Five bits.
pub(super) struct Q5_0;
/// Five bits and an offset.
pub(super) struct Q5_1;
/// Four bits that choose one of 16 levels.
pub(super) struct Iq4Nl;
/// Four-bit floats under a power of two.
pub(super) struct MXFP4;

impl Codes<34> for Q8_0 {
    type Kind = Single;
    const MAX: u8 = 255;
    const BIAS: i32 = 128;
    const OFFSET: bool = false;
    const SIGNED: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 34], _: usize) -> S::B {
        s.bytes(part(block, 2))
    }
}

impl Codes<18> for Q4_0 {
    type Kind = Single;
    const MAX: u8 = 15;
    const BIAS: i32 = 8;
    const OFFSET: bool = false;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 18], _: usize) -> S::B {
        s.nibbles(part(block, 2))
    }
}

impl Codes<20> for Q4_1 {
    type Kind = Single;
    const MAX: u8 = 15;
    const BIAS: i32 = 0;
    const OFFSET: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 20], _: usize) -> S::B {
        s.nibbles(part(block, 4))
    }
}

impl Codes<22> for Q5_0 {
    type Kind = Single;
    const MAX: u8 = 31;
    const BIAS: i32 = 16;
    const OFFSET: bool = false;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 22], _: usize) -> S::B {
        s.nibbles_and_bits(part(block, 6), u32::from_le_bytes(*part(block, 2)))
    }
}

impl Codes<24> for Q5_1 {
    type Kind = Single;
    const MAX: u8 = 31;
    const BIAS: i32 = 0;
    const OFFSET: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 24], _: usize) -> S::B {
        s.nibbles_and_bits(part(block, 8), u32::from_le_bytes(*part(block, 4)))
    }
}

impl Codes<18> for Iq4Nl {
    type Kind = Single;
    const MAX: u8 = 255;
    const BIAS: i32 = 128;
    const OFFSET: bool = false;
    const SIGNED: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 18], _: usize) -> S::B {
        s.lookup(&LEVELS, s.nibbles(part(block, 2)))
    }
}

impl Codes<17> for MXFP4 {
    type Kind = Single;
    const MAX: u8 = 24;
    const BIAS: i32 = 12;
    const OFFSET: bool = false;
    const POWER: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 17], _: usize) -> S::B {
        s.lookup(&FP4, s.nibbles(part(block, 1)))
    }

    #[inline(always)]
    fn scale(block: &[u8; 17]) -> u16 {
        u16::from(block[0])
    }
}
