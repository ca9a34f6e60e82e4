//! [`Simd`] for aarch64 with the dotprod instructions (optional in ARMv8.2, required since ARMv8.4).
//!
//! What the compiler makes of the plain loops for NEON does not use `sdot`, which adds four products of bytes to a
//! sum at once; that instruction is what this file is for. `sdot` takes signed bytes on both sides: unsigned codes up
//! to 127 are the same signed, larger ones are taken less 128, and 128 times the sum of the other side is added.
//!
//! The intrinsics for `sdot` and for F16 are not stable in the oldest compiler supported, hence the inline assembly.
//! A token can only be made by the `unsafe` [`DotProd::new`], whose caller vouches for `sdot`; NEON itself is part of
//! the compilation target. That, and that loads and stores go through references to arrays of the full width, is what
//! makes every intrinsic below sound.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::simd::Simd;

/// An array with one element for every number. Closures would not do: the compiler may make functions of them, which
/// are not compiled for dotprod.
macro_rules! each {
    ($i:ident in $($n:literal)*, $x:expr) => {
        [$({
            let $i = $n;
            $x
        }),*]
    };
}

/// NEON and dotprod.
#[derive(Clone, Copy)]
pub(super) struct DotProd(());

impl DotProd {
    /// # Safety
    /// The machine must have the dotprod instructions.
    #[inline(always)]
    pub(super) unsafe fn new() -> DotProd {
        DotProd(())
    }

    /// Lane `j`: `sum[j]` and the products of signed bytes `4j..4j + 4`.
    #[inline(always)]
    fn sdot(self, mut sum: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) a, in(vreg) b,
                options(pure, nomem, nostack, preserves_flags));
            sum
        }
    }

    /// Lane `j`: `sum[j]` and the products of signed bytes `a[4j..4j + 4]` and `b[4 * LANE..4 * LANE + 4]`.
    #[inline(always)]
    fn sdot_lane<const LANE: u8>(self, mut sum: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{lane}]", inout(vreg) sum, in(vreg) a, in(vreg) b,
                lane = const LANE, options(pure, nomem, nostack, preserves_flags));
            sum
        }
    }

    /// 16 columns of eight rows, of which `w` has groups of 4, with those of a token, added to `sums`.
    #[inline(always)]
    fn half(self, sums: &mut Ints, w: &[Bytes; 4], x: uint8x16_t) {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = self.sdot_lane::<0>(*sum, w[0][i], x);
            *sum = self.sdot_lane::<1>(*sum, w[1][i], x);
            *sum = self.sdot_lane::<2>(*sum, w[2][i], x);
            *sum = self.sdot_lane::<3>(*sum, w[3][i], x);
        }
    }

    /// Four groups of columns, as signed bytes: less 128 if codes reach beyond 127.
    #[inline(always)]
    fn columns<const MAX: u8>(self, w: &[[u8; 32]; 8], first: usize) -> [Bytes; 4] {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let flip = vdupq_n_u8(if MAX > 127 { 0x80 } else { 0 });
            each!(g in 0 1 2 3, each!(i in 0 1, veorq_u8(self.bytes(&w[first + g])[i], flip)))
        }
    }

    /// What the sums of signed codes start with: 128 times the sum of the token's columns if codes are less 128.
    #[inline(always)]
    fn start<const MAX: u8>(self, x: &[uint8x16_t]) -> Ints {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            if MAX <= 127 {
                return self.int_splat(0);
            }
            let mut sum = vdupq_n_s32(0);
            for x in x {
                sum = self.sdot(sum, *x, vdupq_n_u8(1));
            }
            self.int_splat(vaddvq_s32(sum) * 128)
        }
    }
}

type Floats = [float32x4_t; 2];
type Bytes = [uint8x16_t; 2];
type Words = [int16x8_t; 2];
type Ints = [int32x4_t; 2];

#[inline(always)]
fn load_bytes(x: &[u8; 16]) -> uint8x16_t {
    // SAFETY: NEON is part of the compilation target; 16 bytes are behind the reference.
    unsafe { vld1q_u8(x.as_ptr()) }
}

/// Both halves of 32 bytes.
#[inline(always)]
fn halves(x: &[u8; 32]) -> [&[u8; 16]; 2] {
    let (low, high) = x.split_first_chunk().expect("32 bytes");
    [low, high.first_chunk().expect("16 more")]
}

