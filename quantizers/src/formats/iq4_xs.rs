//! IQ4_XS: 256 weights in 136 bytes, 4.25 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | step `d` of the scales, F16 |
//! | 2..4 | upper two bits of eight scales + 32, lowest first |
//! | 4..8 | lower four bits of the scales, lowest first |
//! | 8..136 | codes, four bits each: of every 32 weights byte `i` of 16 holds code `i` low and code `i + 16` high |
//!
//! `value = d * scale * TABLE[code]`, eight groups of 32, the table of IQ4_NL.

use super::block32::{get, put};
use super::iq4_nl::{Iq4Nl, TABLE, level, nearest_level};
use super::superblock::Format256;
use crate::bits::{f16_from_f32, f16_to_f32};
use crate::grid::{self, MAX_GROUPS, SuperScales};
use crate::search::superblock::{N, Super};
use crate::search::{LevelSet, Offset};
use crate::{Spec, spec};

/// Four bits with levels that are not evenly spaced, in super-blocks.
pub struct Iq4Xs;

const SCALE_BIAS: i8 = 32;

impl LevelSet for Iq4Xs {
    const LOW: f32 = Iq4Nl::LOW;
    const HIGH: f32 = Iq4Nl::HIGH;
    const SPACING: f32 = Iq4Nl::SPACING;
    const OFFSET: Offset = Offset::None;
    const STARTS: &'static [f32] = Iq4Nl::STARTS;
    const ROUNDS: usize = Iq4Nl::ROUNDS;

    #[inline(always)]
    fn nearest(target: f32) -> f32 {
        nearest_level(target)
    }
}

impl Super for Iq4Xs {
    const GROUPS: usize = 8;
    const SCALES: (f32, f32) = (-32.0, 31.0);
    const OFFSETS: f32 = 0.0;
    const REFINEMENTS: usize = 2;
}

impl Format256 for Iq4Xs {
    const SPEC: &'static Spec = spec::known("iq4_xs");
    const LEVELS: grid::Levels = grid::Levels::Table(&TABLE);

    #[inline(always)]
    fn write(parts: &SuperScales, codes: &[i8; N], out: &mut [u8]) {
        put(&mut out[..2], f16_from_f32(parts.step));
        out[2..8].fill(0);
        for (g, scale) in parts.scales[..8].iter().enumerate() {
            let scale = (scale + SCALE_BIAS) as u8;
            out[2 + g / 4] |= (scale >> 4) << (g % 4 * 2);
            out[4 + g / 2] |= (scale & 15) << (g % 2 * 4);
        }
        for (codes, out) in codes.as_chunks::<32>().0.iter().zip(out[8..136].as_chunks_mut::<16>().0) {
            for (i, o) in out.iter_mut().enumerate() {
                *o = codes[i] as u8 | (codes[i + 16] as u8) << 4;
            }
        }
    }

    #[inline(always)]
    fn read(bytes: &[u8], codes: &mut [i8; N]) -> SuperScales {
        for (codes, bytes) in codes.as_chunks_mut::<32>().0.iter_mut().zip(bytes[8..136].as_chunks::<16>().0) {
            for (i, byte) in bytes.iter().enumerate() {
                codes[i] = (byte & 15) as i8;
                codes[i + 16] = (byte >> 4) as i8;
            }
        }
        let mut scales = [0; MAX_GROUPS];
        for (g, scale) in scales[..8].iter_mut().enumerate() {
            let (low, high) = (bytes[4 + g / 2] >> (g % 2 * 4) & 15, bytes[2 + g / 4] >> (g % 4 * 2) & 3);
            *scale = (low | high << 4) as i8 - SCALE_BIAS;
        }
        SuperScales { step: f16_to_f32(get(bytes)), offset_step: 0.0, scales, offsets: [0; MAX_GROUPS] }
    }

    #[inline(always)]
    fn level(code: i8) -> f32 {
        level(code)
    }
}
