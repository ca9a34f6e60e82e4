//! Where tensors come from: a Hugging Face directory, one safetensors file in it, or a GGUF file.
//!
//! Everything here treats its bytes as written by an enemy: every length is checked against the file before it is
//! used, and nothing read can cause a panic or an allocation larger than the file. Knows no architectures.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aurora_quantizers::Spec;

use crate::Result;

pub mod card;
pub mod config;
pub mod gguf;
mod mapped;
pub mod mmap;
pub mod quantized;
pub mod safetensors;
pub mod tokenizer;
mod unchanged;

pub use config::Config;
pub use quantized::Packed;
pub use unchanged::{Guard, Unchanged};

pub use crate::paths::directory_of;

/// One tensor of a source.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Name as the file spells it.
    pub name: String,
    /// Dimensions, outermost first (`[out, in]`, `[expert, out, in]`), whatever order the file stores them in.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub spec: &'static Spec,
    /// Index into [`TensorSource::files`].
    pub file: usize,
    /// Its bytes within that file; checked against the file's length and against `shape` and `spec`.
    pub range: Range<usize>,
    /// For a matrix that a quantiser stored as codes in several tensors: how to read it. `shape` is then that of the
    /// matrix, `file` and `range` those of its codes.
    pub packed: Option<Arc<Packed>>,
}

/// Where tensors come from. Bytes are mapped, not read: nothing is in memory until it is touched.
pub trait TensorSource: Send + Sync {
    /// The directory or file that the user named.
    fn path(&self) -> &Path;

    /// config.json, or the GGUF header.
    fn config(&self) -> &Config;

    /// Files that hold tensors.
    fn files(&self) -> &[PathBuf];

    /// All tensors, sorted by name.
    fn tensors(&self) -> &[TensorInfo];

    /// `range` of the bytes of `tensor` (relative to the tensor's start). Zero copy.
    ///
    /// # Panics
    /// If the range reaches past the tensor.
    fn bytes(&self, tensor: &TensorInfo, range: Range<usize>) -> &[u8];

    /// Tells the system that these bytes will not be read again soon, so that resident memory stays bounded.
    fn release(&self, tensor: &TensorInfo, range: Range<usize>);
}

impl TensorInfo {
    /// How many numbers it has; `None` if that overflows.
    pub fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))
    }

    /// Bytes that `shape` and `spec` call for; `None` if blocks do not divide a row or it overflows.
    pub fn expected_bytes(&self) -> Option<usize> {
        let row = self.shape.last().copied().unwrap_or(1);
        let rows = self.shape.iter().rev().skip(1).try_fold(1usize, |n, &dim| n.checked_mul(dim))?;
        self.spec.bytes_for(row)?.checked_mul(rows)
    }

    /// Bytes of it and of all that belongs to it.
    pub fn stored_bytes(&self) -> usize {
        self.packed.as_ref().map_or(self.range.len(), |packed| packed.bytes())
    }
}

impl dyn TensorSource + '_ {
    /// The tensor with this name.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        let tensors = self.tensors();
        tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok().map(|i| &tensors[i])
    }

    /// The file that holds `tensor`.
    pub fn file_of(&self, tensor: &TensorInfo) -> &Path {
        &self.files()[tensor.file]
    }
}

/// How one kind of source is recognised and opened.
pub struct SourceKind {
    /// What users call it ("safetensors directory", "GGUF file").
    pub name: &'static str,
    /// Whether `path` looks like one; must not read more than a few bytes.
    pub matches: fn(&Path) -> bool,
    /// Opens it, checking everything that can be checked without reading tensor data.
    pub open: fn(&Path) -> Result<Box<dyn TensorSource>>,
}

/// Kinds of sources, tried in order.
pub static SOURCES: &[SourceKind] = &[safetensors::DIRECTORY, safetensors::FILE, gguf::FILE];

/// Whether `path` ends in `.extension`, in any case.
fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// Bytes of a tensor that go into a fingerprint.
const HEAD: usize = 256;

/// A checksum that tells one checkpoint from another without reading it all: of names, shapes and types, and of the first bytes of
/// every tensor.
pub fn fingerprint(source: &dyn TensorSource) -> u32 {
    let mut sum = flate2::Crc::new();
    for t in source.tensors() {
        sum.update(format!("{} {:?} {}\n", t.name, t.shape, t.spec.name).as_bytes());
        sum.update(source.bytes(t, 0..t.range.len().min(HEAD)));
    }
    sum.sum()
}

/// Opens a checkpoint: a directory with config.json, a `.safetensors` file in such a directory, or a `.gguf` file.
///
/// # Errors
/// If nothing is there, if it is none of these, or if it is malformed: which file, what was found.
pub fn open(path: &Path) -> Result<Box<dyn TensorSource>> {
    if let Err(e) = std::fs::metadata(path) {
        return Err(crate::Error::io(path, "open", e));
    }
    match SOURCES.iter().find(|s| (s.matches)(path)) {
        Some(source) => (source.open)(path),
        None => Err(crate::Error::malformed(
            path,
            "neither a directory with config.json nor a .safetensors or .gguf file; name one of these",
        )),
    }
}
