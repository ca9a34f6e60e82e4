//! The search for blocks of 32 weights, each with a scale (and an offset) of its own: eight blocks side by side.

use std::array::from_fn;
use std::marker::PhantomData;

use super::groups::{Fit, Found, Snap, range, search, totals};
use super::lanes::{LANES, Lanes, each};
use super::{Effort, F16_MIN, F16_VANISHING, LevelSet, Offset, Unit};
use super::{SMALLEST, bearable, error_weights, finite_f16, max_abs, small, stretch, unit};

/// Weights of a block.
pub(crate) const N: usize = 32;

/// A format of blocks of 32.
pub(crate) trait Single: LevelSet {
    /// Blocks whose largest magnitude is below this are stored as zeros.
    const VANISHING: f32 = F16_VANISHING;

    /// The number nearest to `scale` that the block can store.
    #[inline(always)]
    fn storable(scale: f32) -> f32 {
        finite_f16(scale)
    }

    /// Blocks whose unit is beyond this have [the smallest scales tried](try_smallest).
    const SMALL: f32 = small(Self::HIGH - Self::LOW);
}

/// Eight blocks' own units, and the type that stores their scales.
struct Stored<T> {
    up: Lanes,
    down: Lanes,
    format: PhantomData<T>,
}

impl<T: Single> Snap<LANES> for Stored<T> {
    #[inline(always)]
    fn snap(&self, scale: Lanes, offset: Lanes) -> (Lanes, Lanes) {
        let scale = each(|l| T::storable(scale[l] * self.down[l]) * self.up[l]);
        if T::OFFSET == Offset::None {
            return (scale, offset);
        }
        (scale, each(|l| finite_f16(offset[l] * self.down[l]) * self.up[l]))
    }
}

/// Scale and offset, as stored, of at most eight blocks. `importance`: of each block. Lanes without a block hold
/// nothing of use.
#[inline(always)]
pub(crate) fn fit<'a, T: Single>(
    x: &[[f32; N]],
    importance: &mut impl Iterator<Item = &'a [f32; N]>,
) -> ([f32; LANES], [f32; LANES]) {
    let zero = [0.0; LANES];
    let (mut xs, mut ws) = ([zero; N], [[1.0; LANES]; N]);
    let mut stored = Stored::<T> { up: zero, down: zero, format: PhantomData };
    for (l, (x, importance)) in x.iter().zip(importance).enumerate() {
        Unit { up: stored.up[l], down: stored.down[l] } = unit(max_abs(x), T::VANISHING);
        let (mut scaled, mut w) = ([0.0; N], [0.0; N]);
        for (s, x) in scaled.iter_mut().zip(x) {
            *s = x * stored.up[l];
        }
        error_weights(importance, &mut w);
        for i in 0..N {
            xs[i][l] = scaled[i];
            ws[i][l] = w[i];
        }
    }
    let total = totals(&ws);
    let mut found = search::<T, LANES>(&xs, &ws, &total, &stored, Effort::FULL);
    let small: [bool; LANES] = from_fn(|l| stored.up[l] > T::SMALL);
    if small != [false; LANES] {
        try_smallest::<T>(&xs, &ws, &total, &stored, &small, &mut found.fit);
    }
    give_back::<T>(&found, &total, &stored)
}

/// Tries the [smallest](SMALLEST) scales in the lanes that are named.
#[cold]
#[inline(never)]
fn try_smallest<T: Single>(
    x: &[Lanes; N],
    w: &[Lanes; N],
    total: &Lanes,
    stored: &Stored<T>,
    small: &[bool; LANES],
    best: &mut Fit<LANES>,
) {
    let (low, high) = range(x);
    for k in 0..2 * SMALLEST {
        let times = F16_MIN * (1 + k / 2) as f32;
        let first = k % 2 == 0;
        let scale: Lanes = each(|l| stored.up[l] * if first || T::OFFSET != Offset::None { times } else { -times });
        let mut offset: Lanes = each(|l| if first { low[l] - scale[l] * T::LOW } else { high[l] - scale[l] * T::HIGH });
        for _ in 0..if T::OFFSET == Offset::None { 1 } else { T::ROUNDS } {
            offset = if T::OFFSET == Offset::None { [0.0; LANES] } else { stored.snap(scale, offset).1 };
            let fit = Fit::at::<T>(x, w, scale, offset);
            best.take::<T>(&fit, &from_fn(|l| small[l] && fit.moments.loss[l] < best.moments.loss[l]));
            offset = each(|l| offset[l] + fit.moments.e[l] / total[l]);
        }
    }
}

/// Scale and offset in true size, [stretched](stretch) where that is bearable. Inlined it would spoil the search's
/// code.
#[inline(never)]
fn give_back<T: Single>(found: &Found<LANES>, total: &Lanes, stored: &Stored<T>) -> (Lanes, Lanes) {
    let Stored { up, down, .. } = stored;
    let (fit, loss) = (&found.fit, &found.fit.moments.loss);
    let by: Lanes = each(|l| stretch(found.square[l], loss[l]) * down[l]);
    let mut scale: Lanes = each(|l| T::storable(fit.scale[l] * by[l]));
    let mut offset: Lanes = each(|l| finite_f16(fit.offset[l] * by[l]));
    let stretched = fit.loss_beside::<T>(&each(|l| scale[l] * up[l]), &each(|l| offset[l] * up[l]), total);
    for l in 0..LANES {
        let keep = bearable(found.square[l], loss[l], stretched[l]);
        scale[l] = if keep { scale[l] } else { fit.scale[l] * down[l] };
        offset[l] = if keep { offset[l] } else { fit.offset[l] * down[l] };
    }
    (scale, offset)
}
