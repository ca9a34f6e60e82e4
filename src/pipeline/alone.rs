//! Passes that look only at weights: block by block as on a walk, but without a text, and without running the model.

use aurora_quantizers::SiteStats;

use super::blocks::Work;
use super::rounding::AfterBlocks;
use crate::Result;
use crate::calibrate::observe::Feed;
use crate::export::Sink;
use crate::model::{Model, ParamId};
use crate::passes::Pass;
use crate::plan::Plan;
use crate::watch::Watch;
use crate::weights::Weights;

/// Runs the passes over all blocks and the output matrix, with empty statistics, and writes what they encode.
///
/// # Errors
/// Those of the passes; or if the disk fails, or the watch says to stop.
pub fn run(
    model: &Model,
    weights: &Weights<'_>,
    plan: &Plan,
    passes: &[Box<dyn Pass>],
    output: &dyn Sink,
    watch: &dyn Watch,
) -> Result<AfterBlocks> {
    let graph = &model.graph;
    let mut work = Work::new(model, weights, plan, passes, output, watch);
    let mut nothing = |feed: &Feed| Ok(SiteStats::new(graph.param(feed.readers[0]).cols(), false));
    for block in (0..graph.blocks.len()).map(Some).chain([None]) {
        watch.go_on()?;
        let done = work.passes(block, &mut nothing, None)?;
        work.keep(done)?;
        let params = graph.params.iter().enumerate().filter(|(_, param)| param.block == block);
        params.for_each(|(i, param)| weights.release(ParamId(i), 0..param.rows()));
    }
    Ok(work.solved)
}
