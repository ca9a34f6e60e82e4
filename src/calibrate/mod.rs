//! Statistics of what every linear multiplies, over a text: what importance matrices, AWQ and GPTQ are made from.
//!
//! In go a model and token samples, out come [`SiteStats`] site after site. The model runs block by block
//! ([`BlockRunner`]): every sample through one block, whose statistics are then handed over and whose weights are given
//! back. So memory holds the residual streams of all samples and the weights and statistics of one block.
//!
//! | file | what it answers |
//! |---|---|
//! | [`dataset`] | which tokens: text files cut into samples |
//! | [`observe`] | the statistics of one block's sites |
//! | [`imatrix`] | the file of statistics that llama-quantize reads too, and importances per matrix |
//!
//! Knows nothing of formats or of what is done with the statistics. All sums have a fixed order: the same file for any
//! number of threads.

pub mod dataset;
pub mod imatrix;
pub mod observe;

use aurora_quantizers::{SiteStats, matrix};

use crate::model::ModelGraph;
use crate::runtime::{BlockRunner, Overrides};
use crate::watch::Watch;
use crate::{Error, Result};
use observe::{Feed, Observer, feeds};

/// What is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Keep X^T X of every site.
    pub gram: bool,
    /// Observe the output matrix too. llama-imatrix leaves it out unless asked.
    pub output: bool,
}

/// Runs all samples and hands over the statistics of every site, in the order in which the model computes.
///
/// # Errors
/// If a token does not fit the model, a value is not finite (the error names block and tensor), or `sink` or `watch`
/// fail.
pub fn run(
    runner: &BlockRunner<'_>,
    samples: &[Vec<u32>],
    wanted: Wanted,
    sink: &mut dyn FnMut(&Feed, SiteStats) -> Result<()>,
    watch: &dyn Watch,
) -> Result<()> {
    let graph = &runner.model().graph;
    let sites = graph.sites();
    watch.begin((samples.len() * (graph.blocks.len() + 1)) as u64);
    let step = |samples: usize| {
        watch.advance("calibrating", samples as u64);
        watch.go_on()
    };
    let mut residuals = samples.iter().map(|tokens| runner.embed(tokens)).collect::<Result<Vec<_>>>()?;
    runner.release(None);
    let none = Overrides::new();
    for i in 0..graph.blocks.len() {
        let mut observer = Observer::new(feeds(&sites, Some(i)), wanted.gram);
        let mut block = runner.block(i, &none);
        let mut rest = residuals.as_mut_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(block.together(rest));
            block.run_all(now, Some(&mut observer))?;
            observer.check().map_err(|(feed, e)| not_finite(graph, feed, &e.to_string()))?;
            step(now.len())?;
            rest = later;
        }
        drop(block);
        runner.release(Some(i));
        observer.finish().into_iter().try_for_each(|(feed, stats)| sink(&feed, stats))?;
    }
    for feed in feeds(&sites, None).into_iter().filter(|_| wanted.output) {
        let mut stats = SiteStats::new(feed.width, wanted.gram);
        for residual in &residuals {
            let inputs = runner.head_inputs(residual)?;
            stats.add(matrix(&inputs, feed.width)).map_err(|e| not_finite(graph, &feed, &e.to_string()))?;
        }
        sink(&feed, stats)?;
    }
    step(samples.len())
}

/// Which linears there will be statistics of, in the order of [`run`].
pub fn all_feeds(runner: &BlockRunner<'_>, wanted: Wanted) -> Vec<Feed> {
    let graph = &runner.model().graph;
    let sites = graph.sites();
    let blocks = (0..graph.blocks.len()).map(Some).chain(wanted.output.then_some(None));
    blocks.flat_map(|block| feeds(&sites, block)).collect()
}

/// An error about an input that is not finite.
pub fn not_finite(graph: &ModelGraph, feed: &Feed, what: &str) -> Error {
    let names: Vec<&str> = feed.readers.iter().map(|id| graph.param(*id).name.as_str()).collect();
    let place = feed.block.map_or("the output matrix".to_owned(), |i| format!("block {i}"));
    let expert = feed.expert.map_or(String::new(), |e| format!(", expert {e}"));
    Error::unsupported(format!(
        "{place}: the input of {}{expert} is not finite: {what}; the weights are damaged or overflow in this text",
        names.join(", ")
    ))
}
