//! Quantised checkpoints as other programs load them: safetensors shards whose matrices are codes, scales and zeros,
//! with config.json, tokenizer and generation files beside them.
//!
//! The pipeline writes blocks row by row, as for any output. Here they are taken apart again: what was moved or fused
//! on the way in goes back to the checkpoint's own tensors, and each [layout](PackedLayout), one file, packs a matrix
//! its way.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{About, Assigned, Contents, Exporter, Prepared, Request, destination};
use crate::checkpoint::{Config, TensorSource};
use crate::weights::Weights;
use crate::{Error, Result};

mod assign;
mod awq;
mod bits;
mod compressed_tensors;
mod gptq;
mod tensors;
mod unpack;
mod write;

pub use awq::Awq;
pub use compressed_tensors::CompressedTensors;
pub use gptq::Gptq;

/// What the codes of all matrices are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// Bits of a code: 4 or 8.
    pub bits: u32,
    /// Columns that share a scale.
    pub group: usize,
    /// Whether zeros are in the middle of the codes.
    pub symmetric: bool,
}

/// One matrix, `[rows, cols]` = `[out, in]`, as integers: `weight = scale * (code - zero)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Codes from 0, row by row.
    pub codes: Vec<u8>,
    /// F16 bits, `[rows, cols / group]`.
    pub scales: Vec<u16>,
    /// Zeros from 0, `[rows, cols / group]`.
    pub zeros: Vec<u8>,
}

/// One tensor of a packed matrix: the end of its name, safetensors' name of its type, its shape.
pub type Part = (&'static str, &'static str, Vec<usize>);

/// How a program wants its matrices.
pub trait PackedLayout: Send + Sync {
    /// What it is called; the name is `quant_method` too.
    fn about(&self) -> &'static About;

    /// Zeros and what else is usual or impossible.
    fn limits(&self) -> Limits {
        Limits { symmetric: true, bits: &BITS }
    }

    /// The tensors of a matrix of this shape.
    fn parts(&self, rows: usize, cols: usize, codes: Codes) -> Vec<Part>;

    /// Their bytes, in the same order.
    fn pack(&self, matrix: &Matrix, codes: Codes) -> Vec<Vec<u8>>;

    /// `quantization_config`, and a file that gets it too. `skipped`: names of the linears that stay floats.
    fn config(&self, codes: Codes, skipped: &[String]) -> (Json, Option<&'static str>);
}

/// What a layout can hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Whether zeros are in the middle of the codes unless it is asked otherwise.
    pub symmetric: bool,
    /// Bits that a code can have.
    pub bits: &'static [u32],
}

/// Bits of a code that can be asked for.
pub const BITS: [u32; 2] = [4, 8];

/// Sizes of groups that can be asked for.
pub const GROUPS: [usize; 3] = [32, 64, 128];

/// Settings that all layouts take.
const SETTINGS: &[&str] = &["bits", "group-size", "sym", "asym", "shard-size"];

/// The exporter of a layout.
pub struct Packed(pub &'static dyn PackedLayout);

impl Packed {
    fn codes(&self, request: &Request) -> Result<Codes> {
        let (about, limits) = (self.0.about(), self.0.limits());
        request.check(about)?;
        let codes = Codes {
            bits: request.bits.unwrap_or(BITS[0]),
            group: request.group_size.unwrap_or(GROUPS[2]),
            symmetric: request.symmetric.unwrap_or(limits.symmetric),
        };
        if !limits.bits.contains(&codes.bits) {
            let bits: Vec<_> = limits.bits.iter().map(ToString::to_string).collect();
            let what = format!("`format` {} has {} bits only, found {}", about.name, bits.join(" or "), codes.bits);
            return Err(Error::setting(what));
        }
        if !GROUPS.contains(&codes.group) {
            return Err(Error::setting(format!("`group-size` {} is none of {GROUPS:?}", codes.group)));
        }
        Ok(codes)
    }
}

impl Exporter for Packed {
    fn about(&self) -> &'static About {
        self.0.about()
    }

    fn assign(&self, request: &Request, source: &dyn TensorSource, weights: &Weights<'_>) -> Result<Assigned> {
        let codes = self.codes(request)?;
        if matches!(source.config(), Config::Gguf(_)) {
            let name = self.0.about().name;
            let what = format!("`format` {name} needs a Hugging Face checkpoint, this is a GGUF file");
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
