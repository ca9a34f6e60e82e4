//! Small helpers over one row: what norms, attention and gates need beside the matrix products.
//!
//! Each is compiled for every instruction set (see `isa`) and, but for `dot` and the cache rows, gives the same bits on
//! all of them. Sums run in 8 lanes (`dot`: 4 times 8) and are added up in a fixed order.

use super::floats;
use super::isa::{Isa, Task};
use super::simd::{Simd, f16_value, sum};

/// How a row of the key-value cache is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowType {
    /// 32-bit floats, little-endian.
    F32,
    /// Half precision.
    F16,
    /// Blocks of 32 signed bytes behind a half-precision scale.
    Q8_0,
}

impl RowType {
    /// Bytes of a row of `n` values.
    ///
    /// # Panics
    /// For Q8_0, if `n` is not a multiple of 32.
    pub fn row_bytes(self, n: usize) -> usize {
        match self {
            RowType::F32 => 4 * n,
            RowType::F16 => 2 * n,
            RowType::Q8_0 => {
                assert!(n.is_multiple_of(32), "{n} values in blocks of 32");
                n / 32 * 34
            }
        }
    }
}

/// `sum(a[i] * b[i])`.
///
/// # Panics
/// If the lengths differ.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "values of a dot product");
    Isa::best().run(floats::Dot { a, b })
}

/// `out[i] += p * x[i]`.
///
/// # Panics
/// If the lengths differ.
pub fn scale_add(p: f32, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "values to add");
    Isa::best().run(Map2 { x, out, f: |x: f32, o: f32| o + p * x });
}

/// `out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]`: the norm of Llama and most others.
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!((x.len(), weight.len()), (out.len(), out.len()), "values and weights of a norm");
    rms_norm_with(Isa::best(), x, weight, eps, out);
}

pub(super) fn rms_norm_with(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let squares = isa.run(Reduce { x, first: 0.0, f: |a: f32, x: f32| a + x * x, join: |a: f32, b: f32| a + b });
    let scale = 1.0 / (squares / x.len().max(1) as f32 + eps).sqrt();
    out.copy_from_slice(weight);
    isa.run(Map2 { x, out, f: |x: f32, w: f32| x * scale * w });
}

/// The largest value; minus infinity for none. NaN is passed over.
pub fn max(x: &[f32]) -> f32 {
    max_with(Isa::best(), x)
}

fn max_with(isa: Isa, x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    isa.run(Reduce { x, first: f32::NEG_INFINITY, f: larger, join: larger })
}

/// Replaces every value by `exp(value - shift)` and returns their sum: one step of an online softmax.
pub fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
    exp_sum_with(Isa::best(), x, shift)
}

pub(super) fn exp_sum_with(isa: Isa, x: &mut [f32], shift: f32) -> f32 {
    isa.run(Map { x, f: |x: f32| exp(x - shift) });
    isa.run(Reduce { x, first: 0.0, f: |a: f32, x: f32| a + x, join: |a: f32, b: f32| a + b })
}

/// Replaces the values by their softmax. A row in which all are minus infinity, or none, becomes zeros.
pub fn softmax(x: &mut [f32]) {
    softmax_with(Isa::best(), x);
}

pub(super) fn softmax_with(isa: Isa, x: &mut [f32]) {
    let top = max_with(isa, x);
    if top == f32::NEG_INFINITY {
        // Nothing may be looked at; NaN (which `max` passes over) must stay visible.
        return isa.run(Map { x, f: |x: f32| if x.is_nan() { x } else { 0.0 } });
    }
    let total = exp_sum_with(isa, x, top);
    scale_with(isa, x, 1.0 / total);
}

/// `x[i] *= p`.
pub fn scale(x: &mut [f32], p: f32) {
    scale_with(Isa::best(), x, p);
}

fn scale_with(isa: Isa, x: &mut [f32], p: f32) {
    isa.run(Map { x, f: |x: f32| x * p });
}

/// `up[i] *= silu(gate[i])`, `silu(x) = x / (1 + exp(-x))`.
///
/// # Panics
/// If the lengths differ.
pub fn silu_mul(gate: &[f32], up: &mut [f32]) {
    assert_eq!(gate.len(), up.len(), "values of gate and up");
    Isa::best().run(Map2 { x: gate, out: up, f: |g: f32, u: f32| g / (1.0 + exp(-g)) * u });
}

/// Scores of stored keys: `out[i] = sum over k of query[k] * key_i[k]`.
///
/// `keys`: key `i` starts at byte `i * stride`. One call for all keys of a head costs one dispatch.
///
/// # Panics
/// If the keys do not lie within `keys`, or for Q8_0 if the query's length is not a multiple of 32.
pub fn dot_rows(kind: RowType, query: &[f32], keys: &[u8], stride: usize, out: &mut [f32]) {
    check(kind, query.len(), keys, stride, out.len());
    dot_rows_with(Isa::best(), kind, query, keys, stride, out);
}

pub(super) fn dot_rows_with(isa: Isa, kind: RowType, query: &[f32], keys: &[u8], stride: usize, out: &mut [f32]) {
    isa.run(DotRows { kind, query, keys, stride, out });
}

