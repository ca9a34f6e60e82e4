//! A format for tests: 32 weights in 10 bytes, 2.5 bits per weight. It is one file and one row of the table, and all that
//! holds for every row is tested of it too. ggml does not know it, so its sizes are here.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale `d`, F16 |
//! | 2..10 | codes, two bits each; byte `i` holds codes `4 i` to `4 i + 3`, the first lowest |
//!
//! `value = d * LEVELS[code]`: no level is zero, and the outer ones are three times as far out as the inner ones.

use super::block32::{Format32, N, Unpacked, get, put};
use crate::bits::F16_NEG_ZERO;
use crate::grid;
use crate::search::block32::Single;
use crate::search::{LevelSet, Offset, SYMMETRIC_KICKS, SYMMETRIC_STARTS};
use crate::{Encoders, Spec, spec};

/// Two bits, symmetric.
pub struct ToyBlock;

static SPEC: Spec = spec::foreign("toy", N, 10, 1.5);

static LEVELS: [i8; 4] = [-3, -1, 1, 3];

impl LevelSet for ToyBlock {
    const LOW: f32 = -3.0;
    const HIGH: f32 = 3.0;
    const SPACING: f32 = 2.0;
    const OFFSET: Offset = Offset::None;
    const STARTS: &'static [f32] = SYMMETRIC_STARTS;
    const KICKS: &'static [(f32, bool)] = SYMMETRIC_KICKS;
    const ROUNDS: usize = 3;

    #[inline(always)]
    fn nearest(target: f32) -> f32 {
        let level = if target.abs() > 2.0 { 3.0 } else { 1.0 };
        if target > 0.0 { level } else { -level }
    }
}

impl Single for ToyBlock {}

impl Format32 for ToyBlock {
    const SPEC: &'static Spec = &SPEC;
    const LEVELS: grid::Levels = grid::Levels::Table(&LEVELS);
    const ENCODERS: Encoders = Encoders::Search;

    fn quantize(_: &[f32; N]) -> Unpacked {
        unreachable!("there is no reference")
    }

    #[inline(always)]
    fn write(block: &Unpacked, out: &mut [u8]) {
        put(&mut out[..2], block.scale);
        for (byte, codes) in out[2..].iter_mut().zip(block.codes.as_chunks::<4>().0) {
            *byte = codes[0] as u8 | (codes[1] as u8) << 2 | (codes[2] as u8) << 4 | (codes[3] as u8) << 6;
        }
    }

    #[inline(always)]
    fn read(bytes: &[u8]) -> Unpacked {
        let mut codes = [0; N];
        for (codes, byte) in codes.as_chunks_mut::<4>().0.iter_mut().zip(&bytes[2..]) {
            for (i, code) in codes.iter_mut().enumerate() {
                *code = (byte >> (2 * i) & 3) as i8;
            }
        }
        Unpacked { scale: get(bytes), offset: F16_NEG_ZERO, codes }
    }

    #[inline(always)]
    fn level(code: i8) -> f32 {
        f32::from(LEVELS[usize::from(code as u8 & 3)])
    }
}
