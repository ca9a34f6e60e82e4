//! What becomes of every tensor: its type, the edits that this needs, and whether it is copied.

use super::asked::Asked;
use super::requantize;
use crate::Result;
use crate::checkpoint::TensorSource;
use crate::export::{self, Assigned};
use crate::model::Model;
use crate::plan::Plan;
use crate::weights::Weights;

/// What becomes of every tensor.
pub(super) struct Planned<'a> {
    /// Types, and edits that they need.
    pub assigned: Assigned,
    /// With these edits.
    pub weights: Weights<'a>,
    /// Type and bytes of every tensor.
    pub plan: Plan,
}

/// Decides it.
pub(super) fn planned<'a>(
    asked: &Asked,
    source: &dyn TensorSource,
    model: &Model,
    bound: Weights<'a>,
) -> Result<Planned<'a>> {
    let mut assigned = export::assign(asked.exporter, &asked.request, source, &bound)?;
    asked.keep_zeros(model, &mut assigned)?;
    let weights = bound.edited(&assigned.edits)?;
    let mut plan = Plan::keeping(model, &assigned.rules, &assigned.kept)?;
    // Passes may change weights, or choose codes anew.
    if asked.passes.is_empty() {
        requantize::copy(&weights, &mut plan);
    }
    Ok(Planned { assigned, weights, plan })
}
