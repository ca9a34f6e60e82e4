//! The search for a super-block: 256 weights in 8 or 16 groups, whose scales (and offsets) are small integers times one
//! step (and one offset step).
//!
//! First every group is fitted alone. How fast its loss grows as the scale is moved is known from the same sums, so
//! the step is chosen, out of many, for the least loss that rounding the scales to integers brings. An offset can make
//! good part of what rounding its scale broke, hence offsets are rounded second, to where they are best beside
//! the rounded scale. Then, in turn: every group tries neighbouring integers, each with the codes that are nearest on
//! that very grid; and both steps are solved for by least squares over the whole super-block.

use super::grid;
use super::groups::{Fit, Found, Snap, range, search, totals};
use super::lanes::{Lanes, clamp, each, inverse, max, ratio, round, sum};
use super::{EXACT, Effort, F16_MIN, F16_VANISHING, LevelSet, Offset, SMALLEST, Unit};
use super::{bearable, error_weights, finite_f16, max_abs, small, stretch, unit};
use crate::grid::{MAX_GROUPS, SuperScales};

/// Weights of a super-block.
pub(crate) const N: usize = 256;

/// A format whose groups share steps.
pub(crate) trait Super: LevelSet {
    /// Groups, 8 or 16.
    const GROUPS: usize;
    /// Smallest and largest integer for a scale.
    const SCALES: (f32, f32);
    /// Largest integer for an offset; they begin at zero.
    const OFFSETS: f32;
    /// Rounds of trying neighbours and solving for the steps.
    const REFINEMENTS: usize;
}

/// A group's own scale and offset are not stored, so any will do.
struct Free;

impl<const L: usize> Snap<L> for Free {
    #[inline(always)]
    fn snap(&self, scale: Lanes<L>, offset: Lanes<L>) -> (Lanes<L>, Lanes<L>) {
        (scale, offset)
    }
}

/// What squared errors in the columns of a super-block count, group beside group: the same for all rows.
struct Weights<const L: usize, const LEN: usize> {
    w: [Lanes<L>; LEN],
    /// Of each group.
    total: Lanes<L>,
}

impl<const L: usize, const LEN: usize> Weights<L, LEN> {
    #[inline(always)]
    fn new(importance: &[f32; N]) -> Self {
        let mut weights = [0.0; N];
        error_weights(importance, &mut weights);
        let w = side_by_side(&weights);
        Weights { w, total: totals(&w) }
    }
}

/// A super-block's groups side by side, and the integers chosen for them.
struct Tile<'a, const L: usize, const LEN: usize> {
    x: [Lanes<L>; LEN],
    w: &'a [Lanes<L>; LEN],
    total: &'a Lanes<L>,
    fit: Fit<L>,
    scales: Lanes<L>,
    offsets: Lanes<L>,
}

/// Hands out the steps and integers found for each super-block.
///
/// `x`: whole rows of super-blocks; `importance`: of the columns of a row; `done`: told the super-block's place in `x`.
#[inline(always)]
pub(crate) fn fit_all<T: Super>(x: &[f32], importance: &[f32], effort: Effort, done: impl FnMut(usize, SuperScales)) {
    match T::GROUPS {
        8 => fit_rows::<T, 8, { N / 8 }>(x, importance, effort, done),
        16 => fit_rows::<T, 16, { N / 16 }>(x, importance, effort, done),
        other => unreachable!("{other} groups"),
    }
}

/// [`fit_all`] for `L` groups of `LEN` weights.
#[inline(always)]
fn fit_rows<T: Super, const L: usize, const LEN: usize>(
    x: &[f32],
    importance: &[f32],
    effort: Effort,
    mut done: impl FnMut(usize, SuperScales),
) {
    let columns: Vec<Weights<L, LEN>> = importance.as_chunks::<N>().0.iter().map(Weights::new).collect();
    for (at, (x, weights)) in x.as_chunks::<N>().0.iter().zip(columns.iter().cycle()).enumerate() {
        done(at, fit_groups::<T, L, LEN>(x, weights, effort));
    }
}

/// `L` groups of `LEN` numbers, a number of each beside those of the others.
#[inline(always)]
fn side_by_side<const L: usize, const LEN: usize>(x: &[f32; N]) -> [Lanes<L>; LEN] {
    let mut out = [[0.0; L]; LEN];
    for l in 0..L {
        for i in 0..LEN {
            out[i][l] = x[l * LEN + i];
        }
    }
    out
}

