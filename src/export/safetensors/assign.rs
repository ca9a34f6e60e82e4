//! The type in which the pipeline hands over each parameter.

use std::collections::BTreeMap;

use super::super::{Assigned, Request};
use super::stored::{chosen, named, runs, store};
use crate::Result;
use crate::checkpoint::TensorSource;
use crate::model::{Import, ParamId};
use crate::plan::FileType;
use crate::weights::{Edits, Kept, Weights};

/// The types of a folder.
pub(super) fn assign(request: &Request, source: &dyn TensorSource, weights: &Weights<'_>) -> Result<Assigned> {
    let chosen = chosen(request)?;
    let mut kept = BTreeMap::new();
    for id in (0..weights.graph().params.len()).map(ParamId) {
        let runs = runs(weights, source, id, chosen);
        let Some(first) = runs.first() else { continue };
        // If values change, or the tensors' types differ, full precision is needed.
        let whole = weights.graph().param(id).import == Import::AddOne || runs.iter().any(|r| r.spec != first.spec);
        let spec = if whole { named("f32") } else { first.spec };
        kept.insert(id, Kept { wanted: store(spec), store: store(spec), reason: None, integers: false });
    }
    let quantised = source.tensors().iter().find_map(|t| t.packed.as_deref());
    let warning = quantised.map(|packed| {
        format!("the checkpoint is quantised ({}); its matrices are written as floats", packed.describe(source))
    });
    let name = match chosen {
        None => "safetensors".to_owned(),
        Some(spec) => format!("safetensors-{}", spec.name),
    };
    let rules = request.rules(FileType::by_name("f32")?);
    Ok(Assigned { ending: name.clone(), name, rules, kept, edits: Edits::new(), warning })
}
