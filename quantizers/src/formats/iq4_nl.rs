//! IQ4_NL: 32 weights in 18 bytes, 4.5 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale `d`, F16 |
//! | 2..18 | codes, four bits each; byte `i` holds code `i` low and code `i + 16` high |
//!
//! `value = d * TABLE[code]`: the levels lie closer together near zero, where most weights are.

use super::block32::{Format32, N, Unpacked, get, lower, put, raise, read_nibbles, write_nibbles};
use crate::bits::F16_NEG_ZERO;
use crate::grid;
use crate::search::block32::Single;
use crate::search::{LevelSet, Offset};
use crate::{Encoders, Spec, spec};

/// Four bits with levels that are not evenly spaced.
pub struct Iq4Nl;

/// The levels of IQ4_NL and IQ4_XS (ggml's `kvalues_iq4nl`).
pub(super) static TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The level of [`TABLE`] nearest to `target`.
#[inline(always)]
pub(super) fn nearest_level(target: f32) -> f32 {
    let mut level = f32::from(TABLE[0]);
    for pair in TABLE.windows(2) {
        let (low, high) = (f32::from(pair[0]), f32::from(pair[1]));
        level = if target > (low + high) * 0.5 { high } else { level };
    }
    level
}

/// The level of a code; the table has one for every value of four bits.
#[inline(always)]
pub(super) fn level(code: i8) -> f32 {
    f32::from(TABLE[usize::from(code as u8 & 15)])
}

impl LevelSet for Iq4Nl {
    const LOW: f32 = -127.0;
    const HIGH: f32 = 113.0;
    const SPACING: f32 = 16.0;
    const OFFSET: Offset = Offset::None;
    const STARTS: &'static [f32] = &[0.0, 0.5];
    const ROUNDS: usize = 3;

    #[inline(always)]
    fn nearest(target: f32) -> f32 {
        nearest_level(target)
    }
}

impl Single for Iq4Nl {}

impl Format32 for Iq4Nl {
    const SPEC: &'static Spec = spec::known("iq4_nl");
    const LEVELS: grid::Levels = grid::Levels::Table(&TABLE);
    const ENCODERS: Encoders = Encoders::Search;

    fn quantize(_: &[f32; N]) -> Unpacked {
        unreachable!("there is no reference")
    }

    #[inline(always)]
    fn write(block: &Unpacked, out: &mut [u8]) {
        put(&mut out[..2], block.scale);
        write_nibbles(&raise(&block.codes, 0), &mut out[2..]);
    }

    #[inline(always)]
    fn read(bytes: &[u8]) -> Unpacked {
        Unpacked { scale: get(bytes), offset: F16_NEG_ZERO, codes: lower(&read_nibbles(&bytes[2..]), 0) }
    }

    #[inline(always)]
    fn level(code: i8) -> f32 {
        level(code)
    }
}
