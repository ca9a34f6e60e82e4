//! A model as scoring sees it: tokens in, logits out.

use ndarray::ArrayView2;

use crate::Result;
use crate::runtime::{Engine, Session};

/// Receives logits: the index of the first token they belong to, and a row for it and each of those that follow,
/// `[tokens, vocab]`, one after the other.
pub type Receiver<'f> = &'f mut (dyn FnMut(usize, ArrayView2<'_, f32>) + Send);

/// A model as scoring sees it: tokens in, logits out.
pub trait Scorer {
    /// Length of a row of logits.
    fn vocab(&self) -> usize;

    /// Forgets all tokens.
    fn start(&mut self);

    /// Runs `tokens` after the earlier ones and hands over the logits of those from index `from` on, in order.
    ///
    /// # Errors
    /// If the tokens do not fit the context or the vocabulary, or a logit is not finite.
    fn feed(&mut self, tokens: &[u32], from: usize, each: Receiver<'_>) -> Result<()>;
}

/// An engine and one sequence.
pub struct Sequence<'a> {
    engine: &'a Engine<'a>,
    session: Session,
}

impl<'a> Sequence<'a> {
    /// An empty sequence.
    pub fn new(engine: &'a Engine<'a>) -> Self {
        Sequence { engine, session: engine.session() }
    }
}

impl Scorer for Sequence<'_> {
    fn vocab(&self) -> usize {
        let graph = &self.engine.model().graph;
        graph.slots[graph.logits.0]
    }

    fn start(&mut self) {
        self.session.reset();
    }

    fn feed(&mut self, tokens: &[u32], from: usize, each: Receiver<'_>) -> Result<()> {
        self.engine.forward_each(&mut self.session, tokens, from, each)
    }
}
