//! Words for a value that is not finite: which op, in which block, with which tensor.

use super::batch::{Batch, Culprit};
use crate::Error;
use crate::model::ParamId;

/// The error for the op that first gave such a value.
pub(super) fn error(batch: &Batch<'_, '_, '_>, culprit: &Culprit) -> Error {
    let weights = batch.engine.weights;
    let values = &batch.slots[culprit.slot.0];
    let at = values.iter().position(|x| !x.is_finite()).unwrap_or(0);
    let per_token = values.len() / batch.tokens.len().max(1);
    let (name, params) = (culprit.op.name(), culprit.op.params());
    let place = match batch.block {
        Some(block) => format!("block {block}"),
        None => "outside the blocks".to_owned(),
    };
    let position = batch.first + at / per_token.max(1);
    let what = format!(
        "{place}: {name} gave {}, the first value that is not finite (position {position})",
        values.get(at).copied().unwrap_or(f32::NAN)
    );
    for id in &params {
        if let Some((row, value)) = bad_weight(batch, *id) {
            return weights.error(*id, format!("{what}; the tensor itself holds {value} in row {row}"));
        }
    }
    match params.first() {
        Some(id) => weights.error(*id, format!("{what}; its weights are finite, so its input or the sum is too large")),
        None => Error::malformed(weights.path(), what),
    }
}

/// For when the second look finds nothing.
pub(super) fn unknown(batch: &Batch<'_, '_, '_>) -> Error {
    Error::malformed(
        batch.engine.weights.path(),
        "a value was not finite, but was finite when computed again; check this machine's memory",
    )
}

fn bad_weight(batch: &Batch<'_, '_, '_>, id: ParamId) -> Option<(usize, f32)> {
    let param = batch.engine.model.graph.param(id);
    let mut row = vec![0.0; param.cols()];
    (0..param.rows()).find_map(|r| {
        batch.engine.weights.rows(id, r..r + 1, &mut row);
        row.iter().find(|x| !x.is_finite()).map(|x| (r, *x))
    })
}
