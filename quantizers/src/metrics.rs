//! How well one model predicts, and how far another is from it: formulas over rows of logits, in double precision.
//!
//! A row is `x`, `[vocab]`, finite: p_i = exp(x_i) / sum_j exp(x_j). Logarithms are natural, so NLL and KL are in nats;
//! probabilities and their shifts are fractions, not percent. Every sum has a fixed order: the same numbers for any
//! number of threads and on every machine.
//!
//! Standard errors are those of a mean of independent terms, sqrt((E\[v^2\] - E\[v\]^2) / (n - 1)). Neighbouring tokens
//! are not independent, so they say how much a figure would move on another text of that length only roughly.

use ndarray::ArrayView1;

use crate::simd::{Isa, dispatch};
use crate::view::elements;

/// Sums that run beside each other: wide enough for the largest vectors, and part of what fixes the result.
const LANES: usize = 16;

/// A figure and its standard error, both in the figure's unit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Its standard error; zero where fewer than two terms allow none.
    pub error: f64,
}

/// Two models at one position: `base` is the reference, the other the model being judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// -ln p(token), nats.
    pub nll: f64,
    /// -ln p_base(token), nats.
    pub nll_base: f64,
    /// sum_i p_base(i) ln(p_base(i) / p(i)), nats: what is lost by believing `p` where `p_base` holds.
    pub kl: f64,
    /// p(token) - p_base(token).
    pub dp: f64,
    /// Whether both think the same token most likely (the first one where several are).
    pub same_top: bool,
}

/// -ln p(token), nats. `logits`: `[vocab]`, finite.
///
/// # Panics
/// If `token` is outside the row.
pub fn nll(logits: ArrayView1<'_, f32>, token: usize) -> f64 {
    assert!(token < logits.len(), "token {token} of {}", logits.len());
    log_sum_exp(logits) - f64::from(logits[token])
}

/// ln sum_i exp(x_i), taken around the largest x so that nothing overflows. `logits`: `[vocab]`, finite, not empty.
pub fn log_sum_exp(logits: ArrayView1<'_, f32>) -> f64 {
    let (isa, logits) = (Isa::best(), elements(logits));
    let max = max_with(isa, logits);
    f64::from(max) + sum_exp_with(isa, logits, max).ln()
}

/// Compares two rows of logits, both `[vocab]` and finite, at a position that `token` follows.
///
/// KL is \[sum_i e_i (b_i - x_i)\] / \[sum_i e_i\] + ln sum exp x - ln sum exp b with e_i = exp(b_i - max b), which is
/// exactly zero for equal rows. What rounding leaves below zero is zero.
///
/// # Panics
/// If the rows' lengths differ or `token` is outside.
pub fn compare(base: ArrayView1<'_, f32>, logits: ArrayView1<'_, f32>, token: usize) -> Comparison {
    compare_with(Isa::best(), elements(base), elements(logits), token)
}

fn compare_with(isa: Isa, base: &[f32], logits: &[f32], token: usize) -> Comparison {
    assert_eq!(base.len(), logits.len(), "vocabularies of both models");
    assert!(token < logits.len(), "token {token} of {}", logits.len());
    let (max_base, max) = (max_with(isa, base), max_with(isa, logits));
    let sum = sum_exp_with(isa, logits, max);
    let (sum_base, weighted) = sum_exp_weighted_with(isa, base, logits, max_base);
    let (log_sum, log_sum_base) = (f64::from(max) + sum.ln(), f64::from(max_base) + sum_base.ln());
    let nll = log_sum - f64::from(logits[token]);
    let nll_base = log_sum_base - f64::from(base[token]);
    let kl = weighted / sum_base + (log_sum - log_sum_base);
    let first = |row: &[f32], max: f32| row.iter().position(|&v| v == max);
    Comparison {
        nll,
        nll_base,
        // Not `max`, which would make a perfect match of NaN.
        kl: if kl < 0.0 { 0.0 } else { kl },
        dp: (-nll).exp() - (-nll_base).exp(),
        same_top: first(base, max_base) == first(logits, max),
    }
}

impl Estimate {
    /// Mean of `values` and its standard error sqrt(var / (n - 1)), var = E\[(v - mean)^2\].
    pub fn mean(values: impl Iterator<Item = f64> + Clone) -> Estimate {
        let n = values.clone().count() as f64;
        if n == 0.0 {
            return Estimate::default();
        }
        let value = values.clone().sum::<f64>() / n;
        // About the mean, in a second pass: E[v^2] - E[v]^2 cancels when the spread is small beside the mean.
        let variance = values.map(|v| (v - value).powi(2)).sum::<f64>() / n;
        Estimate { value, error: if n > 1.0 { (variance / (n - 1.0)).sqrt() } else { 0.0 } }
    }

    /// Share `hits / n` and sqrt(p (1 - p) / (n - 1)).
    pub fn share(hits: usize, n: usize) -> Estimate {
        if n == 0 {
            return Estimate::default();
        }
        let p = hits as f64 / n as f64;
        Estimate { value: p, error: if n > 1 { (p * (1.0 - p) / (n - 1) as f64).sqrt() } else { 0.0 } }
    }

