//! [`Simd`] for x86-64: AVX2 with FMA and F16C, and AVX-512 with VNNI.
//!
//! A token can only be made by the `unsafe` [`Avx2::new`] and [`Avx512::new`], whose callers vouch for the
//! instructions. That, and that loads and stores go through references to arrays of the full width, is what makes every
//! intrinsic below sound. AVX-512 shares AVX2's lanes and differs in three operations: sums of byte products (one
//! instruction instead of two or three, and no intermediate that could saturate) and the 16 floats in one register.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::simd::Simd;

/// AVX2, FMA, F16C, POPCNT, BMI.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// AVX-512 F, BW, VL, VNNI and all of [`Avx2`].
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx2 {
    /// # Safety
    /// The machine must have AVX2, FMA, F16C, POPCNT and BMI.
    #[inline(always)]
    pub(super) unsafe fn new() -> Avx2 {
        Avx2(())
    }
}

impl Avx512 {
    /// # Safety
    /// The machine must have AVX2, FMA, F16C, POPCNT, BMI and AVX-512 F, BW, VL, VNNI.
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
        type H = __m256i;

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
        fn turn(self, rows: [__m256; 8]) -> [__m256; 8] {
            // SAFETY: the token vouches for the instructions. Four bytes move as a number does.
            unsafe {
                let mut lanes = [_mm256_setzero_si256(); 8];
                for i in 0..8 {
                    lanes[i] = _mm256_castps_si256(rows[i]);
                }
                let transposed = self.transpose(lanes, 0);
                let mut out = rows;
                for i in 0..8 {
                    out[i] = _mm256_castsi256_ps(transposed[i]);
                }
                out
            }
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
        fn bits(self, x: __m256i, places: i32, mask: u8) -> __m256i {
            // SAFETY: the token vouches for the instructions. Words are shifted; the mask takes what crossed bytes
            // away.
            unsafe {
                let count = _mm_cvtsi32_si128(places.abs());
                let x = if places < 0 { _mm256_sll_epi16(x, count) } else { _mm256_srl_epi16(x, count) };
                _mm256_and_si256(x, _mm256_set1_epi8(mask.cast_signed()))
            }
        }
        #[inline(always)]
        fn or(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_or_si256(a, b) }
        }
        #[inline(always)]
        fn lookup(self, table: &[u8; 16], x: __m256i) -> __m256i {
            // SAFETY: the token vouches for the instructions; 16 bytes are behind the reference.
            unsafe {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                _mm256_shuffle_epi8(table, x)
            }
        }
        #[inline(always)]
        fn transpose(self, rows: [__m256i; 8], flip: u8) -> [__m256i; 8] {
            // SAFETY: the token vouches for the instructions.
            unsafe {
                // Neighbouring rows' lanes side by side, then pairs of them, each half of a vector by itself.
                let mut pairs = rows;
                for i in 0..4 {
                    pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
                    pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
                }
                let flip = _mm256_set1_epi8(flip.cast_signed());
                let mut out = rows;
                for i in 0..4 {
                    // Lane i of rows 0 to 3 in the lower half, lane 4 + i in the upper; the same of rows 4 to 7.
                    let (a, b, c, d) = (pairs[i / 2], pairs[i / 2 + 2], pairs[i / 2 + 4], pairs[i / 2 + 6]);
                    let (front, back) = if i % 2 == 0 {
                        (_mm256_unpacklo_epi64(a, b), _mm256_unpacklo_epi64(c, d))
                    } else {
                        (_mm256_unpackhi_epi64(a, b), _mm256_unpackhi_epi64(c, d))
                    };
                    out[i] = _mm256_xor_si256(_mm256_permute2x128_si256::<0x20>(front, back), flip);
                    out[4 + i] = _mm256_xor_si256(_mm256_permute2x128_si256::<0x31>(front, back), flip);
                }
                out
            }
        }
        #[inline(always)]
        fn dot_scaled<const SIGNED: bool>(self, w: __m256i, s: __m256i, scales: __m256i, j: usize) -> __m256i {
            // SAFETY: the token vouches for the instructions. Pairs stay below saturation, as in `dot` and
            // `dot_signed`; multiplying them by the scale costs no more than adding them up.
            unsafe {
                let pairs = if SIGNED {
                    _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(s, w))
                } else {
                    _mm256_maddubs_epi16(w, s)
                };
                // Word j of each half to all words of the half.
                let word = _mm256_set1_epi16((2 * j as i16 + 1) << 8 | 2 * j as i16);
                _mm256_madd_epi16(pairs, _mm256_shuffle_epi8(scales, word))
            }
        }
        #[inline(always)]
        fn words<const HALVES: bool>(self, x: &[u8; 16]) -> __m256i {
            // SAFETY: the token vouches for the instructions; 16 bytes are behind the reference.
            unsafe {
                let order = if HALVES {
                    _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15)
                } else {
                    _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7)
                };
                _mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_loadu_si128(x.as_ptr().cast()), order))
            }
        }
        #[inline(always)]
        fn words_load(self, x: &[i16; 16]) -> __m256i {
            // SAFETY: the token vouches for the instructions; 32 bytes are behind the reference.
            unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
        }
        #[inline(always)]
        fn words_pair(self, x: [i16; 2]) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_set1_epi32(i32::from(x[1]) << 16 | i32::from(x[0].cast_unsigned())) }
        }
        #[inline(always)]
        fn words_scale(self, x: __m256i, by: i16) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_mullo_epi16(x, _mm256_set1_epi16(by)) }
        }
        #[inline(always)]
        fn words_dot(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_madd_epi16(a, b) }
        }
        #[inline(always)]
        fn int_add(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe { _mm256_add_epi32(a, b) }
        }
        #[inline(always)]
        fn totals<const SMALL: bool>(self, v: [__m256i; 8]) -> __m256i {
            // SAFETY: the token vouches for the instructions.
            unsafe {
                let low = halves::<SMALL>([v[0], v[1], v[2], v[3]]);
                let high = halves::<SMALL>([v[4], v[5], v[6], v[7]]);
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

/// The sums of the halves of four vectors: lane `i` of each half is that of `v[i]`'s half. Unpacking and adding is
/// quicker than the horizontal addition, which the compiler makes of shuffles whose results it is to add.
///
/// # Safety
/// AVX2 must be present.
#[inline(always)]
pub(super) unsafe fn halves<const SMALL: bool>(v: [__m256i; 4]) -> __m256i {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        if SMALL {
            // Packing to 16 bits and multiplying by ones.
            let ones = _mm256_set1_epi16(1);
            let low = _mm256_madd_epi16(_mm256_packs_epi32(v[0], v[1]), ones);
            let high = _mm256_madd_epi16(_mm256_packs_epi32(v[2], v[3]), ones);
            return _mm256_madd_epi16(_mm256_packs_epi32(low, high), ones);
        }
        let low = _mm256_add_epi32(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
        let high = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
        _mm256_add_epi32(_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high))
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

    #[inline(always)]
    fn block_scaled<const MAX: u8, const HALVES: bool, const T: usize>(
        self,
        w: &[[u8; 32]; 8],
        scales: &[[i16; 16]; 2],
        x: [&[u8; 32]; T],
    ) -> [__m256i; T] {
        // SAFETY: the token vouches for the instructions. Sums of 16 bits as in `block`; with 63 a pair is at most
        // 2 * 63 * 127 = 16002, so that 2 fit. They are multiplied by the scale where `block` multiplies by one.
        unsafe {
            let scales = [self.words_load(&scales[0]), self.words_load(&scales[if HALVES { 1 } else { 0 }])];
            let mut sums = [_mm256_setzero_si256(); T];
            let fit = match MAX {
                ..=15 if !HALVES => 8,
                ..=31 => 4,
                32..=63 => 2,
                _ if HALVES => 4,
                _ => 8,
            };
            let mut g = 0;
            while g < 8 {
                let scale = scales[g / 4];
                if MAX <= 63 {
                    let mut pairs = [_mm256_setzero_si256(); T];
                    for g in g..g + fit {
                        let w = self.bytes(&w[g]);
                        for t in 0..T {
                            pairs[t] = _mm256_add_epi16(pairs[t], _mm256_maddubs_epi16(w, four(x[t], g)));
                        }
                    }
                    for t in 0..T {
                        sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(pairs[t], scale));
                    }
                } else {
                    let mask = _mm256_set1_epi8(15);
                    let (mut low, mut high) = ([_mm256_setzero_si256(); T], [_mm256_setzero_si256(); T]);
                    for g in g..g + fit {
                        let w = self.bytes(&w[g]);
                        let (l, h) = (_mm256_and_si256(w, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(w), mask));
                        for t in 0..T {
                            let x = four(x[t], g);
                            low[t] = _mm256_add_epi16(low[t], _mm256_maddubs_epi16(l, x));
                            high[t] = _mm256_add_epi16(high[t], _mm256_maddubs_epi16(h, x));
                        }
                    }
                    let scale16 = _mm256_slli_epi16::<4>(scale);
                    for t in 0..T {
                        let high = _mm256_madd_epi16(high[t], scale16);
                        sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(low[t], scale));
                        sums[t] = _mm256_add_epi32(sums[t], high);
                    }
                }
                g += fit;
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
    #[inline(always)]
    fn block_scaled<const MAX: u8, const HALVES: bool, const T: usize>(
        self,
        w: &[[u8; 32]; 8],
        scales: &[[i16; 16]; 2],
        x: [&[u8; 32]; T],
    ) -> [__m256i; T] {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let mut sums = [_mm256_setzero_si256(); T];
            for (half, scales) in scales.iter().enumerate().take(if HALVES { 2 } else { 1 }) {
                let mut part = [_mm256_setzero_si256(); T];
                let groups = if HALVES { half * 4..half * 4 + 4 } else { 0..8 };
                for g in groups {
                    let w = self.bytes(&w[g]);
                    for t in 0..T {
                        part[t] = _mm256_dpbusd_epi32(part[t], w, four(x[t], g));
                    }
                }
                // The upper of the two equal words, with its sign.
                let scale = _mm256_srai_epi32::<16>(self.words_load(scales));
                for t in 0..T {
                    sums[t] = _mm256_add_epi32(sums[t], _mm256_mullo_epi32(part[t], scale));
                }
            }
            sums
        }
    }
}