/// The steps and integers of one super-block.
#[inline(always)]
fn fit_groups<T: Super, const L: usize, const LEN: usize>(
    x: &[f32; N],
    weights: &Weights<L, LEN>,
    effort: Effort,
) -> SuperScales {
    let unit = unit(max_abs(x), F16_VANISHING);
    let mut xs = side_by_side(x);
    for x in xs.as_flattened_mut() {
        *x *= unit.up;
    }
    let zero = [0.0; L];
    let Weights { w, total } = weights;
    let Found { fit, square } = search::<T, L>(&xs, w, total, &Free, effort);
    let square = sum(&square);
    let mut tile = Tile { x: xs, w, total, fit, scales: zero, offsets: zero };
    let most = EXACT * square;
    let mut exact = sum(&tile.fit.moments.loss) <= most;
    if exact || grid::suspected::<T, L, LEN>(&tile.x) {
        exact |= grid::take::<T, L, LEN>(&tile.x, tile.w, tile.total, most, (T::OFFSETS, unit), &mut tile.fit);
    }
    let mut steps = refine::<T, L, LEN>(&mut tile, unit, effort, exact);
    if unit.up > small(T::HIGH - T::LOW) {
        try_smallest::<T, L, LEN>(&mut tile, &mut steps, unit);
    }
    let (step, offset_step) = give_back::<T, L, LEN>(&tile, steps, square, unit);
    let mut parts = SuperScales { step, offset_step, scales: [0; MAX_GROUPS], offsets: [0; MAX_GROUPS] };
    for l in 0..L {
        parts.scales[l] = tile.scales[l] as i8;
        parts.offsets[l] = tile.offsets[l] as u8;
    }
    parts
}

/// Tries the [smallest](SMALLEST) scales of groups on the smallest steps there are; takes them if they are better.
#[cold]
#[inline(never)]
fn try_smallest<T: Super, const L: usize, const LEN: usize>(
    tile: &mut Tile<L, LEN>,
    steps: &mut (f32, f32),
    unit: Unit,
) {
    let (step, zero) = (F16_MIN * unit.up, [0.0; L]);
    let (low, high) = range(&tile.x);
    let mut best = Tile { fit: tile.fit, scales: zero, offsets: zero, ..*tile };
    best.fit = at_integers::<T, L, LEN>(&best, &zero, &zero, step, step);
    for k in 0..2 * SMALLEST {
        let (times, first) = ((1 + k / 2) as f32, k % 2 == 0);
        let scales = [if first || T::OFFSET != Offset::None { times } else { -times }; L];
        let end = if first { T::LOW } else { T::HIGH } * times * step;
        let mut wanted: Lanes<L> = each(|l| end - if first { low[l] } else { high[l] });
        for _ in 0..if T::OFFSET == Offset::None { 1 } else { T::ROUNDS } {
            let offsets = integers(&wanted, step, (0.0, T::OFFSETS));
            let fit = at_integers::<T, L, LEN>(&best, &scales, &offsets, step, step);
            wanted = each(|l| -(fit.offset[l] + fit.moments.e[l] / tile.total[l]));
            let better = best.fit.take_better::<T>(&fit);
            for l in (0..L).filter(|&l| better[l]) {
                (best.scales[l], best.offsets[l]) = (scales[l], offsets[l]);
            }
        }
    }
    if sum(&best.fit.moments.loss) < sum(&tile.fit.moments.loss) {
        let offset_step = if T::OFFSET == Offset::None { 0.0 } else { step };
        (*tile, *steps) = (best, (step, offset_step));
    }
}

/// Both steps in true size, [stretched](stretch) where that is bearable.
#[inline(always)]
fn give_back<T: Super, const L: usize, const LEN: usize>(
    tile: &Tile<L, LEN>,
    (step, offset_step): (f32, f32),
    square: f32,
    unit: Unit,
) -> (f32, f32) {
    let loss = sum(&tile.fit.moments.loss);
    let by = stretch(square, loss) * unit.down;
    let (larger, larger_offset) = (finite_f16(step * by), finite_f16(offset_step * by));
    let scale = each(|l| larger * unit.up * tile.scales[l]);
    let offset = each(|l| -(larger_offset * unit.up * tile.offsets[l]));
    match bearable(square, loss, sum(&tile.fit.loss_beside::<T>(&scale, &offset, tile.total))) {
        true => (larger, larger_offset),
        false => (step * unit.down, offset_step * unit.down),
    }
}

