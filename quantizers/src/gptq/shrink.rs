//! How far to believe what channels have in common, given how many tokens were seen.
//!
//! Of n channels E\[x x^T\] has n^2 / 2 elements, and a calibration text few tokens: by chance alone the estimates of
//! two channels that have nothing to do with each other are correlated, and codes that make up for each other along
//! such a correlation are worse than codes rounded on their own. Pulling the correlations towards zero by the share
//! that minimises the expected squared error of the matrix (Ledoit and Wolf 2004; Schäfer and Strimmer 2005, for
//! correlations) leaves of GPTQ as much as the tokens support: all of it with many, rounding to nearest with few.

use ndarray::ArrayViewMut2;
use rayon::prelude::*;

use crate::view::elements_mut;

/// Tokens of a text that tell as much as one drawn alone: neighbours resemble each other. Measured on bookworm-8m (256
/// channels, 768 between up and down; KL divergence at Q4_K by tokens seen): of 1, 2, 4, 8 this was best or even at 64
/// to 32768 tokens.
const TOKENS_PER_DRAW: f64 = 4.0;

/// Multiplies what lies off the diagonal by 1 - s, s the share that chance has in it, and returns s, from 0 to 1. At 1
/// only the diagonal is left.
///
/// With r the correlations about zero, r_ij = H_ij / sqrt(H_ii H_jj), and T draws, s = sum Var(r_ij) / sum r_ij^2, with
/// Var(r_ij) = (1 + r_ij^2) / T as for normal x. The factors of channels do not matter, dead channels count nothing.
///
/// `h`: `[n, n]`, of which the lower triangle is looked at. `tokens`: that it is the mean over.
///
/// # Panics
/// If `h` is not square, or its rows do not lie [one after the other](crate::view).
pub fn shrink(h: ArrayViewMut2<'_, f32>, tokens: u64) -> f64 {
    let n = h.nrows();
    assert_eq!(h.ncols(), n, "rows and columns of a Hessian");
    let h = elements_mut(h);
    let scales: Vec<f64> = (0..n).map(|i| f64::from(h[i * n + i]).sqrt().recip()).collect();
    let living = scales.iter().filter(|s| s.is_finite()).count();
    let squares_of = |i: usize| {
        let row = h[i * n..][..i].iter().zip(&scales).filter(|(_, s)| s.is_finite());
        row.map(|(h, s)| (f64::from(*h) * s).powi(2)).sum::<f64>() * scales[i].powi(2)
    };
    // Collected first: sums in an order of their own.
    let rows: Vec<f64> =
        (0..n).into_par_iter().map(|i| if scales[i].is_finite() { squares_of(i) } else { 0.0 }).collect();
    let squares: f64 = rows.iter().sum();
    let pairs = (living * living.saturating_sub(1) / 2) as f64;
    if pairs == 0.0 {
        return 0.0;
    }
    let share = ((pairs + squares) * TOKENS_PER_DRAW / (tokens as f64 * squares)).min(1.0);
    let keep = (1.0 - share) as f32;
    h.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        let (left, right) = row.split_at_mut(i);
        left.iter_mut().chain(&mut right[1..]).for_each(|h| *h *= keep);
    });
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shrunk(h: &mut [f32], n: usize, tokens: u64) -> f64 {
        shrink(ArrayViewMut2::from_shape((n, n), h).unwrap(), tokens)
    }

    /// Tokens of `n` channels that have `common` of their variance in common, and their mean products.
    fn draw(tokens: usize, n: usize, common: f64) -> Vec<f32> {
        let mut state = 7u64;
        let mut normal = || {
            // Twelve uniform numbers: near enough to normal.
            let uniform = |state: &mut u64| {
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (*state >> 11) as f64 / (1u64 << 53) as f64
            };
            (0..12).map(|_| uniform(&mut state)).sum::<f64>() - 6.0
        };
        let mut h = vec![0.0f64; n * n];
        for _ in 0..tokens {
            let shared = normal() * common.sqrt();
            let x: Vec<f64> = (0..n).map(|i| (shared + normal() * (1.0 - common).sqrt()) * (1 + i) as f64).collect();
            for i in 0..n {
                for j in 0..n {
                    h[i * n + j] += x[i] * x[j] / tokens as f64;
                }
            }
        }
        h.iter().map(|h| *h as f32).collect()
    }

    /// Squared distance from the true matrix, in correlations.
    fn apart(h: &[f32], n: usize, common: f64) -> f64 {
        let one = |i: usize, j: usize| {
            let want = if i == j { 1.0 } else { common };
            (f64::from(h[i * n + j]) / ((1 + i) * (1 + j)) as f64 - want).powi(2)
        };
        (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| one(i, j)).sum()
    }

    #[test]
    fn little_known_is_pulled_to_the_diagonal_and_comes_nearer_to_the_truth() {
        for (tokens, common) in [(8, 0.0), (64, 0.0), (64, 0.05), (256, 0.1)] {
            let n = 24;
            let before = draw(tokens, n, common);
            let mut after = before.clone();
            // Drawn one by one, unlike a text.
            let share = shrunk(&mut after, n, tokens as u64 * TOKENS_PER_DRAW as u64);
            assert!(share > 0.0, "{tokens} {common}: {share}");
            let (was, is) = (apart(&before, n, common), apart(&after, n, common));
            assert!(is < was, "{tokens} tokens, {common} in common, pulled by {share}: {is} after {was}");
            assert!((0..n).all(|i| after[i * n + i] == before[i * n + i]), "the diagonal stays");
        }
    }

    #[test]
    fn what_is_well_known_stays() {
        let n = 24;
        let mut h = draw(20_000, n, 0.5);
        let share = shrunk(&mut h, n, 20_000);
        assert!(share < 0.002, "{share}");
    }

    #[test]
    fn factors_of_channels_and_dead_channels_change_nothing() {
        let n = 8;
        let h = draw(100, n, 0.3);
        let share = shrunk(&mut h.clone(), n, 100);
        let factor = |i: usize| 2f32.powi(i as i32 % 3 - 1);
        let mut scaled: Vec<f32> = (0..n * n).map(|k| h[k] * factor(k / n) * factor(k % n)).collect();
        assert_eq!(shrunk(&mut scaled, n, 100), share);
        let mut wider = vec![0.0; (n + 1) * (n + 1)];
        (0..n * n).for_each(|k| wider[k / n * (n + 1) + k % n] = h[k]);
        assert_eq!(shrunk(&mut wider, n + 1, 100), share);
        assert_eq!(shrunk(&mut [0.0; 4], 2, 5), 0.0, "nothing lives");
        assert_eq!(shrunk(&mut [2.0], 1, 5), 0.0, "one channel");
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let mut h = [1.0, f32::NAN, f32::NAN, 1.0];
        shrunk(&mut h, 2, 1);
        assert!(h[1].is_nan());
    }
}
