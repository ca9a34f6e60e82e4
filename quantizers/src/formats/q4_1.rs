//! Q4_1: 32 weights in 20 bytes, 5 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale `d`, F16 |
//! | 2..4 | offset `m`, the smallest weight, F16 |
//! | 4..20 | codes, four bits each; byte `i` holds code `i` low and code `i + 16` high |
//!
//! `value = d * code + m`, codes 0..=15 spread evenly from the smallest weight to the largest.

use super::block32::{
    Format32, N, Unpacked, get, lower, min_max, put, raise, read_nibbles, unsigned_codes, write_nibbles,
};
use crate::bits::f16_from_f32;

use crate::grid;
use crate::search::block32::Single;
use crate::search::{AFFINE_STARTS, LevelSet, MORE_AFFINE_KICKS, Offset};
use crate::{Spec, spec};

/// Four bits with an offset.
pub struct Q4_1;

impl LevelSet for Q4_1 {
    const LOW: f32 = 0.0;
    const HIGH: f32 = 15.0;
    const OFFSET: Offset = Offset::Free;
    const STARTS: &'static [f32] = AFFINE_STARTS;
    const KICKS: &'static [(f32, bool)] = MORE_AFFINE_KICKS;
    const ROUNDS: usize = 4;
}

impl Single for Q4_1 {}

impl Format32 for Q4_1 {
    const SPEC: &'static Spec = spec::known("q4_1");
    const LEVELS: grid::Levels = grid::Levels::Linear { min: 0, max: 15 };

    #[inline(always)]
    fn quantize(x: &[f32; N]) -> Unpacked {
        let (low, high) = min_max(x);
        let d = (high - low) / Self::HIGH;
        let codes = unsigned_codes(x, low, d, 0.5, 15);
        Unpacked { scale: f16_from_f32(d), offset: f16_from_f32(low), codes: lower(&codes, 0) }
    }

    #[inline(always)]
    fn write(block: &Unpacked, out: &mut [u8]) {
        put(&mut out[..2], block.scale);
        put(&mut out[2..4], block.offset);
        write_nibbles(&raise(&block.codes, 0), &mut out[4..]);
    }

    #[inline(always)]
    fn read(bytes: &[u8]) -> Unpacked {
        let codes = lower(&read_nibbles(&bytes[4..]), 0);
        Unpacked { scale: get(bytes), offset: get(&bytes[2..]), codes }
    }
}
