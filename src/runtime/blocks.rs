//! A model run block by block: every sample through one block before any goes on to the next.
//!
//! So the weights of a block are touched once for all samples and can be given back, and what lies between two blocks
//! (the residual stream of every sample) is in the caller's hands: for observing, or for running on with other
//! weights. The ops are those of [`Engine`], executed by the same code.

use aurora_quantizers::{elements, elements_mut};
use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use super::batch::{Batch, Culprit, finite};
use super::cache::Cache;
use super::loaded::{self, BATCH};
use super::{Engine, Overrides, RuntimeOptions, Tap, blame};
use crate::model::{Model, Op, ParamId};
use crate::weights::Weights;
use crate::{Error, Result};

/// Tokens of several samples that go through a block together: enough to make reading weights and waking threads cheap.
/// At least two batches, so that samples of one batch go together.
pub const TOGETHER: usize = 2 * BATCH;

/// A model whose parts are made ready one at a time.
pub struct BlockRunner<'a> {
    pub(super) model: &'a Model,
    pub(super) weights: &'a Weights<'a>,
    pub(super) options: RuntimeOptions,
}

impl<'a> BlockRunner<'a> {
    /// Every sample is a sequence of its own from position 0, at most `options.context` tokens long.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn new(model: &'a Model, weights: &'a Weights<'a>, options: RuntimeOptions) -> Result<Self> {
        loaded::check(model, options)?;
        Ok(BlockRunner { model, weights, options })
    }

    /// The model.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// How it runs.
    pub fn options(&self) -> &RuntimeOptions {
        &self.options
    }

    /// Numbers per token of the residual stream.
    pub fn width(&self) -> usize {
        let graph = &self.model.graph;
        graph.slots[graph.residual.0]
    }

    /// The residual stream before the first block, `[tokens, width]`.
    ///
    /// # Errors
    /// If there are more tokens than the context has room for, one is outside the vocabulary, or a value is not finite.
    pub fn embed(&self, tokens: &[u32]) -> Result<Array2<f32>> {
        loaded::check_tokens(self.model, tokens, self.options.context)?;
        let ops = &self.model.graph.embed;
        let engine = Engine::of(self.model, self.weights, self.options, ops, None);
        let mut all = Vec::with_capacity(tokens.len() * self.width());
        for (i, tokens) in tokens.chunks(BATCH).enumerate() {
            all.extend(straight(&engine, tokens, i * BATCH, ops, Vec::new())?);
        }
        Ok(Array2::from_shape_vec((tokens.len(), self.width()), all).expect("a row for every token"))
    }

    /// Makes block `i` ready to run, with some of its parameters replaced.
    ///
    /// # Panics
    /// If there is no such block, or a value in `overrides` has not the shape of its parameter.
    pub fn block<'l>(&'l self, i: usize, overrides: &'l Overrides<'l>) -> Block<'l> {
        let ops = &self.model.graph.blocks[i];
        let engine = Engine::of(self.model, self.weights, self.options, ops, Some(overrides));
        Block { index: i, engine, caches: Vec::new(), sequences: 0, slots: Vec::new() }
    }

    /// What the output matrix multiplies, `[tokens, cols]`, made from the residual stream after the last block,
    /// `[tokens, width]`.
    ///
    /// # Errors
    /// If a value is not finite.
    ///
    /// # Panics
    /// If `residual` has another width or not its rows one after the other.
    pub fn head_inputs(&self, residual: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        let head = &self.model.graph.head;
        let before = head.iter().position(|op| matches!(op, Op::Linear { .. })).expect("an output matrix");
        let Op::Linear { x, .. } = &head[before] else { unreachable!("found as a linear") };
        let ops = &head[..before];
        let engine = Engine::of(self.model, self.weights, self.options, ops, None);
        let width = self.width();
        assert_eq!(residual.ncols(), width, "width of the residual stream");
        let mut all = Vec::with_capacity(residual.len());
        for (i, rows) in elements(residual).chunks(BATCH * width).enumerate() {
            let tokens = vec![0; rows.len() / width];
            let mut batch = ready(&engine, &tokens, i * BATCH, rows.to_vec());
            no_culprit(batch.stretch(ops, &mut []));
            let inputs = &batch.slots[x.0];
            if !finite(inputs) {
                straight(&engine, &tokens, i * BATCH, ops, rows.to_vec())?;
                return Err(blame::unknown(&batch));
            }
            all.extend_from_slice(inputs);
        }
        let shape = (residual.nrows(), self.model.graph.slots[x.0]);
        Ok(Array2::from_shape_vec(shape, all).expect("a row for every token"))
    }

    /// The logits of every position, `[tokens, vocab]`, made from the residual stream after the last block,
    /// `[tokens, width]`.
    ///
    /// # Panics
    /// If `residual` has another width or not its rows one after the other.
    pub(crate) fn logits(&self, residual: ArrayView2<'_, f32>) -> Array2<f32> {
        let graph = &self.model.graph;
        assert_eq!(residual.ncols(), self.width(), "width of the residual stream");
        let engine = Engine::of(self.model, self.weights, self.options, &graph.head, None);
        let tokens = vec![0; residual.nrows()];
        let mut batch = ready(&engine, &tokens, 0, elements(residual).to_vec());
        no_culprit(batch.stretch(&graph.head, &mut []));
        let logits = std::mem::take(&mut batch.slots[graph.logits.0]);
        Array2::from_shape_vec((residual.nrows(), graph.slots[graph.logits.0]), logits).expect("a row for every token")
    }

    /// Tells the system that the parameters of a block (`None`: those outside the blocks) will not be read again soon.
    pub fn release(&self, block: Option<usize>) {
        for (i, param) in self.model.graph.params.iter().enumerate().filter(|(_, p)| p.block == block) {
            self.weights.release(ParamId(i), 0..param.rows());
        }
    }
}

