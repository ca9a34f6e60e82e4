//! Norms of runs of numbers.

use super::maths::in_chunks;
use crate::model::NormKind;

/// Partial sums that run side by side, so that they vectorise; their order is fixed.
const LANES: usize = 16;

/// A norm, ready to use.
pub(super) struct Norm<'a> {
    pub kind: NormKind,
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub eps: f32,
}

impl Norm<'_> {
    /// Norms every run of `x`, in place.
    pub fn run(&self, x: &mut [f32]) {
        let n = self.weight.len();
        let one = |x: &mut [f32]| {
            let (mean, scale) = self.centre(x);
            x.iter_mut().zip(self.weight).for_each(|(x, w)| *x = (*x - mean) * scale * w);
            self.shift(x);
        };
        in_chunks(x, n, |_, x| x.chunks_exact_mut(n).for_each(one));
    }

    /// `out` = every run of `x`, normed.
    pub fn run_into(&self, x: &[f32], out: &mut [f32]) {
        let n = self.weight.len();
        assert_eq!(x.len(), out.len(), "numbers of a norm");
        let one = |(x, out): (&[f32], &mut [f32])| {
            let (mean, scale) = self.centre(x);
            out.iter_mut().zip(x).zip(self.weight).for_each(|((out, x), w)| *out = (x - mean) * scale * w);
            self.shift(out);
        };
        in_chunks(out, n, |at, out| x[at..at + out.len()].chunks_exact(n).zip(out.chunks_exact_mut(n)).for_each(one));
    }

    /// What a run's numbers are centred on and multiplied with.
    fn centre(&self, x: &[f32]) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = match self.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => sum(x, |x| x) / n,
        };
        let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }

    fn shift(&self, x: &mut [f32]) {
        if let Some(bias) = self.bias {
            x.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
    }
}

fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let runs = x.chunks_exact(LANES);
    let tail: f32 = runs.remainder().iter().map(|&x| f(x)).sum();
    for run in runs {
        lanes.iter_mut().zip(run).for_each(|(l, &x)| *l += f(x));
    }
    lanes.iter().sum::<f32>() + tail
}
