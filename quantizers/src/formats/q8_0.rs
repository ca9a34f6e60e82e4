//! Q8_0: 32 weights in 34 bytes, 8.5 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale `d`, F16 |
//! | 2..34 | codes, signed bytes |
//!
//! `value = d * code`. The reference spreads codes over -127..=127; -128 decodes as well and a solver may use it. It
//! also serves where a search is asked for, but for numbers so small that half precision has no such scale.

use super::block32::{Format32, N, Unpacked, get, inverse, max_abs, put};
use crate::bits::{F16_NEG_ZERO, f16_from_f32, f16_to_f32};
use crate::grid;
use crate::search::block32::Single;
use crate::search::{LevelSet, Offset};
use crate::simd::trunc_within;
use crate::{Encoders, Spec, spec};

/// Eight bits, symmetric.
pub struct Q8_0;

/// The largest number below one half. Adding a half itself would carry 0.49999997 over to one.
const BELOW_HALF: f32 = 0.5 - f32::EPSILON / 4.0;

impl LevelSet for Q8_0 {
    const LOW: f32 = -128.0;
    const HIGH: f32 = 127.0;
    const OFFSET: Offset = Offset::None;
    const STARTS: &'static [f32] = &[];
    const ROUNDS: usize = 0;
}

impl Single for Q8_0 {}

/// Half precision's bits of 2^-17: numbers below are as many times 2^-24, and rounding a scale to one of them moves the
/// end of the codes by more than half a level.
const SMALL: u16 = 128;

/// A block whose scale is a few times the smallest F16, with the codes of the scale that is stored: the formula has
/// them of another. Of the scales on both sides the one with the smaller error counts.
#[cold]
#[inline(never)]
fn on_stored_scale(x: &[f32; N]) -> Option<Unpacked> {
    let d = max_abs(x) / 127.0;
    let on = |scale: u16| {
        let (d, mut loss, mut codes) = (f16_to_f32(scale), 0.0, [0; N]);
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (x / d).round().clamp(Q8_0::LOW, Q8_0::HIGH) as i8;
            loss += (x / d - f32::from(*code)).powi(2);
        }
        (loss * f32::from(scale).powi(2), Unpacked { scale, offset: F16_NEG_ZERO, codes })
    };
    let nearest = f16_from_f32(d);
    let below = if f16_to_f32(nearest) > d { nearest - 1 } else { nearest };
    let (below, above) = (on(below.max(1)), on(below + 1));
    (d > 0.0).then_some(if below.0 <= above.0 { below.1 } else { above.1 })
}

impl Format32 for Q8_0 {
    const SPEC: &'static Spec = spec::known("q8_0");
    const LEVELS: grid::Levels = grid::Levels::Linear { min: -128, max: 127 };
    const ENCODERS: Encoders = Encoders::Reference;

    #[inline(always)]
    fn quantize(x: &[f32; N]) -> Unpacked {
        let d = max_abs(x) / 127.0;
        let inverse = inverse(d).unwrap_or(0.0);
        let mut codes = [0; N];
        for (code, x) in codes.iter_mut().zip(x) {
            let x = x * inverse;
            // Halves go away from zero, as C's roundf has it.
            *code = trunc_within(x + BELOW_HALF.copysign(x), -128, 127) as i8;
        }
        Unpacked { scale: f16_from_f32(d), offset: F16_NEG_ZERO, codes }
    }

    #[inline(always)]
    fn instead(x: &[f32; N], scale: u16) -> Option<Unpacked> {
        if scale < SMALL { on_stored_scale(x) } else { None }
    }

    #[inline(always)]
    fn write(block: &Unpacked, out: &mut [u8]) {
        put(&mut out[..2], block.scale);
        for (byte, code) in out[2..34].iter_mut().zip(block.codes) {
            *byte = code as u8;
        }
    }

    #[inline(always)]
    fn read(bytes: &[u8]) -> Unpacked {
        let mut codes = [0; N];
        for (code, byte) in codes.iter_mut().zip(&bytes[2..34]) {
            *code = *byte as i8;
        }
        Unpacked { scale: get(bytes), offset: F16_NEG_ZERO, codes }
    }
}
