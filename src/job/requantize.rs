//! What of a quantised GGUF file is copied, and whether the rest may be rounded a second time.

use aurora_quantizers::spec::Kind;

use crate::checkpoint::{Config, TensorSource};
use crate::error::printable;
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Error, Result};

/// Has every tensor copied that the file has in the type that it is to have.
pub(super) fn copy(weights: &Weights<'_>, plan: &mut Plan) {
    for t in &mut plan.tensors {
        t.carried |= weights.stored_as(t.param, t.store);
    }
}

/// Refuses GGUF files that are already quantised, unless nothing is lost or it is allowed. `kept`: whether tensors that
/// are carried, or decoded to F32, keep their numbers.
pub(super) fn refuse(
    source: &dyn TensorSource,
    weights: &Weights<'_>,
    plan: &Plan,
    (kept, allowed): (bool, bool),
) -> Result<()> {
    if allowed || !matches!(source.config(), Config::Gguf(_)) {
        return Ok(());
    }
    for t in &plan.tensors {
        // Single precision holds whatever blocks decode to.
        if kept && (t.carried || t.spec().name == "f32") {
            continue;
        }
        if let Some(info) = weights.tensors(t.param).find(|info| info.spec.kind == Kind::Block) {
            let what = format!(
                "{}: tensor {}: is already quantised ({}), and {} would round it a second time; convert the original \
                 checkpoint instead, or accept that with `allow_requantize`",
                source.file_of(info).display(),
                printable(&info.name),
                info.spec.name,
                t.spec().name
            );
            return Err(Error::conflict(["model", "allow_requantize"], what));
        }
    }
    Ok(())
}
