//! Quantised checkpoints for other programs: safetensors shards with codes, scales and zero points, and config.json,
//! tokenizer and generation files beside them.
//!
//! The pipeline writes groups row by row, as for any output. Here they are taken apart again: whatever was moved or
//! fused by the import goes back to the checkpoint's own tensors, and each [layout](PackedLayout), in a file of its
//! own, packs a matrix its way.

use std::path::{Path, PathBuf};

use super::{About, Assigned, Contents, Exporter, Prepared, Request, destination};
use crate::checkpoint::{Config, TensorSource};
use crate::weights::Weights;
use crate::{Error, Result};

mod assign;
mod awq;
mod bits;
mod compressed_tensors;
mod gptq;
mod layout;
mod tensors;
mod unpack;
mod write;

pub use awq::Awq;
pub use compressed_tensors::CompressedTensors;
pub use gptq::Gptq;
pub use layout::{Codes, PackedLayout};

/// The exporter of a layout.
pub struct PackedExporter(pub &'static dyn PackedLayout);

impl Exporter for PackedExporter {
    fn about(&self) -> &'static About {
        self.0.about()
    }

    fn assign(&self, request: &Request, source: &dyn TensorSource, weights: &Weights<'_>) -> Result<Assigned> {
        let codes = Codes::of(&self.0.about().options_in(request)?);
        if matches!(source.config(), Config::Gguf(_)) {
            let name = self.0.about().name;
            let what = format!("`format` {name} needs a Hugging Face checkpoint; this is a GGUF file");
            return Err(Error::conflict(["format", "model"], what));
        }
        assign::assign(self.0.about().name, codes, request, source, weights)
    }

    fn prepare(&self, contents: Contents<'_>) -> Result<Box<dyn Prepared>> {
        let options = self.0.about().options_in(contents.request)?;
        Ok(Box::new(write::Laid::new(contents, self.0, &options)))
    }

    fn destination(&self, path: &Path, _: bool) -> Result<PathBuf> {
        destination::folder(path)
    }
}
