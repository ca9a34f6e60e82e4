//! Arithmetic on groups side by side. Plain loops over fixed-size arrays, which the compiler makes vectors of.

/// Groups that are worked on at a time, if no more belong together: an AVX2 register of F32.
pub(crate) const LANES: usize = 8;

/// One number for each group: eight, or sixteen.
pub(crate) type Lanes<const L: usize = LANES> = [f32; L];

/// `f(lane)` for every lane.
#[inline(always)]
pub(crate) fn each<const L: usize>(f: impl Fn(usize) -> f32) -> Lanes<L> {
    let mut out = [0.0; L];
    for (l, o) in out.iter_mut().enumerate() {
        *o = f(l);
    }
    out
}

/// The sum over the lanes, in one fixed order.
#[inline(always)]
pub(crate) fn sum<const L: usize>(v: &Lanes<L>) -> f32 {
    let v: Lanes = each(|l| (l + LANES..L).step_by(LANES).fold(v[l], |sum, l| sum + v[l]));
    ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
}

/// Smaller and larger of two; the second if the first is NaN. One instruction each.
#[inline(always)]
pub(crate) fn min(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
pub(crate) fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `x` held within `low..=high`; NaN gives `low`.
#[inline(always)]
pub(crate) fn clamp(x: f32, low: f32, high: f32) -> f32 {
    min(max(x, low), high)
}

/// 1.5 * 2^23.
const BIG: f32 = 12_582_912.0;

/// The whole number nearest to `x`, ties to even, for magnitudes below 2^22: the sum with 1.5 * 2^23 has no place for a
/// fraction. SSE2 has no instruction for it.
#[inline(always)]
pub(crate) fn round(x: f32) -> f32 {
    (x + BIG) - BIG
}

/// The lowest bits, in two's complement, of the whole number nearest to `x`, for magnitudes below 2^22: what to narrow
/// where `as` would saturate, number by number.
#[inline(always)]
pub(crate) fn whole_bits(x: f32) -> u32 {
    (x + BIG).to_bits()
}

/// `1 / x`, zero for zero.
#[inline(always)]
pub(crate) fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// `a / b` where `b` is positive, else zero.
#[inline(always)]
pub(crate) fn ratio(a: f32, b: f32) -> f32 {
    if b > 0.0 { a / b } else { 0.0 }
}
