//! Words for a value that is not finite: which op, in which block, with which tensor.

use std::path::Path;

use ndarray::Array2;

use super::CacheType;
use super::batch::{Batch, Culprit};
use crate::error::{Error, Quantity};
use crate::model::{Op, ParamId};

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
    let error = |(path, tensor): (&Path, String), of: Quantity, what: String| Error::NotFinite {
        path: Some(path.to_owned()),
        tensor,
        of,
        what,
        source: None,
    };
    for id in &params {
        if let Some((row, value)) = bad_weight(batch, *id) {
            let what = format!("{what}; the tensor itself holds {value} in row {row}");
            return error(weights.place(*id), Quantity::Weights, what);
        }
    }
    let what = format!("{what}{}", way_out(batch, &culprit.op));
    match params.first() {
        Some(id) => {
            let what = format!("{what}; its weights are finite, so its input or the sum is too large");
            error(weights.place(*id), Quantity::Activations, what)
        }
        None => error((weights.path(), String::new()), Quantity::Activations, what),
    }
}

/// What is kept in half precision, which ends at 65504, and can be kept in f32.
fn way_out(batch: &Batch<'_, '_, '_>, op: &Op) -> &'static str {
    let options = &batch.engine.options;
    match op {
        Op::Attend { .. } if options.cache != CacheType::F32 => {
            "; keys and values are cached in half precision, which ends at 65504: keep them in f32 (`cache_type` f32, or \
             `exact` if there is no such setting)"
        }
        Op::Linear { .. } if !options.exact => {
            "; activations are rounded to 8 bits with a scale in half precision, which ends at 65504: keep them in f32 \
             with `exact`"
        }
        _ => "",
    }
}

/// For when the second look finds nothing.
pub(super) fn unknown(batch: &Batch<'_, '_, '_>) -> Error {
    let path = batch.engine.weights.path().display();
    Error::bug(format!("{path}: a value is not finite, but not when computed again: is the memory sound?"))
}

fn bad_weight(batch: &Batch<'_, '_, '_>, id: ParamId) -> Option<(usize, f32)> {
    let param = batch.engine.model.graph.param(id);
    let mut row = Array2::zeros((1, param.cols()));
    (0..param.rows()).find_map(|r| {
        batch.engine.weights.rows(id, r..r + 1, row.view_mut());
        row.iter().find(|x| !x.is_finite()).map(|x| (r, *x))
    })
}
