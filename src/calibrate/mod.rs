//! Statistics of what every linear multiplies, over a text: what importance matrices, AWQ and GPTQ are made from.
//!
//! In go texts, and what linears read while the pipeline takes the samples through a model; out come
//! [`SiteStats`](aurora_quantizers::SiteStats) feed after feed, and files of them. What moves the samples on, block by
//! block, is `pipeline::walk`.
//!
//! | file | what it answers |
//! |---|---|
//! | [`dataset`] | which tokens: text files cut into samples |
//! | [`shard`] | which part of the samples, and which sums are kept of it |
//! | [`observe`] | the statistics of one block's sites |
//! | [`imatrix`] | the file of statistics that llama-quantize reads too, and importances per matrix |
//!
//! Knows nothing of formats or of what is done with the statistics. All sums have a fixed order: the same file for any
//! number of threads.

pub mod dataset;
pub mod imatrix;
pub mod observe;
pub mod shard;

use aurora_quantizers::NumError;

use crate::error::{Error, Quantity};
use crate::model::ModelGraph;
use observe::{Feed, feeds};

/// What is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Keep X^T X of every site.
    pub gram: bool,
    /// Observe the output matrix too. llama-imatrix leaves it out unless asked.
    pub output: bool,
}

/// Which linears there will be statistics of, in the order in which the model computes.
pub fn all_feeds(graph: &ModelGraph, wanted: Wanted) -> Vec<Feed> {
    let sites = graph.sites();
    let blocks = (0..graph.blocks.len()).map(Some).chain(wanted.output.then_some(None));
    blocks.flat_map(|block| feeds(&sites, block)).collect()
}

/// An error about an input that is not finite.
pub fn not_finite(graph: &ModelGraph, feed: &Feed, e: &NumError) -> Error {
    let names: Vec<&str> = feed.readers.iter().map(|id| graph.param(*id).name.as_str()).collect();
    let expert = feed.expert.map_or(String::new(), |e| format!("expert {e}: "));
    let what = format!("{expert}its input is not finite; the weights are damaged or overflow in this text");
    Error::numbers(None, &names.join(", "), Quantity::Activations, what, e.clone())
}
