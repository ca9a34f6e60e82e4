//! Figures in records: with standard errors, or with their spread.

use aurora_quantizers::metrics;
use serde::{Deserialize, Serialize};

/// A figure and its standard error, in the same unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The figure.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl From<metrics::Estimate> for Measured {
    fn from(e: metrics::Estimate) -> Self {
        Measured { value: e.value, error: e.error }
    }
}

/// Quantiles of a figure over tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // Each name is the share of tokens below it, in percent.
pub struct Quantiles {
    pub min: f64,
    pub p1: f64,
    pub p10: f64,
    pub median: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

/// Figures of several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The spread of some figures; `None` if there are none.
    pub fn of(mut figures: Vec<f64>) -> Option<Spread> {
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        Some(Spread { median: metrics::quantile(&figures, 0.5), min, max })
    }
}