    /// sqrt(E\[v^2\]); its error follows from that of the mean square m: d sqrt(m) = dm / (2 sqrt(m)).
    pub fn root_mean_square(values: impl Iterator<Item = f64> + Clone) -> Estimate {
        let square = Estimate::mean(values.map(|v| v * v));
        let value = square.value.sqrt();
        Estimate { value, error: if value > 0.0 { 0.5 / value * square.error } else { 0.0 } }
    }

    /// exp of this estimate, its error to first order: a mean NLL becomes a perplexity.
    pub fn exp(self) -> Estimate {
        let value = self.value.exp();
        Estimate { value, error: value * self.error }
    }
}

/// Covariance of the means of two paired series: (E\[a b\] - E\[a\] E\[b\]) / (n - 1).
///
/// # Panics
/// If the series differ in length.
pub fn covariance_of_means(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths of paired series");
    let n = a.len() as f64;
    if a.len() < 2 {
        return 0.0;
    }
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum::<f64>() / n / (n - 1.0)
}

/// The value below which a share `q` (0 to 1) of `sorted` lies, between neighbours in a straight line.
///
/// # Panics
/// If `sorted` is empty or `q` is outside 0 to 1.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    assert!((0.0..=1.0).contains(&q), "quantile {q}");
    let at = q * (sorted.len() - 1) as f64;
    let (low, part) = (at as usize, at.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + part * (sorted[high] - sorted[low])
}

/// Below this, exp is 1e-304 and of no weight beside the 1 that the largest logit adds; 2^k would leave the range.
const SMALLEST: f64 = -700.0;

/// exp(x) for x <= 0, to 2 units in the last place; below [`SMALLEST`] as there. Without branches or calls, so that
/// loops over it become vector code.
#[inline(always)]
fn exp(x: f64) -> f64 {
    // Adding 1.5 * 2^52 rounds to a whole number and leaves it in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // ln 2 in two parts, the first with zeros at its end: k * HIGH is exact.
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    // 1/n!: on |r| <= ln(2)/2 the series up to r^13 is off by less than half a unit in the last place.
    const C: [f64; 14] = [
        1.0,
        1.0,
        1.0 / 2.0,
        1.0 / 6.0,
        1.0 / 24.0,
        1.0 / 120.0,
        1.0 / 720.0,
        1.0 / 5_040.0,
        1.0 / 40_320.0,
        1.0 / 362_880.0,
        1.0 / 3_628_800.0,
        1.0 / 39_916_800.0,
        1.0 / 479_001_600.0,
        1.0 / 6_227_020_800.0,
    ];
    let x = if x > SMALLEST { x } else { SMALLEST };
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    let mut p = C[13];
    for c in C[..13].iter().rev() {
        p = p * r + c;
    }
    // k sits in the low bits of `shifted`; moved to the exponent's place it is 2^k.
    p * f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52))
}

#[inline(always)]
fn max_of(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut top = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (top, &v) in top.iter_mut().zip(chunk) {
            *top = if v > *top { v } else { *top };
        }
    }
    top.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn sum_exp_of(x: &[f32], max: f32) -> f64 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, &v) in sums.iter_mut().zip(chunk) {
            *sum += exp(f64::from(v) - f64::from(max));
        }
    }
    for (sum, &v) in sums.iter_mut().zip(rest) {
        *sum += exp(f64::from(v) - f64::from(max));
    }
    sums.into_iter().sum()
}

/// sum_i e_i and sum_i e_i (b_i - x_i), e_i = exp(b_i - max).
#[inline(always)]
fn sum_exp_weighted_of(base: &[f32], x: &[f32], max: f32) -> (f64, f64) {
    let (chunks, rest) = base.as_chunks::<LANES>();
    let (others, other_rest) = x.as_chunks::<LANES>();
    let (mut sums, mut weighted) = ([0.0; LANES], [0.0; LANES]);
    let mut step = |lane: usize, b: f32, x: f32| {
        let e = exp(f64::from(b) - f64::from(max));
        sums[lane] += e;
        weighted[lane] += e * (f64::from(b) - f64::from(x));
    };
    for (chunk, other) in chunks.iter().zip(others) {
        for lane in 0..LANES {
            step(lane, chunk[lane], other[lane]);
        }
    }
    for (lane, (&b, &x)) in rest.iter().zip(other_rest).enumerate() {
        step(lane, b, x);
    }
    (sums.into_iter().sum(), weighted.into_iter().sum())
}

