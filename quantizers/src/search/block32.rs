//! The search for blocks of 32 weights, each with a scale (and an offset) of its own: eight blocks side by side.

use std::marker::PhantomData;

use super::groups::{Snap, search, squares, totals};
use super::lanes::{LANES, Lanes, each};
use super::{Effort, F16_VANISHING, LevelSet, Offset, Unit, error_weights, finite_f16, max_abs, stretch, unit};

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
}

/// Eight blocks' own units, and the type that stores their scales.
struct Stored<T>([Unit; LANES], PhantomData<T>);

impl<T: Single> Snap<LANES> for Stored<T> {
    #[inline(always)]
    fn snap(&self, scale: Lanes, offset: Lanes) -> (Lanes, Lanes) {
        let units = &self.0;
        let scale = each(|l| T::storable(scale[l] * units[l].down) * units[l].up);
        (scale, if T::OFFSET == Offset::None { offset } else { each(|l| units[l].snap(offset[l])) })
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
    let mut units = [Unit { up: 0.0, down: 0.0 }; LANES];
    for (l, (x, importance)) in x.iter().zip(importance).enumerate() {
        units[l] = unit(max_abs(x), T::VANISHING);
        let (mut scaled, mut w) = ([0.0; N], [0.0; N]);
        for (s, x) in scaled.iter_mut().zip(x) {
            *s = x * units[l].up;
        }
        error_weights(importance, &mut w);
        for i in 0..N {
            xs[i][l] = scaled[i];
            ws[i][l] = w[i];
        }
    }
    let fit = search::<T, LANES>(&xs, &ws, &totals(&ws), &Stored::<T>(units, PhantomData), Effort::FULL);
    let squares = squares(&xs, &ws);
    let by: Lanes = each(|l| stretch(squares[l], fit.moments.loss[l]) * units[l].down);
    (each(|l| T::storable(fit.scale[l] * by[l])), each(|l| finite_f16(fit.offset[l] * by[l])))
}
