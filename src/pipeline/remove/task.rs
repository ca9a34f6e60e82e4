//! What is to be done, and what all steps of it say of themselves.

use std::ops::Range;

use super::sizes::Sizes;
use super::wanted::Parts;
use crate::model::Model;
use crate::record::PassRecord;
use crate::weights::Weights;

/// Name of the stage in records.
pub(crate) const NAME: &str = "remove";
/// Fact: what went, in a word: layer, heads, channels, experts.
pub(crate) const GONE: &str = "gone";

/// A model, and what to do with it.
pub(crate) struct Task<'t, 'a> {
    /// The whole model.
    pub model: &'t Model,
    /// Its weights.
    pub weights: &'t Weights<'a>,
    /// What is to go.
    pub wanted: &'t Parts,
    /// How much of it.
    pub sizes: &'t Sizes,
    /// Token sequences, each run from position 0; none if nothing has to be run.
    pub samples: &'t [Vec<u32>],
}

/// The record of a layer that goes.
pub(super) fn layer(block: usize) -> PassRecord {
    let mut record = PassRecord::new(NAME, Some(block), vec![format!("blk.{block}")]);
    record.fact(GONE, "layer");
    record
}

/// The blocks that went between one that stays and the next.
pub(super) fn gap(stay: &[usize], at: usize, all: usize) -> Range<usize> {
    stay[at] + 1..stay.get(at + 1).copied().unwrap_or(all)
}
