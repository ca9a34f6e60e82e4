//! What a layout of packed matrices is, and what can be asked of one.

use ndarray::Array2;
use serde_json::Value as Json;

use super::super::About;

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
    /// Codes from 0, `[rows, cols]`.
    pub codes: Array2<u8>,
    /// F16 bits, `[rows, cols / group]`.
    pub scales: Array2<u16>,
    /// Zeros from 0, `[rows, cols / group]`.
    pub zeros: Array2<u8>,
}

/// One tensor of a packed matrix: the end of its name, safetensors' name of its type, its shape.
pub type PackedField = (&'static str, &'static str, Vec<usize>);

/// How a program wants its matrices.
pub trait PackedLayout: Send + Sync {
    /// What it is called; the name is `quant_method` too.
    fn about(&self) -> &'static About;

    /// Zeros and what else is usual or impossible.
    fn limits(&self) -> Limits {
        Limits { symmetric: true, bits: &BITS }
    }

    /// The tensors of a matrix of this shape.
    fn fields(&self, rows: usize, cols: usize, codes: Codes) -> Vec<PackedField>;

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
pub(super) const SETTINGS: &[&str] =
    &["format.bits", "format.group_size", "format.sym", "format.asym", "format.shard_size"];
