//! Q6_K: 256 weights in 210 bytes, 6.5625 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..128 | low four bits of codes + 32: of every 128 weights byte `i` of 64 holds weight `i` low and `i + 64` high |
//! | 128..192 | upper two bits: of every 128 weights byte `i` of 32 holds weights `i`, `i + 32`, ..., lowest first |
//! | 192..208 | sixteen scales, signed bytes |
//! | 208..210 | step `d` of the scales, F16 |
//!
//! `value = d * scale * code`, sixteen groups of 16, codes -32..=31.

use super::block32::{get, put};
use super::superblock::Format256;
use crate::bits::{f16_from_f32, f16_to_f32};
use crate::grid::{self, MAX_GROUPS, SuperScales};
use crate::search::superblock::{N, Super};
use crate::search::{Effort, LevelSet, Offset, SYMMETRIC_KICKS, SYMMETRIC_STARTS};
use crate::{Spec, spec};

/// Six bits, symmetric, in super-blocks.
pub struct Q6K;

const BIAS: i8 = 32;

impl LevelSet for Q6K {
    const LOW: f32 = -32.0;
    const HIGH: f32 = 31.0;
    const OFFSET: Offset = Offset::None;
    const STARTS: &'static [f32] = SYMMETRIC_STARTS;
    const KICKS: &'static [(f32, bool)] = SYMMETRIC_KICKS;
    const ROUNDS: usize = 3;
    const DRAFT: Effort = Effort { starts: 1, kicks: 0, rounds: 3, refinements: 1 };
}

impl Super for Q6K {
    const GROUPS: usize = 16;
    const SCALES: (f32, f32) = (-128.0, 127.0);
    const OFFSETS: f32 = 0.0;
    const REFINEMENTS: usize = 1;
}

impl Format256 for Q6K {
    const SPEC: &'static Spec = spec::known("q6_k");
    const LEVELS: grid::Levels = grid::Levels::Linear { min: -32, max: 31 };

    #[inline(always)]
    fn write(parts: &SuperScales, codes: &[i8; N], out: &mut [u8]) {
        for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
            let code = |i: usize| (codes[i] + BIAS) as u8;
            for (i, o) in out[half * 64..][..64].iter_mut().enumerate() {
                *o = (code(i) & 15) | code(i + 64) << 4;
            }
            for (i, o) in out[128 + half * 32..][..32].iter_mut().enumerate() {
                *o = (code(i) >> 4) | (code(i + 32) >> 4 << 2) | (code(i + 64) >> 4 << 4) | (code(i + 96) >> 4 << 6);
            }
        }
        for (o, scale) in out[192..208].iter_mut().zip(parts.scales) {
            *o = scale as u8;
        }
        put(&mut out[208..210], f16_from_f32(parts.step));
    }

    #[inline(always)]
    fn read(bytes: &[u8], codes: &mut [i8; N]) -> SuperScales {
        for (half, codes) in codes.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let (low, high) = (&bytes[half * 64..][..64], &bytes[128 + half * 32..][..32]);
            for (quarter, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let low = &low[quarter % 2 * 32..][..32];
                let nibble = quarter / 2 * 4;
                for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
                    *code = ((low >> nibble & 15) | ((high >> (2 * quarter) & 3) << 4)) as i8 - BIAS;
                }
            }
        }
        let mut scales = [0; MAX_GROUPS];
        for (scale, byte) in scales.iter_mut().zip(&bytes[192..208]) {
            *scale = *byte as i8;
        }
        SuperScales { step: f16_to_f32(get(&bytes[208..])), offset_step: 0.0, scales, offsets: [0; MAX_GROUPS] }
    }
}
