//! What an output format is: it assigns types, checks and lays out the output, and takes its rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::request::Request;
use crate::Result;
use crate::checkpoint::TensorSource;
use crate::model::{Model, ParamId};
use crate::options::{Opt, Options};
use crate::plan::{Plan, Rules};
use crate::record::ImportanceRecord;
use crate::watch::Watch;
use crate::weights::{Edits, Kept, Weights};

/// An output format: a row of [`EXPORTERS`](super::EXPORTERS).
pub trait Exporter: Send + Sync {
    /// What it is called, and what can be set of it.
    fn about(&self) -> &'static About;

    /// Decides the type of every matrix, and the edits this needs (such as sorting the columns of a quantised
    /// checkpoint by group).
    ///
    /// # Errors
    /// If the format does not take one of the settings, or cannot hold the model.
    fn assign(&self, request: &Request, source: &dyn TensorSource, weights: &Weights<'_>) -> Result<Assigned>;

    /// Checks and lays out everything that is known before the work: keys, tokenizer, names, sizes.
    ///
    /// # Errors
    /// If the output could not be written or would not load.
    fn prepare(&self, contents: Contents<'_>) -> Result<Box<dyn Prepared>>;

    /// Where the output goes: `path`, or what it links to. `replace`: whether an existing file may be replaced.
    ///
    /// # Errors
    /// If the output cannot be written there.
    fn destination(&self, path: &Path, replace: bool) -> Result<PathBuf>;
}

/// A format's name, and the settings it takes.
#[derive(Debug)]
pub struct About {
    /// Name for `--format`.
    pub name: &'static str,
    /// Name in prose.
    pub title: &'static str,
    /// One line for `--help`.
    pub summary: &'static str,
    /// Which of the [settings of all formats](Request::given) it takes; the others are refused.
    pub settings: &'static [&'static str],
    /// What can be set of this format alone, or of it and its like.
    pub options: &'static [Opt],
}

impl About {
    /// All options as a request has them, those that it does not set with their defaults.
    ///
    /// # Errors
    /// If the format has no such option, or it cannot have that value.
    pub fn options_in(&self, request: &Request) -> Result<Options> {
        Options::of(&format!("`format` {}", self.name), self.options, &request.options)
    }
}

/// An exporter's answer to a request: the types of all tensors, for [`Plan::keeping`].
pub struct Assigned {
    /// Name in the record: "q4_k_m", "gptq-4bit-g128".
    pub name: String,
    /// What the default output name ends in, after the model's name: "q4_k_m.gguf".
    pub ending: String,
    /// Rules for types.
    pub rules: Rules,
    /// Types of individual parameters.
    pub kept: BTreeMap<ParamId, Kept>,
    /// Edits to the weights that these types need.
    pub edits: Edits,
    /// A note for the user.
    pub warning: Option<String>,
}

/// What to write.
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    /// Where the model comes from.
    pub source: &'a dyn TensorSource,
    /// The model.
    pub model: &'a Model,
    /// Its parameters.
    pub weights: &'a Weights<'a>,
    /// The types of its tensors.
    pub plan: &'a Plan,
    /// What was asked for.
    pub request: &'a Request,
    /// What it is rounded with, for formats that have a place to say so.
    pub importance: Option<&'a ImportanceRecord>,
}

/// An output that is laid out: nothing but the disk can fail now. It borrows nothing, so that a job can keep it.
pub trait Prepared: Send + Sync {
    /// Bytes of what will be written: of the file, or of all tensors in a folder.
    fn bytes(&self) -> u64;

    /// Notes for the user.
    fn notes(&self) -> &[String];

    /// What an output that was named `path` consists of: the file or folder itself, unless it is several files.
    fn files(&self, path: &Path) -> Vec<PathBuf> {
        vec![path.to_owned()]
    }

    /// Begins to write, beside `path`. `contents`: those that it was laid out for. `replace`: whether a file that has
    /// that name at the end may be replaced.
    ///
    /// # Errors
    /// If the directory cannot be written or the disk is too small.
    fn begin<'a>(&'a self, contents: Contents<'a>, path: &Path, replace: bool) -> Result<Box<dyn Sink + 'a>>;
}

/// An output that is being written. If dropped unfinished, it leaves nothing behind.
pub trait Sink: Sync {
    /// Takes whole rows of a tensor's field, in the type that the plan gives it. `tensor`: index in the plan. `field`:
    /// index in the tensor's [fields](crate::plan::TensorPlan::fields). `at`: where `bytes` begin, from the field's
    /// start. In any order and from any thread; each row comes once.
    ///
    /// # Errors
    /// If the disk is full or fails.
    fn put(&self, tensor: usize, field: usize, at: u64, bytes: &[u8]) -> Result<()>;

    /// Flushes everything to disk and gives the output its name. Returns the bytes written, as [`Prepared::bytes`]
    /// counts them.
    ///
    /// # Errors
    /// If the disk fails, the watch says to stop, or the name cannot be taken; then nothing is left behind and what was
    /// there stays.
    fn finish(self: Box<Self>, watch: &dyn Watch) -> Result<u64>;
}
