//! What the recipe's type comes to.

use std::collections::BTreeMap;

use aurora_quantizers::spec::Kind;

use super::asked::{Asked, setting};
use super::refuse;
use crate::checkpoint::{Config, TensorSource};
use crate::error::printable;
use crate::export::packing::Packing;
use crate::model::ParamId;
use crate::plan::FileType;
use crate::recipe::Recipe;
use crate::weights::{Kept, Weights};
use crate::{Error, Result};

/// The type that carries integers over.
pub const KEEP: &str = "keep";

/// What the recipe's type comes to.
pub(super) struct Target {
    /// As the record has it.
    pub name: String,
    /// The format of what has no other; of what is kept, the most common one.
    pub file_type: &'static FileType,
    /// What keeps the checkpoint's own numbers.
    pub kept: BTreeMap<ParamId, Kept>,
    /// Whether the checkpoint is quantised.
    pub packed: bool,
    /// Whether columns and rows change places for the sake of act order.
    pub sorted: bool,
    /// What the user should know.
    pub warning: Option<String>,
}

impl Target {
    /// Of a checkpoint for another program.
    pub fn packed(packing: &Packing, source: &dyn TensorSource, weights: &Weights) -> Result<Target> {
        let quantised = source.tensors().iter().find_map(|t| t.packed.as_deref());
        let warning = quantised.map(|packed| {
            format!("the checkpoint is quantised ({}); this rounds it a second time", packed.describe(source))
        });
        let kept = packing.kept(source, weights)?;
        let (name, packed) = (packing.name.clone(), quantised.is_some());
        Ok(Target { name, file_type: FileType::by_name("f16")?, kept, packed, sorted: false, warning })
    }

    /// Of a GGUF file. Where integers are kept, columns are put in the order of their groups.
    pub fn of(recipe: &Recipe, asked: &Asked, source: &dyn TensorSource, weights: &mut Weights) -> Result<Target> {
        let quantised = source.tensors().iter().find_map(|t| t.packed.as_deref());
        let usual = match quantised {
            Some(_) => KEEP,
            None if asked.solves => "q4_k_m",
            None => "q8_0",
        };
        let named = recipe.file_type.as_deref().unwrap_or(usual);
        if !named.eq_ignore_ascii_case(KEEP) {
            let file_type = FileType::by_name(named)?;
            let warning = quantised.map(|packed| {
                format!(
                    "the checkpoint is quantised ({}); {} rounds it a second time, on top of what the first cost. \
                     `type` keep carries its integers over as they are",
                    packed.describe(source),
                    file_type.name
                )
            });
            let (packed, kept) = (quantised.is_some(), BTreeMap::new());
            return Ok(Target { name: file_type.name.to_owned(), file_type, kept, packed, sorted: false, warning });
        }
        if quantised.is_none() {
            return refuse(
                "`type` keep carries the integers of a quantised checkpoint over; this one has floats: name a type",
            );
        }
        let idle = [
            (asked.solves, "method"),
            (recipe.importance.is_some(), setting(recipe.importance.as_ref())),
            (asked.reference, "scales"),
            (recipe.pure, "pure"),
        ];
        if let Some((_, setting)) = idle.iter().find(|(given, _)| *given) {
            return refuse(format!(
                "the checkpoint is quantised, and `type` keep chooses no codes: leave out `{setting}`, or name a `type`, \
                 which rounds it a second time"
            ));
        }
        weights.sort_groups();
        let params = weights.graph().params.iter().enumerate();
        let matrices = params.filter(|(_, p)| p.role.quantizable() && p.shape.len() > 1);
        let kept: BTreeMap<_, _> = matrices.map(|(i, _)| (ParamId(i), weights.kept(ParamId(i)))).collect();
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for (id, kept) in &kept {
            *sizes.entry(kept.store.spec().name).or_default() += weights.graph().param(*id).len();
        }
        let most = sizes.iter().max_by_key(|(_, size)| **size).map_or("f16", |(name, _)| name);
        let (name, file_type) = (KEEP.to_owned(), FileType::by_name(most)?);
        Ok(Target { name, file_type, kept, packed: true, sorted: true, warning: None })
    }
}

/// Refuses GGUF files that are quantised already, unless they are allowed.
pub(super) fn refuse_quantized(source: &dyn TensorSource, allowed: bool) -> Result<()> {
    let quantized = source.tensors().iter().find(|t| t.spec.kind == Kind::Block);
    match (source.config(), quantized) {
        (Config::Gguf(_), Some(t)) if !allowed => Err(Error::tensor(
            source.file_of(t),
            printable(&t.name),
            format!(
                "is quantised already ({}); convert the original checkpoint instead, or accept the second rounding with \
                 `allow_requantize`",
                t.spec.name
            ),
        )),
        _ => Ok(()),
    }
}
