//! What a layout of packed matrices is, and which settings it has.

use ndarray::Array2;
use serde_json::Value as Json;

use super::super::{About, shards};
use crate::options::{Opt, OptKind, Options};

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

impl Codes {
    /// What a format's options say of them.
    pub fn of(options: &Options) -> Codes {
        Codes {
            bits: options.count(BITS.name) as u32,
            group: options.count(GROUP_SIZE.name),
            symmetric: options.flag(SYM.name),
        }
    }
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

/// One tensor of a packed matrix: the suffix of its name, its safetensors type, its shape.
pub type PackedField = (&'static str, &'static str, Vec<usize>);

/// The matrix layout that a program expects.
pub trait PackedLayout: Send + Sync {
    /// What it is called, where the name is `quant_method` too, and its options: [`OPTIONS`], or others of these names.
    fn about(&self) -> &'static About;

    /// The tensors of a matrix of this shape.
    fn fields(&self, rows: usize, cols: usize, codes: Codes) -> Vec<PackedField>;

    /// Their bytes, in the same order.
    fn pack(&self, matrix: &Matrix, codes: Codes) -> Vec<Vec<u8>>;

    /// `quantization_config`, and the name of another file that gets it too. `skipped`: names of the linear layers that
    /// stay in floats.
    fn config(&self, codes: Codes, skipped: &[String]) -> (Json, Option<&'static str>);
}

/// Bits of a code.
pub(super) const BITS: Opt =
    Opt { name: "bits", about: "Bits of a code, 4 or 8", kind: OptKind::OneOf(&[4, 8]), default: "4" };

/// Weights that share a scale.
pub(super) const GROUP_SIZE: Opt = Opt {
    name: "group_size",
    about: "Weights that share a scale: 32, 64 or 128",
    kind: OptKind::OneOf(&[32, 64, 128]),
    default: "128",
};

/// Whether zeros are in the middle of the codes.
pub(super) const SYM: Opt = Opt {
    name: "sym",
    about: "Zeros in the middle of the codes",
    kind: OptKind::Flag { off: "asym", about: "A zero for every group" },
    default: "true",
};

/// What can be set of most layouts.
pub(super) const OPTIONS: &[Opt] = &[BITS, GROUP_SIZE, SYM, shards::SIZE];
