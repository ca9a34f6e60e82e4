//! [`Expand`] for aarch64: a row of a table tells the table lookup where each column's value is. Places outside the
//! values give zero.
//!
//! Sound for the reasons that `kernels/neon.rs` gives.
#![allow(unsafe_code)]

use std::arch::aarch64::*;

use super::expand::{Expand, Mask};
use crate::runtime::kernels::neon::DotProd;
use crate::runtime::kernels::simd::Simd;

#[inline(always)]
fn load(x: &[u8; 16]) -> uint8x16_t {
    // SAFETY: NEON is part of the compilation target; 16 bytes are behind the reference.
    unsafe { vld1q_u8(x.as_ptr()) }
}

/// 16 bytes from `at` on.
#[inline(always)]
fn part(x: &[u8; 32], at: usize) -> &[u8; 16] {
    x[at..].first_chunk().expect("16 columns have at most 16 values")
}

/// 16 columns of a byte each.
#[inline(always)]
fn bytes16<M: Mask>(values: &[u8; 16], low: u8, high: u8) -> uint8x16_t {
    // SAFETY: NEON is part of the compilation target.
    unsafe {
        // The second eight columns' places, moved on by the number of the first; with the top bit they stay empty.
        let places = vaddq_u8(load(&M::LOW.0[usize::from(low)]), load(&M::HIGH.0[usize::from(high)]));
        vqtbl1q_u8(load(values), places)
    }
}

impl Expand for DotProd {
    #[inline(always)]
    fn expand_f32<M: Mask>(self, values: &[[u8; 4]; 8], mask: u8) -> Self::F {
        // SAFETY: NEON is part of the compilation target; 32 bytes are behind the reference.
        unsafe {
            let table = uint8x16x2_t(vld1q_u8(values.as_ptr().cast()), vld1q_u8(values[4..].as_ptr().cast()));
            // Places of two bytes to those of four: twice the first, and the three after it. Empty ones become 0xff.
            let words = vreinterpretq_u16_u8(load(&M::WORDS.0[usize::from(mask)]));
            let first = vandq_u16(words, vdupq_n_u16(0xff));
            let spread = |first: uint32x4_t| {
                let places = vaddq_u32(vmulq_n_u32(first, 0x0202_0202), vdupq_n_u32(0x0302_0100));
                vreinterpretq_u8_u32(vorrq_u32(places, vcgtq_u32(first, vdupq_n_u32(0x7f))))
            };
            let low = spread(vmovl_u16(vget_low_u16(first)));
            let high = spread(vmovl_high_u16(first));
            let (low, high) = (vqtbl2q_u8(table, low), vqtbl2q_u8(table, high));
            [vreinterpretq_f32_u8(low), vreinterpretq_f32_u8(high)]
        }
    }
    #[inline(always)]
    fn expand_f16<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> Self::F {
        self.f16(&self.expand_words::<M>(values, mask))
    }
    #[inline(always)]
    fn expand_bf16<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> Self::F {
        self.bf16(&self.expand_words::<M>(values, mask))
    }
    #[inline(always)]
    fn expand_words<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> [[u8; 2]; 8] {
        let mut out = [[0; 2]; 8];
        // SAFETY: NEON is part of the compilation target; 16 bytes are behind each reference.
        unsafe {
            let values = vld1q_u8(values.as_ptr().cast());
            vst1q_u8(out.as_mut_ptr().cast(), vqtbl1q_u8(values, load(&M::WORDS.0[usize::from(mask)])));
        }
        out
    }
    #[inline(always)]
    fn expand_bytes<M: Mask>(self, values: &[u8; 32], mask: u32) -> Self::B {
        let [a, b, c, d] = mask.to_le_bytes();
        let second = M::before(mask, 2);
        [bytes16::<M>(part(values, 0), a, b), bytes16::<M>(part(values, second), c, d)]
    }

    #[inline(always)]
    fn pick_floats(self, x: &[f32; 16], mask: u16) -> Self::F {
        let mut out = [0.0; 8];
        for (i, out) in out.iter_mut().enumerate() {
            *out = x[i / 2 * 4 + usize::from(mask >> (2 * i) & 3)];
        }
        self.load(&out)
    }
    #[inline(always)]
    fn pick_bytes(self, x: &[u8; 64], mask: &[u8; 8]) -> Self::B {
        // SAFETY: NEON is part of the compilation target; 16 bytes are behind each reference.
        unsafe {
            let mask = vcombine_u8(vld1_u8(mask.as_ptr()), vdup_n_u8(0));
            let shifts = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes([0, 254, 252, 250])));
            let first = load(&[0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28]);
            let half = |order: &[u8; 16], table: uint8x16x2_t| {
                // Every byte four times, shifted down; two bits of it, and the place of their four.
                let bits = vandq_u8(vshlq_u8(vqtbl1q_u8(mask, load(order)), shifts), vdupq_n_u8(3));
                vqtbl2q_u8(table, vorrq_u8(bits, first))
            };
            let part = |at: usize| vld1q_u8(x[at..at + 16].as_ptr());
            [
                half(&[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3], uint8x16x2_t(part(0), part(32))),
                half(&[4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7], uint8x16x2_t(part(16), part(48))),
            ]
        }
    }
    #[inline(always)]
    fn half_totals(self, v: [Self::I; 4]) -> Self::I {
        // SAFETY: NEON is part of the compilation target.
        unsafe {
            let two = |a: Self::I, b: Self::I| vpaddq_s32(vpaddq_s32(a[0], a[1]), vpaddq_s32(b[0], b[1]));
            [two(v[0], v[1]), two(v[2], v[3])]
        }
    }
}
