//! Activation-aware scales: which factor per input channel makes rounding hurt least.
//!
//! Source: Lin et al., "AWQ: Activation-aware Weight Quantization" (arXiv 2306.00978), section 3.2: a channel's weights
//! are multiplied by `s = a^r` and its input divided by it, `a` the channel's mean magnitude and `r` in 0..1 found by
//! search. The second form also divides by the weights' own magnitude, `s = a^r / b^(1 - r)`, so that channels with
//! small weights among large ones gain too.
//!
//! Then, where it helps, weights are clipped (the paper's code, not its text): the largest of a group are cut off, so
//! that the others have finer steps ([`clip`]).
//!
//! Numbers only: who may absorb the factors, and what a candidate costs, is the caller's affair.

use ndarray::{ArrayView2, ArrayView3};

use crate::store::{Scales, Store};
use crate::view::elements;

/// Smallest magnitude that is told from zero: below it a channel counts as silent.
const FLOOR: f32 = 1e-4;

/// How large each input channel's weights are beside those that share a scale with them.
///
/// Sums, over rows, of |w| divided by the largest |w| of its group of consecutive columns; add up those of all matrices
/// that read the channel and divide by all their rows.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightMagnitude {
    sums: Vec<f64>,
    rows: usize,
}

impl WeightMagnitude {
    /// Of no matrix yet.
    pub fn new(cols: usize) -> Self {
        WeightMagnitude { sums: vec![0.0; cols], rows: 0 }
    }

    /// Adds the rows of a matrix, `[rows, cols]`, whose scales are shared by `group` weights.
    ///
    /// # Panics
    /// If `w` has another number of columns, or its rows do not lie [one after the other](crate::view).
    pub fn add(&mut self, w: ArrayView2<'_, f32>, group: usize) {
        let cols = self.sums.len();
        assert_eq!(w.ncols(), cols, "columns of a matrix and channels");
        for row in elements(w).chunks_exact(cols) {
            for (sums, w) in self.sums.chunks_mut(group).zip(row.chunks(group)) {
                let top = w.iter().fold(0.0_f32, |top, w| top.max(w.abs()));
                if top > 0.0 {
                    sums.iter_mut().zip(w).for_each(|(sum, w)| *sum += f64::from(w.abs() / top));
                }
            }
        }
        self.rows += w.nrows();
    }

    /// The mean for each channel; zeros of no rows.
    pub fn mean(&self) -> Vec<f32> {
        let rows = self.rows.max(1) as f64;
        self.sums.iter().map(|sum| (sum / rows) as f32).collect()
    }
}

/// The factors `a^p / w^q`, divided by the geometric middle of the largest and the smallest of them, so that they lie
/// around one. The paper's are those with `q = 0`, its code's second form has `q = 1 - p`; the two exponents do
/// different things (to give large inputs finer steps, to even out the weights that share a scale), so they are free
/// here.
///
/// `activations`: mean magnitude per channel. `weights`: [`WeightMagnitude::mean`]. All factors are positive and
/// finite.
///
/// # Panics
/// If the two have different lengths.
pub fn factors(activations: &[f32], weights: &[f32], p: f32, q: f32) -> Vec<f32> {
    assert_eq!(weights.len(), activations.len(), "channels");
    let both = activations.iter().zip(weights);
    let mut s: Vec<f32> = both.map(|(a, w)| (a.max(FLOOR).powf(p) / w.max(FLOOR).powf(q)).max(FLOOR)).collect();
    let (low, high) = s.iter().fold((f32::MAX, 0.0_f32), |(low, high), &s| (low.min(s), high.max(s)));
    let middle = (low * high).sqrt();
    if middle.is_finite() && middle > 0.0 {
        s.iter_mut().for_each(|s| *s /= middle);
    }
    s
}

/// The nearest powers of two (by ratio): multiplying and dividing by them loses nothing.
pub fn powers_of_two(factors: &[f32]) -> Vec<f32> {
    factors.iter().map(|s| s.log2().round().clamp(-60.0, 60.0).exp2()).collect()
}

