//! The vector operations that kernels are written in, and their plain twin.
//!
//! A kernel is one generic, `#[inline(always)]` source over [`Simd`]. What a vector is decides the token it is given:
//! [`Plain`] works on arrays, everywhere, and is what every other implementation is tested against; `x86` and `neon`
//! have the others. Lanes are the same everywhere (8 floats, 8 sums of 4 products), so integer kernels give the same
//! bits on every machine; float kernels differ where `mul_add` rounds once instead of twice.

/// Eight lanes of each kind. A value of the type is the proof that the machine has the instructions.
///
/// Every method must be `#[inline(always)]`: it is compiled into each copy of a kernel.
pub(super) trait Simd: Copy {
    /// 8 floats.
    type F: Copy;
    /// 16 floats: a row of the blocked product's tile.
    type W: Copy;
    /// 8 integers of 32 bits.
    type I: Copy;
    /// 32 bytes.
    type B: Copy;
    /// 16 integers of 16 bits.
    type H: Copy;
    /// Tokens whose sums (16 floats each) fit the registers beside two more.
    const TOKENS: usize;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; 8]) -> Self::F;
    /// 8 half-precision numbers.
    fn f16(self, x: &[[u8; 2]; 8]) -> Self::F;
    /// The same from their bits.
    fn f16_bits(self, x: [u16; 8]) -> Self::F;
    /// 8 upper halves of f32.
    fn bf16(self, x: &[[u8; 2]; 8]) -> Self::F;
    fn to_array(self, x: Self::F) -> [f32; 8];
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the machine can.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// `out[g]` holds number `g` of every `rows[r]`, at `r`.
    fn turn(self, rows: [Self::F; 8]) -> [Self::F; 8];

    fn wide_load(self, x: &[f32; 16]) -> Self::W;
    fn wide_store(self, x: Self::W, out: &mut [f32; 16]);
    /// `a * b + c` with one `a` for all lanes.
    fn wide_mul_add(self, a: f32, b: Self::W, c: Self::W) -> Self::W;

    fn bytes(self, x: &[u8; 32]) -> Self::B;
    fn bytes_to_array(self, x: Self::B) -> [u8; 32];
    /// The low nibbles, then the high ones.
    fn nibbles(self, x: &[u8; 16]) -> Self::B;
    /// The same with 16 added where the code's bit is set.
    fn nibbles_and_bits(self, x: &[u8; 16], bits: u32) -> Self::B;
    /// Every byte shifted down by `places` (up, if negative), then `mask` of it. The mask may only name bits that come
    /// from within the byte.
    fn bits(self, x: Self::B, places: i32, mask: u8) -> Self::B;
    /// All bits of both.
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// The table's entry for every byte, each below 16.
    fn lookup(self, table: &[u8; 16], x: Self::B) -> Self::B;
    /// `out[g]` holds bytes `4g..4g + 4` of every `rows[r]`, at `4r`; `flip` is xored to all.
    fn transpose(self, rows: [Self::B; 8], flip: u8) -> [Self::B; 8];
    /// Lane `j`: the sum of `u[i] * s[i]`, `i` in `4j..4j + 4`. `u` unsigned, at most 127; `s` signed.
    fn dot(self, u: Self::B, s: Self::B) -> Self::I;
    /// The same with both signed; `s` at least -127.
    fn dot_signed(self, w: Self::B, s: Self::B) -> Self::I;
    /// Lane `r`: the sum of all lanes of `v[r]`. With `SMALL`, no lane's magnitude may exceed 16383.
    fn totals<const SMALL: bool>(self, v: [Self::I; 8]) -> Self::I;
    /// For each of `T` tokens, 8 rows' sums over 32 columns: lane `r` is the sum over `g` and `c` of
    /// `w[g][4r + c] * x[t][4g + c]`. `w` unsigned, at most `MAX` (15, 31 or 255); `x` signed, at least -127.
    fn block<const MAX: u8, const T: usize>(self, w: &[[u8; 32]; 8], x: [&[u8; 32]; T]) -> [Self::I; T];
    /// [`Simd::dot`], or with `SIGNED` [`Simd::dot_signed`], of 32 weights whose first 16 have the scale `scales[j]`
    /// and whose last 16 have `scales[8 + j]`; `j` below 8. Only the sum of all lanes is the same everywhere.
    fn dot_scaled<const SIGNED: bool>(self, w: Self::B, s: Self::B, scales: Self::H, j: usize) -> Self::I;
    /// [`Simd::block`] with `MAX` 15, 31, 63 or 255, in which columns 0 to 15 of row `r` have the scale
    /// `scales[0][2r] = scales[0][2r + 1]` and the others that of `scales[1]`; without `HALVES` all have the first.
    /// With `MAX` 255, scales must lie within -2048..2048.
    fn block_scaled<const MAX: u8, const HALVES: bool, const T: usize>(
        self,
        w: &[[u8; 32]; 8],
        scales: &[[i16; 16]; 2],
        x: [&[u8; 32]; T],
    ) -> [Self::I; T];
    /// 16 signed bytes, the even ones first; without `HALVES` the first 8 of them, twice.
    fn words<const HALVES: bool>(self, x: &[u8; 16]) -> Self::H;
    fn words_load(self, x: &[i16; 16]) -> Self::H;
    /// The same two numbers 8 times.
    fn words_pair(self, x: [i16; 2]) -> Self::H;
    /// The lower 16 bits of the products.
    fn words_scale(self, x: Self::H, by: i16) -> Self::H;
    /// Lane `j`: `a[2j] * b[2j] + a[2j + 1] * b[2j + 1]`.
    fn words_dot(self, a: Self::H, b: Self::H) -> Self::I;
    fn int_splat(self, x: i32) -> Self::I;
    fn int_add(self, a: Self::I, b: Self::I) -> Self::I;
    fn int_sub(self, a: Self::I, b: Self::I) -> Self::I;
    fn to_float(self, x: Self::I) -> Self::F;

    /// Asks for the cache line at an address, whatever is there.
    fn prefetch(self, at: *const u8);
}

