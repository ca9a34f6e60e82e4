//! The search for the scale and offset of single groups, eight or sixteen (`L`) side by side.
//!
//! A pass waits for what the one before found; with sixteen groups two chains of them run at once.

use super::lanes::{Lanes, each, inverse, max, min, ratio};
use super::{EXACT, Effort, LevelSet, Offset};

/// What one pass over groups' weights finds for given scales and offsets, with the nearest codes.
#[derive(Clone, Copy)]
pub(crate) struct Moments<const L: usize> {
    /// Sum of `w * e^2` where `e = x - offset - scale * level`.
    pub loss: Lanes<L>,
    /// Sums of `w * e` and `w * e * level`: which way the offset and the scale want to go.
    pub e: Lanes<L>,
    pub eq: Lanes<L>,
    /// Sums of `w * level` and `w * level^2`.
    pub q: Lanes<L>,
    pub qq: Lanes<L>,
}

/// One pass over groups. `x`, `w`: weights and what their squared errors count.
#[inline(always)]
pub(crate) fn pass<T: LevelSet, const L: usize>(
    x: &[Lanes<L>],
    w: &[Lanes<L>],
    scale: &Lanes<L>,
    offset: &Lanes<L>,
) -> Moments<L> {
    let zero = [0.0; L];
    let mut m = Moments { loss: zero, e: zero, eq: zero, q: zero, qq: zero };
    let by: Lanes<L> = each(|l| inverse(scale[l]));
    for (x, w) in x.iter().zip(w) {
        for l in 0..L {
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

/// [`pass`] with scales and offsets of zero, where every level is the one nearest to zero. `total`: sum of the weights.
#[inline(always)]
fn at_zero<T: LevelSet, const L: usize>(x: &[Lanes<L>], w: &[Lanes<L>], total: &Lanes<L>) -> Moments<L> {
    let level = T::nearest(0.0);
    let (mut loss, mut e) = ([0.0; L], [0.0; L]);
    for (x, w) in x.iter().zip(w) {
        for l in 0..L {
            let we = w[l] * x[l];
            loss[l] += we * x[l];
            e[l] += we;
        }
    }
    Moments {
        loss,
        e,
        eq: each(|l| e[l] * level),
        q: each(|l| total[l] * level),
        qq: each(|l| total[l] * (level * level)),
    }
}

#[inline(always)]
fn take<const L: usize>(a: &mut Lanes<L>, b: &Lanes<L>, which: &[bool; L]) {
    for l in 0..L {
        a[l] = if which[l] { b[l] } else { a[l] };
    }
}

/// Scales and offsets of groups, and what a pass found with them.
#[derive(Clone, Copy)]
pub(crate) struct Fit<const L: usize> {
    pub scale: Lanes<L>,
    pub offset: Lanes<L>,
    pub moments: Moments<L>,
}

impl<const L: usize> Fit<L> {
    /// A pass with these scales and offsets.
    #[inline(always)]
    pub fn at<T: LevelSet>(x: &[Lanes<L>], w: &[Lanes<L>], scale: Lanes<L>, offset: Lanes<L>) -> Fit<L> {
        Fit { scale, offset, moments: pass::<T, L>(x, w, &scale, &offset) }
    }

    /// Takes the lanes in which `other` has the smaller loss; says which.
    #[inline(always)]
    pub fn take_better<T: LevelSet>(&mut self, other: &Fit<L>) -> [bool; L] {
        let mut better = [false; L];
        for (l, better) in better.iter_mut().enumerate() {
            *better = other.moments.loss[l] < self.moments.loss[l];
        }
        self.take::<T>(other, &better);
        better
    }

    /// Takes the lanes of `other` that are named.
    #[inline(always)]
    pub fn take<T: LevelSet>(&mut self, other: &Fit<L>, which: &[bool; L]) {
        take(&mut self.scale, &other.scale, which);
        take(&mut self.moments.loss, &other.moments.loss, which);
        take(&mut self.moments.eq, &other.moments.eq, which);
        take(&mut self.moments.qq, &other.moments.qq, which);
        if T::OFFSET != Offset::None {
            take(&mut self.offset, &other.offset, which);
            take(&mut self.moments.e, &other.moments.e, which);
            take(&mut self.moments.q, &other.moments.q, which);
        }
    }

    /// The scales and offsets that are best for this pass's codes: weighted least squares, solved for the change, so
    /// that nothing cancels. `total`: sum of the weights.
    #[inline(always)]
    pub fn solve<T: LevelSet>(&self, total: &Lanes<L>) -> (Lanes<L>, Lanes<L>) {
        let m = &self.moments;
        if T::OFFSET == Offset::None {
            return (each(|l| self.scale[l] + ratio(m.eq[l], m.qq[l])), self.offset);
        }
        let (mut scale, mut offset) = (self.scale, self.offset);
        for l in 0..L {
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

    /// The loss if scales and offsets become these and the codes stay. `total`: sum of the weights.
    #[inline(always)]
    pub fn loss_beside<T: LevelSet>(&self, scale: &Lanes<L>, offset: &Lanes<L>, total: &Lanes<L>) -> Lanes<L> {
        let m = &self.moments;
        each(|l| {
            let s = scale[l] - self.scale[l];
            let along = s * (s * m.qq[l] - 2.0 * m.eq[l]);
            if T::OFFSET == Offset::None {
                return m.loss[l] + along;
            }
            let o = offset[l] - self.offset[l];
            m.loss[l] + along + o * (o * total[l] + 2.0 * (s * m.q[l] - m.e[l]))
        })
    }
}

/// Smallest and largest of every lane.
#[inline(always)]
pub(crate) fn range<const L: usize>(x: &[Lanes<L>]) -> (Lanes<L>, Lanes<L>) {
    let (mut low, mut high) = (x[0], x[0]);
    for x in &x[1..] {
        for l in 0..L {
            low[l] = min(x[l], low[l]);
            high[l] = max(x[l], high[l]);
        }
    }
    (low, high)
}

/// The sum of every lane.
#[inline(always)]
pub(crate) fn totals<const L: usize>(w: &[Lanes<L>]) -> Lanes<L> {
    let mut sums = [0.0; L];
    for w in w {
        for l in 0..L {
            sums[l] += w[l];
        }
    }
    sums
}

/// How a format rounds the scales and offsets of groups that it stores themselves.
pub(crate) trait Snap<const L: usize> {
    /// What would be stored for these.
    fn snap(&self, scale: Lanes<L>, offset: Lanes<L>) -> (Lanes<L>, Lanes<L>);
}

/// What a search found for each of the groups.
pub(crate) struct Found<const L: usize> {
    /// The best scale and offset.
    pub fit: Fit<L>,
    /// The weighted sum of squares.
    pub square: Lanes<L>,
}

/// The best scale and offset found for each of the groups.
///
/// Every step is in one place only: a closure or function called from two would not be inlined, and thus not compiled
/// for the caller's instruction set.
#[inline(always)]
pub(crate) fn search<T: LevelSet, const L: usize>(
    x: &[Lanes<L>],
    w: &[Lanes<L>],
    total: &Lanes<L>,
    snap: &impl Snap<L>,
    effort: Effort,
) -> Found<L> {
    let (low, high) = range(x);
    let zero = [0.0; L];
    let mut best = Fit { scale: zero, offset: zero, moments: at_zero::<T, L>(x, w, total) };
    let square = best.moments.loss;
    let starts = 2 * T::STARTS.len().min(effort.starts);
    for k in 0..starts + T::KICKS.len().min(effort.kicks) {
        let (scale, offset) = if k < starts {
            start::<T, L>(&low, &high, T::STARTS[k / 2], k % 2 == 0)
        } else {
            kick::<T, L>(&best, T::KICKS[k - starts])
        };
        let (mut scale, mut offset) = snap.snap(scale, offset);
        for _ in 0..T::ROUNDS.min(effort.rounds) {
            let fit = Fit::at::<T>(x, w, scale, offset);
            best.take_better::<T>(&fit);
            (scale, offset) = fit.solve::<T>(total);
            for l in 0..L {
                scale[l] += EAGER * (scale[l] - fit.scale[l]);
                offset[l] += EAGER * (offset[l] - fit.offset[l]);
                offset[l] = min(offset[l], highest_offset::<T>());
            }
            (scale, offset) = snap.snap(scale, offset);
        }
    }
    settle::<T, L>(x, w, total, snap, Found { fit: best, square })
}

/// Weights that lie on a grid already end on it: the steps of a search go too far on purpose, this one does not. Others
/// stay as they are. Inlined it would spoil the search's code.
#[inline(never)]
fn settle<T: LevelSet, const L: usize>(
    x: &[Lanes<L>],
    w: &[Lanes<L>],
    total: &Lanes<L>,
    snap: &impl Snap<L>,
    mut found: Found<L>,
) -> Found<L> {
    let best = &mut found.fit;
    let (scale, mut offset) = best.solve::<T>(total);
    for (offset, scale) in offset.iter_mut().zip(&scale) {
        // Sums that cancel leave a little; half precision has numbers for it.
        *offset = if offset.abs() <= NOTHING * scale.abs() { 0.0 } else { *offset };
    }
    let left = best.loss_beside::<T>(&scale, &offset, total);
    let exact = |l: usize| left[l] <= EXACT * found.square[l] && left[l] < best.moments.loss[l];
    let mut which: [bool; L] = std::array::from_fn(exact);
    if which == [false; L] {
        return found;
    }
    let (scale, offset) = snap.snap(scale, offset);
    let fit = Fit::at::<T>(x, w, scale, offset);
    for (l, which) in which.iter_mut().enumerate() {
        *which &= fit.moments.loss[l] < best.moments.loss[l];
    }
    best.take::<T>(&fit, &which);
    found
}

/// An offset of no more than this share of the scale is none where weights lie on a grid.
const NOTHING: f32 = 1.0 / 65536.0;

/// Codes follow the scale, so least squares for the codes at hand goes too short: go half as far again. (Twice as far
/// is worse than not at all.)
const EAGER: f32 = 0.5;

#[inline(always)]
fn highest_offset<T: LevelSet>() -> f32 {
    if T::OFFSET == Offset::NotPositive { 0.0 } else { f32::MAX }
}

/// A scale and offset to begin with, with `start` spacings more in the range of levels than there are; the smaller (or
/// the larger) end of the weights lies at the end of the levels, and what is too much is cut off from the other.
///
/// Without an offset the weight of largest magnitude lies at either end of the levels, moved outwards by `start`.
#[inline(always)]
fn start<T: LevelSet, const L: usize>(
    low: &Lanes<L>,
    high: &Lanes<L>,
    start: f32,
    first: bool,
) -> (Lanes<L>, Lanes<L>) {
    let start = start * T::SPACING;
    if T::OFFSET == Offset::None {
        let by = 1.0 / if first { T::LOW - start } else { T::HIGH + start };
        return (each(|l| by * if high[l] > -low[l] { high[l] } else { low[l] }), [0.0; L]);
    }
    let by = 1.0 / (T::HIGH - T::LOW + start);
    let low: Lanes<L> = each(|l| min(low[l], highest_offset::<T>()));
    let scale: Lanes<L> = each(|l| max(high[l] - low[l], 0.0) * by);
    let offset: Lanes<L> = each(|l| if first { low[l] - scale[l] * T::LOW } else { high[l] - scale[l] * T::HIGH });
    (scale, each(|l| min(offset[l], highest_offset::<T>())))
}

/// The best so far with another scale: `kick` times as large, with the value of the lowest level (or of the highest)
/// kept.
#[inline(always)]
fn kick<T: LevelSet, const L: usize>(best: &Fit<L>, kick: (f32, bool)) -> (Lanes<L>, Lanes<L>) {
    let (by, low) = kick;
    let scale: Lanes<L> = each(|l| best.scale[l] * by);
    if T::OFFSET == Offset::None {
        return (scale, best.offset);
    }
    let end = if low { T::LOW } else { T::HIGH };
    (scale, each(|l| min(best.offset[l] + (best.scale[l] - scale[l]) * end, highest_offset::<T>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels around zero, none below zero, and none at zero (as IQ4_NL).
    struct Around;
    struct Above;
    struct Odd;

    impl LevelSet for Around {
        const LOW: f32 = -4.0;
        const HIGH: f32 = 3.0;
        const OFFSET: Offset = Offset::None;
        const STARTS: &'static [f32] = &[];
        const ROUNDS: usize = 0;
    }

    impl LevelSet for Above {
        const LOW: f32 = 0.0;
        const HIGH: f32 = 15.0;
        const OFFSET: Offset = Offset::NotPositive;
        const STARTS: &'static [f32] = &[];
        const ROUNDS: usize = 0;
    }

    impl LevelSet for Odd {
        const LOW: f32 = -127.0;
        const HIGH: f32 = 113.0;
        const OFFSET: Offset = Offset::None;
        const STARTS: &'static [f32] = &[];
        const ROUNDS: usize = 0;

        fn nearest(target: f32) -> f32 {
            if target < -4.5 { -10.0 } else { 1.0 }
        }
    }

    /// Sums are taken in the same order, so only products rounded otherwise can differ.
    fn agrees<T: LevelSet>(name: &str) {
        let x: Vec<Lanes> = (0..32).map(|i| each(|l| ((i * 7 + l * 13) % 23) as f32 / 11.0 - 1.0)).collect();
        let w: Vec<Lanes> = (0..32).map(|i| each(|l| ((i * 5 + l * 3) % 17) as f32 / 16.0)).collect();
        let (quick, slow) = (at_zero::<T, 8>(&x, &w, &totals(&w)), pass::<T, 8>(&x, &w, &[0.0; 8], &[0.0; 8]));
        let mut pairs = vec![(quick.loss, slow.loss), (quick.eq, slow.eq), (quick.qq, slow.qq)];
        if T::OFFSET != Offset::None {
            pairs.extend([(quick.e, slow.e), (quick.q, slow.q)]);
        }
        for (quick, slow) in pairs {
            for l in 0..8 {
                assert!((quick[l] - slow[l]).abs() <= 1e-5 * slow[l].abs().max(1.0), "{name}: {quick:?} {slow:?}");
            }
        }
    }

    #[test]
    fn scales_of_zero_need_no_pass() {
        agrees::<Around>("around");
        agrees::<Above>("above");
        agrees::<Odd>("odd");
    }
}
