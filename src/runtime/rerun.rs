//! What other weights of a few linears do to the residual stream: part of a block, run again and again from where it
//! was stopped.

use std::ops::Range;

use aurora_quantizers::elements;
use ndarray::ArrayView2;

use super::batch::{Batch, finite};
use super::blocks::no_culprit;
use super::cache::Cache;
use super::loaded::{self, BATCH};
use super::route::Route;
use super::{BlockRunner, Engine, Overrides};
use crate::model::Op;

/// A block and some samples, from whose start on it can be run in part.
pub struct Rerun<'p, 'a> {
    runner: &'p BlockRunner<'a>,
    block: usize,
    groups: Vec<Group>,
}

/// Samples of equal length, one after the other: they run together.
struct Group {
    sequences: usize,
    residual: Vec<f32>,
}

/// Some samples in front of an op.
struct Start {
    sequences: usize,
    tokens: Vec<u32>,
    slots: Vec<Vec<f32>>,
    routes: Vec<Route>,
    /// The residual stream after the stretch, with the stored weights.
    after: Vec<f32>,
}

/// A stretch of ops with all that its first op finds.
pub struct Stopped<'p, 'a> {
    probe: &'p Rerun<'p, 'a>,
    ops: &'a [Op],
    starts: Vec<Start>,
}

impl<'p, 'a> Rerun<'p, 'a> {
    /// `residuals`: of each sample the residual stream before the block, `[tokens, width]`; of a long one only the
    /// first tokens are used, as many as go through a model together.
    ///
    /// # Panics
    /// If there is no such block, or a residual has another width or not its rows one after the other.
    pub fn new<'r>(
        runner: &'p BlockRunner<'a>,
        block: usize,
        residuals: impl IntoIterator<Item = ArrayView2<'r, f32>>,
    ) -> Self {
        let width = runner.width();
        assert!(block < runner.model.graph.blocks.len(), "block {block}");
        let most = BATCH.min(runner.options.context) * width;
        let mut groups: Vec<Group> = Vec::new();
        for residual in residuals {
            assert_eq!(residual.ncols(), width, "width of the residual stream");
            let residual = &elements(residual)[..residual.len().min(most)];
            match groups.last_mut().filter(|g| g.residual.len() == residual.len() * g.sequences) {
                Some(group) => {
                    group.sequences += 1;
                    group.residual.extend_from_slice(residual);
                }
                None => groups.push(Group { sequences: 1, residual: residual.to_vec() }),
            }
        }
        Rerun { runner, block, groups }
    }

    /// Runs the samples to the start of the stretch, and on to its end to see what comes of the stored weights.
    ///
    /// # Panics
    /// If the block has no such ops.
    pub fn stop_at(&'p self, stretch: Range<usize>) -> Stopped<'p, 'a> {
        let runner = self.runner;
        let graph = &runner.model.graph;
        let (before, ops) = graph.blocks[self.block][..stretch.end].split_at(stretch.start);
        let engine = Engine::of(runner.model, runner.weights, runner.options, before, None);
        let tail = Engine::of(runner.model, runner.weights, runner.options, ops, None);
        let starts = self.groups.iter().filter(|group| !group.residual.is_empty()).map(|group| {
            let tokens = vec![0; group.residual.len() / runner.width()];
            let mut batch = Batch::together(&engine, &tokens, 0, group.sequences);
            batch.slots[graph.residual.0].clone_from(&group.residual);
            no_culprit(batch.stretch(before, &mut self.caches(before, group.sequences)));
            let (slots, routes) = (std::mem::take(&mut batch.slots), std::mem::take(&mut batch.routes));
            let mut start = Start { sequences: group.sequences, tokens, slots, routes, after: Vec::new() };
            start.after = self.run(&tail, ops, &start);
            start
        });
        // On a thread of the pool, so that handing work to it needs no waking and waiting from outside.
        let starts = rayon::scope(|_| starts.collect());
        Stopped { probe: self, ops, starts }
    }

    /// Of every attention among some ops one for each sequence.
    fn caches(&self, ops: &[Op], sequences: usize) -> Vec<Cache> {
        let each = loaded::heads(ops).flat_map(|heads| std::iter::repeat_n(heads, sequences));
        each.map(|(heads, dim)| Cache::new(self.runner.options.cache, heads, dim)).collect()
    }

    /// The residual stream after `ops`, which begin with `start`.
    fn run(&self, engine: &Engine<'_>, ops: &[Op], start: &Start) -> Vec<f32> {
        let mut batch = Batch::together(engine, &start.tokens, 0, start.sequences);
        (batch.slots, batch.routes) = (start.slots.clone(), start.routes.clone());
        no_culprit(batch.stretch(ops, &mut self.caches(ops, start.sequences)));
        std::mem::take(&mut batch.slots[self.runner.model.graph.residual.0])
    }
}

impl Stopped<'_, '_> {
    /// By how much the residual stream after the stretch changes if it has other weights: the mean over tokens of the
    /// squared differences, summed over the width. Infinite if a number overflows.
    ///
    /// # Panics
    /// If a value in `overrides` has not the shape of its parameter.
    pub fn change(&self, overrides: &Overrides<'_>) -> f64 {
        let runner = self.probe.runner;
        let engine = Engine::of(runner.model, runner.weights, runner.options, self.ops, Some(overrides));
        let (mut sum, mut tokens) = (0.0, 0);
        rayon::scope(|_| {
            for start in &self.starts {
                let after = self.probe.run(&engine, self.ops, start);
                if !finite(&after) {
                    sum = f64::INFINITY;
                }
                let pairs = after.iter().zip(&start.after);
                sum += pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
                tokens += start.tokens.len();
            }
        });
        if sum.is_nan() { f64::INFINITY } else { sum / tokens.max(1) as f64 }
    }
}
