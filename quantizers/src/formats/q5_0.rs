//! Q5_0: 32 weights in 22 bytes, 5.5 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale `d`, F16 |
//! | 2..6 | fifth bits: bit `i` of the little-endian word belongs to code `i` |
//! | 6..22 | low four bits of codes + 16; byte `i` holds code `i` low and code `i + 16` high |
//!
//! `value = d * code`, codes -16..=15. The weight of largest magnitude becomes code -16 exactly, so the scale
//! carries the opposite sign.

use super::block32::{
    Format32, N, Unpacked, get, lower, put, raise, read_fifth_bits, read_nibbles, signed_max, unsigned_codes,
    write_fifth_bits, write_nibbles,
};
use crate::bits::{F16_NEG_ZERO, f16_from_f32};

use crate::grid;
use crate::search::block32::Single;
use crate::search::{LevelSet, MORE_SYMMETRIC_STARTS, Offset, SYMMETRIC_KICKS};
use crate::{Spec, spec};

/// Five bits, symmetric.
pub struct Q5_0;

const BIAS: i8 = 16;

impl LevelSet for Q5_0 {
    const LOW: f32 = -16.0;
    const HIGH: f32 = 15.0;
    const OFFSET: Offset = Offset::None;
    const STARTS: &'static [f32] = MORE_SYMMETRIC_STARTS;
    const KICKS: &'static [(f32, bool)] = SYMMETRIC_KICKS;
    const ROUNDS: usize = 5;
}

impl Single for Q5_0 {}

impl Format32 for Q5_0 {
    const SPEC: &'static Spec = spec::known("q5_0");
    const LEVELS: grid::Levels = grid::Levels::Linear { min: -16, max: 15 };

    #[inline(always)]
    fn quantize(x: &[f32; N]) -> Unpacked {
        let d = signed_max(x) / Self::LOW;
        // Adding bias and a half, then cutting off, rounds to nearest with halves going up; 32 is held at 31.
        let codes = unsigned_codes(x, 0.0, d, f32::from(BIAS) + 0.5, 31);
        Unpacked { scale: f16_from_f32(d), offset: F16_NEG_ZERO, codes: lower(&codes, BIAS) }
    }

    #[inline(always)]
    fn write(block: &Unpacked, out: &mut [u8]) {
        let codes = raise(&block.codes, BIAS);
        put(&mut out[..2], block.scale);
        write_fifth_bits(&codes, &mut out[2..6]);
        write_nibbles(&codes, &mut out[6..]);
    }

    #[inline(always)]
    fn read(bytes: &[u8]) -> Unpacked {
        let mut codes = read_nibbles(&bytes[6..]);
        read_fifth_bits(&bytes[2..6], &mut codes);
        Unpacked { scale: get(bytes), offset: F16_NEG_ZERO, codes: lower(&codes, BIAS) }
    }
}