dispatch!(fn max_with(x: &[f32]) -> f32 = max_of);
dispatch!(fn sum_exp_with(x: &[f32], max: f32) -> f64 = sum_exp_of);
dispatch!(fn sum_exp_weighted_with(base: &[f32], x: &[f32], max: f32) -> (f64, f64) = sum_exp_weighted_of);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use ndarray::aview1;

    /// ln p by the definition, in the plainest order.
    fn log_softmax(x: &[f32]) -> Vec<f64> {
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = x.iter().map(|&v| (f64::from(v) - f64::from(max)).exp()).sum();
        x.iter().map(|&v| f64::from(v) - f64::from(max) - sum.ln()).collect()
    }

    fn close(a: f64, b: f64, tolerance: f64) -> bool {
        (a - b).abs() <= tolerance * (1.0 + b.abs())
    }

    #[test]
    fn exp_is_exp() {
        let mut x = 0.0f64;
        while x > -720.0 {
            let (ours, std) = (exp(x), x.max(SMALLEST).exp());
            assert!((ours - std).abs() <= 4.0 * f64::EPSILON * std, "exp({x}) = {ours}, not {std}");
            x -= 0.037_1;
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f64::NEG_INFINITY), exp(SMALLEST));
    }

    fn rows() -> impl Strategy<Value = (Vec<f32>, Vec<f32>, usize)> {
        (1usize..200, 0.01f32..40.0, 0.0f32..2.0, -50f32..50.0).prop_flat_map(|(n, spread, noise, offset)| {
            let base = prop::collection::vec(-spread..=spread, n);
            let shift = prop::collection::vec(-noise..=noise, n);
            (base, shift, 0..n).prop_map(move |(base, shift, token)| {
                let other = base.iter().zip(shift).map(|(b, s)| b + s + offset).collect();
                (base, other, token)
            })
        })
    }

    proptest! {
        #[test]
        fn rows_score_as_the_formulas_say((base, x, token) in rows()) {
            let (b, q) = (log_softmax(&base), log_softmax(&x));
            let kl: f64 = b.iter().zip(&q).map(|(b, q)| b.exp() * (b - q)).sum();
            let argmax = |v: &[f32]| (0..v.len()).rev().max_by(|&i, &j| v[i].total_cmp(&v[j]));
            for isa in Isa::present() {
                let c = compare_with(isa, &base, &x, token);
                prop_assert!(close(c.nll, -q[token], 1e-13), "{} {}", c.nll, -q[token]);
                prop_assert!(close(c.nll_base, -b[token], 1e-13));
                prop_assert!((c.kl - kl).abs() <= 1e-12, "{} {kl}", c.kl);
                prop_assert!((c.dp - (q[token].exp() - b[token].exp())).abs() <= 1e-13);
                prop_assert_eq!(c.same_top, argmax(&base) == argmax(&x));
                prop_assert_eq!(c, compare_with(Isa::BASELINE, &base, &x, token));
            }
            prop_assert_eq!(nll(aview1(&x), token), compare(aview1(&base), aview1(&x), token).nll);
            let own = compare(aview1(&base), aview1(&base), token);
            prop_assert_eq!((own.kl, own.dp, own.same_top), (0.0, 0.0, true));
        }

        #[test]
        fn estimates_are_their_formulas(v in prop::collection::vec(-3.0f64..3.0, 2..300)) {
            let n = v.len() as f64;
            let mean = |f: &dyn Fn(f64) -> f64| v.iter().map(|&x| f(x)).sum::<f64>() / n;
            let (m1, m2, m4) = (mean(&|x| x), mean(&|x| x * x), mean(&|x| x.powi(4)));
            let e = Estimate::mean(v.iter().copied());
            prop_assert!(close(e.value, m1, 1e-12) && close(e.error, ((m2 - m1 * m1) / (n - 1.0)).sqrt(), 1e-7));
            let rms = Estimate::root_mean_square(v.iter().copied());
            prop_assert!(close(rms.value, m2.sqrt(), 1e-12));
            prop_assert!(close(rms.error, 0.5 / m2.sqrt() * ((m4 - m2 * m2) / (n - 1.0)).sqrt(), 1e-7));
            prop_assert!(close(covariance_of_means(&v, &v), e.error * e.error, 1e-12));
            prop_assert!(close(e.exp().error, m1.exp() * e.error, 1e-12));
            let hits = v.iter().filter(|&&x| x > 0.0).count();
            let share = Estimate::share(hits, v.len());
            let ones = Estimate::mean(v.iter().map(|&x| f64::from(u8::from(x > 0.0))));
            prop_assert!(close(share.value, ones.value, 1e-12) && close(share.error, ones.error, 1e-9));
        }
    }

    #[test]
    fn extremes_stay_finite() {
        for x in [[1e30, -1e30, 0.0], [3e38, 3e38, -3e38], [-3e38, -3e38, -3e38]] {
            assert!(nll(aview1(&x), 0).is_finite());
            assert_eq!(compare(aview1(&x), aview1(&x), 2).kl, 0.0);
        }
        assert_eq!(nll(aview1(&[5.0]), 0), 0.0);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let v = [1.0, 2.0, 4.0, 8.0];
        assert_eq!([0.0, 0.5, 1.0].map(|q| quantile(&v, q)), [1.0, 3.0, 8.0]);
        assert!((quantile(&v, 0.9) - 6.8).abs() < 1e-12);
        assert_eq!(quantile(&[7.0], 0.3), 7.0);
    }
}
