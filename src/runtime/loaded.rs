//! A model with its weights in the form in which ops use them, and what it can be asked for.

use super::cache::Q8_BLOCK;
use super::prepared::Params;
use super::rope::{Frequencies, Kind};
use super::{CacheType, Overrides, RuntimeOptions};
use crate::model::{Model, Op};
use crate::weights::Weights;
use crate::{Error, Result};

/// Tokens that go through the model together: enough for matrix products to be bound by arithmetic, few enough for
/// slots to stay small (Llama 1.1B: 60 MB).
pub(super) const BATCH: usize = 512;
/// A model that can be run.
pub struct Engine<'a> {
    pub(super) model: &'a Model,
    pub(super) weights: &'a Weights<'a>,
    pub(super) options: RuntimeOptions,
    pub(super) params: Params<'a>,
    pub(super) frequencies: Vec<Frequencies>,
}

impl<'a> Engine<'a> {
    /// Prepares a model.
    ///
    /// # Errors
    /// If the context is longer than the model allows (or empty), or the cache's type
    /// does not fit the heads.
    pub fn new(model: &'a Model, weights: &'a Weights<'a>, options: RuntimeOptions) -> Result<Engine<'a>> {
        check(model, options)?;
        let graph = &model.graph;
        let ops = graph.embed.iter().chain(graph.blocks.iter().flatten()).chain(&graph.head);
        Ok(Self::of(model, weights, options, ops, None))
    }

    /// Prepares what some of the ops use, so that these can be run.
    pub(super) fn of<'g>(
        model: &'a Model,
        weights: &'a Weights<'a>,
        options: RuntimeOptions,
        ops: impl IntoIterator<Item = &'g Op> + Clone,
        overrides: Option<&'a Overrides<'a>>,
    ) -> Engine<'a> {
        let params = Params::new(&model.graph, weights, ops.clone(), overrides);
        let mut frequencies: Vec<Frequencies> = Vec::new();
        for kind in ops.into_iter().filter_map(|op| Kind::of(op, options.context)) {
            if frequencies.iter().all(|f| f.kind != kind) {
                let factors = kind.factors().map(|id| params.vector(id));
                frequencies.push(Frequencies::new(kind, factors));
            }
        }
        Engine { model, weights, options, params, frequencies }
    }

    /// The model.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// How it runs.
    pub fn options(&self) -> &RuntimeOptions {
        &self.options
    }
}

/// Whether the model can be run so.
///
/// # Errors
/// If the context is longer than the model allows (or empty), or the cache's type does not fit the heads.
pub(super) fn check(model: &Model, options: RuntimeOptions) -> Result<()> {
    let most = model.hyper.context;
    if options.context == 0 || options.context > most {
        let what = format!("a context of {} tokens; this model allows 1 to {most}", options.context);
        return Err(Error::conflict(["context", "model"], what));
    }
    for (_, dim) in heads(model.graph.blocks.iter().flatten()) {
        if options.cache == CacheType::Q8_0 && !dim.is_multiple_of(Q8_BLOCK) {
            let what =
                format!("a q8_0 cache needs heads of a multiple of {Q8_BLOCK} numbers, these have {dim}; use f16");
            return Err(Error::conflict(["cache_type", "model"], what));
        }
    }
    Ok(())
}

/// Whether a sequence of these tokens can be run from its start.
///
/// # Errors
/// If they do not fit the context, or one is outside the vocabulary.
pub(super) fn check_tokens(model: &Model, tokens: &[u32], context: usize) -> Result<()> {
    if tokens.len() > context {
        return Err(Error::text(format!("{} tokens do not fit a context of {context}", tokens.len())));
    }
    let vocab = model.graph.slots[model.graph.logits.0];
    match tokens.iter().position(|&t| t as usize >= vocab) {
        Some(i) => {
            let what = format!("token {} (number {i}) is outside the vocabulary of {vocab}", tokens[i]);
            Err(Error::text(what))
        }
        None => Ok(()),
    }
}

/// Key-value heads and their length, for every attention op in the order in which they run.
pub(super) fn heads<'g>(ops: impl IntoIterator<Item = &'g Op>) -> impl Iterator<Item = (usize, usize)> {
    ops.into_iter().filter_map(|op| match op {
        Op::Attend { kv_heads, head_dim, .. } => Some((*kv_heads, *head_dim)),
        _ => None,
    })
}