/// Number `j` of four vectors of four.
#[inline(always)]
fn turn4(rows: [uint32x4_t; 4]) -> [uint32x4_t; 4] {
    // SAFETY: NEON is part of the compilation target.
    unsafe {
        let pairs = each!(r in 0 2, [vtrn1q_u32(rows[r], rows[r + 1]), vtrn2q_u32(rows[r], rows[r + 1])]);
        let pairs = each!(r in 0 1, each!(odd in 0 1, vreinterpretq_u64_u32(pairs[r][odd])));
        let low = each!(odd in 0 1, vreinterpretq_u32_u64(vtrn1q_u64(pairs[0][odd], pairs[1][odd])));
        let high = each!(odd in 0 1, vreinterpretq_u32_u64(vtrn2q_u64(pairs[0][odd], pairs[1][odd])));
        [low[0], low[1], high[0], high[1]]
    }
}

/// Number `g` of eight vectors of eight.
#[inline(always)]
fn turn8(rows: [[uint32x4_t; 2]; 8]) -> [[uint32x4_t; 2]; 8] {
    let mut out = rows;
    for part in 0..2 {
        let (front, back) = (turn4(each!(r in 0 1 2 3, rows[r][part])), turn4(each!(r in 4 5 6 7, rows[r][part])));
        for g in 0..4 {
            out[4 * part + g] = [front[g], back[g]];
        }
    }
    out
}

