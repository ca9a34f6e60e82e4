//! The format and size of every tensor of the output, decided before any work.
//!
//! A pure function of shapes, roles and rules: a plan can be printed (`--dry-run`), compared, and predicted to the
//! byte. Reads no tensor values.

use std::collections::BTreeMap;

use aurora_quantizers::fallback::fallback;
use aurora_quantizers::{Field, Spec, Store, formats};
use regex::Regex;

use crate::model::{Model, Param, ParamId, Role};
use crate::record::TensorRecord;
use crate::weights::Kept;
use crate::{Error, Result};

mod mixtures;
#[cfg(test)]
pub(crate) mod two_fields;

pub use mixtures::{FILE_TYPES, FileType, tensor_type, tensor_types};

/// The format requested for each tensor.
pub struct Rules {
    /// For matrices in general.
    pub file_type: &'static FileType,
    /// Whether every matrix gets the file type's base format, ignoring its rules.
    pub pure: bool,
    /// Whether importances are known; some rules depend on it.
    pub calibrated: bool,
    /// For the output matrix, overriding the file type.
    pub output: Option<&'static dyn Store>,
    /// For the token embedding, overriding the file type.
    pub embedding: Option<&'static dyn Store>,
    /// For matrices whose name matches. The first match wins and overrides everything else.
    pub overrides: Vec<(Regex, &'static dyn Store)>,
}

/// One tensor of the output.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorPlan {
    /// The parameter.
    pub param: ParamId,
    /// Its name in the output.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The store that the rules request.
    pub requested: &'static dyn Store,
    /// The store it gets.
    pub store: &'static dyn Store,
    /// Why the two differ, if they do.
    pub reason: Option<String>,
    /// What the output has of it, in this order: the fields of its store.
    pub fields: Vec<Field>,
    /// Whether a quantised checkpoint's integers become its codes, or a GGUF file's blocks are copied.
    pub carried: bool,
}

impl TensorPlan {
    /// The format its elements are stored in.
    pub fn spec(&self) -> &'static Spec {
        self.store.spec()
    }

    /// Size in the output, without padding.
    pub fn bytes(&self) -> u64 {
        self.fields.iter().map(|field| field.bytes).sum()
    }

    /// Numbers in it.
    pub fn weights(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    /// Row length.
    pub fn cols(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Rows over all outer dimensions; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }
}

impl From<&TensorPlan> for TensorRecord {
    fn from(t: &TensorPlan) -> Self {
        TensorRecord {
            name: t.name.clone(),
            shape: t.shape.clone(),
            requested: t.requested.spec().name.to_owned(),
            actual: t.spec().name.to_owned(),
            reason: t.reason.clone(),
            bytes: t.bytes(),
            permuted: None,
            packed: None,
            carried: t.carried,
            largest_error: None,
            relative_error: None,
            too_small: None,
        }
    }
}

/// The whole output.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Recorded in the header.
    pub file_type: u32,
    /// All tensors, in file order.
    pub tensors: Vec<TensorPlan>,
}

impl Plan {
    /// Decides every tensor's format.
    ///
    /// # Errors
    /// If an override matches no matrix, since a typing error would otherwise go unnoticed.
    pub fn new(model: &Model, rules: &Rules) -> Result<Plan> {
        Plan::keeping(model, rules, &BTreeMap::new())
    }

    /// The same, except that the matrices in `keep` keep what the checkpoint has, unless an override or the rule for
    /// their role names a type for them.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn keeping(model: &Model, rules: &Rules, keep: &BTreeMap<ParamId, Kept>) -> Result<Plan> {
        let mut hits = vec![0_usize; rules.overrides.len()];
        let params = &model.graph.params;
        let tensors = params
            .iter()
            .enumerate()
            .map(|(i, p)| {
                let named = named(p, rules, &mut hits);
                match (keep.get(&ParamId(i)), named) {
                    (Some(keep), None) => kept_tensor(ParamId(i), p, keep),
                    _ => plan_tensor(ParamId(i), p, named.unwrap_or_else(|| by_rule(p, model, rules))),
                }
            })
            .collect();
        if let Some(unused) = hits.iter().position(|&n| n == 0) {
            let like = params.iter().find(|p| p.role.quantizable()).map_or("", |p| &p.name);
            let what = format!("matches no matrix of this model; names look like {like:?}");
            return Err(Error::setting("tensor_types", rules.overrides[unused].0.as_str(), what));
        }
        Ok(Plan { file_type: rules.file_type.id, tensors })
    }

    /// Tensors that do not get the requested format.
    pub fn fallbacks(&self) -> impl Iterator<Item = &TensorPlan> {
        self.tensors.iter().filter(|t| t.reason.is_some())
    }

    /// Number of elements in all tensors.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::weights).sum()
    }

    /// Bytes of all tensors, without header and padding.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::bytes).sum()
    }

    /// Storage bits per weight over all tensors.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes() as f64 * 8.0 / self.weights() as f64
    }
}

fn plan_tensor(id: ParamId, param: &Param, requested: &'static dyn Store) -> TensorPlan {
    let (store, reason) = match fallback(requested.spec(), param.cols()) {
        None => (requested, None),
        Some((store, reason)) => (store, Some(reason)),
    };
    tensor(id, param, requested, store, reason)
}

fn kept_tensor(id: ParamId, param: &Param, kept: &Kept) -> TensorPlan {
    TensorPlan { carried: kept.integers, ..tensor(id, param, kept.wanted, kept.store, kept.reason.clone()) }
}

fn tensor(
    id: ParamId,
    param: &Param,
    requested: &'static dyn Store,
    store: &'static dyn Store,
    reason: Option<String>,
) -> TensorPlan {
    TensorPlan {
        param: id,
        name: param.name.clone(),
        shape: param.shape.clone(),
        requested,
        store,
        reason,
        fields: store.fields(&param.shape),
        carried: false,
    }
}

fn is_matrix(param: &Param) -> bool {
    param.role.quantizable() && param.shape.len() > 1
}

/// The type that the user requests for a matrix by its name or role.
fn named(param: &Param, rules: &Rules, hits: &mut [usize]) -> Option<&'static dyn Store> {
    if !is_matrix(param) {
        return None;
    }
    let mut chosen = None;
    for (hit, (pattern, store)) in hits.iter_mut().zip(&rules.overrides) {
        if pattern.is_match(&param.name) {
            *hit += 1;
            chosen = chosen.or(Some(*store));
        }
    }
    let by_role = match param.role {
        Role::Output => rules.output,
        Role::Embedding => rules.embedding,
        _ => None,
    };
    chosen.or(by_role)
}

fn by_rule(param: &Param, model: &Model, rules: &Rules) -> &'static dyn Store {
    if !is_matrix(param) {
        return &formats::F32;
    }
    match rules.pure {
        true => rules.file_type.base(),
        false => rules.file_type.store(param, model, rules.calibrated),
    }
}
