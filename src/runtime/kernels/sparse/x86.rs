//! [`Expand`] for x86-64. AVX2 has no instruction for it: a row of a table tells the byte shuffle where each column's
//! value is. AVX-512 expands floats; for bytes it would need VBMI2, which not all machines with VNNI have, so it
//! shuffles too.
//!
//! Sound for the reasons that `kernels/x86.rs` gives: a token vouches for the instructions, and loads go through
//! references to arrays of the full width.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::expand::{Expand, Mask};
use crate::runtime::kernels::simd::Simd;
use crate::runtime::kernels::x86::{Avx2, Avx512};

#[inline(always)]
fn load(x: &[u8; 16]) -> __m128i {
    // SAFETY: SSE2 is part of the compilation target; 16 bytes are behind the reference.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

#[inline(always)]
fn load_words(x: &[[u8; 2]; 8]) -> __m128i {
    // SAFETY: SSE2 is part of the compilation target; 16 bytes are behind the reference.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

/// 16 bytes from `at` on.
#[inline(always)]
fn part(x: &[u8; 32], at: usize) -> &[u8; 16] {
    x[at..].first_chunk().expect("16 columns have at most 16 values")
}

/// Eight columns of two bytes each.
///
/// # Safety
/// AVX2 must be present.
#[inline(always)]
unsafe fn words<M: Mask>(values: &[[u8; 2]; 8], mask: u8) -> __m128i {
    // SAFETY: the caller vouches for the instructions.
    unsafe { _mm_shuffle_epi8(load_words(values), load(&M::WORDS[usize::from(mask)])) }
}

/// 16 columns of a byte each.
///
/// # Safety
/// AVX2 must be present.
#[inline(always)]
unsafe fn bytes16<M: Mask>(values: &[u8; 16], low: u8, high: u8) -> __m128i {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        // The second eight columns' places, moved on by the number of the first; with the top bit they stay empty.
        let places = _mm_add_epi8(load(&M::LOW[usize::from(low)]), load(&M::HIGH[usize::from(high)]));
        _mm_shuffle_epi8(load(values), places)
    }
}

/// The operations that both levels share.
macro_rules! common {
    () => {
        #[inline(always)]
        fn expand_words<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> [[u8; 2]; 8] {
            let mut out = [[0; 2]; 8];
            // SAFETY: the token vouches for the instructions; 16 bytes are behind the reference.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), words::<M>(values, mask)) };
            out
        }
        #[inline(always)]
        fn expand_bytes<M: Mask>(self, values: &[u8; 32], mask: u32) -> __m256i {
            let [a, b, c, d] = mask.to_le_bytes();
            // SAFETY: the token vouches for the instructions.
            unsafe {
                let low = bytes16::<M>(part(values, 0), a, b);
                let high = bytes16::<M>(part(values, M::count16(mask as u16)), c, d);
                _mm256_set_m128i(high, low)
            }
        }
        #[inline(always)]
        fn nibbles_in_order(self, x: &[u8; 16]) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe {
                let x = _mm256_cvtepu8_epi16(load(x));
                let x = _mm256_or_si256(x, _mm256_slli_epi16::<4>(x));
                self.flip(_mm256_and_si256(x, _mm256_set1_epi8(15)), 8)
            }
        }
        #[inline(always)]
        fn flip(self, x: __m256i, by: u8) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_xor_si256(x, _mm256_set1_epi8(by.cast_signed())) }
        }
    };
}

impl Expand for Avx2 {
    common!();

    #[inline(always)]
    fn expand_f32<M: Mask>(self, values: &[[u8; 4]; 8], mask: u8) -> __m256 {
        // SAFETY: the token vouches for the instructions; 32 bytes are behind the reference.
        unsafe {
            let places = _mm256_cvtepi8_epi32(load(&M::LOW[usize::from(mask)]));
            let values = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values.as_ptr().cast()), places);
            // A place below zero is none.
            _mm256_blendv_ps(values, _mm256_setzero_ps(), _mm256_castsi256_ps(places))
        }
    }
    #[inline(always)]
    fn expand_f16<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> __m256 {
        // SAFETY: the token vouches for the instructions.
        unsafe { _mm256_cvtph_ps(words::<M>(values, mask)) }
    }
    #[inline(always)]
    fn expand_bf16<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> __m256 {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let x = _mm256_cvtepu16_epi32(words::<M>(values, mask));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
        }
    }
}

impl Expand for Avx512 {
    common!();

    #[inline(always)]
    fn expand_f32<M: Mask>(self, values: &[[u8; 4]; 8], mask: u8) -> __m256 {
        // SAFETY: the token vouches for the instructions; 32 bytes are behind the reference.
        unsafe { _mm256_maskz_expand_ps(M::bits(mask), _mm256_loadu_ps(values.as_ptr().cast())) }
    }
    #[inline(always)]
    fn expand_f16<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> __m256 {
        // SAFETY: the token vouches for the instructions.
        unsafe { _mm256_maskz_expand_ps(M::bits(mask), self.f16(values)) }
    }
    #[inline(always)]
    fn expand_bf16<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> __m256 {
        // SAFETY: the token vouches for the instructions.
        unsafe { _mm256_maskz_expand_ps(M::bits(mask), self.bf16(values)) }
    }
}
