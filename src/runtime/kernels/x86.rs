//! [`Simd`] for x86-64: AVX2 with FMA and F16C, and AVX-512 with VNNI.
//!
//! A token can only be made by the `unsafe` [`Avx2::new`] and [`Avx512::new`], whose callers vouch for the instructions.
//! That, and that loads and stores go through references to arrays of the full width, is what makes every
//! intrinsic below sound. AVX-512 shares AVX2's lanes and differs in three operations: sums of byte products (one
//! instruction instead of two or three, and no intermediate that could saturate) and the 16 floats in one register.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::simd::Simd;

/// AVX2, FMA, F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// AVX-512 F, BW, VL, VNNI and all of [`Avx2`].
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx2 {
    /// # Safety
    /// The machine must have AVX2, FMA and F16C.
    #[inline(always)]
    pub(super) unsafe fn new() -> Avx2 {
        Avx2(())
    }
}

impl Avx512 {
    /// # Safety
    /// The machine must have AVX2, FMA, F16C and AVX-512 F, BW, VL, VNNI.
    #[inline(always)]
    pub(super) unsafe fn new() -> Avx512 {
        Avx512(())
    }
}

/// The operations that both levels share.
macro_rules! common {
    () => {
        type F = __m256;
        type I = __m256i;
        type B = __m256i;

        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, x: &[f32; 8]) -> __m256 {
            // SAFETY: the token vouches for the instructions; 32 bytes are behind the reference.
            unsafe { _mm256_loadu_ps(x.as_ptr()) }
        }
        #[inline(always)]
        fn f16(self, x: &[[u8; 2]; 8]) -> __m256 {
            // SAFETY: the token vouches for the instructions; 16 bytes are behind the reference.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
        }
        #[inline(always)]
        fn f16_bits(self, x: [u16; 8]) -> __m256 {
            // SAFETY: the token vouches for the instructions; 16 bytes are behind the reference.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
        }
        #[inline(always)]
        fn bf16(self, x: &[[u8; 2]; 8]) -> __m256 {
            // SAFETY: the token vouches for the instructions; 16 bytes are behind the reference.
            unsafe {
                let x = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
            }
        }
        #[inline(always)]
        fn i8(self, x: &[u8; 8]) -> __m256 {
            // SAFETY: the token vouches for the instructions; 8 bytes are behind the reference.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().cast()))) }
        }
        #[inline(always)]
        fn to_array(self, x: __m256) -> [f32; 8] {
            let mut out = [0.0; 8];
            // SAFETY: the token vouches for the instructions; 32 bytes are behind the reference.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) };
            out
        }
        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn bytes(self, x: &[u8; 32]) -> __m256i {
            // SAFETY: the token vouches for the instructions; 32 bytes are behind the reference.
            unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
        }
        #[inline(always)]
        fn bytes_to_array(self, x: __m256i) -> [u8; 32] {
            let mut out = [0; 32];
            // SAFETY: the token vouches for the instructions; 32 bytes are behind the reference.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) };
            out
        }
        #[inline(always)]
        fn nibbles(self, x: &[u8; 16]) -> __m256i {
            // SAFETY: the token vouches for the instructions; 16 bytes are behind the reference.
            unsafe {
                let x = _mm256_broadcastsi128_si256(_mm_loadu_si128(x.as_ptr().cast()));
                // The upper half moves its high nibbles down; what crosses from the next byte is masked away.
                let x = _mm256_srlv_epi64(x, _mm256_setr_epi64x(0, 0, 4, 4));
                _mm256_and_si256(x, _mm256_set1_epi8(15))
            }
        }
        #[inline(always)]
        fn nibbles_and_bits(self, x: &[u8; 16], bits: u32) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe {
                // Byte i/8 of the word to every byte i, then its bit i%8 alone, then 16 where it is set.
                let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
                let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
                let word = _mm256_shuffle_epi8(_mm256_set1_epi32(bits.cast_signed()), spread);
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(word, bit), bit);
                _mm256_or_si256(self.nibbles(x), _mm256_and_si256(set, _mm256_set1_epi8(16)))
            }
        }
        #[inline(always)]
        fn totals<const SMALL: bool>(self, v: [__m256i; 8]) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe {
                let (a, b) = (pairs::<SMALL>(v[0], v[1]), pairs::<SMALL>(v[2], v[3]));
                let (c, d) = (pairs::<SMALL>(v[4], v[5]), pairs::<SMALL>(v[6], v[7]));
                let (low, high) = (pairs::<SMALL>(a, b), pairs::<SMALL>(c, d));
                let left = _mm256_permute2x128_si256::<0x20>(low, high);
                let right = _mm256_permute2x128_si256::<0x31>(low, high);
                _mm256_add_epi32(left, right)
            }
        }
        #[inline(always)]
        fn int_splat(self, x: i32) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_set1_epi32(x) }
        }
        #[inline(always)]
        fn int_sub(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_sub_epi32(a, b) }
        }
        #[inline(always)]
        fn to_float(self, x: __m256i) -> __m256 {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_cvtepi32_ps(x) }
        }
        #[inline(always)]
        fn prefetch(self, at: *const u8) {
            // SAFETY: a prefetch never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
    };
}

/// Four columns of a token to every row's place.
///
/// # Safety
/// AVX2 must be present.
#[inline(always)]
unsafe fn four(x: &[u8; 32], g: usize) -> __m256i {
    let x = i32::from_le_bytes([x[4 * g], x[4 * g + 1], x[4 * g + 2], x[4 * g + 3]]);
    // SAFETY: the caller vouches for the instructions.
    unsafe { _mm256_set1_epi32(x) }
}

