//! MXFP4 (OCP Microscaling Formats 1.0): 32 weights in 17 bytes, 4.25 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | scale: the exponent `e` of 2^(e - 128) |
//! | 1..17 | codes, four bits each; byte `i` holds code `i` low and code `i + 16` high |
//!
//! `value = 2^(e - 128) * level`. A stored code is a sign (bit 3) and one of 0, 1, 2, 3, 4, 6, 8, 12 (twice the numbers
//! of E2M1, hence 128 for a bias of 127); minus zero decodes as plus zero. A grid's codes are in the order of their
//! levels.

use super::block32::{Format32, N, Unpacked, max_abs, read_nibbles, write_nibbles};
use crate::bits::F16_NEG_ZERO;
use crate::grid;
use crate::search::block32::Single;
use crate::search::{LevelSet, Offset};
use crate::{Spec, spec};

/// Four-bit floating point with a power of two as scale.
pub struct Mxfp4;

/// Levels in ascending order: minus zero, then zero.
static TABLE: [i8; 16] = [-12, -8, -6, -4, -3, -2, -1, 0, 0, 1, 2, 3, 4, 6, 8, 12];
const ZERO: i8 = 8;

/// From a stored code to its place in [`TABLE`] and, being its own inverse up to the order of the halves, back.
#[inline(always)]
fn place(stored: u8) -> i8 {
    let magnitude = (stored & 7) as i8;
    if stored < 8 { ZERO + magnitude } else { ZERO - 1 - magnitude }
}

#[inline(always)]
fn stored_code(place: i8) -> u8 {
    if place >= ZERO { (place - ZERO) as u8 } else { (8 + ZERO - 1 - place) as u8 }
}

/// The largest scale that keeps all levels finite: 12 * 2^124.
const LARGEST: u32 = (124 + 127) << 23;
/// The smallest that a search gives: 2^-126, no subnormal.
const SMALLEST: u32 = 1 << 23;

impl LevelSet for Mxfp4 {
    const LOW: f32 = -12.0;
    const HIGH: f32 = 12.0;
    const SPACING: f32 = 4.0;
    const OFFSET: Offset = Offset::None;
    // Powers of two around the one that reaches the largest weight.
    const STARTS: &'static [f32] = &[-1.5, 0.0, 2.0];
    const ROUNDS: usize = 2;

    #[inline(always)]
    fn nearest(target: f32) -> f32 {
        let size = target.abs();
        let mut level = 0.0;
        for pair in TABLE[8..].windows(2) {
            let (low, high) = (f32::from(pair[0]), f32::from(pair[1]));
            level = if size > (low + high) * 0.5 { high } else { level };
        }
        level.copysign(target)
    }
}

impl Single for Mxfp4 {
    const VANISHING: f32 = f32::MIN_POSITIVE;
    /// Scales are no F16.
    const SMALL: f32 = f32::INFINITY;

    #[inline(always)]
    fn storable(scale: f32) -> f32 {
        // A fraction from the root of two on carries into the exponent.
        const CARRY: u32 = (1 << 23) - (std::f32::consts::SQRT_2.to_bits() & 0x7f_ffff);
        let bits = scale.abs().to_bits() + CARRY;
        f32::from_bits((bits & (0xff << 23)).clamp(SMALLEST, LARGEST))
    }
}

impl Format32 for Mxfp4 {
    const SPEC: &'static Spec = spec::known("mxfp4");
    const LEVELS: grid::Levels = grid::Levels::Table(&TABLE);

    #[inline(always)]
    fn quantize(x: &[f32; N]) -> Unpacked {
        let top = max_abs(x);
        // The logarithm as an F32: just below a power of two it is that of the power, as it is for ggml.
        let exponent = ((f64::from(top).log2() as f32).floor() - 2.0 + 127.0) as i32;
        // Below zero it wraps around, as on x86, and all weights are zero on such a scale.
        let scale = if top > 0.0 { u16::from(exponent as u8) } else { 0 };
        let d = Self::widen(scale);
        let mut codes = [ZERO; N];
        for (code, x) in codes.iter_mut().zip(x) {
            let mut best = x.abs();
            for (level, magnitude) in [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0].into_iter().zip(1..) {
                let error = (level * d - x.abs()).abs();
                if error < best {
                    best = error;
                    *code = if *x < 0.0 { ZERO - 1 - magnitude } else { ZERO + magnitude };
                }
            }
        }
        Unpacked { scale, offset: F16_NEG_ZERO, codes }
    }

    #[inline(always)]
    fn write(block: &Unpacked, out: &mut [u8]) {
        out[0] = block.scale as u8;
        let mut stored = [0; N];
        for (stored, code) in stored.iter_mut().zip(block.codes) {
            *stored = stored_code(code);
        }
        write_nibbles(&stored, &mut out[1..]);
    }

    #[inline(always)]
    fn read(bytes: &[u8]) -> Unpacked {
        let mut codes = [0; N];
        for (code, stored) in codes.iter_mut().zip(read_nibbles(&bytes[1..])) {
            *code = place(stored);
        }
        Unpacked { scale: u16::from(bytes[0]), offset: F16_NEG_ZERO, codes }
    }

    #[inline(always)]
    fn level(code: i8) -> f32 {
        f32::from(TABLE[usize::from(code as u8 & 15)])
    }

    #[inline(always)]
    fn widen(scale: u16) -> f32 {
        // 2^-128 and 2^-127 are subnormals.
        f32::from_bits(if scale < 2 { 0x20_0000 << scale } else { u32::from(scale - 1) << 23 })
    }

    #[inline(always)]
    fn narrow(scale: f32) -> u16 {
        let bits = scale.to_bits();
        if bits < 1 << 23 { u16::from(bits >= 0x40_0000) } else { (bits >> 23) as u16 + 1 }
    }
}
