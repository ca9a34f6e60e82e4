//! Q4_0: 32 weights in 18 bytes, 4.5 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale `d`, F16 |
//! | 2..18 | codes + 8, four bits each; byte `i` holds code `i` low and code `i + 16` high |
//!
//! `value = d * code`, codes -8..=7. The weight of largest magnitude becomes code -8 exactly, so the scale carries
//! the opposite sign.

use super::block32::{
    Format32, N, Unpacked, get, lower, put, raise, read_nibbles, signed_max, unsigned_codes, write_nibbles,
};
use crate::bits::{F16_NEG_ZERO, f16_from_f32};

use crate::grid;
use crate::search::block32::Single;
use crate::search::{LevelSet, MORE_SYMMETRIC_STARTS, Offset, SYMMETRIC_KICKS};
use crate::{Spec, spec};

/// Four bits, symmetric.
pub struct Q4_0;

const BIAS: i8 = 8;

impl LevelSet for Q4_0 {
    const LOW: f32 = -8.0;
    const HIGH: f32 = 7.0;
    const OFFSET: Offset = Offset::None;
    const STARTS: &'static [f32] = MORE_SYMMETRIC_STARTS;
    const KICKS: &'static [(f32, bool)] = SYMMETRIC_KICKS;
    const ROUNDS: usize = 5;
}

impl Single for Q4_0 {}

impl Format32 for Q4_0 {
    const SPEC: &'static Spec = spec::known("q4_0");
    const LEVELS: grid::Levels = grid::Levels::Linear { min: -8, max: 7 };

    #[inline(always)]
    fn quantize(x: &[f32; N]) -> Unpacked {
        let d = signed_max(x) / Self::LOW;
        // Adding bias and a half, then cutting off, rounds to nearest with halves going up; 16 is held at 15.
        let codes = unsigned_codes(x, 0.0, d, f32::from(BIAS) + 0.5, 15);
        Unpacked { scale: f16_from_f32(d), offset: F16_NEG_ZERO, codes: lower(&codes, BIAS) }
    }

    #[inline(always)]
    fn write(block: &Unpacked, out: &mut [u8]) {
        put(&mut out[..2], block.scale);
        write_nibbles(&raise(&block.codes, BIAS), &mut out[2..]);
    }

    #[inline(always)]
    fn read(bytes: &[u8]) -> Unpacked {
        let codes = lower(&read_nibbles(&bytes[2..]), BIAS);
        Unpacked { scale: get(bytes), offset: F16_NEG_ZERO, codes }
    }
}
