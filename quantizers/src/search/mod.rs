//! The weighted scale search: one for every block format.
//!
//! Given weights `x` and the importance of each column it looks for the scales (and offsets) whose grid has the
//! smallest sum of `weight * (x - nearest(x))^2`. That sum has many local minima, one basin for every assignment of
//! codes, so the search is: from several starts, take the nearest codes, solve for the best scale and offset of
//! those codes (weighted least squares), and again ([`groups`]). A super-block then has to express its groups' scales
//! as small integers times a common step: [`superblock`] chooses step and integers by the same sum, not by the
//! distance of the scales, and takes the nearest codes anew for every trial.
//!
//! Eight or sixteen groups are worked on side by side, one in each lane of a vector, so that no sum is ever taken
//! across lanes and the source compiles to the same bytes for every instruction set ([`lanes`]).
//!
//! Everything is computed on weights scaled by a power of two so that the largest is between one and two: squares
//! neither vanish nor overflow, and scaling by powers of two loses nothing.

pub(crate) mod block32;
mod grid;
pub(crate) mod groups;
pub(crate) mod lanes;
pub(crate) mod superblock;

/// What one group's codes can be, and how a search rounds to them.
pub(crate) trait LevelSet: Send + Sync + 'static {
    /// Lowest and highest level.
    const LOW: f32;
    const HIGH: f32;
    /// About the distance between levels at the ends: what starts of a search are spread by.
    const SPACING: f32 = 1.0;
    /// What offsets there are.
    const OFFSET: Offset;
    /// Starts of a group's search: how many spacings the range of levels is taken to be wider than it is (narrower:
    /// negative, which clips the largest weights).
    const STARTS: &'static [f32];
    /// Where to go on from the best found from all starts: factors of its scale, and whether the lowest level keeps its
    /// value, or else the highest.
    const KICKS: &'static [(f32, bool)] = &[];
    /// How often codes and scale are improved in turn from each start.
    const ROUNDS: usize;
    /// How hard to look for grids whose codes will not stay the nearest ones.
    const DRAFT: Effort = Effort::FULL;

    /// The level nearest to `target`; ties may go either way.
    #[inline(always)]
    fn nearest(target: f32) -> f32 {
        lanes::round(lanes::clamp(target, Self::LOW, Self::HIGH))
    }
}

/// Starts and kicks of evenly spaced levels, chosen by the loss on a trained model's weights: the blocks of 32 can
/// afford more of them than the super-blocks. With offsets there are far more local minima, hence more ways on from the
/// best, and the more levels there are the shorter they must be.
pub(crate) const SYMMETRIC_STARTS: &[f32] = &[0.0, 0.7];
pub(crate) const SYMMETRIC_KICKS: &[(f32, bool)] = &[(1.1, true), (0.9, true)];
pub(crate) const MORE_SYMMETRIC_STARTS: &[f32] = &[-0.5, 0.2, 0.9];
pub(crate) const AFFINE_STARTS: &[f32] = &[0.3, 1.2];
pub(crate) const AFFINE_KICKS: &[(f32, bool)] = &[(1.05, true), (0.95, true), (1.05, false), (0.95, false)];
pub(crate) const MORE_AFFINE_KICKS: &[(f32, bool)] = &[
    (1.05, true),
    (0.95, true),
    (1.05, false),
    (0.95, false),
    (1.075, true),
    (0.925, true),
    (1.075, false),
    (0.925, false),
];

/// How hard to look: upper bounds on what a format asks for.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Starts, counted for each end of the levels.
    pub starts: usize,
    pub kicks: usize,
    pub rounds: usize,
    /// Rounds of trying a super-block's neighbouring integers.
    pub refinements: usize,
}

impl Effort {
    pub const FULL: Effort =
        Effort { starts: usize::MAX, kicks: usize::MAX, rounds: usize::MAX, refinements: usize::MAX };
}

/// What offsets a format's groups may have.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Offset {
    /// None: level zero is the number zero.
    None,
    /// Any number.
    Free,
    /// Not above zero, so that zero lies within the range.
    NotPositive,
}

/// Blocks whose largest magnitude is below 2^-26 are stored as zeros where scales are half precision: the smallest,
/// 2^-24, comes no nearer.
pub(crate) const F16_VANISHING: f32 = 1.0 / (1u32 << 26) as f32;

/// The power of two that brings a magnitude to between one and two; zeros for magnitudes below `vanishing`.
#[inline(always)]
pub(crate) fn unit(max_abs: f32, vanishing: f32) -> Unit {
    // At most 2^126, whose inverse is no subnormal.
    let exponent = (max_abs.to_bits() & (0xff << 23)).min(253 << 23);
    if max_abs < vanishing {
        return Unit { up: 0.0, down: 0.0 };
    }
    Unit { up: f32::from_bits((254 << 23) - exponent), down: f32::from_bits(exponent) }
}

/// A power of two that weights were multiplied with (`up`) and its inverse.
#[derive(Clone, Copy)]
pub(crate) struct Unit {
    pub up: f32,
    pub down: f32,
}

/// Largest finite F16, and the smallest above zero.
const F16_MAX: f32 = 65504.0;
const F16_MIN: f32 = 1.0 / (1u32 << 24) as f32;

/// The finite F16 nearest to `x`, the lowest for NaN. Steps that can be taken for several numbers side by side.
#[inline(always)]
pub(crate) fn finite_f16(x: f32) -> f32 {
    let x = lanes::clamp(x, -F16_MAX, F16_MAX);
    // 2^13 times the power of two below it, beside which an F32 has as many places left as an F16: adding it does the
    // rounding. For what half precision has no normal numbers for, the one half beside which 2^-24 is the last place.
    let beside = f32::from_bits((x.to_bits() & 0xff << 23) + (13 << 23));
    let beside = lanes::max(beside, 0.5);
    ((x.abs() + beside) - beside).copysign(x)
}