/// Chooses steps and integers for groups that were fitted alone; leaves the integers in the tile. `exact`: each group
/// lies on its grid.
#[inline(always)]
fn refine<T: Super, const L: usize, const LEN: usize>(
    tile: &mut Tile<L, LEN>,
    unit: Unit,
    effort: Effort,
    exact: bool,
) -> (f32, f32) {
    let m = &tile.fit.moments;
    // With the offset free to follow, the loss grows with the variance of the levels.
    let cost = if T::OFFSET == Offset::None { m.qq } else { each(|l| m.qq[l] - m.q[l] * (m.q[l] / tile.total[l])) };
    let mut step = choose_step(&tile.fit.scale, &cost, T::SCALES, unit, exact);
    tile.scales = integers(&tile.fit.scale, step, T::SCALES);
    let mut offset_step = 0.0;
    if T::OFFSET != Offset::None {
        let wanted: Lanes<L> = each(|l| -offset_beside(tile, l, step * tile.scales[l]));
        offset_step = choose_step(&wanted, tile.total, (0.0, T::OFFSETS), unit, exact);
        tile.offsets = integers(&wanted, offset_step, (0.0, T::OFFSETS));
    }
    tile.fit = at_integers::<T, L, LEN>(tile, &tile.scales, &tile.offsets, step, offset_step);
    for _ in 0..T::REFINEMENTS.min(effort.refinements) {
        try_neighbours::<T, L, LEN>(tile, step, offset_step);
        solve_steps::<T, L, LEN>(tile, &mut step, &mut offset_step, unit);
    }
    (step, offset_step)
}

/// The best offset of a lane if its scale becomes `scale` and the codes stay.
#[inline(always)]
fn offset_beside<const L: usize, const LEN: usize>(tile: &Tile<L, LEN>, l: usize, scale: f32) -> f32 {
    let m = &tile.fit.moments;
    tile.fit.offset[l] + (m.e[l] - m.q[l] * (scale - tile.fit.scale[l])) / tile.total[l]
}

/// The best scale of a lane if its offset becomes `offset` and the codes stay.
#[inline(always)]
fn scale_beside<const L: usize, const LEN: usize>(tile: &Tile<L, LEN>, l: usize, offset: f32) -> f32 {
    let m = &tile.fit.moments;
    tile.fit.scale[l] + ratio(m.eq[l] - m.q[l] * (offset - tile.fit.offset[l]), m.qq[l])
}

#[inline(always)]
fn at_integers<T: Super, const L: usize, const LEN: usize>(
    tile: &Tile<L, LEN>,
    scales: &Lanes<L>,
    offsets: &Lanes<L>,
    step: f32,
    offset_step: f32,
) -> Fit<L> {
    let scale = each(|l| step * scales[l]);
    let offset = each(|l| -(offset_step * offsets[l]));
    Fit::at::<T>(&tile.x, tile.w, scale, offset)
}

/// How many steps are looked at: from the one that gives the largest scale the largest integer, up to one that gives it
/// about three quarters of that. Three times as many lower the loss by 0.3 % (Q4_K, Q6_K) or nothing (Q2_K, Q3_K), for
/// a quarter more time.
const STEPS: usize = 8;

/// The step (a finite F16 in true size) for which `sum of cost * (wanted - step * integer)^2` is least. `exact`: what
/// is wanted are whole numbers of one step, so that each integer is tried for the largest.
#[inline(always)]
fn choose_step<const L: usize>(
    wanted: &Lanes<L>,
    cost: &Lanes<L>,
    (low, high): (f32, f32),
    unit: Unit,
    exact: bool,
) -> f32 {
    let mut top = 0.0f32;
    for v in wanted {
        top = if v.abs() > top.abs() { *v } else { top };
    }
    let (mut best, mut least) = (0.0, f32::INFINITY);
    for end in [high, low] {
        if end == 0.0 {
            continue;
        }
        let rounds = if exact { 2 + (end.abs() as usize).div_ceil(STEPS) } else { 2 };
        let mut steps: Lanes<STEPS> = each(|k| top / (end * (1.0 + 0.01 - 0.25 * k as f32 / STEPS as f32)));
        for round in 0..rounds {
            steps = each(|k| unit.snap_nonzero(steps[k]));
            let (losses, changes) = rounding_losses(wanted, cost, (low, high), &steps);
            for k in 0..STEPS {
                (best, least) = if losses[k] < least { (steps[k], losses[k]) } else { (best, least) };
                steps[k] += changes[k];
            }
            if round > 0 {
                let whole = |k: usize| max(end.abs() - ((round - 1) * STEPS + k) as f32, 1.0);
                steps = each(|k| top / whole(k).copysign(end));
            }
        }
    }
    best
}

/// For several steps side by side: `sum of cost * (wanted - step * integer)^2` with the nearest integers, and what to
/// add to the step for less with those.
#[inline(always)]
fn rounding_losses<const L: usize>(
    wanted: &Lanes<L>,
    cost: &Lanes<L>,
    (low, high): (f32, f32),
    steps: &Lanes<STEPS>,
) -> (Lanes<STEPS>, Lanes<STEPS>) {
    let by: Lanes<STEPS> = each(|k| inverse(steps[k]));
    let (mut loss, mut along, mut square) = ([0.0; STEPS], [0.0; STEPS], [0.0; STEPS]);
    for (wanted, cost) in wanted.iter().zip(cost) {
        for k in 0..STEPS {
            let integer = round(clamp(wanted * by[k], low, high));
            let error = wanted - steps[k] * integer;
            loss[k] += cost * error * error;
            along[k] += cost * error * integer;
            square[k] += cost * integer * integer;
        }
    }
    (loss, each(|k| ratio(along[k], square[k])))
}

