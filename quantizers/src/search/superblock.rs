//! The search for a super-block: 256 weights in 8 or 16 groups, whose scales (and offsets) are small integers times one
//! step (and one offset step).
//!
//! First every group is fitted alone. How fast its loss grows as the scale is moved is known from the same sums, so
//! the step is chosen, out of many, for the least loss that rounding the scales to integers brings. An offset can make
//! good part of what rounding its scale broke, hence offsets are rounded second, to where they are best beside
//! the rounded scale. Then, in turn: every group tries neighbouring integers, each with the codes that are nearest on
//! that very grid; and both steps are solved for by least squares over the whole super-block.

use super::groups::{Fit, Snap, search, squares, totals};
use super::lanes::{LANES, Lanes, clamp, each, inverse, ratio, round, sum};
use super::{F16_VANISHING, Levels, Offset, Unit, error_weights, finite_f16, max_abs, stretch, unit};
use crate::grid::{MAX_GROUPS, Parts};

/// Weights of a super-block.
pub(crate) const N: usize = 256;

/// A format whose groups share steps.
pub(crate) trait Super: Levels {
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

impl Snap for Free {
    #[inline(always)]
    fn snap(&self, scale: Lanes, offset: Lanes) -> (Lanes, Lanes) {
        (scale, offset)
    }
}

const MAX_TILES: usize = MAX_GROUPS / LANES;
const MAX_LEN: usize = 32;

/// Up to eight groups side by side, and the integers chosen for them.
#[derive(Clone, Copy)]
struct Tile {
    x: [Lanes; MAX_LEN],
    w: [Lanes; MAX_LEN],
    total: Lanes,
    fit: Fit,
    scales: Lanes,
    offsets: Lanes,
}

/// The steps and integers found for a super-block.
#[inline(always)]
pub(crate) fn fit<T: Super>(x: &[f32; N], importance: &[f32; N]) -> Parts {
    let unit = unit(max_abs(x), F16_VANISHING);
    let mut scaled = [0.0; N];
    for (s, x) in scaled.iter_mut().zip(x) {
        *s = x * unit.up;
    }
    let mut w = [0.0; N];
    error_weights(importance, &mut w);

    let (tiles, len) = (T::GROUPS / LANES, N / T::GROUPS);
    let zero = [0.0; LANES];
    let empty = Fit::at::<T>(&[], &[], zero, zero);
    let blank = Tile { x: [zero; MAX_LEN], w: [zero; MAX_LEN], total: zero, fit: empty, scales: zero, offsets: zero };
    let mut tiles_of = [blank; MAX_TILES];
    let tiles = &mut tiles_of[..tiles];
    for (t, tile) in tiles.iter_mut().enumerate() {
        for l in 0..LANES {
            let from = (t * LANES + l) * len;
            for i in 0..len {
                tile.x[i][l] = scaled[from + i];
                tile.w[i][l] = w[from + i];
            }
        }
        tile.total = totals(&tile.w[..len]);
        tile.fit = search::<T>(&tile.x[..len], &tile.w[..len], &tile.total, &Free);
    }
    let (step, offset_step) = refine::<T>(tiles, unit, len);

    let (mut square, mut loss) = (zero, zero);
    for tile in tiles.iter() {
        let squares = squares(&tile.x[..len], &tile.w[..len]);
        square = each(|l| square[l] + squares[l]);
        loss = each(|l| loss[l] + tile.fit.moments.loss[l]);
    }
    let by = stretch(sum(&square), sum(&loss)) * unit.down;
    let (step, offset_step) = (finite_f16(step * by), finite_f16(offset_step * by));
    let mut parts = Parts { step, offset_step, scales: [0; MAX_GROUPS], offsets: [0; MAX_GROUPS] };
    for (t, tile) in tiles.iter().enumerate() {
        for l in 0..LANES {
            parts.scales[t * LANES + l] = tile.scales[l] as i8;
            parts.offsets[t * LANES + l] = tile.offsets[l] as u8;
        }
    }
    parts
}

/// Chooses steps and integers for groups that were fitted alone; leaves the integers in the tiles.
#[inline(always)]
fn refine<T: Super>(tiles: &mut [Tile], unit: Unit, len: usize) -> (f32, f32) {
    let mut wanted = [([0.0; LANES], [0.0; LANES]); MAX_TILES];
    for (wanted, tile) in wanted.iter_mut().zip(tiles.iter()) {
        let m = &tile.fit.moments;
        // With the offset free to follow, the loss grows with the variance of the levels.
        let cost = if T::OFFSET == Offset::None { m.qq } else { each(|l| m.qq[l] - m.q[l] * (m.q[l] / tile.total[l])) };
        *wanted = (tile.fit.scale, cost);
    }
    let mut step = choose_step(&wanted[..tiles.len()], T::SCALES.0, T::SCALES.1, unit);
    for (wanted, tile) in wanted.iter_mut().zip(tiles.iter_mut()) {
        tile.scales = integers(&tile.fit.scale, step, T::SCALES);
        *wanted = (each(|l| -offset_beside(tile, l, step * tile.scales[l])), tile.total);
    }
    let mut offset_step = 0.0;
    if T::OFFSET != Offset::None {
        offset_step = choose_step(&wanted[..tiles.len()], 0.0, T::OFFSETS, unit);
    }
    for (wanted, tile) in wanted.iter().zip(tiles.iter_mut()) {
        if T::OFFSET != Offset::None {
            tile.offsets = integers(&wanted.0, offset_step, (0.0, T::OFFSETS));
        }
        tile.fit = at_integers::<T>(tile, len, &tile.scales, &tile.offsets, step, offset_step);
    }
    for _ in 0..T::REFINEMENTS {
        for tile in tiles.iter_mut() {
            try_neighbours::<T>(tile, len, step, offset_step);
        }
        solve_steps::<T>(tiles, len, &mut step, &mut offset_step, unit);
    }
    (step, offset_step)
}

/// The best offset of a lane if its scale becomes `scale` and the codes stay.
#[inline(always)]
fn offset_beside(tile: &Tile, l: usize, scale: f32) -> f32 {
    let m = &tile.fit.moments;
    tile.fit.offset[l] + (m.e[l] - m.q[l] * (scale - tile.fit.scale[l])) / tile.total[l]
}

/// The best scale of a lane if its offset becomes `offset` and the codes stay.
#[inline(always)]
fn scale_beside(tile: &Tile, l: usize, offset: f32) -> f32 {
    let m = &tile.fit.moments;
    tile.fit.scale[l] + ratio(m.eq[l] - m.q[l] * (offset - tile.fit.offset[l]), m.qq[l])
}

#[inline(always)]
fn at_integers<T: Super>(tile: &Tile, len: usize, scales: &Lanes, offsets: &Lanes, step: f32, offset_step: f32) -> Fit {
    let scale = each(|l| step * scales[l]);
    let offset = each(|l| -(offset_step * offsets[l]));
    Fit::at::<T>(&tile.x[..len], &tile.w[..len], scale, offset)
}

/// How many steps are looked at: from the one that gives the largest scale the largest integer, up to one that gives it
/// about three quarters of that. Three times as many lower the loss by 0.3 % (Q4_K, Q6_K) or nothing (Q2_K, Q3_K), for a
/// quarter more time.
const STEPS: usize = 8;

/// The step (a finite F16 in true size) for which `sum of cost * (wanted - step * integer)^2` is least.
#[inline(always)]
fn choose_step(wanted: &[(Lanes, Lanes)], low: f32, high: f32, unit: Unit) -> f32 {
    let mut top = 0.0f32;
    for v in wanted.iter().flat_map(|(wanted, _)| wanted) {
        top = if v.abs() > top.abs() { *v } else { top };
    }
    let (mut best, mut least) = (0.0, f32::INFINITY);
    for k in 0..STEPS {
        for end in [high, low] {
            if end == 0.0 {
                continue;
            }
            let mut step = top / (end * (1.0 + 0.01 - 0.25 * k as f32 / STEPS as f32));
            for _ in 0..2 {
                step = unit.snap(step);
                let (loss, change) = rounding_loss(wanted, low, high, step);
                if loss < least {
                    (best, least) = (step, loss);
                }
                step += change;
            }
        }
    }
    best
}

/// `sum of cost * (wanted - step * integer)^2` with the nearest integers, and what to add to the step for less with those.
#[inline(always)]
fn rounding_loss(wanted: &[(Lanes, Lanes)], low: f32, high: f32, step: f32) -> (f32, f32) {
    let by = inverse(step);
    let (mut loss, mut along, mut square) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for (wanted, cost) in wanted {
        for l in 0..LANES {
            let integer = round(clamp(wanted[l] * by, low, high));
            let error = wanted[l] - step * integer;
            loss[l] += cost[l] * error * error;
            along[l] += cost[l] * error * integer;
            square[l] += cost[l] * integer * integer;
        }
    }
    (sum(&loss), ratio(sum(&along), sum(&square)))
}

/// Every group tries the integers next to its own, with the nearest codes on each of those grids.
#[inline(always)]
fn try_neighbours<T: Super>(tile: &mut Tile, len: usize, step: f32, offset_step: f32) {
    for change in [0.0, 1.0, -1.0] {
        // What least squares would have for the codes at hand, then one up, one down.
        let (wanted, _) = tile.fit.solve::<T>(&tile.total);
        let scales = if change == 0.0 {
            integers(&wanted, step, T::SCALES)
        } else {
            each(|l| clamp(tile.scales[l] + change, T::SCALES.0, T::SCALES.1))
        };
        let mut offsets = tile.offsets;
        if T::OFFSET != Offset::None {
            let wanted = each(|l| -offset_beside(tile, l, step * scales[l]));
            offsets = integers(&wanted, offset_step, (0.0, T::OFFSETS));
        }
        attempt::<T>(tile, len, scales, offsets, step, offset_step);
    }
    if T::OFFSET != Offset::None {
        for change in [1.0, -1.0] {
            let offsets = each(|l| clamp(tile.offsets[l] + change, 0.0, T::OFFSETS));
            let wanted = each(|l| scale_beside(tile, l, -(offset_step * offsets[l])));
            attempt::<T>(tile, len, integers(&wanted, step, T::SCALES), offsets, step, offset_step);
        }
    }
}

/// The nearest multiples of a step.
#[inline(always)]
fn integers(wanted: &Lanes, step: f32, (low, high): (f32, f32)) -> Lanes {
    let by = inverse(step);
    each(|l| round(clamp(wanted[l] * by, low, high)))
}

/// Takes these integers in the lanes where they are better.
#[inline(always)]
fn attempt<T: Super>(tile: &mut Tile, len: usize, scales: Lanes, offsets: Lanes, step: f32, offset_step: f32) {
    let fit = at_integers::<T>(tile, len, &scales, &offsets, step, offset_step);
    let better = tile.fit.take_better(&fit);
    for l in 0..LANES {
        tile.scales[l] = if better[l] { scales[l] } else { tile.scales[l] };
        tile.offsets[l] = if better[l] { offsets[l] } else { tile.offsets[l] };
    }
}

/// The steps that are best for the integers and codes at hand; kept if the loss with the nearest codes is smaller.
#[inline(always)]
fn solve_steps<T: Super>(tiles: &mut [Tile], len: usize, step: &mut f32, offset_step: &mut f32, unit: Unit) {
    let zero = [0.0; LANES];
    let (mut a, mut b, mut ab, mut ae, mut be, mut before) = (zero, zero, zero, zero, zero, zero);
    for tile in tiles.iter() {
        let m = &tile.fit.moments;
        for l in 0..LANES {
            let (s, o) = (tile.scales[l], tile.offsets[l]);
            before[l] += m.loss[l];
            a[l] += s * s * m.qq[l];
            ae[l] += s * m.eq[l];
            if T::OFFSET != Offset::None {
                b[l] += o * o * tile.total[l];
                ab[l] -= s * o * m.q[l];
                be[l] -= o * m.e[l];
            }
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
    let mut fits = [tiles[0].fit; MAX_TILES];
    let mut after = zero;
    for (fit, tile) in fits.iter_mut().zip(tiles.iter()) {
        *fit = at_integers::<T>(tile, len, &tile.scales, &tile.offsets, new_step, new_offset_step);
        after = each(|l| after[l] + fit.moments.loss[l]);
    }
    if sum(&after) < sum(&before) {
        (*step, *offset_step) = (new_step, new_offset_step);
        for (fit, tile) in fits.iter().zip(tiles.iter_mut()) {
            tile.fit = *fit;
        }
    }
}
