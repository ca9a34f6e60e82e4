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

#[inline(always)]
fn take(a: &mut Lanes, b: &Lanes, which: &[bool; LANES]) {
    for l in 0..LANES {
        a[l] = if which[l] { b[l] } else { a[l] };
    }
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
        take(&mut self.scale, &other.scale, which);
        take(&mut self.offset, &other.offset, which);
        take(&mut self.moments.loss, &other.moments.loss, which);
        take(&mut self.moments.e, &other.moments.e, which);
        take(&mut self.moments.eq, &other.moments.eq, which);
        take(&mut self.moments.q, &other.moments.q, which);
        take(&mut self.moments.qq, &other.moments.qq, which);
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

/// The weighted sum of squares of every lane.
#[inline(always)]
pub(crate) fn squares(x: &[Lanes], w: &[Lanes]) -> Lanes {
    let mut sums = [0.0; LANES];
    for (x, w) in x.iter().zip(w) {
        for l in 0..LANES {
            sums[l] += w[l] * x[l] * x[l];
        }
    }
    sums
}

/// How a format rounds the scales and offsets of eight groups that it stores themselves.
pub(crate) trait Snap {
    /// What would be stored for these.
    fn snap(&self, scale: Lanes, offset: Lanes) -> (Lanes, Lanes);
}

/// The best scale and offset found for each of eight groups.
///
/// Every step is in one place only: a closure or function called from two would not be inlined, and thus not compiled
/// for the caller's instruction set.
#[inline(always)]
pub(crate) fn search<T: Levels>(x: &[Lanes], w: &[Lanes], total: &Lanes, snap: &impl Snap) -> Fit {
    let (low, high) = range(x);
    let zero = [0.0; LANES];
    let mut best = Fit::at::<T>(x, w, zero, zero);
    let starts = 2 * T::STARTS.len();
    for k in 0..starts + T::KICKS.len() {
        let (scale, offset) = if k < starts {
            start::<T>(&low, &high, T::STARTS[k / 2], k % 2 == 0)
        } else {
            kick::<T>(&best, T::KICKS[k - starts])
        };
        let (mut scale, mut offset) = snap.snap(scale, offset);
        for _ in 0..T::ROUNDS {
            let fit = Fit::at::<T>(x, w, scale, offset);
            best.take_better(&fit);
            (scale, offset) = fit.solve::<T>(total);
            for l in 0..LANES {
                scale[l] += EAGER * (scale[l] - fit.scale[l]);
                offset[l] += EAGER * (offset[l] - fit.offset[l]);
                offset[l] = min(offset[l], highest_offset::<T>());
            }
            (scale, offset) = snap.snap(scale, offset);
        }
    }
    best
}

/// Codes follow the scale, so least squares for the codes at hand goes too short: go half as far again. (Twice as far
/// is worse than not at all.)
const EAGER: f32 = 0.5;

#[inline(always)]
fn highest_offset<T: Levels>() -> f32 {
    if T::OFFSET == Offset::NotPositive { 0.0 } else { f32::MAX }
}

/// A scale and offset to begin with, with `start` spacings more in the range of levels than there are; the smaller (or
/// the larger) end of the weights lies at the end of the levels, and what is too much is cut off from the other.
///
/// Without an offset the weight of largest magnitude lies at either end of the levels, moved outwards by `start`.
#[inline(always)]
fn start<T: Levels>(low: &Lanes, high: &Lanes, start: f32, first: bool) -> (Lanes, Lanes) {
    let start = start * T::SPACING;
    if T::OFFSET == Offset::None {
        let by = 1.0 / if first { T::LOW - start } else { T::HIGH + start };
        return (each(|l| by * if high[l] > -low[l] { high[l] } else { low[l] }), [0.0; LANES]);
    }
    let by = 1.0 / (T::HIGH - T::LOW + start);
    let low = each(|l| min(low[l], highest_offset::<T>()));
    let scale = each(|l| max(high[l] - low[l], 0.0) * by);
    let offset = each(|l| if first { low[l] - scale[l] * T::LOW } else { high[l] - scale[l] * T::HIGH });
    (scale, each(|l| min(offset[l], highest_offset::<T>())))
}

/// The best so far with another scale: `kick` times as large, with the value of the lowest level (or of the highest) kept.
#[inline(always)]
fn kick<T: Levels>(best: &Fit, kick: (f32, bool)) -> (Lanes, Lanes) {
    let (by, low) = kick;
    let scale = each(|l| best.scale[l] * by);
    if T::OFFSET == Offset::None {
        return (scale, best.offset);
    }
    let end = if low { T::LOW } else { T::HIGH };
    (scale, each(|l| min(best.offset[l] + (best.scale[l] - scale[l]) * end, highest_offset::<T>())))
}