/// A block that is ready to run.
pub struct Block<'l> {
    index: usize,
    engine: Engine<'l>,
    /// Of every attention one for each of the sequences that run together.
    caches: Vec<Cache>,
    sequences: usize,
    /// Memory for the values between the ops, kept from sample to sample.
    slots: Vec<Vec<f32>>,
}

impl Block<'_> {
    /// Runs one sample through the block. `residual`: `[tokens, width]`, read and replaced; `tap`: shown the input of
    /// every linear. After an error `residual` is what it was.
    ///
    /// # Errors
    /// If there are more tokens than the context has room for, or a value is not finite: the error names the first op
    /// and tensor.
    ///
    /// # Panics
    /// If `residual` has another width or not its rows one after the other.
    pub fn run(&mut self, residual: ArrayViewMut2<'_, f32>, tap: Option<&mut dyn Tap>) -> Result<()> {
        let residual = self.rows(residual);
        self.run_together(&mut [residual], tap)
    }

    /// How many samples, from the first on, [`Block::run_all`] runs with every weight read once: those that are as long
    /// as the first, up to about a thousand tokens.
    pub fn together(&self, residuals: &[Array2<f32>]) -> usize {
        let tokens = residuals.first().map_or(0, Array2::nrows);
        let most = TOGETHER / tokens.max(1);
        residuals.iter().take(most.max(1)).take_while(|r| r.nrows() == tokens).count()
    }

    /// Whether [`Block::run_all`] shows a tap all inputs of a matrix for these samples in one call.
    pub fn at_once(&self, residuals: &[Array2<f32>]) -> bool {
        let long = residuals.len() == 1 && residuals[0].nrows() > BATCH;
        self.together(residuals) == residuals.len() && !long
    }

    /// Runs samples through the block, each as [`Block::run`] does and with the same numbers; `tap` is shown inputs of
    /// several samples at a time, in their order.
    ///
    /// # Errors
    /// As [`Block::run`]; samples before the one at fault may have been replaced already.
    ///
    /// # Panics
    /// If a sample has another width or not its rows one after the other.
    pub fn run_all(&mut self, residuals: &mut [Array2<f32>], mut tap: Option<&mut dyn Tap>) -> Result<()> {
        let mut rest = residuals;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(self.together(rest));
            let mut now: Vec<&mut [f32]> = now.iter_mut().map(|residual| self.rows(residual.view_mut())).collect();
            self.run_together(&mut now, tap.as_mut().map(|t| &mut **t as &mut dyn Tap))?;
            rest = later;
        }
        Ok(())
    }

    fn width(&self) -> usize {
        let graph = &self.engine.model.graph;
        graph.slots[graph.residual.0]
    }

    /// The numbers of a residual stream.
    fn rows<'r>(&self, residual: ArrayViewMut2<'r, f32>) -> &'r mut [f32] {
        assert_eq!(residual.ncols(), self.width(), "width of the residual stream");
        elements_mut(residual)
    }

    /// Samples of equal length: one of any, or several that [`Block::together`] counted.
    fn run_together(&mut self, residuals: &mut [&mut [f32]], mut tap: Option<&mut dyn Tap>) -> Result<()> {
        let graph = &self.engine.model.graph;
        let ops = &graph.blocks[self.index];
        let (slot, width, sequences) = (graph.residual.0, self.width(), residuals.len());
        let length = residuals[0].len();
        let tokens = vec![0; sequences * length / width];
        loaded::check_tokens(self.engine.model, &tokens[..length / width], self.engine.options.context)?;
        if self.sequences != sequences {
            (self.caches, self.sequences) = (self.fresh_caches(sequences), sequences);
        }
        let step = if sequences > 1 { length } else { BATCH * width };
        let mut after = Vec::with_capacity(sequences * length);
        // On a thread of the pool, so that handing work to it needs no waking and waiting from outside.
        rayon::scope(|_| {
            for from in (0..length).step_by(step) {
                let rows = from..length.min(from + step);
                let mut input = std::mem::take(&mut self.slots);
                input.resize(graph.slots.len(), Vec::new());
                input[slot].clear();
                residuals.iter().for_each(|residual| input[slot].extend_from_slice(&residual[rows.clone()]));
                let tokens = &tokens[..input[slot].len() / width];
                let mut batch = Batch::together(&self.engine, tokens, from / width, sequences);
                (batch.slots, batch.block) = (input, Some(self.index));
                batch.tap = tap.as_mut().map(|t| &mut **t as &mut dyn Tap);
                no_culprit(batch.stretch(ops, &mut self.caches));
                if !finite(&batch.slots[slot]) {
                    return Err(());
                }
                after.extend_from_slice(&batch.slots[slot]);
                self.slots = std::mem::take(&mut batch.slots);
            }
            Ok(())
        })
        .map_err(|()| self.blame(residuals))?;
        residuals.iter_mut().zip(after.chunks_exact(length)).for_each(|(to, from)| to.copy_from_slice(from));
        Ok(())
    }

    /// Runs the samples once more, one by one, looking at every op's output.
    fn blame(&mut self, residuals: &[&mut [f32]]) -> Error {
        let graph = &self.engine.model.graph;
        let width = self.width();
        (self.caches, self.sequences) = (self.fresh_caches(1), 1);
        for residual in residuals {
            for (i, rows) in residual.chunks(BATCH * width).enumerate() {
                let tokens = vec![0; rows.len() / width];
                let mut batch = ready(&self.engine, &tokens, i * BATCH, rows.to_vec());
                (batch.suspicious, batch.block) = (true, Some(self.index));
                if let Err(culprit) = batch.stretch(&graph.blocks[self.index], &mut self.caches) {
                    return blame::error(&batch, &culprit);
                }
            }
        }
        blame::unknown(&ready(&self.engine, &[], 0, Vec::new()))
    }

    /// Of every attention of the block one for each sequence.
    fn fresh_caches(&self, sequences: usize) -> Vec<Cache> {
        let kind = self.engine.options.cache;
        let each = loaded::heads(&self.engine.model.graph.blocks[self.index]);
        let each = each.flat_map(|heads| std::iter::repeat_n(heads, sequences));
        each.map(|(heads, dim)| Cache::new(kind, heads, dim)).collect()
    }
}

/// A batch whose residual stream is filled in.
pub(super) fn ready<'e, 'a>(
    engine: &'e Engine<'a>,
    tokens: &'e [u32],
    first: usize,
    residual: Vec<f32>,
) -> Batch<'e, 'a, 'static> {
    let mut batch = Batch::new(engine, tokens, first, tokens.len());
    batch.slots[engine.model.graph.residual.0] = residual;
    batch
}

/// Runs ops without attention and looks at every output; gives the residual stream.
fn straight(engine: &Engine<'_>, tokens: &[u32], first: usize, ops: &[Op], residual: Vec<f32>) -> Result<Vec<f32>> {
    let mut batch = ready(engine, tokens, first, residual);
    batch.suspicious = true;
    match batch.stretch(ops, &mut []) {
        Ok(()) => Ok(std::mem::take(&mut batch.slots[engine.model.graph.residual.0])),
        Err(culprit) => Err(blame::error(&batch, &culprit)),
    }
}

/// Only a suspicious batch looks.
pub(super) fn no_culprit(looked: Result<(), Culprit>) {
    debug_assert!(looked.is_ok(), "nothing is looked at in the first run");
}
