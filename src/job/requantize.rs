//! What a conversion makes of a GGUF file that is quantised already: what has its type is copied, the rest is rounded a
//! second time, if that is allowed.

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

/// Refuses GGUF files that are quantised already, unless nothing is lost or it is allowed. `kept`: whether what is to be
/// copied stays as it is until then.
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
                "is quantised already ({}), and {} would round it a second time; convert the original checkpoint instead, \
                 or accept that with `allow_requantize`",
                info.spec.name,
                t.spec().name
            );
            return Err(Error::tensor(source.file_of(info), printable(&info.name), what));
        }
    }
    Ok(())
}
