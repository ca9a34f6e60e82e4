//! Summarises the token-by-token comparison of a model with its reference, as llama-perplexity --kl-divergence defines
//! it. There, the reference's log-probabilities pass through a file that rounds them to 16 bits and drops those below
//! e^-16. Here both models run and nothing is rounded.

use aurora_quantizers::metrics::{Comparison, Estimate, covariance_of_means, quantile};

use crate::record::{Divergence, Quantiles};

/// All figures of a comparison. Means and shares have standard errors. Those of a ratio or difference of the two models
/// account for both being scored on the same tokens.
///
/// # Panics
/// If `all` is empty.
pub fn divergence(all: &[Comparison]) -> Divergence {
    let nll: Vec<f64> = all.iter().map(|c| c.nll).collect();
    let nll_base: Vec<f64> = all.iter().map(|c| c.nll_base).collect();
    let (log, log_base) = (Estimate::mean(nll.iter().copied()), Estimate::mean(nll_base.iter().copied()));
    let covariance = covariance_of_means(&nll, &nll_base);
    // The error of two correlated estimates. Rounding must not make the root's argument negative where both are equal.
    let error = |a: f64, b: f64, covariance: f64| (a * a + b * b - 2.0 * covariance).max(0.0).sqrt();
    let ratio = Estimate { value: log.value - log_base.value, error: error(log.error, log_base.error, covariance) };
    let (ppl, ppl_base) = (log.exp(), log_base.exp());
    let difference = Estimate {
        value: ppl.value - ppl_base.value,
        error: error(ppl.error, ppl_base.error, ppl.value * ppl_base.value * covariance),
    };
    let spread = log.error * log_base.error;
    Divergence {
        reference_perplexity: ppl_base.into(),
        log_perplexity_ratio: ratio.into(),
        perplexity_ratio: ratio.exp().into(),
        perplexity_difference: difference.into(),
        correlation: (spread > 0.0).then(|| covariance / spread),
        kl: Estimate::mean(all.iter().map(|c| c.kl)).into(),
        kl_quantiles: quantiles(all.iter().map(|c| c.kl)),
        same_top: Estimate::share(all.iter().filter(|c| c.same_top).count(), all.len()).into(),
        dp: Estimate::mean(all.iter().map(|c| c.dp)).into(),
        dp_rms: Estimate::root_mean_square(all.iter().map(|c| c.dp)).into(),
        dp_quantiles: quantiles(all.iter().map(|c| c.dp)),
    }
}

fn quantiles(values: impl Iterator<Item = f64>) -> Quantiles {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = |q| quantile(&sorted, q);
    Quantiles {
        min: at(0.0),
        p1: at(0.01),
        p10: at(0.1),
        median: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p99_9: at(0.999),
        max: at(1.0),
    }
}
