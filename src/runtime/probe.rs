//! What other weights of a few linears do to the residual stream: part of a block, run again and again from where it was
//! stopped.

use std::ops::Range;

use super::batch::{Batch, finite};
use super::blocks::{no_culprit, ready};
use super::cache::Cache;
use super::engine::{self, BATCH};
use super::route::Route;
use super::{BlockRunner, Engine, Overrides};
use crate::Result;
use crate::model::Op;

/// A block and some samples, from whose start on it can be run in part.
pub struct Probe<'p, 'a> {
    runner: &'p BlockRunner<'a>,
    block: usize,
    residuals: Vec<Vec<f32>>,
}

/// One sample in front of an op.
struct Start {
    tokens: Vec<u32>,
    slots: Vec<Vec<f32>>,
    routes: Vec<Route>,
    /// The residual stream after the stretch, with the stored weights.
    after: Vec<f32>,
}

/// A stretch of ops with all that its first op finds.
pub struct Stopped<'p, 'a> {
    probe: &'p Probe<'p, 'a>,
    ops: &'a [Op],
    /// Attention ops before the stretch.
    attended: usize,
    starts: Vec<Start>,
}

impl<'p, 'a> Probe<'p, 'a> {
    /// `residuals`: of each sample the residual stream before the block, `[tokens, width]`; of a long one only the first
    /// tokens are used, as many as go through a model together.
    ///
    /// # Panics
    /// If there is no such block, or a residual is not whole rows.
    pub fn new(runner: &'p BlockRunner<'a>, block: usize, mut residuals: Vec<Vec<f32>>) -> Self {
        let width = runner.width();
        assert!(block < runner.model.graph.blocks.len(), "block {block}");
        let most = BATCH.min(runner.options.context) * width;
        for residual in &mut residuals {
            assert!(residual.len().is_multiple_of(width), "{} numbers in rows of {width}", residual.len());
            residual.truncate(most);
        }
        Probe { runner, block, residuals }
    }

    /// Runs the samples to the start of the stretch, and on to its end to see what comes of the stored weights.
    ///
    /// # Errors
    /// If a matrix has a type without a kernel.
    ///
    /// # Panics
    /// If the block has no such ops.
    pub fn stop_at(&'p self, stretch: Range<usize>) -> Result<Stopped<'p, 'a>> {
        let runner = self.runner;
        let graph = &runner.model.graph;
        let (before, ops) = graph.blocks[self.block][..stretch.end].split_at(stretch.start);
        let engine = Engine::of(runner.model, runner.weights, runner.options, before, None)?;
        let tail = Engine::of(runner.model, runner.weights, runner.options, ops, None)?;
        let attended = engine::heads(before).count();
        let starts = self.residuals.iter().map(|residual| {
            let tokens = vec![0; residual.len() / runner.width()];
            let mut batch = ready(&engine, &tokens, 0, residual.clone());
            no_culprit(batch.stretch(before, &mut self.caches()));
            let (slots, routes) = (std::mem::take(&mut batch.slots), std::mem::take(&mut batch.routes));
            let mut start = Start { tokens, slots, routes, after: Vec::new() };
            start.after = self.run(&tail, ops, attended, &start);
            start
        });
        // On a thread of the pool, so that handing work to it needs no waking and waiting from outside.
        let starts = rayon::scope(|_| starts.collect());
        Ok(Stopped { probe: self, ops, attended, starts })
    }

    fn caches(&self) -> Vec<Cache> {
        let heads = engine::heads(&self.runner.model.graph.blocks[self.block]);
        heads.map(|(heads, dim)| Cache::new(self.runner.options.cache, heads, dim)).collect()
    }

    /// The residual stream after `ops`, which begin with `start`.
    fn run(&self, engine: &Engine<'_>, ops: &[Op], attended: usize, start: &Start) -> Vec<f32> {
        let mut batch = Batch::new(engine, &start.tokens, 0, start.tokens.len());
        (batch.slots, batch.routes) = (start.slots.clone(), start.routes.clone());
        let mut caches = self.caches();
        no_culprit(batch.stretch(ops, &mut caches[attended..]));
        std::mem::take(&mut batch.slots[self.runner.model.graph.residual.0])
    }
}

impl Stopped<'_, '_> {
    /// By how much the residual stream after the stretch changes if it has other weights: the mean over tokens of the
    /// squared differences, summed over the width. Infinite if a number overflows.
    ///
    /// # Errors
    /// If a matrix has a type without a kernel.
    ///
    /// # Panics
    /// If a value in `overrides` has not the length of its parameter.
    pub fn change(&self, overrides: &Overrides<'_>) -> Result<f64> {
        let runner = self.probe.runner;
        let engine = Engine::of(runner.model, runner.weights, runner.options, self.ops, Some(overrides))?;
        let (mut sum, mut tokens) = (0.0, 0);
        rayon::scope(|_| {
            for start in &self.starts {
                let after = self.probe.run(&engine, self.ops, self.attended, start);
                if !finite(&after) {
                    sum = f64::INFINITY;
                }
                let pairs = after.iter().zip(&start.after);
                sum += pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
                tokens += start.tokens.len();
            }
        });
        Ok(if sum.is_nan() { f64::INFINITY } else { sum / tokens.max(1) as f64 })
    }
}
