//! What an output format is: it assigns types, checks and lays out the output, and takes its rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::request::Request;
use crate::Result;
use crate::checkpoint::TensorSource;
use crate::model::{Model, ParamId};
use crate::plan::{Plan, Rules};
use crate::record::ImportanceRecord;
use crate::watch::Watch;
use crate::weights::{Edits, Kept, Weights};

/// An output format: a row of [`EXPORTERS`](super::EXPORTERS).
pub trait Exporter: Send + Sync {
    /// Its name, and the settings it takes.
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
    fn prepare<'a>(&self, contents: Contents<'a>) -> Result<Box<dyn Prepared<'a> + 'a>>;

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
    /// Names of the [settings](Request::given) that it takes; all others are refused.
    pub settings: &'static [&'static str],
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
}

/// An output that is laid out: from here on, only the disk can fail.
pub trait Prepared<'a> {
    /// Bytes that will be written: of the file, or of all tensors in a folder.
    fn bytes(&self) -> u64;

    /// Notes for the user.
    fn notes(&self) -> &[String];

    /// Tells the output which importances it was rounded with, in case the format records them.
    ///
    /// # Errors
    /// If the format cannot hold them.
    fn weighed(&mut self, importance: &ImportanceRecord) -> Result<()>;

    /// Begins to write, beside `path`. `replace`: whether an existing file of that name may be replaced at the end.
    ///
    /// # Errors
    /// If the directory cannot be written or the disk is too small.
    fn begin(self: Box<Self>, path: &Path, replace: bool) -> Result<Box<dyn Sink + 'a>>;
}

/// An output that is being written. If dropped unfinished, it leaves nothing behind.
pub trait Sink: Sync {
    /// Takes whole rows of a tensor, in the type the plan gives it. `tensor`: index in the plan. `at`: offset of
    /// `bytes` from the tensor's start. Rows may come in any order and from any thread; each comes once.
    ///
    /// # Errors
    /// If the disk is full or fails.
    fn put(&self, tensor: usize, at: u64, bytes: &[u8]) -> Result<()>;

    /// Flushes everything to disk and gives the output its name. Returns the bytes written, as [`Prepared::bytes`]
    /// counts them.
    ///
    /// # Errors
    /// If the disk fails, the watch says to stop, or the name cannot be taken; then nothing is left behind and what was
    /// there stays.
    fn finish(self: Box<Self>, watch: &dyn Watch) -> Result<u64>;
}
