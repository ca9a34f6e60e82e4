//! Pruned matrices stored without their zeros.
//!
//! The conversion writes its ordinary output to a temporary place, so that every method, type and option works as it
//! does for dense files. What is zero is known only then: [`count`] looks at every matrix, [`pack`] writes those that
//! become smaller and copies the rest. Both go through the mapped file once, in chunks, on all threads.

use aurora_quantizers::formats;
use aurora_quantizers::sparse::{Packing, SparseLayout};

use super::Request;
use crate::checkpoint::sparse::keys::PACKINGS;
use crate::model::Role;
use crate::options::{Opt, OptKind, Options};
use crate::plan::{Plan, TensorPlan};
use crate::{Error, Result};

pub(super) mod count;
pub(super) mod dense;
pub(super) mod folder;
pub(super) mod form;
pub(super) mod gguf;
pub(super) mod pack;
pub(crate) mod record;

/// Said before the work, when zeros have not been counted.
pub(crate) const BOUND: &str = "sizes are those of the dense file; how much smaller it is without zeros is known once \
                                they are counted. Until the end a temporary file takes the dense size on the disk as well";

/// Said of a file that only this program reads.
pub(super) const ALONE: &str = "only aurora-quant reads this file, not llama.cpp; convert it again to get one that it \
                                loads, with the same weights";

/// Whether matrices are to be stored sparse.
pub(crate) fn wanted(request: &Request) -> bool {
    request.options.get(SPARSE.name).is_some_and(|value| value.to_string() != OFF)
}

const OFF: &str = "none";
const CSR: &str = "csr";

/// The option of the formats that can.
pub(super) const SPARSE: Opt = Opt {
    name: "sparse",
    about: "Store pruned matrices without their zeros, where that is smaller: bitmask (a bit for each weight, then the \
            values), 2:4 (two values for every four weights) or csr (a column for each value). Zeros come from a \
            method that prunes, or are there already. Only aurora-quant reads such a GGUF file; convert it again for one \
            that llama.cpp loads. gguf and compressed-tensors take bitmask and 2:4, safetensors takes csr",
    kind: OptKind::Word(&[OFF, "bitmask", "2:4", CSR]),
    default: OFF,
};

/// How the places of values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Places {
    /// By masks.
    Masks(Packing),
    /// By columns.
    Columns,
}

/// What is asked for, if anything.
pub(super) fn asked(options: &Options) -> Option<Places> {
    let meanings = [
        (OFF, None),
        (PACKINGS[0].name(), Some(Places::Masks(PACKINGS[0]))),
        (PACKINGS[1].name(), Some(Places::Masks(PACKINGS[1]))),
        (CSR, Some(Places::Columns)),
    ];
    options.word(SPARSE.name, &meanings)
}

/// The packing, where there can be no columns.
///
/// # Errors
/// If columns are asked for: why not.
pub(super) fn packing(places: Places, format: &str) -> Result<Packing> {
    match places {
        Places::Masks(packing) => Ok(packing),
        Places::Columns => {
            let what = format!(
                "is for `format` safetensors, to hand matrices over to other programs; {format} has bitmask, which is \
                 smaller unless fewer than one weight in 32 is left"
            );
            Err(Error::setting(SPARSE.name, CSR, what))
        }
    }
}

/// Whether a matrix of this type can be stored sparse at all.
pub(super) fn possible(role: Role, t: &TensorPlan) -> bool {
    role.quantizable() && t.shape.len() > 1 && SparseLayout::new(Packing::Bitmask, t.store, t.cols()).is_ok()
}

/// Refuses outputs of which no matrix can be stored sparse, whatever its zeros.
///
/// # Errors
/// If there is none: which types could be.
pub(super) fn check(plan: &Plan, role: impl Fn(&TensorPlan) -> Role) -> Result<()> {
    if plan.tensors.iter().any(|t| possible(role(t), t)) {
        return Ok(());
    }
    let can = |store: &&'static dyn aurora_quantizers::Store| {
        SparseLayout::new(Packing::Bitmask, *store, 4 * store.spec().block).is_ok()
    };
    let known: Vec<_> = formats::FORMATS.iter().copied().filter(can).map(|store| store.spec().name).collect();
    let what = format!(
        "no matrix of this output has a type that can be stored sparse; these have: {} (`type`)",
        known.join(", ")
    );
    Err(Error::conflict([SPARSE.name, "type"], what))
}

/// Refuses what cannot be together with sparse matrices.
///
/// # Errors
/// If such a thing is set.
pub(super) fn refuse(request: &Request, names: &[&'static str], why: &str) -> Result<()> {
    match names.iter().find(|name| request.options.contains_key(**name)) {
        Some(name) => {
            Err(Error::conflict([SPARSE.name, *name], format!("`{name}` cannot be set with `sparse`: {why}")))
        }
        None => Ok(()),
    }
}