impl Unit {
    /// The number nearest to `scaled` whose true size is a finite F16, as the decoder will see it.
    #[inline(always)]
    pub fn snap(self, scaled: f32) -> f32 {
        finite_f16(scaled * self.down) * self.up
    }

    /// The same, but zero only for zero: a step of zero holds nothing, the smallest F16 perhaps a little.
    #[inline(always)]
    pub fn snap_nonzero(self, scaled: f32) -> f32 {
        let least = if scaled == 0.0 { 0.0 } else { F16_MIN * self.up };
        self.snap(lanes::max(scaled.abs(), least).copysign(scaled))
    }
}

/// How many of the smallest scales are tried one by one where none larger is needed: a search's steps are too short to
/// get from one to the next.
const SMALLEST: u32 = 8;

/// The unit of weights whose levels, from end to end, are at most [`SMALLEST`] of the smallest F16 apart.
const fn small(range: f32) -> f32 {
    1.0 / (SMALLEST as f32 * F16_MIN * range)
}

/// Columns count at least this much of the mean importance: where importance says nothing (a column whose input was
/// always zero), weights are still rounded sensibly.
const LEAST_IMPORTANCE: f32 = 1e-5;

/// How much of its shrinkage a block gets back.
///
/// Scales by least squares leave the error at right angles to what is stored, which is therefore shorter than the
/// weights, by the error's share of their (weighted) square. All outputs come out too small together, and a network
/// minds that more than an equal error of random signs. Measured with an importance matrix on an 8M-parameter model, KL
/// divergence against giving back nothing: Q2_K -2.6 % at a half and -2.3 % at all of it, Q3_K -0.5 % and -0.1 %, Q4_0
/// -0.2 % and -0.2 %.
const GIVEN_BACK: f32 = 0.5;

/// What to multiply scales and offsets with. `square`, `loss`: weighted sums of the squares of weights and errors.
/// Where less than half of the square is stored, what is given back stays a half.
#[inline(always)]
fn stretch(square: f32, loss: f32) -> f32 {
    1.0 + GIVEN_BACK * lanes::min(lanes::ratio(loss, square - loss), 1.0)
}

/// Whether a stretch may stay, whose loss is `stretched` once scales and offsets are rounded. The smallest scales are
/// far apart: nothing may come out farther from the weights than zeros are, nor twice as far as it was.
#[inline(always)]
fn bearable(square: f32, loss: f32, stretched: f32) -> bool {
    stretched <= lanes::min(square, 2.0 * loss)
}

/// Up to this share of their (weighted) square weights count as lying on a grid: sums are rounded, and so are weights
/// that are stored as BF16, which costs a third of it. Weights that lie on none leave ten times as much with six bits.
const EXACT: f32 = 1e-5;

/// Largest magnitude of whole vectors of weights.
#[inline(always)]
pub(crate) fn max_abs(x: &[f32]) -> f32 {
    let mut tops = [0.0; lanes::LANES];
    for x in x.as_chunks::<{ lanes::LANES }>().0 {
        for l in 0..lanes::LANES {
            tops[l] = lanes::max(x[l].abs(), tops[l]);
        }
    }
    let mut top = 0.0;
    for t in tops {
        top = lanes::max(t, top);
    }
    top
}

/// What a squared error in each column of a block counts: its importance, in units of their mean; ones if that says
/// nothing (all zero, or not finite).
///
/// Making errors of large weights count more, as llama.cpp does (times the root of mean square plus own square), was
/// tried: the error of the outputs, `e^T H e` with the inputs' full second moments `H`, is 1 to 2 % larger.
///
/// Anything that is not a positive number counts as zero.
#[inline(always)]
pub(crate) fn error_weights(importance: &[f32], out: &mut [f32]) {
    let mut top = 0.0f32;
    for &v in importance {
        top = if v > top { v } else { top };
    }
    let usable = top > 0.0 && top.is_finite();
    let mut sums = [0.0f32; lanes::LANES];
    // Divided by the largest first: the sum of large numbers might overflow.
    for (out, v) in
        out.as_chunks_mut::<{ lanes::LANES }>().0.iter_mut().zip(importance.as_chunks::<{ lanes::LANES }>().0)
    {
        for l in 0..lanes::LANES {
            out[l] = if !usable {
                1.0
            } else if v[l] > 0.0 {
                v[l] / top
            } else {
                0.0
            };
            sums[l] += out[l];
        }
    }
    let mean = lanes::sum(&sums) / importance.len() as f32;
    for out in out {
        *out = *out / mean + LEAST_IMPORTANCE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::{f16_from_f32, f16_to_f32};

    #[test]
    fn finite_f16_rounds_as_storing_does() {
        let edges = [0u32, 1, 0xffe, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7f_efff, 0x7f_f000, 0x7f_ffff];
        let near = (0..512u32).flat_map(|e| edges.into_iter().map(move |f| (e << 23) | f));
        for bits in near.chain((0..u32::MAX).step_by(9973)) {
            let x = f32::from_bits(bits);
            let want = f16_to_f32(f16_from_f32(lanes::clamp(x, -F16_MAX, F16_MAX)));
            assert_eq!(finite_f16(x).to_bits(), want.to_bits(), "{x:e} ({bits:#010x})");
        }
    }
}
