//! The search for the scale and offset of single groups.

use super::lanes::{LANES, Lanes, each, inverse, max, min, ratio};
use super::{Levels, Offset};

/// What one pass over eight groups' weights finds for given scales and offsets, with the nearest codes.
#[derive(Clone, Copy)]
pub(crate) struct Moments {
    /// Sum of `w * e^2` where `e = x - offset - scale * level`.
    pub loss: Lanes,
    /// Sums of `w * e` and `w * e * level`: which way the offset and the scale want to go.
    pub e: Lanes,
    pub eq: Lanes,
    /// Sums of `w * level` and `w * level^2`.
    pub q: Lanes,
    pub qq: Lanes,
}

/// One pass over eight groups. `x`, `w`: weights and what their squared errors count.
#[inline(always)]
pub(crate) fn pass<T: Levels>(x: &[Lanes], w: &[Lanes], scale: &Lanes, offset: &Lanes) -> Moments {
    let zero = [0.0; LANES];
    let mut m = Moments { loss: zero, e: zero, eq: zero, q: zero, qq: zero };
    let by = each(|l| inverse(scale[l]));
    for (x, w) in x.iter().zip(w) {
        for l in 0..LANES {
            let x = if T::OFFSET == Offset::None { x[l] } else { x[l] - offset[l] };
            let level = T::nearest(x * by[l]);
            let error = x - scale[l] * level;
            let (we, wq) = (w[l] * error, w[l] * level);
            m.loss[l] += we * error;
            m.eq[l] += we * level;
            m.qq[l] += wq * level;
            if T::OFFSET != Offset::None {
                m.e[l] += we;
                m.q[l] += wq;
            }
        }
    }
    m
}

/// Scales and offsets of eight groups, and what a pass found with them.
#[derive(Clone, Copy)]
pub(crate) struct Fit {
    pub scale: Lanes,
    pub offset: Lanes,
    pub moments: Moments,
}

impl Fit {
    /// A pass with these scales and offsets.
    #[inline(always)]
    pub fn at<T: Levels>(x: &[Lanes], w: &[Lanes], scale: Lanes, offset: Lanes) -> Fit {
        Fit { scale, offset, moments: pass::<T>(x, w, &scale, &offset) }
    }

    /// Takes the lanes in which `other` has the smaller loss; says which.
    #[inline(always)]
    pub fn take_better(&mut self, other: &Fit) -> [bool; LANES] {
        let mut better = [false; LANES];
        for (l, better) in better.iter_mut().enumerate() {
            *better = other.moments.loss[l] < self.moments.loss[l];
        }
        self.take(other, &better);
        better
    }

    /// Takes the lanes of `other` that are named.
    #[inline(always)]
    pub fn take(&mut self, other: &Fit, which: &[bool; LANES]) {
        let pick = |a: &mut Lanes, b: &Lanes| {
            for l in 0..LANES {
                a[l] = if which[l] { b[l] } else { a[l] };
            }
        };
        pick(&mut self.scale, &other.scale);
        pick(&mut self.offset, &other.offset);
        pick(&mut self.moments.loss, &other.moments.loss);
        pick(&mut self.moments.e, &other.moments.e);
        pick(&mut self.moments.eq, &other.moments.eq);
        pick(&mut self.moments.q, &other.moments.q);
        pick(&mut self.moments.qq, &other.moments.qq);
    }

    /// The scales and offsets that are best for this pass's codes: weighted least squares, solved for the change, so
    /// that nothing cancels. `total`: sum of the weights.
    #[inline(always)]
    pub fn solve<T: Levels>(&self, total: &Lanes) -> (Lanes, Lanes) {
        let m = &self.moments;
        if T::OFFSET == Offset::None {
            return (each(|l| self.scale[l] + ratio(m.eq[l], m.qq[l])), self.offset);
        }
        let (mut scale, mut offset) = (self.scale, self.offset);
        for l in 0..LANES {
            // Variance of the levels about their weighted mean, times the total.
            let spread = m.qq[l] - m.q[l] * (m.q[l] / total[l]);
            // All codes equal, up to rounding: only the offset can be solved for.
            let spread = if spread > 1e-5 * m.qq[l] { spread } else { 0.0 };
            let step = ratio(m.eq[l] - m.q[l] * (m.e[l] / total[l]), spread);
            let shift = (m.e[l] - m.q[l] * step) / total[l];
            let beyond = T::OFFSET == Offset::NotPositive && offset[l] + shift > 0.0;
            // At offset zero the error is larger by the old offset.
            let alone = ratio(m.eq[l] + m.q[l] * offset[l], m.qq[l]);
            scale[l] += if beyond { alone } else { step };
            offset[l] = if beyond { 0.0 } else { offset[l] + shift };
        }
        (scale, offset)
    }
}

/// Smallest and largest of every lane.
#[inline(always)]
fn range(x: &[Lanes]) -> (Lanes, Lanes) {
    let (mut low, mut high) = (x[0], x[0]);
    for x in &x[1..] {
        for l in 0..LANES {
            low[l] = min(x[l], low[l]);
            high[l] = max(x[l], high[l]);
        }
    }
    (low, high)
}

/// The sum of every lane.
#[inline(always)]
pub(crate) fn totals(w: &[Lanes]) -> Lanes {
    let mut sums = [0.0; LANES];
    for w in w {
        for l in 0..LANES {
            sums[l] += w[l];
        }
    }
    sums
}

/// The best scale and offset found for each of eight groups.
///
/// `snap` rounds scales and offsets to what the format stores; a super-block's search leaves them.
#[inline(always)]
pub(crate) fn search<T: Levels>(
    x: &[Lanes],
    w: &[Lanes],
    total: &Lanes,
    snap: impl Fn(Lanes, Lanes) -> (Lanes, Lanes),
) -> Fit {
    let (low, high) = range(x);
    let zero = [0.0; LANES];
    let mut best = Fit::at::<T>(x, w, zero, zero);
    let mut climb = |scale: Lanes, offset: Lanes| {
        let (mut scale, mut offset) = snap(scale, offset);
        for round in 0..T::ROUNDS {
            let fit = Fit::at::<T>(x, w, scale, offset);
            best.take_better(&fit);
            if round + 1 < T::ROUNDS {
                (scale, offset) = fit.solve::<T>(total);
                (scale, offset) = snap(scale, offset);
            }
        }
    };
    let span = T::HIGH - T::LOW;
    if T::OFFSET == Offset::None {
        // The weight of largest magnitude goes to either end of the levels.
        let top = each(|l| if high[l] > -low[l] { high[l] } else { low[l] });
        for start in T::STARTS {
            for end in [T::LOW, T::HIGH] {
                let reach = end + (T::SPACING * start).copysign(end);
                climb(each(|l| top[l] / reach), zero);
            }
        }
    } else {
        let low = each(|l| if T::OFFSET == Offset::NotPositive { min(low[l], 0.0) } else { low[l] });
        for start in T::STARTS {
            let reach = span + start * T::SPACING;
            let scale = each(|l| max(high[l] - low[l], 0.0) / reach);
            // What the levels do not reach is cut off from both ends alike.
            let offset = each(|l| low[l] + (high[l] - low[l] - scale[l] * span) * 0.5 - scale[l] * T::LOW);
            climb(scale, each(|l| if T::OFFSET == Offset::NotPositive { min(offset[l], 0.0) } else { offset[l] }));
        }
    }
    best
}
