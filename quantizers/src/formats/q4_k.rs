//! Q4_K: 256 weights in 144 bytes, 4.5 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | step `d` of the scales, F16 |
//! | 2..4 | step `m` of the offsets, F16 |
//! | 4..16 | eight scales and eight offsets of six bits, see [`read_sixes`] |
//! | 16..144 | codes, four bits each: of every 64 weights byte `i` holds code `i` low and code `i + 32` high |
//!
//! `value = d * scale * code - m * offset`, eight groups of 32, codes 0..=15.

use super::block32::{get, put};
use super::superblock::Format256;
use crate::bits::{f16_from_f32, f16_to_f32};
use crate::grid::{self, MAX_GROUPS, SuperScales};
use crate::search::superblock::{N, Super};
use crate::search::{AFFINE_KICKS, AFFINE_STARTS, Effort, LevelSet, Offset};
use crate::{Spec, spec};

/// Four bits with an offset, in super-blocks.
pub struct Q4K;

impl LevelSet for Q4K {
    const LOW: f32 = 0.0;
    const HIGH: f32 = 15.0;
    const OFFSET: Offset = Offset::NotPositive;
    const STARTS: &'static [f32] = AFFINE_STARTS;
    const KICKS: &'static [(f32, bool)] = AFFINE_KICKS;
    const ROUNDS: usize = 3;
    const DRAFT: Effort = Effort { starts: 1, kicks: 2, rounds: 3, refinements: 1 };
}

impl Super for Q4K {
    const GROUPS: usize = 8;
    const SCALES: (f32, f32) = (0.0, 63.0);
    const OFFSETS: f32 = 63.0;
    const REFINEMENTS: usize = 1;
}

/// Six-bit scales and offsets of eight groups. The first four have theirs in the low bits of bytes 0..4 (scales) and
/// 4..8 (offsets); the last four have four bits in bytes 8..12 (scale low, offset high) and the other two on top of the
/// bytes of the group four before.
#[inline(always)]
pub(super) fn read_sixes(bytes: &[u8]) -> ([i8; MAX_GROUPS], [u8; MAX_GROUPS]) {
    let (mut scales, mut offsets) = ([0; MAX_GROUPS], [0; MAX_GROUPS]);
    for g in 0..4 {
        scales[g] = (bytes[g] & 63) as i8;
        offsets[g] = bytes[g + 4] & 63;
        scales[g + 4] = ((bytes[g + 8] & 15) | (bytes[g] >> 6 << 4)) as i8;
        offsets[g + 4] = (bytes[g + 8] >> 4) | (bytes[g + 4] >> 6 << 4);
    }
    (scales, offsets)
}

/// The reverse of [`read_sixes`].
#[inline(always)]
pub(super) fn write_sixes(scales: &[i8; MAX_GROUPS], offsets: &[u8; MAX_GROUPS], out: &mut [u8]) {
    for g in 0..4 {
        let (scale, offset) = (scales[g + 4] as u8, offsets[g + 4]);
        out[g] = scales[g] as u8 | (scale >> 4 << 6);
        out[g + 4] = offsets[g] | (offset >> 4 << 6);
        out[g + 8] = (scale & 15) | ((offset & 15) << 4);
    }
}

/// Codes of four bits: of every 64 the first half in low nibbles, the second in high ones.
#[inline(always)]
pub(super) fn read_nibbles(bytes: &[u8], codes: &mut [i8; N]) {
    for (codes, bytes) in codes.as_chunks_mut::<64>().0.iter_mut().zip(bytes.as_chunks::<32>().0) {
        let (low, high) = codes.split_at_mut(32);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            *low = (byte & 15) as i8;
            *high = (byte >> 4) as i8;
        }
    }
}

/// The reverse of [`read_nibbles`]; upper bits of the codes are left out.
#[inline(always)]
pub(super) fn write_nibbles(codes: &[i8; N], out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (i, o) in out.iter_mut().enumerate() {
            *o = (codes[i] as u8 & 15) | (codes[i + 32] as u8) << 4;
        }
    }
}

impl Format256 for Q4K {
    const SPEC: &'static Spec = spec::known("q4_k");
    const LEVELS: grid::Levels = grid::Levels::Linear { min: 0, max: 15 };

    #[inline(always)]
    fn write(parts: &SuperScales, codes: &[i8; N], out: &mut [u8]) {
        put(&mut out[..2], f16_from_f32(parts.step));
        put(&mut out[2..4], f16_from_f32(parts.offset_step));
        write_sixes(&parts.scales, &parts.offsets, &mut out[4..16]);
        write_nibbles(codes, &mut out[16..144]);
    }

    #[inline(always)]
    fn read(bytes: &[u8], codes: &mut [i8; N]) -> SuperScales {
        read_nibbles(&bytes[16..144], codes);
        let (scales, offsets) = read_sixes(&bytes[4..16]);
        SuperScales { step: f16_to_f32(get(bytes)), offset_step: f16_to_f32(get(&bytes[2..])), scales, offsets }
    }
}
