//! What a layout of packed matrices is, and which settings it has.

use serde_json::Value as Json;

use super::super::About;

/// Settings of the codes, common to all matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// Bits per code: 4 or 8.
    pub bits: u32,
    /// Columns that share a scale.
    pub group: usize,
    /// Whether the zero point is always the middle code.
    pub symmetric: bool,
}

/// One matrix, `[rows, cols]` = `[out, in]`, as integers: `weight = scale * (code - zero)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Codes, counted from 0, row by row.
    pub codes: Vec<u8>,
    /// F16 bits, `[rows, cols / group]`.
    pub scales: Vec<u16>,
    /// Zero points, counted from 0, `[rows, cols / group]`.
    pub zeros: Vec<u8>,
}

/// One tensor of a packed matrix: the suffix of its name, its safetensors type, its shape.
pub type PackedField = (&'static str, &'static str, Vec<usize>);

/// The matrix layout that a program expects.
pub trait PackedLayout: Send + Sync {
    /// Name and settings; the name is `quant_method` too.
    fn about(&self) -> &'static About;

    /// Defaults and limits.
    fn limits(&self) -> Limits {
        Limits { symmetric: true, bits: &BITS }
    }

    /// The tensors of a matrix of this shape.
    fn fields(&self, rows: usize, cols: usize, codes: Codes) -> Vec<PackedField>;

    /// Their bytes, in the same order.
    fn pack(&self, matrix: &Matrix, codes: Codes) -> Vec<Vec<u8>>;

    /// `quantization_config`, and the name of another file that gets it too. `skipped`: names of the linear layers that
    /// stay in floats.
    fn config(&self, codes: Codes, skipped: &[String]) -> (Json, Option<&'static str>);
}

/// What a layout can hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Whether the zero point is always the middle code by default.
    pub symmetric: bool,
    /// Possible numbers of bits per code.
    pub bits: &'static [u32],
}

/// Numbers of bits per code that can be requested.
pub const BITS: [u32; 2] = [4, 8];

/// Group sizes that can be requested.
pub const GROUPS: [usize; 3] = [32, 64, 128];

/// Settings that every layout takes.
pub(super) const SETTINGS: &[&str] =
    &["format.bits", "format.group_size", "format.sym", "format.asym", "format.shard_size"];
