//! The Hugging Face tensors that a parameter comes from, and the float type of each.

use aurora_quantizers::spec::{self, Kind};
use aurora_quantizers::{Spec, Store, formats, matrix_mut};

use super::super::Request;
use crate::checkpoint::{Config, TensorInfo, TensorSource};
use crate::model::{Import, Param, ParamId, Part};
use crate::weights::Weights;
use crate::{Error, Result};

/// A run of a parameter's rows in one tensor.
pub(super) struct Run {
    pub name: String,
    /// Of the whole tensor, as stored.
    pub shape: Vec<usize>,
    /// Its first row there, after a transposition.
    pub to: usize,
    pub rows: usize,
    pub spec: &'static Spec,
}

/// The runs that the checkpoint has, or would have, of a parameter; none if it is computed.
pub(super) fn runs(
    weights: &Weights<'_>,
    source: &dyn TensorSource,
    id: ParamId,
    chosen: Option<&'static Spec>,
) -> Vec<Run> {
    let param = weights.graph().param(id);
    match source.config() {
        Config::HuggingFace(_) => {
            let run = |(info, to, rows): (&TensorInfo, usize, usize)| Run {
                name: info.name.clone(),
                shape: shape(param, &info.shape),
                to,
                rows,
                spec: chosen.unwrap_or_else(|| own(source, info)),
            };
            let found = weights.stored_param(id);
            match (&found.parts, &found.alternatives) == (&param.parts, &param.alternatives) {
                true => weights.pieces(id).map(run).collect(),
                false => renamed(weights, source, id, chosen),
            }
        }
        Config::Gguf(_) => {
            let spec = chosen.unwrap_or_else(|| own_of_gguf(weights, source, id));
            let run = |part: &Part| Run {
                name: part.names[0].clone(),
                shape: part.shape.clone(),
                to: part.first_row,
                rows: part.rows,
                spec,
            };
            param.parts.iter().map(run).collect()
        }
    }
}

/// The runs of a parameter of which the checkpoint has more, or under another name: spelled and put together as there.
fn renamed(weights: &Weights<'_>, source: &dyn TensorSource, id: ParamId, chosen: Option<&'static Spec>) -> Vec<Run> {
    let (param, found) = (weights.graph().param(id), weights.stored_param(id));
    let Some((info, ..)) = weights.pieces(id).next() else { return Vec::new() };
    let ways = |param: &'_ Param| std::iter::once(param.parts.clone()).chain(param.alternatives.clone());
    let spelling = |parts: Vec<Part>| parts.first()?.names.iter().position(|name| *name == info.name);
    let way = ways(found).enumerate().find_map(|(way, parts)| Some((way, spelling(parts)?)));
    let Some((way, spelling)) = way else { return Vec::new() };
    let parts = ways(param).nth(way).expect("as many ways as before");
    let run = |part: Part| Run {
        name: part.names[spelling].clone(),
        shape: shape(param, &part.shape),
        to: part.first_row,
        rows: part.rows,
        spec: chosen.unwrap_or_else(|| own(source, info)),
    };
    parts.into_iter().map(run).collect()
}

/// Quantisers store `[out, in]` even for layers whose floats are `[in, out]`.
fn shape(param: &Param, stored: &[usize]) -> Vec<usize> {
    match param.import {
        Import::Transpose => vec![param.cols(), param.rows()],
        _ => stored.to_vec(),
    }
}

/// The type that a request names for all tensors, if any.
pub(super) fn chosen(request: &Request) -> Result<Option<&'static Spec>> {
    let Some(name) = &request.file_type else { return Ok(None) };
    match ["f32", "f16", "bf16"].iter().find(|known| known.eq_ignore_ascii_case(name)) {
        Some(known) => Ok(Some(named(known))),
        None => Err(Error::setting("type", name, "`format` safetensors takes only f32, f16 and bf16")),
    }
}

pub(super) fn named(name: &str) -> &'static Spec {
    spec::by_name(name).expect("a row of SPECS")
}

/// The type for a tensor of the checkpoint. Quantised tensors become F16: a scale times a small integer has about as
/// many bits as F16 holds, three more than BF16. They become BF16 if weights may exceed F16's range, or are all below
/// its normal numbers.
fn own(source: &dyn TensorSource, info: &TensorInfo) -> &'static Spec {
    match &info.packed {
        Some(packed) if !packed.fits_half(&packed.survey(source)) => named("bf16"),
        Some(_) => named("f16"),
        // Everything here computes in 32 bits.
        None if info.spec.name == "f64" => named("f32"),
        None => info.spec,
    }
}

/// GGUF keeps vectors and small matrices as F32, whatever the checkpoint had. They get the type of the token embedding
/// back if that loses nothing.
fn own_of_gguf(weights: &Weights<'_>, source: &dyn TensorSource, id: ParamId) -> &'static Spec {
    let float = |info: &TensorInfo| if info.spec.kind == Kind::Float { info.spec } else { named("f16") };
    let Some(info) = source.find(&weights.graph().param(id).name) else { return named("f32") };
    let found = float(info);
    let Some(table) = source.find("token_embd.weight").map(float) else { return found };
    match found.name == "f32" && !weights.graph().param(id).role.quantizable() && holds(weights, id, table) {
        true => table,
        false => found,
    }
}

/// The store of a float type.
pub(super) fn store(spec: &Spec) -> &'static dyn Store {
    formats::by_name(spec.name).expect("a type of floats")
}

/// Whether a type holds a parameter without loss once it is stored and read back.
fn holds(weights: &Weights<'_>, id: ParamId, spec: &'static Spec) -> bool {
    let param = weights.graph().param(id);
    let format = store(spec);
    let mut values = vec![0.0; param.cols()];
    (0..param.rows()).all(|row| {
        weights.rows(id, row..row + 1, matrix_mut(&mut values, param.cols()));
        let mut stored = values.clone();
        less_one(param, &mut stored);
        let mut bytes = vec![0; stored.len() * spec.bytes];
        format.encode(&stored, aurora_quantizers::Scales::Reference, &mut bytes);
        format.decode(&bytes, &mut stored);
        if param.import == Import::AddOne {
            stored.iter_mut().for_each(|v| *v += 1.0);
        }
        stored == values
    })
}

/// Subtracts the one that the import added, where it added one.
pub(super) fn less_one(param: &Param, values: &mut [f32]) {
    if param.import == Import::AddOne {
        values.iter_mut().for_each(|v| *v = (f64::from(*v) - 1.0) as f32);
    }
}
