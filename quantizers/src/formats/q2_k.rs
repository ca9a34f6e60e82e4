//! Q2_K: 256 weights in 84 bytes, 2.625 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..16 | of each group the scale (low nibble) and the offset (high nibble) |
//! | 16..80 | codes, two bits each, see [`read_pairs`] |
//! | 80..82 | step `d` of the scales, F16 |
//! | 82..84 | step `m` of the offsets, F16 |
//!
//! `value = d * scale * code - m * offset`, sixteen groups of 16, codes 0..=3.

use super::block32::{get, put};
use super::superblock::Format256;
use crate::bits::{f16_from_f32, f16_to_f32};
use crate::grid::{self, MAX_GROUPS, SuperScales};
use crate::search::superblock::{N, Super};
use crate::search::{AFFINE_KICKS, AFFINE_STARTS, LevelSet, Offset};
use crate::{Spec, spec};

/// Two bits with an offset, in super-blocks.
pub struct Q2K;

impl LevelSet for Q2K {
    const LOW: f32 = 0.0;
    const HIGH: f32 = 3.0;
    const OFFSET: Offset = Offset::NotPositive;
    const STARTS: &'static [f32] = AFFINE_STARTS;
    const KICKS: &'static [(f32, bool)] = AFFINE_KICKS;
    const ROUNDS: usize = 3;
}

impl Super for Q2K {
    const GROUPS: usize = 16;
    const SCALES: (f32, f32) = (0.0, 15.0);
    const OFFSETS: f32 = 15.0;
    const REFINEMENTS: usize = 3;
}

/// Codes of two bits: of every 128 weights byte `i` of 32 holds weights `i`, `i + 32`, `i + 64`, `i + 96`, lowest
/// first.
#[inline(always)]
pub(super) fn read_pairs(bytes: &[u8], codes: &mut [i8; N]) {
    for (codes, bytes) in codes.as_chunks_mut::<128>().0.iter_mut().zip(bytes.as_chunks::<32>().0) {
        for (quarter, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = (byte >> (2 * quarter) & 3) as i8;
            }
        }
    }
}

/// The reverse of [`read_pairs`]; upper bits of the codes are left out.
#[inline(always)]
pub(super) fn write_pairs(codes: &[i8; N], out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (i, o) in out.iter_mut().enumerate() {
            let pair = |quarter: usize| (codes[quarter * 32 + i] as u8 & 3) << (2 * quarter);
            *o = pair(0) | pair(1) | pair(2) | pair(3);
        }
    }
}

impl Format256 for Q2K {
    const SPEC: &'static Spec = spec::known("q2_k");
    const LEVELS: grid::Levels = grid::Levels::Linear { min: 0, max: 3 };

    #[inline(always)]
    fn write(parts: &SuperScales, codes: &[i8; N], out: &mut [u8]) {
        for (o, (scale, offset)) in out[..16].iter_mut().zip(parts.scales.iter().zip(parts.offsets)) {
            *o = *scale as u8 | offset << 4;
        }
        write_pairs(codes, &mut out[16..80]);
        put(&mut out[80..82], f16_from_f32(parts.step));
        put(&mut out[82..84], f16_from_f32(parts.offset_step));
    }

    #[inline(always)]
    fn read(bytes: &[u8], codes: &mut [i8; N]) -> SuperScales {
        read_pairs(&bytes[16..80], codes);
        let (mut scales, mut offsets) = ([0; MAX_GROUPS], [0; MAX_GROUPS]);
        for (g, byte) in bytes[..16].iter().enumerate() {
            scales[g] = (byte & 15) as i8;
            offsets[g] = byte >> 4;
        }
        let (step, offset_step) = (f16_to_f32(get(&bytes[80..])), f16_to_f32(get(&bytes[82..])));
        SuperScales { step, offset_step, scales, offsets }
    }
}
