//! Q3_K: 256 weights in 110 bytes, 3.4375 bits per weight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..32 | upper bits of codes + 4: bit `k` of byte `i` belongs to weight `32 * k + i` |
//! | 32..96 | lower two bits, as in Q2_K |
//! | 96..108 | sixteen scales + 32, six bits each, as below |
//! | 108..110 | step `d` of the scales, F16 |
//!
//! The low four bits of scale `g` are in byte `g % 8`, in its low nibble for `g < 8`; the upper two are bits
//! `g / 4 * 2..` of byte `8 + g % 4`.
//!
//! `value = d * scale * code`, sixteen groups of 16, codes -4..=3.

use super::block32::{get, put};
use super::q2_k::{read_pairs, write_pairs};
use super::superblock::Format256;
use crate::bits::{f16_from_f32, f16_to_f32};
use crate::grid::{self, MAX_GROUPS, SuperScales};
use crate::search::superblock::{N, Super};
use crate::search::{Effort, LevelSet, Offset, SYMMETRIC_KICKS, SYMMETRIC_STARTS};
use crate::{Spec, spec};

/// Three bits, symmetric, in super-blocks.
pub struct Q3K;

const BIAS: i8 = 4;
const SCALE_BIAS: i8 = 32;

impl LevelSet for Q3K {
    const LOW: f32 = -4.0;
    const HIGH: f32 = 3.0;
    const OFFSET: Offset = Offset::None;
    const STARTS: &'static [f32] = SYMMETRIC_STARTS;
    const KICKS: &'static [(f32, bool)] = SYMMETRIC_KICKS;
    const ROUNDS: usize = 3;
    const DRAFT: Effort = Effort { starts: 1, kicks: 0, rounds: 2, refinements: 1 };
}

impl Super for Q3K {
    const GROUPS: usize = 16;
    const SCALES: (f32, f32) = (-32.0, 31.0);
    const OFFSETS: f32 = 0.0;
    const REFINEMENTS: usize = 2;
}

impl Format256 for Q3K {
    const SPEC: &'static Spec = spec::known("q3_k");
    const LEVELS: grid::Levels = grid::Levels::Linear { min: -4, max: 3 };

    #[inline(always)]
    fn write(parts: &SuperScales, codes: &[i8; N], out: &mut [u8]) {
        let mut raised = *codes;
        for code in &mut raised {
            *code += BIAS;
        }
        for (i, o) in out[..32].iter_mut().enumerate() {
            *o = 0;
            for k in 0..8 {
                *o |= (raised[k * 32 + i] as u8 >> 2) << k;
            }
        }
        write_pairs(&raised, &mut out[32..96]);
        out[96..108].fill(0);
        for (g, scale) in parts.scales.iter().enumerate() {
            let scale = (scale + SCALE_BIAS) as u8;
            out[96 + g % 8] |= (scale & 15) << (g / 8 * 4);
            out[104 + g % 4] |= (scale >> 4) << (g / 4 * 2);
        }
        put(&mut out[108..110], f16_from_f32(parts.step));
    }

    #[inline(always)]
    fn read(bytes: &[u8], codes: &mut [i8; N]) -> SuperScales {
        read_pairs(&bytes[32..96], codes);
        for (k, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(&bytes[..32]) {
                *code += ((byte >> k & 1) << 2) as i8 - BIAS;
            }
        }
        let mut scales = [0; MAX_GROUPS];
        for (g, scale) in scales.iter_mut().enumerate() {
            let low = bytes[96 + g % 8] >> (g / 8 * 4) & 15;
            let high = bytes[104 + g % 4] >> (g / 4 * 2) & 3;
            *scale = (low | high << 4) as i8 - SCALE_BIAS;
        }
        SuperScales { step: f16_to_f32(get(&bytes[108..])), offset_step: 0.0, scales, offsets: [0; MAX_GROUPS] }
    }
}