/// The neighbouring lanes of two vectors, added, half by half. Packing to 16 bits and multiplying by ones is two
/// operations where the horizontal addition is three.
///
/// # Safety
/// AVX2 must be present.
#[inline(always)]
unsafe fn pairs<const SMALL: bool>(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        if SMALL { _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1)) } else { _mm256_hadd_epi32(a, b) }
    }
}

impl Simd for Avx2 {
    type W = [__m256; 2];
    const TOKENS: usize = 6;
    common!();

    #[inline(always)]
    fn wide_load(self, x: &[f32; 16]) -> [__m256; 2] {
        // SAFETY: the token vouches for the instructions; 64 bytes are behind the reference.
        unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn wide_store(self, x: [__m256; 2], out: &mut [f32; 16]) {
        // SAFETY: the token vouches for the instructions; 64 bytes are behind the reference.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), x[1]);
        }
    }
    #[inline(always)]
    fn wide_mul_add(self, a: f32, b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let a = _mm256_set1_ps(a);
            [_mm256_fmadd_ps(a, b[0], c[0]), _mm256_fmadd_ps(a, b[1], c[1])]
        }
    }
    #[inline(always)]
    fn dot(self, u: __m256i, s: __m256i) -> __m256i {
        // SAFETY: the token vouches for the instructions. Pairs reach 2 * 127 * 128, below saturation at 32767.
        unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)) }
    }
    #[inline(always)]
    fn dot_signed(self, w: __m256i, s: __m256i) -> __m256i {
        // SAFETY: the token vouches for the instructions. Magnitudes times signs: pairs reach 2 * 128 * 127 = 32512.
        unsafe {
            let products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(s, w));
            _mm256_madd_epi16(products, _mm256_set1_epi16(1))
        }
    }
    #[inline(always)]
    fn block<const MAX: u8, const T: usize>(self, w: &[[u8; 32]; 8], x: [&[u8; 32]; T]) -> [__m256i; T] {
        // SAFETY: the token vouches for the instructions. Sums of 16 bits: a pair is at most 2 * 15 * 127 = 3810, so
        // that 8 fit below 32767, or 2 * 31 * 127 = 7874, so that 4 fit.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sums = [_mm256_setzero_si256(); T];
            if MAX <= 31 {
                let fit = if MAX <= 15 { 8 } else { 4 };
                let mut g = 0;
                while g < 8 {
                    let mut pairs = [_mm256_setzero_si256(); T];
                    for g in g..g + fit {
                        let w = self.bytes(&w[g]);
                        for t in 0..T {
                            pairs[t] = _mm256_add_epi16(pairs[t], _mm256_maddubs_epi16(w, four(x[t], g)));
                        }
                    }
                    for t in 0..T {
                        sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(pairs[t], ones));
                    }
                    g += fit;
                }
            } else {
                // Eight bits as two nibbles.
                let mask = _mm256_set1_epi8(15);
                let (mut low, mut high) = (sums, sums);
                for (g, w) in w.iter().enumerate() {
                    let w = self.bytes(w);
                    let (l, h) = (_mm256_and_si256(w, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(w), mask));
                    for t in 0..T {
                        let x = four(x[t], g);
                        low[t] = _mm256_add_epi16(low[t], _mm256_maddubs_epi16(l, x));
                        high[t] = _mm256_add_epi16(high[t], _mm256_maddubs_epi16(h, x));
                    }
                }
                for t in 0..T {
                    let high = _mm256_madd_epi16(high[t], _mm256_set1_epi16(16));
                    sums[t] = _mm256_add_epi32(_mm256_madd_epi16(low[t], ones), high);
                }
            }
            sums
        }
    }
}

impl Simd for Avx512 {
    type W = __m512;
    const TOKENS: usize = 12;
    common!();

    #[inline(always)]
    fn wide_load(self, x: &[f32; 16]) -> __m512 {
        // SAFETY: the token vouches for the instructions; 64 bytes are behind the reference.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn wide_store(self, x: __m512, out: &mut [f32; 16]) {
        // SAFETY: the token vouches for the instructions; 64 bytes are behind the reference.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
    }
    #[inline(always)]
    fn wide_mul_add(self, a: f32, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token vouches for the instructions.
        unsafe { _mm512_fmadd_ps(_mm512_set1_ps(a), b, c) }
    }
    #[inline(always)]
    fn dot(self, u: __m256i, s: __m256i) -> __m256i {
        // SAFETY: the token vouches for the instructions.
        unsafe { _mm256_dpbusd_epi32(_mm256_setzero_si256(), u, s) }
    }
    #[inline(always)]
    fn dot_signed(self, w: __m256i, s: __m256i) -> __m256i {
        // SAFETY: the token vouches for the instructions.
        unsafe { _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_abs_epi8(w), _mm256_sign_epi8(s, w)) }
    }
    #[inline(always)]
    fn block<const MAX: u8, const T: usize>(self, w: &[[u8; 32]; 8], x: [&[u8; 32]; T]) -> [__m256i; T] {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let mut sums = [_mm256_setzero_si256(); T];
            for (g, w) in w.iter().enumerate() {
                let w = self.bytes(w);
                for t in 0..T {
                    sums[t] = _mm256_dpbusd_epi32(sums[t], w, four(x[t], g));
                }
            }
            sums
        }
    }
}
