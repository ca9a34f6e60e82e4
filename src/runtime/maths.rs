//! Activations, written so that loops over them vectorise, and loops over numbers spread over threads.

use rayon::prelude::*;

use super::kernels::vec::{exp, silu_mul};
use crate::model::Activation;

/// Numbers that a thread takes at a time in elementwise loops; below two of these, handing out costs more than it
/// gains.
pub(super) const CHUNK: usize = 16 * 1024;

/// tanh x within 2e-7 absolutely.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    // Beyond 10 it is one to the last bit.
    let bounded = if x > 10.0 { 10.0 } else { x };
    let bounded = if bounded < -10.0 { -10.0 } else { bounded };
    let e = exp(2.0 * bounded);
    (e - 1.0) / (e + 1.0)
}

/// x * sigmoid(x).
#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// GELU, tanh approximation.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    const ROOT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh(ROOT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

/// cap * tanh(x / cap) of all numbers.
#[inline(always)]
pub(super) fn softcap(x: &mut [f32], cap: f32) {
    x.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
}

/// `out` = activation(x).
pub(super) fn activate(act: Activation, x: &[f32], out: &mut [f32]) {
    let pairs = out.iter_mut().zip(x);
    match act {
        Activation::Silu => pairs.for_each(|(o, x)| *o = silu(*x)),
        Activation::GeluTanh => pairs.for_each(|(o, x)| *o = gelu(*x)),
    }
}

/// `out` = activation(gate) * up.
pub(super) fn gate(act: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    match act {
        Activation::Silu => silu_mul(gate, up, out),
        Activation::GeluTanh => out.iter_mut().zip(gate).zip(up).for_each(|((o, g), u)| *o = gelu(*g) * u),
    }
}

/// Calls `f(offset, chunk)` for chunks of `x` of about [`CHUNK`] numbers, whole multiples of `unit`, on all threads.
pub(super) fn in_chunks(x: &mut [f32], unit: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    assert!(x.len().is_multiple_of(unit), "{} numbers in units of {unit}", x.len());
    let chunk = (CHUNK / unit).max(1) * unit;
    if x.len() < 2 * chunk {
        f(0, x);
    } else {
        x.par_chunks_mut(chunk).enumerate().for_each(|(i, x)| f(i * chunk, x));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_is_close_everywhere() {
        for i in -200_000..=200_000 {
            let x = i as f32 * 1e-4;
            let error = f64::from(tanh(x)) - f64::from(x).tanh();
            assert!(error.abs() < 2e-7, "tanh({x}) off by {error:e}");
        }
        assert_eq!((tanh(1e30), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn activations_bear_extremes() {
        let x = [-1e30, -100.0, -1.0, 0.0, 1.0, 100.0, 1e12];
        for act in [Activation::Silu, Activation::GeluTanh] {
            let mut out = [f32::NAN; 7];
            activate(act, &x, &mut out);
            assert!(out.iter().all(|y| y.is_finite()), "{act:?}: {out:?}");
            assert_eq!((out[3], out[5], out[6]), (0.0, 100.0, 1e12), "{act:?}");
        }
    }
}