/// Arrays and loops, for the instructions that the compilation target promises (on aarch64 that includes NEON).
#[derive(Clone, Copy)]
pub(super) struct Plain;

/// Without a fused instruction `mul_add` would be a call into the C library.
#[inline(always)]
fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
}

/// The value of an F16's bits: rebiased by a multiplication, which also takes care of subnormals.
#[inline(always)]
fn f16_value(h: [u8; 2]) -> f32 {
    /// 2^112, the difference of the exponents' biases (127 - 15).
    const REBIAS: f32 = f32::from_bits((112 + 127) << 23);
    let h = u32::from(u16::from_le_bytes(h));
    let abs = h & 0x7fff;
    let finite = (f32::from_bits(abs << 13) * REBIAS).to_bits();
    let special = (abs << 13) | 0x7f80_0000;
    f32::from_bits(if abs >= 0x7c00 { special } else { finite } | ((h & 0x8000) << 16))
}

/// Writes the body eight times, `$r` being 0 to 7: the compiler gives up on unrolling some of these loops by itself,
/// and arrays of vectors then live in memory.
macro_rules! unroll8 {
    ($r:ident, $body:block) => {
        unroll8!(@ $r, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $r:ident, $body:block, $($n:literal)*) => {
        $({
            let $r: usize = $n;
            $body
        })*
    };
}
pub(super) use unroll8;

macro_rules! each {
    ($n:literal, $i:ident, $x:expr) => {{
        let mut out = [Default::default(); $n];
        let mut $i = 0;
        while $i < $n {
            out[$i] = $x;
            $i += 1;
        }
        out
    }};
}

impl Simd for Plain {
    type F = [f32; 8];
    type W = [f32; 16];
    type I = [i32; 8];
    type B = [u8; 32];
    type H = [i16; 16];
    const TOKENS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; 8]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 8]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn f16(self, x: &[[u8; 2]; 8]) -> Self::F {
        each!(8, i, f16_value(x[i]))
    }
    #[inline(always)]
    fn f16_bits(self, x: [u16; 8]) -> Self::F {
        each!(8, i, f16_value(x[i].to_le_bytes()))
    }
    #[inline(always)]
    fn bf16(self, x: &[[u8; 2]; 8]) -> Self::F {
        each!(8, i, f32::from_bits(u32::from(u16::from_le_bytes(x[i])) << 16))
    }
    #[inline(always)]
    fn to_array(self, x: Self::F) -> [f32; 8] {
        x
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each!(8, i, a[i] + b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each!(8, i, a[i] * b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(8, i, fma(a[i], b[i], c[i]))
    }

    #[inline(always)]
    fn turn(self, rows: [Self::F; 8]) -> [Self::F; 8] {
        let mut out = [[0.0; 8]; 8];
        for (r, row) in rows.iter().enumerate() {
            for (g, x) in row.iter().enumerate() {
                out[g][r] = *x;
            }
        }
        out
    }

    #[inline(always)]
    fn wide_load(self, x: &[f32; 16]) -> Self::W {
        *x
    }
    #[inline(always)]
    fn wide_store(self, x: Self::W, out: &mut [f32; 16]) {
        *out = x;
    }
    #[inline(always)]
    fn wide_mul_add(self, a: f32, b: Self::W, c: Self::W) -> Self::W {
        each!(16, i, fma(a, b[i], c[i]))
    }

    #[inline(always)]
    fn bytes(self, x: &[u8; 32]) -> Self::B {
        *x
    }
    #[inline(always)]
    fn bytes_to_array(self, x: Self::B) -> [u8; 32] {
        x
    }
    #[inline(always)]
    fn nibbles(self, x: &[u8; 16]) -> Self::B {
        let mut out = [0; 32];
        for i in 0..16 {
            out[i] = x[i] & 15;
            out[i + 16] = x[i] >> 4;
        }
        out
    }
    #[inline(always)]
    fn nibbles_and_bits(self, x: &[u8; 16], bits: u32) -> Self::B {
        let mut out = self.nibbles(x);
        for (i, code) in out.iter_mut().enumerate() {
            *code |= (((bits >> i) & 1) << 4) as u8;
        }
        out
    }
    #[inline(always)]
    fn bits(self, x: Self::B, places: i32, mask: u8) -> Self::B {
        each!(32, i, (if places < 0 { x[i] << -places } else { x[i] >> places }) & mask)
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        each!(32, i, a[i] | b[i])
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], x: Self::B) -> Self::B {
        each!(32, i, table[usize::from(x[i] & 15)])
    }
    #[inline(always)]
    fn transpose(self, rows: [Self::B; 8], flip: u8) -> [Self::B; 8] {
        let mut out = [[0; 32]; 8];
        for (r, row) in rows.iter().enumerate() {
            for (i, code) in row.iter().enumerate() {
                out[i / 4][4 * r + i % 4] = code ^ flip;
            }
        }
        out
    }
    #[inline(always)]
    fn dot(self, u: Self::B, s: Self::B) -> Self::I {
        let mut sums = [0; 8];
        for i in 0..32 {
            sums[i / 4] += i32::from(u[i]) * i32::from(s[i] as i8);
        }
        sums
    }
    #[inline(always)]
    fn dot_signed(self, w: Self::B, s: Self::B) -> Self::I {
        let mut sums = [0; 8];
        for i in 0..32 {
            sums[i / 4] += i32::from(w[i] as i8) * i32::from(s[i] as i8);
        }
        sums
    }
    #[inline(always)]
    fn totals<const SMALL: bool>(self, v: [Self::I; 8]) -> Self::I {
        let mut sums = [0; 8];
        for r in 0..8 {
            for lane in v[r] {
                sums[r] += lane;
            }
        }
        sums
    }
    #[inline(always)]
    fn block<const MAX: u8, const T: usize>(self, w: &[[u8; 32]; 8], x: [&[u8; 32]; T]) -> [Self::I; T] {
        let mut sums = [[0; 8]; T];
        for (g, w) in w.iter().enumerate() {
            for t in 0..T {
                for i in 0..32 {
                    sums[t][i / 4] += i32::from(w[i]) * i32::from(x[t][4 * g + i % 4] as i8);
                }
            }
        }
        sums
    }
    #[inline(always)]
    fn dot_scaled<const SIGNED: bool>(self, w: Self::B, s: Self::B, scales: Self::H, j: usize) -> Self::I {
        let sums = if SIGNED { self.dot_signed(w, s) } else { self.dot(w, s) };
        each!(8, i, sums[i] * i32::from(scales[i / 4 * 8 + j]))
    }
    #[inline(always)]
    fn block_scaled<const MAX: u8, const HALVES: bool, const T: usize>(
        self,
        w: &[[u8; 32]; 8],
        scales: &[[i16; 16]; 2],
        x: [&[u8; 32]; T],
    ) -> [Self::I; T] {
        let mut sums = [[0; 8]; T];
        for (g, w) in w.iter().enumerate() {
            let scales = &scales[if HALVES { g / 4 } else { 0 }];
            for t in 0..T {
                for i in 0..32 {
                    let product = i32::from(w[i]) * i32::from(x[t][4 * g + i % 4] as i8);
                    sums[t][i / 4] += product * i32::from(scales[i / 4 * 2]);
                }
            }
        }
        sums
    }
    #[inline(always)]
    fn words<const HALVES: bool>(self, x: &[u8; 16]) -> Self::H {
        each!(16, i, i16::from(x[if HALVES { i % 8 * 2 + i / 8 } else { i % 8 }] as i8))
    }
    #[inline(always)]
    fn words_load(self, x: &[i16; 16]) -> Self::H {
        *x
    }
    #[inline(always)]
    fn words_pair(self, x: [i16; 2]) -> Self::H {
        each!(16, i, x[i % 2])
    }
    #[inline(always)]
    fn words_scale(self, x: Self::H, by: i16) -> Self::H {
        each!(16, i, x[i].wrapping_mul(by))
    }
    #[inline(always)]
    fn words_dot(self, a: Self::H, b: Self::H) -> Self::I {
        each!(8, i, i32::from(a[2 * i]) * i32::from(b[2 * i]) + i32::from(a[2 * i + 1]) * i32::from(b[2 * i + 1]))
    }
    #[inline(always)]
    fn int_splat(self, x: i32) -> Self::I {
        [x; 8]
    }
    #[inline(always)]
    fn int_add(self, a: Self::I, b: Self::I) -> Self::I {
        each!(8, i, a[i] + b[i])
    }
    #[inline(always)]
    fn int_sub(self, a: Self::I, b: Self::I) -> Self::I {
        each!(8, i, a[i] - b[i])
    }
    #[inline(always)]
    fn to_float(self, x: Self::I) -> Self::F {
        each!(8, i, x[i] as f32)
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}

/// The sum of all lanes, always in the same order.
#[inline(always)]
pub(super) fn sum<S: Simd>(s: S, x: S::F) -> f32 {
    let x = s.to_array(x);
    ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
}
