//! The layouts of the super-blocks: 256 weights, whose 8 runs of 32 (or 16 of 16) have small whole factors.
//!
//! `value(i) = scale * scales(i) * (code(i) - BIAS) + offset * offsets(i)`. Most types keep the codes of several runs
//! side by side in the bits of the same 32 bytes. Facts: llama.cpp's `ggml-common.h` and `ggml-quants.c`.

use super::acts::Super;
use super::block_type::{Codes, Factors, part};
use super::codes::LEVELS;
use super::simd::Simd;

/// Two bits, factors of four bits for scale and offset of 16 weights.
pub(super) struct Q2K;
/// Three bits, factors of six bits for 16 weights.
pub(super) struct Q3K;
/// Four bits, factors of six bits for scale and offset of 32 weights.
pub(super) struct Q4K;
/// Five bits, factors as [`Q4K`].
pub(super) struct Q5K;
/// Six bits, factors of eight bits for 16 weights.
pub(super) struct Q6K;
/// Four bits that choose one of 16 levels, factors of six bits for 32 weights.
pub(super) struct Iq4Xs;

/// A factor of minus one: what is stored as a minimum is subtracted.
const MINUS: u16 = 0x8000;

/// The same bits of every byte.
const fn each(bits: u8) -> u32 {
    u32::from_le_bytes([bits; 4])
}

/// Four words' bytes in order.
#[inline(always)]
fn bytes(words: [u32; 4]) -> [u8; 16] {
    let mut out = [0; 16];
    for (out, word) in out.as_chunks_mut().0.iter_mut().zip(words) {
        *out = word.to_le_bytes();
    }
    out
}

/// Subtracts 32 from each of four bytes below 64.
#[inline(always)]
fn centre(x: u32) -> u32 {
    // With bit 5 flipped, x - 32 has all higher bits set where it is negative: where bit 5 is set now.
    let x = x ^ each(32);
    x | ((x & each(32)) * 6)
}

/// The words of a block from a byte on.
#[inline(always)]
fn words<const N: usize, const W: usize>(block: &[u8; N], from: usize) -> [u32; W] {
    let mut out = [0; W];
    for (i, word) in out.iter_mut().enumerate() {
        *word = u32::from_le_bytes(*part(block, from + 4 * i));
    }
    out
}

/// Q4_K and Q5_K: the first four factors of scale and of offset are the low six bits of four bytes each; of the other
/// four, the low bits are the nibbles of the last four bytes and the high bits are on top of the first eight.
#[inline(always)]
fn factors_6(x: [u32; 3]) -> Factors {
    let [a, b, c] = x;
    let scales = [a & each(63), c & each(15) | a >> 2 & each(48), 0, 0];
    let offsets = [b & each(63), c >> 4 & each(15) | b >> 2 & each(48), 0, 0];
    Factors { scales: bytes(scales), offsets: bytes(offsets) }
}

impl Codes<84> for Q2K {
    type Kind = Super;
    const MAX: u8 = 3;
    const BIAS: i32 = 0;
    const OFFSET: bool = true;
    const HALVES: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 84], j: usize) -> S::B {
        s.bits(s.bytes(part(block, 16 + 32 * (j / 4))), 2 * (j % 4) as i32, 3)
    }

    #[inline(always)]
    fn scale(block: &[u8; 84]) -> u16 {
        u16::from_le_bytes(*part(block, 80))
    }

    #[inline(always)]
    fn offset(block: &[u8; 84]) -> u16 {
        u16::from_le_bytes(*part(block, 82)) ^ MINUS
    }

    #[inline(always)]
    fn factors(block: &[u8; 84]) -> Factors {
        let x: [u32; 4] = words(block, 0);
        Factors { scales: bytes(x.map(|x| x & each(15))), offsets: bytes(x.map(|x| x >> 4 & each(15))) }
    }
}

