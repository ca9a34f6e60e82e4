//! Statistics of the inputs of every linear layer over a text, for importance matrices, AWQ and GPTQ.
//!
//! The inputs are texts, and what linear layers read while the pipeline takes the samples through a model. The results
//! are [`SiteStats`](aurora_quantizers::SiteStats), feed by feed, and files of them. `pipeline::walk` moves the samples
//! on, block by block.
//!
//! | file | what it answers |
//! |---|---|
//! | [`dataset`] | which tokens: text files cut into samples |
//! | [`shard`] | which part of the samples, and which of its sums are kept |
//! | [`observe`] | the statistics of one block's sites |
//! | [`imatrix`] | the statistics file, which llama-quantize reads too, and importances per matrix |
//!
//! Knows nothing of formats or of how the statistics are used. All sums have a fixed order, so the file is the same for
//! any number of threads.

pub mod dataset;
pub mod imatrix;
pub mod observe;
pub mod shard;

use aurora_quantizers::NumError;

use crate::error::{Error, Quantity};
use crate::model::ModelGraph;
use observe::{Feed, feeds};

/// What to collect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Whether to keep X^T X of every site.
    pub gram: bool,
    /// Whether to observe the output matrix too. By default llama-imatrix does not.
    pub output: bool,
}

/// The feeds that statistics are collected for, in execution order.
pub fn all_feeds(graph: &ModelGraph, wanted: Wanted) -> Vec<Feed> {
    let sites = graph.sites();
    let blocks = (0..graph.blocks.len()).map(Some).chain(wanted.output.then_some(None));
    blocks.flat_map(|block| feeds(&sites, block)).collect()
}

/// An error about an input that is not finite.
pub fn not_finite(graph: &ModelGraph, feed: &Feed, e: &NumError) -> Error {
    let names: Vec<&str> = feed.readers.iter().map(|id| graph.param(*id).name.as_str()).collect();
    let expert = feed.expert.map_or(String::new(), |e| format!("expert {e}: "));
    let what = format!("{expert}its input is not finite; the weights are damaged, or overflow on this text");
    Error::numbers(None, &names.join(", "), Quantity::Activations, what, e.clone())
}
