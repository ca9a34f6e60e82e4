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
pub use layout::{BITS, Codes, GROUPS, PackedLayout};

/// The exporter of a layout.
pub struct PackedExporter(pub &'static dyn PackedLayout);

impl PackedExporter {
    fn codes(&self, request: &Request) -> Result<Codes> {
        let (about, limits) = (self.0.about(), self.0.limits());
        let codes = Codes {
            bits: request.bits.unwrap_or(BITS[0]),
            group: request.group_size.unwrap_or(GROUPS[2]),
            symmetric: request.symmetric.unwrap_or(limits.symmetric),
        };
        if !limits.bits.contains(&codes.bits) {
            let bits: Vec<_> = limits.bits.iter().map(ToString::to_string).collect();
            let what = format!("`format` {} takes only {} bits, found {}", about.name, bits.join(" or "), codes.bits);
            return Err(Error::setting(what));
        }
        if !GROUPS.contains(&codes.group) {
            return Err(Error::setting(format!("`format.group_size` {} must be one of {GROUPS:?}", codes.group)));
        }
        Ok(codes)
    }
}

impl Exporter for PackedExporter {
    fn about(&self) -> &'static About {
        self.0.about()
    }

    fn assign(&self, request: &Request, source: &dyn TensorSource, weights: &Weights<'_>) -> Result<Assigned> {
        let codes = self.codes(request)?;
        if matches!(source.config(), Config::Gguf(_)) {
            let name = self.0.about().name;
            let what = format!("`format` {name} needs a Hugging Face checkpoint; this is a GGUF file");
            return Err(Error::setting(what));
        }
        assign::assign(self.0.about().name, codes, request, source, weights)
    }

    fn prepare<'a>(&self, contents: Contents<'a>) -> Result<Box<dyn Prepared<'a> + 'a>> {
        let codes = self.codes(contents.request)?;
        let Config::HuggingFace(config) = contents.source.config() else { unreachable!("refused before") };
        Ok(Box::new(write::Laid::new(contents, self.0, codes, config)))
    }

    fn destination(&self, path: &Path, _: bool) -> Result<PathBuf> {
        destination::folder(path)
    }
}
