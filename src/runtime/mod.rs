//! The executor: runs the ops of a [`Model`](crate::model::Model) over float weights and over every block format.
//!
//! In go a bound checkpoint (or GGUF file) and tokens, out come logits. Knows nothing of passes, of exporters or of
//! text. Weights stay where they are mapped; what is held in memory is the key-value cache and a batch's slots.

pub mod sampler;

use crate::Result;
use crate::model::Model;
use crate::weights::Weights;

/// How to run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Positions that fit the key-value cache.
    pub context: usize,
    /// Keep activations in f32 instead of rounding them to 8 bits for quantised weights.
    pub exact: bool,
    /// How keys and values are stored.
    pub cache: CacheType,
    /// How attention is computed.
    pub attention: Attention,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheType {
    /// 32-bit floats.
    F32,
    /// Half precision.
    F16,
    /// 8 bits, a scale for 32.
    Q8_0,
}

/// How attention is computed; both give the same up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Every score is stored, then the softmax taken: the slow twin.
    Naive,
    /// In tiles with an online softmax; no score matrix.
    Flash,
}

/// A model that can be run.
pub struct Engine<'a> {
    model: &'a Model,
    weights: &'a Weights<'a>,
    options: Options,
}

/// The state of one sequence: its key-value cache.
pub struct Session {
    /// Positions filled.
    pub used: usize,
}

impl<'a> Engine<'a> {
    /// Prepares a model.
    ///
    /// # Errors
    /// If a tensor's type has no kernel, or the context is longer than the model allows.
    pub fn new(model: &'a Model, weights: &'a Weights<'a>, options: Options) -> Result<Engine<'a>> {
        Ok(Engine { model, weights, options })
    }

    /// An empty sequence.
    pub fn session(&self) -> Session {
        let _ = (self.model, self.weights, self.options);
        Session { used: 0 }
    }

    /// Runs `tokens` after what the session holds and returns the logits of those from index `from` on,
    /// `[tokens.len() - from, vocab]` row-major.
    ///
    /// # Errors
    /// If the tokens do not fit the context, a token is outside the vocabulary, or a value is not finite (the error
    /// names the first op and tensor).
    pub fn forward(&self, session: &mut Session, tokens: &[u32], from: usize) -> Result<Vec<f32>> {
        let _ = (session, tokens, from);
        Err(crate::Error::unsupported("no executor yet"))
    }
}
