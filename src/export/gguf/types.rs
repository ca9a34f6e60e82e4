//! Assigns types for a GGUF file: by a file type's rules, or keeping the integers of a quantised checkpoint.

use std::collections::BTreeMap;

use super::super::{Assigned, Choosing, KEEP, Request};
use crate::checkpoint::{Config, TensorSource};
use crate::gguf::whole;
use crate::model::ParamId;
use crate::plan::{FILE_TYPES, FileType};
use crate::weights::{Edits, Kept, Weights};
use crate::{Error, Result};

/// The types of a file. Where integers are kept, columns are sorted by group. `sparse`: whether matrices are to be
/// stored sparse.
pub(super) fn assign(
    request: &Request,
    source: &dyn TensorSource,
    weights: &Weights<'_>,
    sparse: bool,
) -> Result<Assigned> {
    if let Some(kept) = own_types(request, source, weights, sparse) {
        return Ok(kept);
    }
    let quantised = source.tensors().iter().find_map(|t| t.packed.as_deref());
    let usual = match quantised {
        Some(_) => KEEP,
        None if request.choosing.pruned == Some(true) => "q4_0",
        None if request.choosing.pruned == Some(false) => "f16",
        None if sparse => "f16",
        None if request.choosing.method => "q4_k_m",
        None => "q8_0",
    };
    let asked = request.file_type.as_deref().unwrap_or(usual);
    if !asked.eq_ignore_ascii_case(KEEP) {
        let file_type = FileType::by_name(asked)?;
        let warning = quantised.map(|packed| {
            format!(
                "the checkpoint is already quantised ({}); {} rounds it a second time, on top of the first error. \
                 `type` keep carries its integers over unchanged",
                packed.describe(source),
                file_type.name
            )
        });
        return Ok(Assigned { warning, ..assigned(request, file_type.name, file_type) });
    }
    if quantised.is_none() {
        let what = "carries over the integers of a quantised checkpoint; this one has floats: name a type";
        return Err(Error::setting("type", KEEP, what));
    }
    let choosing = request.choosing;
    let idle = [
        (choosing.method, "method", ""),
        (choosing.imatrix, "importance.file", ""),
        (choosing.calibrate, "importance.calibrate", ""),
        (choosing.reference, "scales", " reference"),
        (request.pure, "pure", ""),
    ];
    if let Some((_, setting, value)) = idle.iter().find(|(given, ..)| *given) {
        let what = format!(
            "the checkpoint is already quantised, and `type` keep chooses no codes; leave out `{setting}`{value}, or name a \
             `type` to round it a second time"
        );
        return Err(Error::conflict(["type", setting], what));
    }
    let edits = weights.sort_groups();
    let weights = weights.edited(&edits)?;
    let params = weights.graph().params.iter().enumerate();
    let matrices = params.filter(|(_, p)| p.role.quantizable() && p.shape.len() > 1);
    let kept: BTreeMap<_, _> = matrices.map(|(i, _)| (ParamId(i), weights.kept(ParamId(i)))).collect();
    let most = most(&weights, &kept);
    Ok(Assigned { kept, edits, ..assigned(request, KEEP, FileType::by_name(most)?) })
}

/// A GGUF file only changes between dense and sparse unless more is asked for: every tensor keeps its type.
fn own_types(request: &Request, source: &dyn TensorSource, weights: &Weights<'_>, sparse: bool) -> Option<Assigned> {
    let Config::Gguf(config) = source.config() else { return None };
    let Choosing { method, pruned, imatrix, calibrate, reference } = request.choosing;
    let more = method || pruned.is_some() || imatrix || calibrate || reference;
    let was = source.tensors().iter().any(|t| t.sparse.is_some());
    if more || request.file_type.is_some() || request.pure || !(sparse || was) {
        return None;
    }
    let params = weights.graph().params.iter().enumerate();
    let matrices = params.filter(|(_, p)| p.role.quantizable() && p.shape.len() > 1).map(|(i, _)| ParamId(i));
    let kept = |id| weights.store(id).map(|store| (id, Kept { wanted: store, store, reason: None, integers: false }));
    let kept: BTreeMap<_, _> = matrices.filter_map(kept).collect();
    let id = config.metadata.get("general.file_type").and_then(whole);
    let file_type = FILE_TYPES.iter().find(|t| Some(u64::from(t.id)) == id);
    let file_type = file_type.or_else(|| FileType::by_name(most(weights, &kept)).ok())?;
    Some(Assigned { kept, ..assigned(request, file_type.name, file_type) })
}

/// The type of most weights.
fn most(weights: &Weights<'_>, kept: &BTreeMap<ParamId, Kept>) -> &'static str {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for (id, kept) in kept {
        *sizes.entry(kept.store.spec().name).or_default() += weights.graph().param(*id).len();
    }
    sizes.iter().max_by_key(|(_, size)| **size).map_or("f16", |(name, _)| name)
}

/// Nothing kept, nothing edited.
fn assigned(request: &Request, name: &str, file_type: &'static FileType) -> Assigned {
    Assigned {
        name: name.to_owned(),
        ending: format!("{}.gguf", file_type.name),
        rules: request.rules(file_type),
        kept: BTreeMap::new(),
        edits: Edits::new(),
        warning: None,
    }
}
