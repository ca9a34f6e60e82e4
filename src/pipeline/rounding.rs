//! How weights are rounded beyond what the plan says, and what the methods have done before.

use std::collections::BTreeMap;

use aurora_quantizers::{Care, Fidelity};

use crate::model::ParamId;
use crate::record::PassRecord;
use crate::weights::Edits;

/// What errors of weights cost, where it is known: of a matrix, E[x^2] of every column's input, `[experts, cols]`.
pub type ColumnImportances = BTreeMap<ParamId, Vec<f32>>;

/// How weights are rounded, beyond what the plan says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rounding<'a> {
    /// Scales by ggml's formula, instead of searched ones.
    pub reference: bool,
    /// Each weight to the nearest level, instead of codes that make up for each other's errors (`guesses`).
    pub nearest: bool,
    /// With more time than a conversion that runs nothing takes: for one that ran the model already.
    pub care: Care,
    /// What the search weighs errors by; all columns of a matrix without any count alike.
    pub importances: Option<&'a ColumnImportances>,
    /// What the block loop did before: tensors that are written, and edits of the others.
    pub solved: Option<&'a AfterBlocks>,
    /// Whether to look at what every reader of the output will see, and tell how far it is from the checkpoint.
    pub measure: bool,
}

/// What the block loop leaves to be done: everything that is not a matrix of a block format, with its edits.
#[derive(Debug, Default)]
pub struct AfterBlocks {
    /// Tensors of the plan whose bytes are written.
    pub written: Vec<bool>,
    /// Edits of what is not.
    pub edits: Edits,
    /// What is left of the weights of those that are written, if it was looked at.
    pub fidelity: BTreeMap<ParamId, Fidelity>,
    /// What the passes did, place by place.
    pub records: Vec<PassRecord>,
}