/// Makes factors equal within each set of channels that one producer channel feeds: their geometric mean.
///
/// `producer[c]`: the channel of the producer behind channel `c`, below `producers`. Returns one factor per producer
/// channel; those that feed no channel get one.
///
/// # Panics
/// If lengths differ or a producer channel is out of range.
pub fn tie(factors: &[f32], producer: &[usize], producers: usize) -> Vec<f32> {
    assert_eq!(factors.len(), producer.len(), "channels");
    let mut logs = vec![(0.0_f64, 0_u32); producers];
    for (s, &p) in factors.iter().zip(producer) {
        logs[p].0 += f64::from(*s).ln();
        logs[p].1 += 1;
    }
    logs.into_iter().map(|(sum, n)| if n == 0 { 1.0 } else { (sum / f64::from(n)).exp() as f32 }).collect()
}

/// Candidates of [`clip`]: the range is cut to `1 - i / STEPS`, i below half of it.
const STEPS: usize = 20;

/// Rounds rows to nearest, the range of each block's groups cut where that lowers what its errors do to the output.
///
/// `rows`: `[rows, cols]`. `importance`: E[x^2] of each column. `grams`: for each block of columns E[x x^T] of them,
/// `[blocks, block, block]`. `group`: weights that share a scale. `out`: the rows' bytes; of each block
/// those with the smallest e^T E[x x^T] e, of which the plain encoder's are one. Returns the sums of these losses over
/// all blocks: of the plain encoder's bytes, and of those in `out`.
///
/// # Panics
/// If shapes do not belong together, or rows do not lie [one after the other](crate::view).
pub fn clip(
    format: &dyn Store,
    rows: ArrayView2<'_, f32>,
    importance: &[f32],
    grams: ArrayView3<'_, f32>,
    group: usize,
    out: &mut [u8],
) -> (f64, f64) {
    let (cols, spec) = (importance.len(), format.spec());
    let blocks = cols / spec.block;
    assert_eq!(rows.ncols(), cols, "columns of the rows and importances");
    assert_eq!(grams.dim(), (blocks, spec.block, spec.block), "products of the columns of each block");
    let (rows, grams) = (elements(rows), elements(grams));
    let mut bytes = vec![0; spec.bytes_for(cols).expect("whole blocks")];
    let (mut cut, mut error) = (vec![0.0; cols], vec![0.0; cols]);
    let (mut before, mut after) = (0.0, 0.0);
    for (row, out) in rows.chunks_exact(cols).zip(out.chunks_exact_mut(bytes.len())) {
        let mut least = vec![f64::INFINITY; blocks];
        for i in 0..STEPS / 2 {
            let share = 1.0 - i as f32 / STEPS as f32;
            for (cut, w) in cut.chunks_mut(group).zip(row.chunks(group)) {
                let top = w.iter().fold(0.0_f32, |top, w| top.max(w.abs())) * share;
                cut.iter_mut().zip(w).for_each(|(c, w)| *c = w.clamp(-top, top));
            }
            format.encode(&cut, Scales::Search(Some(importance)), &mut bytes);
            format.decode(&bytes, &mut error);
            error.iter_mut().zip(row).for_each(|(e, w)| *e -= w);
            let size = bytes.len() / blocks;
            for (b, error) in error.chunks_exact(spec.block).enumerate() {
                let gram = &grams[b * spec.block * spec.block..][..spec.block * spec.block];
                let terms = gram.chunks_exact(spec.block).zip(error).map(|(g, e)| f64::from(*e) * dot(g, error));
                let loss: f64 = terms.sum();
                if i == 0 {
                    before += loss;
                }
                if loss < least[b] {
                    least[b] = loss;
                    out[b * size..][..size].copy_from_slice(&bytes[b * size..][..size]);
                }
            }
        }
        after += least.iter().sum::<f64>();
    }
    (before, after)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    // Lanes side by side vectorise; their order is fixed.
    let mut lanes = [0.0_f32; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(l, (a, b))| *l += a * b);
    }
    lanes.iter().map(|&l| f64::from(l)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{formats, matrix};

    /// With inputs that always agree, errors of one sign add up: a smaller range that loses more by itself can win.
    #[test]
    fn clipping_never_costs_and_looks_at_whole_blocks() {
        let mut state = 9_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        let format = formats::by_name("q4_0").unwrap();
        let mut gained = 0;
        for _ in 0..50 {
            let row: Vec<f32> = (0..64).map(|_| random()).collect();
            let grams: Vec<f32> = (0..2 * 32 * 32).map(|i| if i / 32 % 32 == i % 32 { 1.0 } else { 0.9 }).collect();
            let grams = ArrayView3::from_shape((2, 32, 32), &grams).unwrap();
            let (mut plain, mut clipped) = (vec![0; 36], vec![0; 36]);
            format.encode(&row, Scales::Search(Some(&[1.0; 64])), &mut plain);
            let (before, after) = clip(format, matrix(&row, 64), &[1.0; 64], grams, 32, &mut clipped);
            assert!(after <= before, "{before} {after}");
            let losses = |bytes: &[u8]| -> Vec<f64> {
                let mut values = vec![0.0; 64];
                format.decode(bytes, &mut values);
                let e: Vec<f64> = values.iter().zip(&row).map(|(v, w)| f64::from(v - w)).collect();
                let loss = |e: &[f64]| 0.9 * e.iter().sum::<f64>().powi(2) + 0.1 * e.iter().map(|e| e * e).sum::<f64>();
                e.chunks(32).map(loss).collect()
            };
            for (before, after) in losses(&plain).into_iter().zip(losses(&clipped)) {
                assert!(after <= before * (1.0 + 1e-5), "{before} {after}");
                gained += usize::from(after < 0.9 * before);
            }
        }
        assert!(gained > 10, "{gained} of 100 blocks gained");
    }

    #[test]
    fn exponents_of_zero_change_nothing() {
        assert_eq!(factors(&[0.5, 3.0, 0.0], &[0.1, 0.7, 0.0], 0.0, 0.0), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn factors_are_the_papers_around_one() {
        // a = 1, 4, 16: a^0.5 = 1, 2, 4, the middle of largest and smallest is 2.
        assert_eq!(factors(&[1.0, 4.0, 16.0], &[0.3, 0.1, 0.2], 0.5, 0.0), [0.5, 1.0, 2.0]);
        // a^0.5 / b^0.5 = 1/0.5, 2/0.25, 4/1 = 2, 8, 4; the middle of 8 and 2 is 4.
        assert_eq!(factors(&[1.0, 4.0, 16.0], &[0.25, 0.0625, 1.0], 0.5, 0.5), [0.5, 2.0, 1.0]);
    }

    #[test]
    fn silent_channels_and_missing_weights_stay_finite() {
        for (p, q) in [(0.0, 0.0), (0.3, 1.0), (1.0, 1.0), (1.0, 0.0)] {
            for s in factors(&[0.0, 1e30, 1e-30, 1.0], &[0.0, 1.0, 1e-20, 0.5], p, q) {
                assert!(s.is_finite() && s > 0.0, "{s} at {p}, {q}");
            }
        }
    }

    #[test]
    fn magnitudes_are_relative_to_the_group_and_averaged_over_all_rows() {
        let mut m = WeightMagnitude::new(4);
        m.add(matrix(&[1.0, -2.0, 0.0, 0.0, 4.0, 2.0, 1.0, 8.0], 4), 2);
        // Rows (0.5, 1 | silent group) and (1, 0.5 | 0.125, 1).
        assert_eq!(m.mean(), [0.75, 0.75, 0.0625, 0.5]);
        m.add(matrix(&[0.0, 0.0, 3.0, 3.0], 4), 2);
        assert_eq!(m.mean()[0], 0.5);
    }

    #[test]
    fn powers_are_nearest_by_ratio() {
        assert_eq!(powers_of_two(&[1.0, 1.4, 1.5, 0.7, 0.75, 3.0]), [1.0, 1.0, 2.0, 0.5, 1.0, 4.0]);
    }

    #[test]
    fn tied_channels_share_their_geometric_mean() {
        let tied = tie(&[2.0, 8.0, 3.0, 1.0], &[0, 0, 1, 3], 4);
        assert_eq!(tied.len(), 4);
        for (found, wanted) in tied.iter().zip([4.0, 3.0, 1.0, 1.0]) {
            assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        }
    }
}