impl Codes<110> for Q3K {
    type Kind = Super;
    const MAX: u8 = 7;
    const BIAS: i32 = 4;
    const OFFSET: bool = false;
    const HALVES: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 110], j: usize) -> S::B {
        let low = s.bits(s.bytes(part(block, 32 + 32 * (j / 4))), 2 * (j % 4) as i32, 3);
        s.or(low, s.bits(s.bytes(part(block, 0)), j as i32 - 2, 4))
    }

    #[inline(always)]
    fn scale(block: &[u8; 110]) -> u16 {
        u16::from_le_bytes(*part(block, 108))
    }

    #[inline(always)]
    fn factors(block: &[u8; 110]) -> Factors {
        // Nibbles of the first eight bytes, then the two bits above them out of the last four.
        let [a, b, c]: [u32; 3] = words(block, 96);
        let scales = [
            a & each(15) | c << 4 & each(48),
            b & each(15) | c << 2 & each(48),
            a >> 4 & each(15) | c & each(48),
            b >> 4 & each(15) | c >> 2 & each(48),
        ];
        Factors { scales: bytes(scales.map(centre)), offsets: [0; 16] }
    }
}

impl Codes<144> for Q4K {
    type Kind = Super;
    const MAX: u8 = 15;
    const BIAS: i32 = 0;
    const OFFSET: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 144], j: usize) -> S::B {
        s.bits(s.bytes(part(block, 16 + 32 * (j / 2))), 4 * (j % 2) as i32, 15)
    }

    #[inline(always)]
    fn offset(block: &[u8; 144]) -> u16 {
        u16::from_le_bytes(*part(block, 2)) ^ MINUS
    }

    #[inline(always)]
    fn factors(block: &[u8; 144]) -> Factors {
        factors_6(words(block, 4))
    }
}

impl Codes<176> for Q5K {
    type Kind = Super;
    const MAX: u8 = 31;
    const BIAS: i32 = 0;
    const OFFSET: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 176], j: usize) -> S::B {
        let low = s.bits(s.bytes(part(block, 48 + 32 * (j / 2))), 4 * (j % 2) as i32, 15);
        s.or(low, s.bits(s.bytes(part(block, 16)), j as i32 - 4, 16))
    }

    #[inline(always)]
    fn offset(block: &[u8; 176]) -> u16 {
        u16::from_le_bytes(*part(block, 2)) ^ MINUS
    }

    #[inline(always)]
    fn factors(block: &[u8; 176]) -> Factors {
        factors_6(words(block, 4))
    }
}

impl Codes<210> for Q6K {
    type Kind = Super;
    const MAX: u8 = 63;
    const BIAS: i32 = 32;
    const OFFSET: bool = false;
    const HALVES: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 210], j: usize) -> S::B {
        let (half, j) = (j / 4, j % 4);
        let low = s.bits(s.bytes(part(block, 64 * half + 32 * (j % 2))), 4 * (j / 2) as i32, 15);
        s.or(low, s.bits(s.bytes(part(block, 128 + 32 * half)), 2 * j as i32 - 4, 48))
    }

    #[inline(always)]
    fn scale(block: &[u8; 210]) -> u16 {
        u16::from_le_bytes(*part(block, 208))
    }

    #[inline(always)]
    fn factors(block: &[u8; 210]) -> Factors {
        Factors { scales: *part(block, 192), offsets: [0; 16] }
    }
}

impl Codes<136> for Iq4Xs {
    type Kind = Super;
    const MAX: u8 = 255;
    const BIAS: i32 = 128;
    const OFFSET: bool = false;
    const SIGNED: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, block: &[u8; 136], j: usize) -> S::B {
        s.lookup(&LEVELS, s.nibbles(part(block, 8 + 16 * j)))
    }

    #[inline(always)]
    fn factors(block: &[u8; 136]) -> Factors {
        // Four low bits of all, nibble by nibble; two high bits of all before them.
        let [low]: [u32; 1] = words(block, 4);
        let high = u32::from(u16::from_le_bytes(*part(block, 2)));
        let pair = |i: u32| {
            let low = low >> (16 * i);
            let low = low & 15 | (low & 0xf0) << 4 | (low & 0xf00) << 8 | (low & 0xf000) << 12;
            let high = high >> (8 * i);
            let high = high & 3 | (high & 12) << 6 | (high & 48) << 12 | (high & 192) << 18;
            centre(low | high << 4)
        };
        Factors { scales: bytes([pair(0), pair(1), 0, 0]), offsets: [0; 16] }
    }
}
