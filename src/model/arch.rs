//! An architecture: a row of [`ARCHS`](super::ARCHS), and the model that comes of one.

use serde_json::{Map, Value as Json};

use super::graph::ModelGraph;
use super::hyper::{Hyper, Whole};
use super::ties;
use super::to_hf::HfKeys;
use crate::Result;
use crate::checkpoint::config::{GgufConfig, HfConfig};
use crate::gguf::Metadata;

/// An architecture: how its configuration is read, what it computes, what its GGUF file says of it.
pub struct Arch {
    /// What people call it ("Llama", "Gemma 2").
    pub title: &'static str,
    /// `general.architecture` of its GGUF files, which is also the prefix of its keys.
    pub gguf: &'static str,
    /// Entries of config.json's `architectures`, and its `model_type`, which counts where there are none.
    pub hf: &'static [&'static str],
    /// Its classes without an output matrix, which embedding models name.
    pub bases: &'static [&'static str],
    /// Keys of config.json that it looks at.
    pub(super) reads: &'static [&'static [&'static str]],
    /// Keys that its configurations have and that change nothing.
    pub(super) idle: &'static [&'static str],
    /// Reads config.json.
    pub hyper: fn(&HfConfig) -> Result<Hyper>,
    /// Describes the model.
    pub graph: fn(&Hyper) -> ModelGraph,
    /// Adds this architecture's own keys to a GGUF header (all but `general.*` and `tokenizer.*`).
    pub keys: fn(&Hyper, &HfConfig, &mut Metadata),
    /// Writes config.json for the same numbers: class, kind and keys. Says what it cannot express.
    pub(super) config: fn(&Hyper, &mut HfKeys<'_>) -> Result<(), String>,
    /// Completes what was read of a GGUF header's usual keys: keys that this architecture alone has, and what its files
    /// leave unsaid because llama.cpp knows it by heart.
    pub complete: fn(&mut Hyper, &GgufConfig) -> Result<()>,
    /// Whether readers would understand the second of two models, which is what was left of the first; else why not.
    pub(super) cut: fn(&Hyper, &Hyper) -> std::result::Result<(), String>,
}

impl std::fmt::Debug for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arch({})", self.title)
    }
}

/// The usual keys say all.
pub(super) fn complete(_: &mut Hyper, _: &GgufConfig) -> Result<()> {
    Ok(())
}

/// A described model.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its row in [`ARCHS`](super::ARCHS).
    pub arch: &'static Arch,
    /// Its numbers.
    pub hyper: Hyper,
    /// Its parameters and ops.
    pub graph: ModelGraph,
    /// What the user should know of how its configuration was understood.
    pub notes: Vec<String>,
    /// Whether its output matrix is one of its own although config.json says that it is the embedding table.
    pub untied: bool,
    /// What it was made from, if it is smaller than the checkpoint.
    pub(crate) whole: Option<Whole>,
}

impl Model {
    /// config.json of a checkpoint, corrected where it does not say what the model computes.
    pub fn config_of(&self, config: &HfConfig) -> Map<String, Json> {
        let mut map = config.map.clone();
        if self.untied {
            ties::untie(&mut map);
        }
        self.cut_config(&mut map);
        map
    }
}