/// The weighted sum of stored values: `out[k] += sum over i of p[i] * value_i[k]`, in the order of `i`.
///
/// `values`: value `i` starts at byte `i * stride`.
///
/// # Panics
/// If the values do not lie within `values`, or for Q8_0 if `out` is not a multiple of 32 long.
pub fn add_rows(kind: RowType, p: &[f32], values: &[u8], stride: usize, out: &mut [f32]) {
    check(kind, out.len(), values, stride, p.len());
    add_rows_with(Isa::best(), kind, p, values, stride, out);
}

pub(super) fn add_rows_with(isa: Isa, kind: RowType, p: &[f32], values: &[u8], stride: usize, out: &mut [f32]) {
    isa.run(AddRows { kind, p, values, stride, out });
}

fn check(kind: RowType, cols: usize, bytes: &[u8], stride: usize, rows: usize) {
    let row = kind.row_bytes(cols);
    let need = rows.checked_sub(1).map_or(Some(0), |last| last.checked_mul(stride)?.checked_add(row));
    assert!(need.is_some_and(|n| n <= bytes.len()), "{rows} rows every {stride} bytes in {} bytes", bytes.len());
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

/// `out[i] = f(x[i], out[i])`.
struct Map2<'a, F> {
    x: &'a [f32],
    out: &'a mut [f32],
    f: F,
}

impl<F: Fn(f32, f32) -> f32> Task for Map2<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (out, x) in self.out.iter_mut().zip(self.x) {
            *out = (self.f)(*x, *out);
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

struct DotRows<'a> {
    kind: RowType,
    query: &'a [f32],
    keys: &'a [u8],
    stride: usize,
    out: &'a mut [f32],
}

impl Task for DotRows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let bytes = self.kind.row_bytes(self.query.len());
        for (i, out) in self.out.iter_mut().enumerate() {
            let row = &self.keys[i * self.stride..i * self.stride + bytes];
            *out = match self.kind {
                RowType::F32 => floats::dot::<S, floats::F32, 4>(s, row.as_chunks().0, self.query),
                RowType::F16 => floats::dot::<S, floats::F16, 2>(s, row.as_chunks().0, self.query),
                RowType::Q8_0 => dot_q8_0(s, row.as_chunks().0, self.query.as_chunks().0),
            };
        }
    }
}

/// 8 lanes along the row; each block's sums are scaled before they are added.
#[inline(always)]
fn dot_q8_0<S: Simd>(s: S, row: &[[u8; 34]], query: &[[f32; 32]]) -> f32 {
    let mut acc = s.splat(0.0);
    for (block, q) in row.iter().zip(query) {
        let (codes, q) = (block[2..].as_chunks::<8>().0, q.as_chunks::<8>().0);
        let mut inner = s.mul(s.i8(&codes[0]), s.load(&q[0]));
        for i in 1..4 {
            inner = s.mul_add(s.i8(&codes[i]), s.load(&q[i]), inner);
        }
        acc = s.mul_add(s.splat(f16_value([block[0], block[1]])), inner, acc);
    }
    sum(s, acc)
}

struct AddRows<'a> {
    kind: RowType,
    p: &'a [f32],
    values: &'a [u8],
    stride: usize,
    out: &'a mut [f32],
}

impl Task for AddRows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let bytes = self.kind.row_bytes(self.out.len());
        for (i, &p) in self.p.iter().enumerate() {
            let row = &self.values[i * self.stride..i * self.stride + bytes];
            match self.kind {
                RowType::F32 => add_floats::<S, floats::F32, 4>(s, p, row.as_chunks().0, self.out),
                RowType::F16 => add_floats::<S, floats::F16, 2>(s, p, row.as_chunks().0, self.out),
                RowType::Q8_0 => {
                    for (block, out) in row.as_chunks::<34>().0.iter().zip(self.out.as_chunks_mut::<32>().0) {
                        let p = s.splat(p * f16_value([block[0], block[1]]));
                        let codes = block[2..].as_chunks::<8>().0;
                        for (codes, out) in codes.iter().zip(out.as_chunks_mut::<8>().0) {
                            *out = s.to_array(s.mul_add(p, s.i8(codes), s.load(out)));
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn add_floats<S: Simd, L: floats::Stored<N>, const N: usize>(s: S, p: f32, row: &[[u8; N]], out: &mut [f32]) {
    let (row, row_rest) = row.as_chunks::<8>();
    let (out, out_rest) = out.as_chunks_mut::<8>();
    for (row, out) in row.iter().zip(out) {
        *out = s.to_array(s.mul_add(s.splat(p), L::load(s, row), s.load(out)));
    }
    if !out_rest.is_empty() {
        let (mut w, mut o) = ([[0; N]; 8], [0.0; 8]);
        w[..row_rest.len()].copy_from_slice(row_rest);
        o[..out_rest.len()].copy_from_slice(out_rest);
        let sums = s.to_array(s.mul_add(s.splat(p), L::load(s, &w), s.load(&o)));
        out_rest.copy_from_slice(&sums[..out_rest.len()]);
    }
}