/// Every group tries the integers next to its own, with the nearest codes on each of those grids.
#[inline(always)]
fn try_neighbours<T: Super, const L: usize, const LEN: usize>(tile: &mut Tile<L, LEN>, step: f32, offset_step: f32) {
    for change in [0.0, 1.0, -1.0] {
        // What least squares would have for the codes at hand, then one up, one down.
        let (wanted, _) = tile.fit.solve::<T>(tile.total);
        let scales: Lanes<L> = if change == 0.0 {
            integers(&wanted, step, T::SCALES)
        } else {
            each(|l| clamp(tile.scales[l] + change, T::SCALES.0, T::SCALES.1))
        };
        let mut offsets = tile.offsets;
        if T::OFFSET != Offset::None {
            let wanted: Lanes<L> = each(|l| -offset_beside(tile, l, step * scales[l]));
            offsets = integers(&wanted, offset_step, (0.0, T::OFFSETS));
        }
        attempt::<T, L, LEN>(tile, scales, offsets, step, offset_step);
    }
    if T::OFFSET != Offset::None {
        for change in [1.0, -1.0] {
            let offsets: Lanes<L> = each(|l| clamp(tile.offsets[l] + change, 0.0, T::OFFSETS));
            let wanted: Lanes<L> = each(|l| scale_beside(tile, l, -(offset_step * offsets[l])));
            attempt::<T, L, LEN>(tile, integers(&wanted, step, T::SCALES), offsets, step, offset_step);
        }
    }
}

/// The nearest multiples of a step.
#[inline(always)]
fn integers<const L: usize>(wanted: &Lanes<L>, step: f32, (low, high): (f32, f32)) -> Lanes<L> {
    let by = inverse(step);
    each(|l| round(clamp(wanted[l] * by, low, high)))
}

/// Takes these integers in the lanes where they are better.
#[inline(always)]
fn attempt<T: Super, const L: usize, const LEN: usize>(
    tile: &mut Tile<L, LEN>,
    scales: Lanes<L>,
    offsets: Lanes<L>,
    step: f32,
    offset_step: f32,
) {
    let fit = at_integers::<T, L, LEN>(tile, &scales, &offsets, step, offset_step);
    let better = tile.fit.take_better::<T>(&fit);
    for l in 0..L {
        tile.scales[l] = if better[l] { scales[l] } else { tile.scales[l] };
        tile.offsets[l] = if better[l] { offsets[l] } else { tile.offsets[l] };
    }
}

/// The steps that are best for the integers and codes at hand; kept if the loss with the nearest codes is smaller.
#[inline(always)]
fn solve_steps<T: Super, const L: usize, const LEN: usize>(
    tile: &mut Tile<L, LEN>,
    step: &mut f32,
    offset_step: &mut f32,
    unit: Unit,
) {
    let zero = [0.0; L];
    let (mut a, mut b, mut ab, mut ae, mut be) = (zero, zero, zero, zero, zero);
    let m = &tile.fit.moments;
    for l in 0..L {
        let (s, o) = (tile.scales[l], tile.offsets[l]);
        a[l] = s * s * m.qq[l];
        ae[l] = s * m.eq[l];
        if T::OFFSET != Offset::None {
            b[l] = o * o * tile.total[l];
            ab[l] = -(s * o * m.q[l]);
            be[l] = -(o * m.e[l]);
        }
    }
    let (a, b, ab, ae, be) = (sum(&a), sum(&b), sum(&ab), sum(&ae), sum(&be));
    let (mut new_step, mut new_offset_step) = (*step, *offset_step);
    let rest = a - ab * ratio(ab, b);
    if rest > 1e-5 * a {
        let change = (ae - ab * ratio(be, b)) / rest;
        new_step += change;
        new_offset_step += ratio(be - ab * change, b);
    }
    let (new_step, new_offset_step) = (unit.snap(new_step), unit.snap(new_offset_step));
    if new_step == *step && new_offset_step == *offset_step {
        return;
    }
    let fit = at_integers::<T, L, LEN>(tile, &tile.scales, &tile.offsets, new_step, new_offset_step);
    if sum(&fit.moments.loss) < sum(&tile.fit.moments.loss) {
        (*step, *offset_step) = (new_step, new_offset_step);
        tile.fit = fit;
    }
}
