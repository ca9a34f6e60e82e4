//! A model that was opened and understood: what everyone who runs, scores or converts one begins with.

use std::path::Path;

use super::{Model, describe, ties};
use crate::Result;
use crate::checkpoint::{self, Config, TensorSource, Unchanged, quantized};
use crate::error::{Fault, printable};

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
        let model = of_source(source.as_ref())?;
        Ok(Opened { source, model, files })
    }

    /// `asked`, or else `usual`, or the model's context if that is shorter.
    pub fn context(&self, asked: Option<usize>, usual: usize) -> usize {
        asked.unwrap_or(usual.min(self.model.hyper.context))
    }
}

/// Describes the model that a source holds: by its configuration, and by its tensors where they know better.
///
/// # Errors
/// Those of [`describe`].
pub(crate) fn of_source(source: &dyn TensorSource) -> Result<Model> {
    let has = |name: &str| source.find(name).is_some();
    let described = describe(source.config(), &has);
    let Config::HuggingFace(config) = source.config() else { return described };
    let tied = match &described {
        Ok(model) => model.hyper.tied,
        Err(_) => config.opt_flag(ties::KEY)? == Some(true),
    };
    let Some((table, head)) = tied.then(|| ties::apart(source)).flatten() else { return described };
    // Since version 5, Transformers ties weights only if they are equal (`tie_weights` in its modeling_utils.py). It
    // used to drop the output matrix.
    let (table, name) = (printable(&table.name), printable(&head.name));
    let model = describe(&Config::HuggingFace(ties::untied(config)), &has).map_err(|e| {
        let what = format!(
            "holds other numbers than {table}, so it is an output matrix of its own, whatever {} says; if the \
             embedding table is to be the output matrix, remove this tensor",
            ties::KEY
        );
        Fault::unsupported(what).because(e).of_tensor(source.file_of(head), &name)
    })?;
    let note = format!(
        "config.json says {} true, but {name} holds other numbers than {table}; it is kept as the output matrix, as \
         Transformers 5 does (earlier releases used the embedding table)",
        ties::KEY
    );
    Ok(Model { notes: [vec![note], model.notes].concat(), untied: true, ..model })
}
