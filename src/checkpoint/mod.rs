//! Where tensors come from: a Hugging Face directory, one safetensors file in it, or a GGUF file.
//!
//! Everything here treats its bytes as written by an enemy: every length is checked against the file before it is
//! used, and nothing read can cause a panic or an allocation larger than the file. Knows no architectures.

use std::path::Path;

use crate::error::{Error, Fault, Result};

pub mod card;
pub mod config;
pub(crate) mod embedding;
pub mod gguf;
pub(crate) mod json;
mod mapped;
pub(crate) mod mmap;
pub(crate) mod quantized;
pub mod safetensors;
mod source;
pub(crate) mod sparse;
pub mod tokenizer;
mod unchanged;

pub use config::Config;
pub use quantized::check as check_quantized;
pub(crate) use source::SparseMatrix;
pub use source::{Packed, SourceKind, TensorInfo, TensorSource};
pub use unchanged::{Guard, Unchanged};

pub use crate::paths::directory_of;

/// Kinds of sources, tried in order.
pub static SOURCES: &[SourceKind] = &[safetensors::DIRECTORY, safetensors::FILE, gguf::FILE];

/// Bytes of a tensor that go into a fingerprint.
const HEAD: usize = 256;

/// A checksum that tells one checkpoint from another without reading it all: of names, shapes and types, and of the
/// first bytes of every tensor.
pub fn fingerprint(source: &dyn TensorSource) -> u32 {
    let mut sum = flate2::Crc::new();
    for t in source.tensors() {
        sum.update(format!("{} {:?} {}\n", t.name, t.shape, t.spec.name).as_bytes());
        sum.update(source.bytes(t, 0..t.range.len().min(HEAD)));
    }
    sum.sum()
}

/// What could be the name of a model on the Hub: an owner and a name, and no such folder here.
fn hub_id(path: &Path) -> Option<&str> {
    let owner = path.parent().filter(|owner| owner.components().count() == 1 && !owner.exists())?;
    (owner.is_relative() && path.extension().is_none_or(|e| e != "gguf")).then(|| path.to_str())?
}

/// Opens a checkpoint: a directory with config.json, a `.safetensors` file in such a directory, or a `.gguf` file.
///
/// # Errors
/// If nothing is there, if it is none of these, or if it is malformed: which file, what was found.
pub fn open(path: &Path) -> Result<Box<dyn TensorSource>> {
    if let Err(e) = std::fs::metadata(path) {
        return Err(match hub_id(path) {
            Some(id) if e.kind() == std::io::ErrorKind::NotFound => {
                let what = format!(
                    "no such file or folder; if this is a model of the Hugging Face Hub, download it first (`hf download \
                     {id}` prints the folder to name here)"
                );
                Error::missing(path, vec![path.to_owned()], what)
            }
            _ => Error::io(path, "open", e),
        });
    }
    match SOURCES.iter().find(|s| (s.matches)(path)) {
        Some(source) => (source.open)(path),
        None if ["bin", "pt", "pth", "ckpt"].iter().any(|end| source::has_extension(path, end)) => {
            Err(Fault::unsupported(safetensors::NO_PICKLES).of(path))
        }
        None => {
            let what = "neither a directory with config.json nor a .safetensors or .gguf file; name one of these";
            Err(Fault::unsupported(what).of(path))
        }
    }
}