impl Simd for DotProd {
    type F = Floats;
    type W = [float32x4_t; 4];
    type I = Ints;
    type B = Bytes;
    type H = Words;
    const TOKENS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> Floats {
        // SAFETY: the token vouches for the instructions.
        unsafe { [vdupq_n_f32(x); 2] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; 8]) -> Floats {
        // SAFETY: the token vouches for the instructions; 32 bytes are behind the reference.
        unsafe { [vld1q_f32(x.as_ptr()), vld1q_f32(x.as_ptr().add(4))] }
    }
    #[inline(always)]
    fn f16(self, x: &[[u8; 2]; 8]) -> Floats {
        self.f16_bits(x.map(u16::from_le_bytes))
    }
    #[inline(always)]
    fn f16_bits(self, x: [u16; 8]) -> Floats {
        // SAFETY: the token vouches for the instructions; 16 bytes are behind the reference.
        unsafe {
            let (low, high);
            let x = vld1q_u16(x.as_ptr());
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) low, in(vreg) x, options(pure, nomem, nostack));
            asm!("fcvtl2 {0:v}.4s, {1:v}.8h", out(vreg) high, in(vreg) x, options(pure, nomem, nostack));
            [low, high]
        }
    }
    #[inline(always)]
    fn bf16(self, x: &[[u8; 2]; 8]) -> Floats {
        // SAFETY: the token vouches for the instructions; 16 bytes are behind the reference.
        unsafe {
            let x = vreinterpretq_u16_u8(vld1q_u8(x.as_ptr().cast()));
            let (low, high) = (vshll_n_u16::<16>(vget_low_u16(x)), vshll_high_n_u16::<16>(x));
            [vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high)]
        }
    }
    #[inline(always)]
    fn to_array(self, x: Floats) -> [f32; 8] {
        // SAFETY: the token vouches for the instructions; 32 bytes are behind the reference.
        unsafe {
            let mut out = [0.0; 8];
            vst1q_f32(out.as_mut_ptr(), x[0]);
            vst1q_f32(out.as_mut_ptr().add(4), x[1]);
            out
        }
    }
    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: the token vouches for the instructions.
        unsafe { each!(i in 0 1, vaddq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: the token vouches for the instructions.
        unsafe { each!(i in 0 1, vmulq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    fn mul_add(self, a: Floats, b: Floats, c: Floats) -> Floats {
        // SAFETY: the token vouches for the instructions.
        unsafe { each!(i in 0 1, vfmaq_f32(c[i], a[i], b[i])) }
    }

    #[inline(always)]
    fn turn(self, rows: [Floats; 8]) -> [Floats; 8] {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let transposed = turn8(each!(r in 0 1 2 3 4 5 6 7, each!(i in 0 1, vreinterpretq_u32_f32(rows[r][i]))));
            each!(g in 0 1 2 3 4 5 6 7, each!(i in 0 1, vreinterpretq_f32_u32(transposed[g][i])))
        }
    }

    #[inline(always)]
    fn wide_load(self, x: &[f32; 16]) -> Self::W {
        // SAFETY: the token vouches for the instructions; 64 bytes are behind the reference.
        unsafe { each!(i in 0 4 8 12, vld1q_f32(x.as_ptr().add(i))) }
    }
    #[inline(always)]
    fn wide_store(self, x: Self::W, out: &mut [f32; 16]) {
        // SAFETY: the token vouches for the instructions; 64 bytes are behind the reference.
        unsafe {
            each!(i in 0 1 2 3, vst1q_f32(out.as_mut_ptr().add(4 * i), x[i]));
        }
    }
    #[inline(always)]
    fn wide_mul_add(self, a: f32, b: Self::W, c: Self::W) -> Self::W {
        // SAFETY: the token vouches for the instructions.
        unsafe { each!(i in 0 1 2 3, vfmaq_n_f32(c[i], b[i], a)) }
    }

    #[inline(always)]
    fn bytes(self, x: &[u8; 32]) -> Bytes {
        let [low, high] = halves(x);
        [load_bytes(low), load_bytes(high)]
    }
    #[inline(always)]
    fn bytes_to_array(self, x: Bytes) -> [u8; 32] {
        // SAFETY: the token vouches for the instructions; 32 bytes are behind the reference.
        unsafe {
            let mut out = [0; 32];
            vst1q_u8(out.as_mut_ptr(), x[0]);
            vst1q_u8(out.as_mut_ptr().add(16), x[1]);
            out
        }
    }
    #[inline(always)]
    fn nibbles(self, x: &[u8; 16]) -> Bytes {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let x = load_bytes(x);
            [vandq_u8(x, vdupq_n_u8(15)), vshrq_n_u8::<4>(x)]
        }
    }
    #[inline(always)]
    fn nibbles_and_bits(self, x: &[u8; 16], bits: u32) -> Bytes {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let places = load_bytes(&[1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128]);
            let bits = bits.to_le_bytes();
            let own = each!(i in 0 1, vcombine_u8(vdup_n_u8(bits[2 * i]), vdup_n_u8(bits[2 * i + 1])));
            let set = each!(i in 0 1, vandq_u8(vtstq_u8(own[i], places), vdupq_n_u8(16)));
            self.or(self.nibbles(x), set)
        }
    }
    #[inline(always)]
    fn bits(self, x: Bytes, places: i32, mask: u8) -> Bytes {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            // A shift up by a negative number is one down.
            let up = vdupq_n_s8(-places as i8);
            each!(i in 0 1, vandq_u8(vshlq_u8(x[i], up), vdupq_n_u8(mask)))
        }
    }
    #[inline(always)]
    fn or(self, a: Bytes, b: Bytes) -> Bytes {
        // SAFETY: the token vouches for the instructions.
        unsafe { each!(i in 0 1, vorrq_u8(a[i], b[i])) }
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], x: Bytes) -> Bytes {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let table = load_bytes(table);
            each!(i in 0 1, vqtbl1q_u8(table, x[i]))
        }
    }
    #[inline(always)]
    fn transpose(self, rows: [Bytes; 8], flip: u8) -> [Bytes; 8] {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let transposed = turn8(each!(r in 0 1 2 3 4 5 6 7, each!(i in 0 1, vreinterpretq_u32_u8(rows[r][i]))));
            let flip = vdupq_n_u8(flip);
            each!(g in 0 1 2 3 4 5 6 7, each!(i in 0 1, veorq_u8(vreinterpretq_u8_u32(transposed[g][i]), flip)))
        }
    }
    #[inline(always)]
    fn dot(self, u: Bytes, s: Bytes) -> Ints {
        self.dot_signed(u, s)
    }
    #[inline(always)]
    fn dot_signed(self, w: Bytes, s: Bytes) -> Ints {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let zero = vdupq_n_s32(0);
            each!(i in 0 1, self.sdot(zero, w[i], s[i]))
        }
    }
    #[inline(always)]
    fn totals<const SMALL: bool>(self, v: [Ints; 8]) -> Ints {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let v = each!(r in 0 1 2 3 4 5 6 7, vaddq_s32(v[r][0], v[r][1]));
            each!(r in 0 4, vpaddq_s32(vpaddq_s32(v[r], v[r + 1]), vpaddq_s32(v[r + 2], v[r + 3])))
        }
    }
    #[inline(always)]
    fn block<const MAX: u8, const T: usize>(self, w: &[[u8; 32]; 8], x: [&[u8; 32]; T]) -> [Ints; T] {
        let mut sums = [self.int_splat(0); T];
        for t in 0..T {
            sums[t] = self.start::<MAX>(&self.bytes(x[t]));
        }
        for half in 0..2 {
            let w = self.columns::<MAX>(w, 4 * half);
            for t in 0..T {
                self.half(&mut sums[t], &w, load_bytes(halves(x[t])[half]));
            }
        }
        sums
    }
    #[inline(always)]
    fn dot_scaled<const SIGNED: bool>(self, w: Bytes, s: Bytes, scales: Words, j: usize) -> Ints {
        // SAFETY: the token vouches for the instructions; 16 bytes are behind each reference.
        unsafe {
            let sums = self.dot_signed(w, s);
            let mut factors = [[0; 8]; 2];
            each!(i in 0 1, vst1q_s16(factors[i].as_mut_ptr(), scales[i]));
            each!(i in 0 1, vmulq_n_s32(sums[i], i32::from(factors[i][j])))
        }
    }
    #[inline(always)]
    fn block_scaled<const MAX: u8, const HALVES: bool, const T: usize>(
        self,
        w: &[[u8; 32]; 8],
        scales: &[[i16; 16]; 2],
        x: [&[u8; 32]; T],
    ) -> [Ints; T] {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let mut sums = [self.int_splat(0); T];
            let mut part = sums;
            for half in 0..2 {
                let w = self.columns::<MAX>(w, 4 * half);
                let scales = self.words_load(&scales[if HALVES { half } else { 0 }]);
                // The upper of the two equal words, with its sign.
                let scales = each!(i in 0 1, vshrq_n_s32::<16>(vreinterpretq_s32_s16(scales[i])));
                for t in 0..T {
                    let x = self.bytes(x[t]);
                    if HALVES {
                        part[t] = self.start::<MAX>(&x[half..=half]);
                    } else if half == 0 {
                        part[t] = self.start::<MAX>(&x);
                    }
                    self.half(&mut part[t], &w, x[half]);
                    if HALVES || half == 1 {
                        sums[t] = each!(i in 0 1, vmlaq_s32(sums[t][i], part[t][i], scales[i]));
                    }
                }
            }
            sums
        }
    }
    #[inline(always)]
    fn words<const HALVES: bool>(self, x: &[u8; 16]) -> Words {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let x = vreinterpretq_s8_u8(load_bytes(x));
            if HALVES {
                [vmovl_s8(vget_low_s8(vuzp1q_s8(x, x))), vmovl_s8(vget_low_s8(vuzp2q_s8(x, x)))]
            } else {
                [vmovl_s8(vget_low_s8(x)); 2]
            }
        }
    }
    #[inline(always)]
    fn words_load(self, x: &[i16; 16]) -> Words {
        // SAFETY: the token vouches for the instructions; 32 bytes are behind the reference.
        unsafe { [vld1q_s16(x.as_ptr()), vld1q_s16(x.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn words_pair(self, x: [i16; 2]) -> Words {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let pair = i32::from(x[1]) << 16 | i32::from(x[0].cast_unsigned());
            [vreinterpretq_s16_s32(vdupq_n_s32(pair)); 2]
        }
    }
    #[inline(always)]
    fn words_scale(self, x: Words, by: i16) -> Words {
        // SAFETY: the token vouches for the instructions.
        unsafe { each!(i in 0 1, vmulq_n_s16(x[i], by)) }
    }
    #[inline(always)]
    fn words_dot(self, a: Words, b: Words) -> Ints {
        // SAFETY: the token vouches for the instructions.
        unsafe {
            let low = each!(i in 0 1, vmull_s16(vget_low_s16(a[i]), vget_low_s16(b[i])));
            each!(i in 0 1, vpaddq_s32(low[i], vmull_high_s16(a[i], b[i])))
        }
    }
    #[inline(always)]
    fn int_splat(self, x: i32) -> Ints {
        // SAFETY: the token vouches for the instructions.
        unsafe { [vdupq_n_s32(x); 2] }
    }
    #[inline(always)]
    fn int_add(self, a: Ints, b: Ints) -> Ints {
        // SAFETY: the token vouches for the instructions.
        unsafe { each!(i in 0 1, vaddq_s32(a[i], b[i])) }
    }
    #[inline(always)]
    fn int_sub(self, a: Ints, b: Ints) -> Ints {
        // SAFETY: the token vouches for the instructions.
        unsafe { each!(i in 0 1, vsubq_s32(a[i], b[i])) }
    }
    #[inline(always)]
    fn to_float(self, x: Ints) -> Floats {
        // SAFETY: the token vouches for the instructions.
        unsafe { each!(i in 0 1, vcvtq_f32_s32(x[i])) }
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
