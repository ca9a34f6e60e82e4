//! Small helpers over one row: what attention and gates need beside the matrix products.
//!
//! Each is compiled for every instruction set (see `isa`) and gives the same bits on all of them. Sums run in 8 lanes
//! and are added up in a fixed order.

use super::isa::{KernelIsa, Task};
use super::simd::Simd;

/// The largest value; minus infinity for none. NaN is passed over.
pub fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    KernelIsa::best().run(Reduce { x, first: f32::NEG_INFINITY, f: larger, join: larger })
}

/// Replaces every value by `exp(value - shift)` and returns their sum: one step of an online softmax.
pub fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
    exp_sum_with(KernelIsa::best(), x, shift)
}

pub(super) fn exp_sum_with(isa: KernelIsa, x: &mut [f32], shift: f32) -> f32 {
    isa.run(Map { x, f: |x: f32| exp(x - shift) });
    isa.run(Reduce { x, first: 0.0, f: |a: f32, x: f32| a + x, join: |a: f32, b: f32| a + b })
}

/// `out[i] = silu(gate[i]) * up[i]`, `silu(x) = x / (1 + exp(-x))`.
///
/// # Panics
/// If the lengths differ.
pub fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "values of gate and up");
    KernelIsa::best().run(Map2 { x: gate, y: up, out, f: |g: f32, u: f32| g / (1.0 + exp(-g)) * u });
}

/// Applies `f` to every value. Closures here must not round differently when fused, or must not be fused: Rust does
/// not fuse by itself.
struct Map<'a, F> {
    x: &'a mut [f32],
    f: F,
}

impl<F: Fn(f32) -> f32> Task for Map<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for x in self.x {
            *x = (self.f)(*x);
        }
    }
}

/// `out[i] = f(x[i], y[i])`.
struct Map2<'a, F> {
    x: &'a [f32],
    y: &'a [f32],
    out: &'a mut [f32],
    f: F,
}

impl<F: Fn(f32, f32) -> f32> Task for Map2<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for ((out, x), y) in self.out.iter_mut().zip(self.x).zip(self.y) {
            *out = (self.f)(*x, *y);
        }
    }
}

/// `f` over every eighth value in each of 8 lanes, the lanes joined in a fixed order.
struct Reduce<'a, F, J> {
    x: &'a [f32],
    first: f32,
    f: F,
    join: J,
}

impl<F: Fn(f32, f32) -> f32, J: Fn(f32, f32) -> f32> Task for Reduce<'_, F, J> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        let mut lanes = [self.first; 8];
        let (chunks, rest) = self.x.as_chunks::<8>();
        for x in chunks {
            for i in 0..8 {
                lanes[i] = (self.f)(lanes[i], x[i]);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane = (self.f)(*lane, *x);
        }
        let j = &self.join;
        j(j(j(lanes[0], lanes[4]), j(lanes[2], lanes[6])), j(j(lanes[1], lanes[5]), j(lanes[3], lanes[7])))
    }
}

/// e^x within 2 units in the last place; below -87.33 zero, above 88.72 infinity, NaN stays NaN.
///
/// 2^n times a polynomial in what is left, at most ln(2)/2; the coefficients are Cephes' `expf`. No branch, so that
/// loops over it become vectors.
#[inline(always)]
pub(in crate::runtime) fn exp(x: f32) -> f32 {
    /// Adding it leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln(2) in two parts, the first with so few bits that multiples of it are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Results from here down are smaller than every normal number.
    const LOW: f32 = -87.33;
    /// Results from here up exceed every finite number.
    const HIGH: f32 = 88.722_84;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.000_000_3e-1;
    let p = p * r * r + r + 1.0;
    // n may be 128, whose power is no f32: half of it twice.
    let bits = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    let half = bits.cast_signed() >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let value = p * power(half) * power(bits.cast_signed().wrapping_sub(half));
    let value = if x < LOW { 0.0 } else { value };
    if x > HIGH { f32::INFINITY } else { value }
}
