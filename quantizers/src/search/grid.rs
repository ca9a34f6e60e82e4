//! Groups whose weights lie on evenly spaced levels already, as another program's rounding left them: fewer of them
//! than a search, which spreads all levels over the weights, would use.

use super::groups::{Fit, range};
use super::lanes::{Lanes, min, round};
use super::{LevelSet, Offset, Unit};

/// Most levels from zero, or from the lowest.
const MOST: usize = 32;

/// How far from a whole number of levels a weight may be, as a share of the number: BF16 does not move it farther.
const NEAR: f32 = 1.0 / 256.0;

#[inline(always)]
fn near(x: f32) -> bool {
    (x - round(x)).abs() <= NEAR * x.abs()
}

/// Levels that a group may span.
fn span<T: LevelSet>() -> usize {
    let most = if T::OFFSET == Offset::None { -T::LOW } else { T::HIGH - T::LOW };
    // Levels that are not evenly spaced have other formats' weights on no grid of theirs.
    if T::SPACING == 1.0 { MOST.min(most as usize) } else { 0 }
}

/// What zero levels stand for, and the distance from there to the weight that is farthest.
#[inline(always)]
fn reach<T: LevelSet>(low: f32, high: f32) -> (f32, f32) {
    match T::OFFSET {
        Offset::None => (0.0, if high > -low { high } else { low }),
        Offset::Free => (low, high - low),
        Offset::NotPositive => (min(low, 0.0), high - min(low, 0.0)),
    }
}

/// Whether the first group looks as if it lay on a grid: quick, and nearly always right.
#[inline(always)]
pub(super) fn suspected<T: LevelSet, const L: usize, const LEN: usize>(x: &[Lanes<L>; LEN]) -> bool {
    let (low, high) = x.iter().fold((x[0][0], x[0][0]), |(a, b), x| (min(x[0], a), -min(-x[0], -b)));
    let (base, reach) = reach::<T>(low, high);
    let mut fits = [true; MOST];
    for i in [0, LEN / 3, LEN / 2] {
        let share = (x[i][0] - base) / reach;
        for (n, fits) in fits.iter_mut().enumerate() {
            *fits &= near(share * (n + 1) as f32);
        }
    }
    fits[..span::<T>()].iter().any(|fits| *fits)
}

/// Takes the grids of all groups, if every one has a grid and what they leave is no more than `most`.
#[cold]
#[inline(never)]
pub(super) fn take<T: LevelSet, const L: usize, const LEN: usize>(
    x: &[Lanes<L>; LEN],
    w: &[Lanes<L>; LEN],
    total: &Lanes<L>,
    most: f32,
    (most_offset, unit): (f32, Unit),
    fit: &mut Fit<L>,
) -> bool {
    let (low, high) = range(x);
    let (mut scale, mut offset, mut free) = ([0.0; L], [0.0; L], [0; L]);
    for l in 0..L {
        let (base, reach) = reach::<T>(low[l], high[l]);
        offset[l] = base;
        if reach == 0.0 {
            continue;
        }
        let on = |n: &usize| x.iter().all(|x| near((x[l] - base) / reach * *n as f32));
        let Some(levels) = (1..=span::<T>()).find(on) else { return false };
        // The lowest level may have no counterpart: then it is that of the largest weight, whatever its sign.
        let turned = T::OFFSET == Offset::None && reach > 0.0 && levels as f32 > T::HIGH;
        scale[l] = if turned { -reach } else { reach.abs() } / levels as f32;
        free[l] = span::<T>() - levels;
    }
    if T::OFFSET == Offset::NotPositive {
        offset = on_one_step(&offset, &scale, &free, most_offset, unit).unwrap_or(offset);
    }
    let found = Fit::at::<T>(x, w, scale, offset);
    let (scale, offset) = found.solve::<T>(total);
    let found = Fit::at::<T>(x, w, scale, offset);
    let exact = found.moments.loss.iter().sum::<f32>() <= most;
    if exact {
        *fit = found;
    }
    exact
}

/// Which level the lowest weight of a group has its own rounding does not tell: as many below as are `free` may have
/// been left out. Half precision does, since few numbers are a whole number of times an F16: the offsets, if one step
/// has them all for multiples up to `most`.
fn on_one_step<const L: usize>(
    offset: &Lanes<L>,
    scale: &Lanes<L>,
    free: &[usize; L],
    most: f32,
    unit: Unit,
) -> Option<Lanes<L>> {
    /// Numbers of 24 bits were rounded a few times.
    const SAME: f32 = 1.0 / (1u32 << 19) as f32;
    let lower = |l: usize, levels: usize| offset[l] - scale[l] * levels as f32;
    if offset.iter().all(|o| *o == 0.0) {
        return None;
    }
    let far = (0..L).max_by(|&a, &b| offset[b].total_cmp(&offset[a]))?;
    let times = |l: usize, step: f32| {
        let on = |levels: &usize| {
            let times = -lower(l, *levels) / step;
            times <= most && (times - round(times)).abs() <= SAME * times
        };
        (0..=free[l]).find(on).map(|levels| lower(l, levels))
    };
    (0..=free[far]).flat_map(|levels| (1..=most as usize).map(move |n| (levels, n))).find_map(|(levels, n)| {
        let wanted = -lower(far, levels) / n as f32;
        let step = unit.snap(wanted);
        if (step - wanted).abs() > SAME * step {
            return None;
        }
        let mut found = [0.0; L];
        for (l, found) in found.iter_mut().enumerate() {
            *found = times(l, step)?;
        }
        Some(found)
    })
}
