//! [`Expand`] for x86-64. AVX2 has no instruction for it: a row of a table tells the byte shuffle where each column's
//! value is. AVX-512 expands floats; for bytes it would need VBMI2, which not all machines with VNNI have, so it
//! shuffles too.
//!
//! Sound for the reasons that `kernels/x86.rs` gives: a token vouches for the instructions, and loads go through
//! references to arrays of the full width.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::expand::{Expand, Mask, Table};
use crate::runtime::kernels::simd::Simd;
use crate::runtime::kernels::x86::{Avx2, Avx512, halves};

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

/// The row of byte `i` of a mask.
#[inline(always)]
fn row(table: &'static Table, mask: u32, i: u32) -> __m128i {
    // One turn and one mask, where taking the byte out and multiplying it would be two of each.
    let at = mask.rotate_right((8 * i + 28) % 32) & 0xff0;
    // SAFETY: SSE2 is part of the compilation target. The distance is a multiple of 16 and below 16 * 256; the table is
    // aligned and has as many bytes.
    unsafe { _mm_load_si128(table.0.as_ptr().cast::<u8>().add(at as usize).cast()) }
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
    unsafe { _mm_shuffle_epi8(load_words(values), row(M::WORDS, mask.into(), 0)) }
}

/// 16 columns of a byte each, those of bytes `i` and `i + 1` of a mask.
///
/// # Safety
/// AVX2 must be present.
#[inline(always)]
unsafe fn bytes16<M: Mask>(values: &[u8; 16], mask: u32, i: u32) -> __m128i {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        // The second eight columns' places, moved on by the number of the first; with the top bit they stay empty.
        let places = _mm_add_epi8(row(M::LOW, mask, i), row(M::HIGH, mask, i + 1));
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
            // SAFETY: the token vouches for the instructions.
            unsafe {
                let low = bytes16::<M>(part(values, 0), mask, 0);
                let high = bytes16::<M>(part(values, M::before(mask, 2)), mask, 2);
                _mm256_set_m128i(high, low)
            }
        }
        #[inline(always)]
        fn pick_floats(self, x: &[f32; 16], mask: u16) -> __m256 {
            // SAFETY: the token vouches for the instructions; 64 bytes are behind the reference.
            unsafe {
                // Two bits to each lane, and the place of the lane's four; the second eight numbers are another vector.
                let bits =
                    _mm256_srlv_epi32(_mm256_set1_epi32(mask.into()), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
                let bits = _mm256_and_si256(bits, _mm256_set1_epi32(3));
                let places = _mm256_or_si256(bits, _mm256_setr_epi32(0, 0, 4, 4, 0, 0, 4, 4));
                let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(x.as_ptr()), places);
                let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(x.as_ptr().add(8)), places);
                _mm256_blend_ps::<0xf0>(low, high)
            }
        }
        #[inline(always)]
        fn pick_bytes(self, x: &[u8; 64], mask: &[u8; 8]) -> __m256i {
            // SAFETY: the token vouches for the instructions; 64 bytes are behind the reference.
            unsafe {
                let mask = _mm256_set1_epi64x(i64::from_le_bytes(*mask));
                // Every byte four times, two of its bits each time; then those bits as a number.
                let order = _mm256_setr_epi64x(
                    0x0101_0101_0000_0000,
                    0x0303_0303_0202_0202,
                    0x0505_0505_0404_0404,
                    0x0707_0707_0606_0606,
                );
                let bits = _mm256_and_si256(
                    _mm256_shuffle_epi8(mask, order),
                    _mm256_set1_epi32(0xc030_0c03_u32.cast_signed()),
                );
                let bits = _mm256_or_si256(bits, _mm256_srli_epi16::<4>(bits));
                let bits = _mm256_and_si256(bits, _mm256_set1_epi8(15));
                let number = _mm256_setr_epi64x(
                    0x0000_0001_0302_0100,
                    0x0000_0003_0000_0002,
                    0x0000_0001_0302_0100,
                    0x0000_0003_0000_0002,
                );
                let places = _mm256_shuffle_epi8(number, bits);
                // Of each half, eight come from the first vector and eight from the second; the others stay empty.
                let (first, none) = (0x0c0c_0808_0404_0000, 0x8080_8080_8080_8080_u64.cast_signed());
                let low = _mm256_or_si256(places, _mm256_setr_epi64x(first, none, first, none));
                let high = _mm256_or_si256(places, _mm256_setr_epi64x(none, first, none, first));
                let low = _mm256_shuffle_epi8(_mm256_loadu_si256(x.as_ptr().cast()), low);
                let high = _mm256_shuffle_epi8(_mm256_loadu_si256(x.as_ptr().add(32).cast()), high);
                _mm256_or_si256(low, high)
            }
        }
        #[inline(always)]
        fn half_totals(self, v: [__m256i; 4]) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe {
                let sums = halves::<false>(v);
                _mm256_permutevar8x32_epi32(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
            }
        }
    };
}

impl Expand for Avx2 {
    common!();

    #[inline(always)]
    fn expand_f32<M: Mask>(self, values: &[[u8; 4]; 8], mask: u8) -> __m256 {
        // SAFETY: the token vouches for the instructions; 32 bytes are behind the reference.
        unsafe {
            let places = _mm256_cvtepi8_epi32(row(M::LOW, mask.into(), 0));
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
