//! Q5_K: 256 weights in 176 bytes, 5.5 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | step `d` of the scales, F16 |
//! | 2..4 | step `m` of the offsets, F16 |
//! | 4..16 | eight scales and eight offsets of six bits, as in Q4_K |
//! | 16..48 | fifth bits: bit `g` of byte `i` belongs to weight `i` of group `g` |
//! | 48..176 | low four bits of the codes, as in Q4_K |
//!
//! `value = d * scale * code - m * offset`, eight groups of 32, codes 0..=31.

use super::block32::{get, put};
use super::q4_k::{read_nibbles, read_sixes, write_nibbles, write_sixes};
use super::superblock::Format256;
use crate::bits::{f16_from_f32, f16_to_f32};
use crate::grid::{self, SuperScales};
use crate::search::superblock::{N, Super};
use crate::search::{AFFINE_KICKS, AFFINE_STARTS, LevelSet, Offset};
use crate::{Spec, spec};

/// Five bits with an offset, in super-blocks.
pub struct Q5K;

impl LevelSet for Q5K {
    const LOW: f32 = 0.0;
    const HIGH: f32 = 31.0;
    const OFFSET: Offset = Offset::NotPositive;
    const STARTS: &'static [f32] = AFFINE_STARTS;
    const KICKS: &'static [(f32, bool)] = AFFINE_KICKS;
    const ROUNDS: usize = 3;
}

impl Super for Q5K {
    const GROUPS: usize = 8;
    const SCALES: (f32, f32) = (0.0, 63.0);
    const OFFSETS: f32 = 63.0;
    const REFINEMENTS: usize = 1;
}

impl Format256 for Q5K {
    const SPEC: &'static Spec = spec::known("q5_k");
    const LEVELS: grid::Levels = grid::Levels::Linear { min: 0, max: 31 };

    #[inline(always)]
    fn write(parts: &SuperScales, codes: &[i8; N], out: &mut [u8]) {
        put(&mut out[..2], f16_from_f32(parts.step));
        put(&mut out[2..4], f16_from_f32(parts.offset_step));
        write_sixes(&parts.scales, &parts.offsets, &mut out[4..16]);
        for (i, o) in out[16..48].iter_mut().enumerate() {
            *o = 0;
            for g in 0..8 {
                *o |= (codes[g * 32 + i] as u8 >> 4) << g;
            }
        }
        write_nibbles(codes, &mut out[48..176]);
    }

    #[inline(always)]
    fn read(bytes: &[u8], codes: &mut [i8; N]) -> SuperScales {
        read_nibbles(&bytes[48..176], codes);
        for (g, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(&bytes[16..48]) {
                *code |= ((byte >> g & 1) << 4) as i8;
            }
        }
        let (scales, offsets) = read_sixes(&bytes[4..16]);
        SuperScales { step: f16_to_f32(get(bytes)), offset_step: f16_to_f32(get(&bytes[2..])), scales, offsets }
    }
}
