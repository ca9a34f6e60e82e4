//! What `--type` comes to.

use std::collections::BTreeMap;

use super::{KEEP, SCALES, solves};
use crate::checkpoint::TensorSource;
use crate::cli::args::Convert;
use crate::cli::packing::Packing;
use crate::model::ParamId;
use crate::plan::FileType;
use crate::weights::{Kept, Weights};
use crate::{Error, Result};

/// What `--type` comes to.
pub(super) struct Target {
    /// As the record has it.
    pub name: String,
    /// The format of what has no other; of what is kept, the most common one.
    pub file_type: &'static FileType,
    /// What keeps the checkpoint's own numbers.
    pub kept: BTreeMap<ParamId, Kept>,
    /// Whether the checkpoint is quantised.
    pub packed: bool,
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
        Ok(Target { name, file_type: FileType::by_name("f16")?, kept, packed, warning })
    }

    /// Of a GGUF file. Where integers are kept, columns are put in the order of their groups.
    pub fn of(args: &Convert, source: &dyn TensorSource, weights: &mut Weights) -> Result<Target> {
        let quantised = source.tensors().iter().find_map(|t| t.packed.as_deref());
        let usual = match quantised {
            Some(_) => KEEP,
            None if solves(args) => "q4_k_m",
            None => "q8_0",
        };
        let asked = args.file_type.as_deref().unwrap_or(usual);
        if !asked.eq_ignore_ascii_case(KEEP) {
            let file_type = FileType::by_name(asked)?;
            let warning = quantised.map(|packed| {
                format!(
                    "the checkpoint is quantised ({}); {} rounds it a second time, on top of what the first cost. \
                     --type keep carries its integers over as they are",
                    packed.describe(source),
                    file_type.name
                )
            });
            let packed = quantised.is_some();
            return Ok(Target { name: file_type.name.to_owned(), file_type, kept: BTreeMap::new(), packed, warning });
        }
        if quantised.is_none() {
            let what =
                "--type keep carries the integers of a quantised checkpoint over; this one has floats: name a type";
            return Err(Error::unsupported(what));
        }
        let idle = [
            (solves(args), "--method"),
            (args.imatrix.is_some(), "--imatrix"),
            (args.calibrate, "--calibrate"),
            (args.scales == SCALES[1], "--scales reference"),
            (args.pure, "--pure"),
        ];
        if let Some((_, option)) = idle.iter().find(|(given, _)| *given) {
            let what = format!(
                "the checkpoint is quantised, and --type keep chooses no codes: leave out {option}, or name a --type, \
                 which rounds it a second time"
            );
            return Err(Error::unsupported(what));
        }
        *weights = weights.edited(&weights.sort_groups())?;
        let params = weights.graph().params.iter().enumerate();
        let matrices = params.filter(|(_, p)| p.role.quantizable() && p.shape.len() > 1);
        let kept: BTreeMap<_, _> = matrices.map(|(i, _)| (ParamId(i), weights.kept(ParamId(i)))).collect();
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for (id, kept) in &kept {
            *sizes.entry(kept.spec.name).or_default() += weights.graph().param(*id).len();
        }
        let most = sizes.iter().max_by_key(|(_, size)| **size).map_or("f16", |(name, _)| name);
        Ok(Target { name: KEEP.to_owned(), file_type: FileType::by_name(most)?, kept, packed: true, warning: None })
    }
}
