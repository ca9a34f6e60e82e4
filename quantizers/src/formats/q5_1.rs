//! Q5_1: 32 weights in 24 bytes, 6 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale `d`, F16 |
//! | 2..4 | offset `m`, the smallest weight, F16 |
//! | 4..8 | fifth bits: bit `i` of the little-endian word belongs to code `i` |
//! | 8..24 | low four bits of the codes; byte `i` holds code `i` low and code `i + 16` high |
//!
//! `value = d * code + m`, codes 0..=31 spread evenly from the smallest weight to the largest.

use super::block32::{
    Format32, N, Unpacked, get, lower, min_max, put, raise, read_fifth_bits, read_nibbles, unsigned_codes,
    write_fifth_bits, write_nibbles,
};
use crate::bits::f16_from_f32;

use crate::grid;
use crate::search::block32::Single;
use crate::search::{AFFINE_STARTS, LevelSet, MORE_AFFINE_KICKS, Offset};
use crate::{Spec, spec};

/// Five bits with an offset.
pub struct Q5_1;

impl LevelSet for Q5_1 {
    const LOW: f32 = 0.0;
    const HIGH: f32 = 31.0;
    const OFFSET: Offset = Offset::Free;
    const STARTS: &'static [f32] = AFFINE_STARTS;
    const KICKS: &'static [(f32, bool)] = MORE_AFFINE_KICKS;
    const ROUNDS: usize = 4;
}

impl Single for Q5_1 {}

impl Format32 for Q5_1 {
    const SPEC: &'static Spec = spec::known("q5_1");
    const LEVELS: grid::Levels = grid::Levels::Linear { min: 0, max: 31 };

    #[inline(always)]
    fn quantize(x: &[f32; N]) -> Unpacked {
        let (low, high) = min_max(x);
        let d = (high - low) / Self::HIGH;
        let codes = unsigned_codes(x, low, d, 0.5, 31);
        Unpacked { scale: f16_from_f32(d), offset: f16_from_f32(low), codes: lower(&codes, 0) }
    }

    #[inline(always)]
    fn write(block: &Unpacked, out: &mut [u8]) {
        let codes = raise(&block.codes, 0);
        put(&mut out[..2], block.scale);
        put(&mut out[2..4], block.offset);
        write_fifth_bits(&codes, &mut out[4..8]);
        write_nibbles(&codes, &mut out[8..]);
    }

    #[inline(always)]
    fn read(bytes: &[u8]) -> Unpacked {
        let mut codes = read_nibbles(&bytes[8..]);
        read_fifth_bits(&bytes[4..8], &mut codes);
        Unpacked { scale: get(bytes), offset: get(&bytes[2..]), codes: lower(&codes, 0) }
    }
}
