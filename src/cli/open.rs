//! What the commands that run a model have in common: opening it, and the options' words.

use std::path::Path;

use clap::builder::PossibleValuesParser;

use crate::Result;
use crate::checkpoint::{self, TensorSource, Unchanged, quantized};
use crate::model::{self, Model};
use crate::runtime::{Attention, CacheType};

/// A model that was opened and understood; its weights are bound by whoever runs it.
pub struct Opened {
    /// Where its tensors are.
    pub source: Box<dyn TensorSource>,
    /// What it computes.
    pub model: Model,
    /// Its files as they were.
    pub files: Unchanged,
}

impl Opened {
    /// Opens a checkpoint or GGUF file.
    ///
    /// # Errors
    /// If it is not one, or of an architecture that is not known.
    pub fn open(path: &Path) -> Result<Opened> {
        let source = checkpoint::open(path)?;
        quantized::check(source.as_ref())?;
        let files = Unchanged::since_now(source.as_ref())?;
        let model = model::describe(source.config(), &|name| source.as_ref().find(name).is_some())?;
        Ok(Opened { source, model, files })
    }

    /// `asked`, or else `usual`, or the model's context if that is shorter.
    pub fn context(&self, asked: Option<usize>, usual: usize) -> usize {
        asked.unwrap_or(usual.min(self.model.hyper.context))
    }
}

const CACHE_TYPES: [(&str, CacheType); 3] =
    [("f32", CacheType::F32), ("f16", CacheType::F16), ("q8_0", CacheType::Q8_0)];

const ATTENTIONS: [(&str, Attention); 2] = [("flash", Attention::Flash), ("naive", Attention::Naive)];

/// The words for [`cache_type`].
pub fn cache_types() -> PossibleValuesParser {
    PossibleValuesParser::new(CACHE_TYPES.map(|(name, _)| name))
}

/// The words for [`attention`].
pub fn attentions() -> PossibleValuesParser {
    PossibleValuesParser::new(ATTENTIONS.map(|(name, _)| name))
}

/// The row of a word that the parser let through.
pub fn cache_type(name: &str) -> (&'static str, CacheType) {
    named(&CACHE_TYPES, name)
}

/// The row of a word that the parser let through.
pub fn attention(name: &str) -> (&'static str, Attention) {
    named(&ATTENTIONS, name)
}

fn named<T: Copy>(table: &[(&'static str, T)], name: &str) -> (&'static str, T) {
    *table.iter().find(|(n, _)| *n == name).expect("clap accepts the table's words only")
}
