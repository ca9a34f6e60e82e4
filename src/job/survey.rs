//! What pruning must know of all matrices before the first is pruned, from the statistics or the text of a job.

use super::Job;
use crate::Result;
use crate::calibrate::imatrix::Imatrix;
use crate::model::Model;
use crate::pipeline::survey::{Inputs, survey};
use crate::watch::Watch;
use crate::weights::Weights;

impl Job {
    /// Finds out what pruning must know of all matrices first.
    pub(super) fn survey(&self, model: &Model, weights: &Weights<'_>, watch: &dyn Watch) -> Result<()> {
        let surveys = self.asked.passes.iter().filter_map(|pass| pass.prunes());
        for targets in surveys.filter(|targets| targets.survey().is_some()) {
            let file = self.recipe.stats.as_deref().map(Imatrix::open).transpose()?;
            let samples = self.data.as_ref().map(|data| Inputs::Samples(&data.samples));
            let inputs = file.as_ref().map(Inputs::File).or(samples);
            survey(targets, model, weights, inputs, watch)?;
        }
        Ok(())
    }
}
