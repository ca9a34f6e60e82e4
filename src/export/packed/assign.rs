//! Which matrices become codes, and which stay floats.

use std::collections::BTreeMap;

use aurora_quantizers::{Store, formats};

use super::super::{Assigned, Request};
use super::layout::Codes;
use crate::checkpoint::TensorSource;
use crate::error::{Fault, Result};
use crate::model::{Import, ParamId, Role};
use crate::plan::FileType;
use crate::weights::{Edits, Kept, Weights};

/// The types of a folder.
pub(super) fn assign(
    layout: &str,
    codes: Codes,
    request: &Request,
    source: &dyn TensorSource,
    weights: &Weights<'_>,
) -> Result<Assigned> {
    check(weights)?;
    let params = weights.graph().params.iter().enumerate();
    let matrices = params.filter(|(_, p)| p.role.quantizable() && p.shape.len() > 1).map(|(i, _)| ParamId(i));
    let kept: BTreeMap<_, _> = matrices.map(|id| (id, matrix(weights, id, codes))).collect();
    let quantised = source.tensors().iter().find_map(|t| t.packed.as_deref());
    let warning = quantised.map(|packed| {
        format!("the checkpoint is already quantised ({}); this rounds it a second time", packed.describe(source))
    });
    let sort = if codes.symmetric { "" } else { "-asym" };
    let name = format!("{layout}-{}bit-g{}{sort}", codes.bits, codes.group);
    let rules = request.rules(FileType::by_name("f16")?);
    Ok(Assigned { ending: name.clone(), name, rules, kept, edits: Edits::new(), warning })
}

/// Refuses matrices stored `[in, out]`: loaders of quantised checkpoints do not support such layers.
fn check(weights: &Weights<'_>) -> Result<()> {
    let transposed = |id: &ParamId| *weights.import(*id) == Import::Transpose;
    match (0..weights.graph().params.len()).map(ParamId).find(transposed) {
        Some(id) => {
            let (path, name) = weights.place(id);
            let what = "is stored [in, out]; such models can only be written as GGUF or safetensors";
            Err(Fault::unsupported(what).of_tensor(path, &name))
        }
        None => Ok(()),
    }
}

fn matrix(weights: &Weights<'_>, id: ParamId, codes: Codes) -> Kept {
    let floats = || {
        let f16 = formats::by_name("f16").expect("a row of FORMATS");
        let own = weights.kept(id);
        if weights.is_packed(id) { f16 } else { own.store }
    };
    let wanted = grouped(codes);
    match obstacle(weights, id, codes) {
        Obstacle::None => Kept { wanted, store: wanted, reason: None, integers: false },
        Obstacle::Role => {
            let store = floats();
            Kept { wanted: store, store, reason: None, integers: false }
        }
        Obstacle::Shape(reason) => Kept { wanted, store: floats(), reason: Some(reason), integers: false },
    }
}

/// The format in which the pipeline writes codes.
fn grouped(codes: Codes) -> &'static dyn Store {
    formats::grouped(codes.bits, codes.group, codes.symmetric).expect("settings that were checked")
}

/// Why a matrix stays in floats.
enum Obstacle {
    None,
    /// Its role is never quantised.
    Role,
    Shape(String),
}

fn obstacle(weights: &Weights<'_>, id: ParamId, codes: Codes) -> Obstacle {
    let param = weights.graph().param(id);
    if matches!(param.role, Role::Embedding | Role::Output) {
        return Obstacle::Role;
    }
    if !param.cols().is_multiple_of(codes.group) {
        return Obstacle::Shape(format!("{} inputs do not divide into groups of {}", param.cols(), codes.group));
    }
    for (tensor, ..) in weights.pieces(id) {
        let [rows, _] = tensor.shape[..] else {
            return Obstacle::Shape(format!("{} holds several matrices", tensor.name));
        };
        if !(rows * codes.bits as usize).is_multiple_of(32) {
            return Obstacle::Shape(format!("{rows} outputs do not fill whole 32-bit words"));
        }
    }
    Obstacle::None
}
