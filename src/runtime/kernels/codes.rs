//! The block types that have an integer product: where their codes, scales and offsets lie.
//!
//! `value(i) = scale * (code(i) - BIAS) + offset`. The layouts are those of the number formats (`aurora_quantizers`),
//! read here straight into vectors; a test holds the two together.

use super::simd::Simd;

/// A type with 32 weights in `N` bytes. `codes` must be `#[inline(always)]`.
pub(super) trait Codes<const N: usize>: Send + Sync + 'static {
    /// The largest code as [`Codes::codes`] returns it, unsigned.
    const MAX: u8;
    /// What is subtracted from an unsigned code.
    const BIAS: i32;
    /// Whether the block stores an offset.
    const OFFSET: bool;
    /// Whether codes are stored as signed bytes; unsigned is then what is stored with the top bit flipped.
    const SIGNED: bool = false;

    /// The codes as they are stored.
    fn codes<S: Simd>(s: S, block: &[u8; N]) -> S::B;
}

/// The block's scale, F16.
#[inline(always)]
pub(super) fn scale<const N: usize>(block: &[u8; N]) -> u16 {
    u16::from_le_bytes(*part(block, 0))
}

/// The block's offset, F16, where there is one.
#[inline(always)]
pub(super) fn offset<const N: usize>(block: &[u8; N]) -> u16 {
    u16::from_le_bytes(*part(block, 2))
}

#[inline(always)]
fn part<const N: usize, const M: usize>(block: &[u8; N], from: usize) -> &[u8; M] {
    block[from..].first_chunk().expect("the layouts below lie within their block")
}

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

impl Codes<34> for Q8_0 {
    const MAX: u8 = 255;
    const BIAS: i32 = 128;
    const OFFSET: bool = false;
    const SIGNED: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 34]) -> S::B {
        s.bytes(part(block, 2))
    }
}

impl Codes<18> for Q4_0 {
    const MAX: u8 = 15;
    const BIAS: i32 = 8;
    const OFFSET: bool = false;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 18]) -> S::B {
        s.nibbles(part(block, 2))
    }
}

impl Codes<20> for Q4_1 {
    const MAX: u8 = 15;
    const BIAS: i32 = 0;
    const OFFSET: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 20]) -> S::B {
        s.nibbles(part(block, 4))
    }
}

impl Codes<22> for Q5_0 {
    const MAX: u8 = 31;
    const BIAS: i32 = 16;
    const OFFSET: bool = false;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 22]) -> S::B {
        s.nibbles_and_bits(part(block, 6), u32::from_le_bytes(*part(block, 2)))
    }
}

impl Codes<24> for Q5_1 {
    const MAX: u8 = 31;
    const BIAS: i32 = 0;
    const OFFSET: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 24]) -> S::B {
        s.nibbles_and_bits(part(block, 8), u32::from_le_bytes(*part(block, 4)))
    }
}
