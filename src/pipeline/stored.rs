//! The methods on statistics from a file: block by block as on a walk, but without running the model.

use aurora_quantizers::SiteStats;
use aurora_quantizers::spec::Kind;
use ndarray::{Array2, ArrayView2, Axis};

use super::blocks::Work;
use super::rounding::AfterBlocks;
use crate::calibrate::imatrix::Imatrix;
use crate::calibrate::observe::{Feed, feeds};
use crate::export::Sink;
use crate::model::{Model, ParamId, Reader, Site};
use crate::passes::{self, Pass, RTN, SiteState, StatsKind};
use crate::plan::Plan;
use crate::record::PassRecord;
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Error, Result};

/// Number of rows of a matrix that weights are judged by, spread evenly over all.
const ROWS: usize = 256;

/// Runs the passes over all blocks with the statistics from a file, and writes what they encode. If the file has no
/// statistics for the output matrix, that is left to rounding to nearest.
///
/// # Errors
/// If the file lacks what the passes need (the error names the matrix, and says how to make a file that has it) or
/// belongs to another model, a matrix cannot be solved, the disk fails, or the watch says to stop.
pub fn run(
    model: &Model,
    weights: &Weights<'_>,
    plan: &Plan,
    passes: &[Box<dyn Pass>],
    statistics: &Imatrix,
    output: &dyn Sink,
    watch: &dyn Watch,
) -> Result<AfterBlocks> {
    let graph = &model.graph;
    let mut work = Work::new(model, weights, plan, passes, output, watch);
    // Without a run, trials are judged by X^T X too.
    let gram = passes.iter().any(|pass| pass.needs().stats == StatsKind::Gram || pass.needs().probe);
    let of = |sites: &[Site], block| feeds(sites, block);
    let mut needed: Vec<Feed> = (0..graph.blocks.len()).flat_map(|block| of(&work.sites, Some(block))).collect();
    let head = of(&work.sites, None);
    let known = head.iter().all(|feed| statistics.entries.contains_key(&graph.param(feed.readers[0]).name));
    needed.extend(head.iter().filter(|_| known).cloned());
    statistics.complete(graph, &needed, gram)?;
    let mut find = |feed: &Feed| -> Result<SiteStats> {
        let name = &graph.param(feed.readers[0]).name;
        statistics.stats(graph, feed)?.ok_or_else(|| Error::bug(format!("{name}: no statistics of its input")))
    };
    let judge = Judge { weights };
    for block in 0..graph.blocks.len() {
        watch.stage(&format!("block {block}"));
        watch.go_on()?;
        let done = work.passes(Some(block), &mut find, Some(&judge))?;
        work.keep(done)?;
        let params = graph.params.iter().enumerate().filter(|(_, param)| param.block == Some(block));
        params.for_each(|(i, param)| weights.release(ParamId(i), 0..param.rows()));
    }
    if known {
        let done = work.passes(None, &mut find, None)?;
        work.keep(done)?;
    }
    let left = head.iter().filter(|_| !known).flat_map(|feed| &feed.readers);
    for id in left.filter(|id| work.stores[id.0].spec().kind == Kind::Block) {
        let mut record = PassRecord::new(RTN, None, vec![graph.param(*id).name.clone()]);
        record.note = Some("no statistics for it; calibrate with `output_matrix` to collect them".to_owned());
        work.solved.records.push(record);
    }
    Ok(work.solved)
}

/// Judges weights by what their errors do to the outputs of their own matrices, tr(E H E^T) with H from X^T X.
struct Judge<'a> {
    weights: &'a Weights<'a>,
}

impl passes::Probe for Judge<'_> {
    fn stop_at<'p>(&'p self, site: &Site, states: &'p [SiteState]) -> Result<Box<dyn passes::Trial + 'p>> {
        let states: Vec<&SiteState> = states.iter().filter(|state| state.site.reach == site.reach).collect();
        let stats = || states.iter().flat_map(|state| &state.stats);
        // Each expert sees some of the tokens; readers that belong to no expert see all of them.
        let all = stats().find(|(expert, _)| expert.is_none()).map(|(_, stats)| stats.tokens());
        let tokens = all.unwrap_or_else(|| stats().map(|(_, stats)| stats.tokens()).sum());
        Ok(Box::new(Trial { judge: self, states, tokens: tokens.max(1) }))
    }

    fn judges(&self) -> Option<&'static str> {
        Some("tr(E H E^T) of the matrices that read it, with H from the stored X^T X; the block was not run")
    }
}

struct Trial<'p> {
    judge: &'p Judge<'p>,
    states: Vec<&'p SiteState>,
    /// Tokens that reached the site.
    tokens: u64,
}

impl passes::Trial for Trial<'_> {
    fn change(&self, weights: &[(Reader, Array2<f32>)]) -> Result<f64> {
        let losses = weights.iter().map(|(reader, values)| self.loss(*reader, values.view()));
        Ok(losses.sum::<f64>() / self.tokens as f64)
    }
}

impl Trial<'_> {
    /// The squared change of a matrix's outputs over all tokens that it saw, from some of its rows.
    fn loss(&self, reader: Reader, values: ArrayView2<'_, f32>) -> f64 {
        let state =
            self.states.iter().find(|state| state.site.readers.contains(&reader)).expect("a reader of the site");
        let Some(gram) = state.seen_by(reader.expert).gram() else { return 0.0 };
        let (rows, cols) = self.judge.weights.dim_of(reader);
        assert_eq!(values.dim(), (rows, cols), "shape of a matrix under trial");
        let first = reader.expert.unwrap_or(0) * rows;
        let used = rows.min(ROWS);
        let mut errors = Array2::zeros((used, cols));
        for (i, mut error) in errors.axis_chunks_iter_mut(Axis(0), 1).enumerate() {
            let row = i * rows / used;
            self.judge.weights.rows(reader.weight, first + row..first + row + 1, error.view_mut());
            error.iter_mut().zip(values.row(row)).for_each(|(e, w)| *e = w - *e);
        }
        gram.quadratic(errors.view()) * rows as f64 / used.max(1) as f64
    }
}
