//! A model that was opened and understood: what everyone who runs, scores or converts one begins with.

use std::path::Path;

use super::{Model, describe};
use crate::Result;
use crate::checkpoint::{self, Config, TensorSource, Unchanged, quantized};

/// A checkpoint and what it computes; its weights are bound by whoever runs it.
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
    /// If it is not one, is quantised in a way that is not read, or is of an architecture that is not known.
    pub fn open(path: &Path) -> Result<Opened> {
        let source = checkpoint::open(path)?;
        if let Config::HuggingFace(config) = source.config() {
            config.require()?;
        }
        quantized::check(source.as_ref())?;
        let files = Unchanged::since_now(source.as_ref())?;
        let model = describe(source.config(), &|name| source.as_ref().find(name).is_some())?;
        Ok(Opened { source, model, files })
    }

    /// `asked`, or else `usual`, or the model's context if that is shorter.
    pub fn context(&self, asked: Option<usize>, usual: usize) -> usize {
        asked.unwrap_or(usual.min(self.model.hyper.context))
    }
}
