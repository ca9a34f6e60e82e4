//! How weights are rounded beyond what the plan says, and what the methods did beforehand.

use std::collections::BTreeMap;

use aurora_quantizers::{Care, Fidelity};
use ndarray::Array2;

use crate::model::ParamId;
use crate::record::PassRecord;
use crate::weights::Edits;

/// What errors of weights cost, where it is known: of a matrix, E[x^2] of every column's input, `[experts, cols]`.
pub type ColumnImportances = BTreeMap<ParamId, Array2<f32>>;

/// How weights are rounded, beyond what the plan says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rounding<'a> {
    /// Scales by ggml's formula, instead of searched ones.
    pub reference: bool,
    /// Each weight to its nearest level, instead of codes that compensate for each other's errors (`guesses`).
    pub nearest: bool,
    /// How thorough to be: a conversion that has run the model already can spend more time here.
    pub care: Care,
    /// Importances that the search weighs errors by. Without any, all columns of a matrix weigh the same.
    pub importances: Option<&'a ColumnImportances>,
    /// What the block loop did beforehand: tensors that are written, and edits of the others.
    pub solved: Option<&'a AfterBlocks>,
    /// Whether to decode what was written and measure its largest error against the checkpoint.
    pub measure: bool,
}

/// What the block loop leaves to do: everything that is not a quantised matrix, with its edits.
#[derive(Debug, Default)]
pub struct AfterBlocks {
    /// Tensors of the plan whose bytes are written.
    pub written: Vec<bool>,
    /// Edits of the others.
    pub edits: Edits,
    /// What is left of the weights of those that are written, if it was looked at.
    pub fidelity: BTreeMap<ParamId, Fidelity>,
    /// What the passes did, place by place.
    pub records: Vec<PassRecord>,
}
