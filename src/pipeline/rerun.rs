//! The part of the calibration text that weights are tried on, and the trials themselves, run by the executor.

use ndarray::{Array2, s};

use crate::Result;
use crate::model::{Reader, Site};
use crate::passes::{self, SiteState};
use crate::runtime::{self, BlockRunner, Overrides, Stopped};

/// Number of samples that weights are tried on, spread evenly over all.
const SAMPLES: usize = 8;
/// Tokens per sample: enough for a loss that tells candidates apart, few enough for dozens of them.
const TOKENS: usize = 96;

/// A block on which passes try weights.
pub(super) struct Rerun<'p, 'a>(runtime::Rerun<'p, 'a>);

impl<'p, 'a> Rerun<'p, 'a> {
    /// `residuals`: the residual stream before the block, of all samples.
    pub fn new(runner: &'p BlockRunner<'a>, block: usize, residuals: &[Array2<f32>]) -> Self {
        let used = residuals.len().min(SAMPLES);
        let some = (0..used).map(|i| &residuals[i * residuals.len() / used]);
        let starts = some.map(|residual| residual.slice(s![..residual.nrows().min(TOKENS), ..]));
        Rerun(runtime::Rerun::new(runner, block, starts))
    }
}

impl passes::Probe for Rerun<'_, '_> {
    fn stop_at<'p>(&'p self, site: &Site, _: &'p [SiteState]) -> Result<Box<dyn passes::Trial + 'p>> {
        Ok(Box::new(Trial(self.0.stop_at(site.reach.clone()))))
    }
}

struct Trial<'p, 'a>(Stopped<'p, 'a>);

impl passes::Trial for Trial<'_, '_> {
    fn change(&self, weights: &[(Reader, Array2<f32>)]) -> Result<f64> {
        let mut overrides = Overrides::new();
        for (reader, values) in weights {
            match reader.expert {
                None => overrides.floats(reader.weight, values.view()),
                Some(expert) => overrides.expert(reader.weight, expert, values.view()),
            }
        }
        Ok(self.0.change(&overrides))
    }
}
