//! Every ggml tensor type by name, id and size, whether or not this crate can encode it.
//!
//! A reader needs the sizes of all types to walk a file; only the ones in [`crate::formats::FORMATS`] can be
//! decoded or written. Ids and sizes are ggml's (`ggml.h`, `ggml-common.h`); removed types have no row.

/// The storage facts of one tensor type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spec {
    /// Name as users type it and as reports print it, lower case (`q4_0`).
    pub name: &'static str,
    /// ggml's type id, as stored in GGUF; none of a type that GGUF does not have.
    pub ggml_id: Option<u32>,
    /// Weights per block; blocks run along a row, so a row's length must be a multiple of it.
    pub block: usize,
    /// Bytes per block.
    pub bytes: usize,
    /// What the numbers in it are.
    pub kind: Kind,
    /// Largest magnitude that is stored as a finite number (scales are half precision in most block types).
    pub max_abs: f32,
    /// Weights whose largest magnitude is at least this lose nothing to the smallest numbers that the type has for
    /// scales, or for weights, being far apart (half precision's are 2^-24 apart).
    pub fine: f32,
}

/// What a type's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IEEE-like floating point, one number each.
    Float,
    /// Integers: tables and routing data, never weights.
    Int,
    /// Blocks of codes with shared scales.
    Block,
}

impl Spec {
    /// Bytes of `weights` consecutive weights of one row; `None` if blocks do not divide it or it overflows.
    pub fn bytes_for(&self, weights: usize) -> Option<usize> {
        if !weights.is_multiple_of(self.block) {
            return None;
        }
        (weights / self.block).checked_mul(self.bytes)
    }

    /// Storage bits per weight, scales included.
    pub fn bits_per_weight(&self) -> f64 {
        (self.bytes * 8) as f64 / self.block as f64
    }
}

const F16_MAX: f32 = 65504.0;
const BF16_MAX: f32 = 3.389_531_4e38;

/// 2^-10. A scale in half precision that takes 127 levels, the most that any type has, to it is at least 128 times the
/// smallest; and of numbers of that size few are below half precision's normal ones.
const F16_FINE: f32 = 1.0 / 1024.0;
/// 2^-100, 26 powers of two above the smallest normal F32.
const F32_FINE: f32 = 1.0 / (1u128 << 100) as f32;

const fn float(name: &'static str, ggml_id: u32, bytes: usize, max_abs: f32, fine: f32) -> Spec {
    Spec { name, ggml_id: Some(ggml_id), block: 1, bytes, kind: Kind::Float, max_abs, fine }
}

const fn int(name: &'static str, ggml_id: u32, bytes: usize) -> Spec {
    Spec { name, ggml_id: Some(ggml_id), block: 1, bytes, kind: Kind::Int, max_abs: f32::MAX, fine: 0.0 }
}

/// Blocks whose scale has the range of an F32.
const fn unbounded(name: &'static str, ggml_id: u32, block: usize, bytes: usize) -> Spec {
    Spec { name, ggml_id: Some(ggml_id), block, bytes, kind: Kind::Block, max_abs: f32::MAX, fine: F32_FINE }
}

/// `top` is the magnitude that a block reaches with a half-precision scale of one (8 for Q4_0).
const fn block(name: &'static str, ggml_id: u32, block: usize, bytes: usize, top: f32) -> Spec {
    let max_abs = F16_MAX * top;
    Spec { name, ggml_id: Some(ggml_id), block, bytes, kind: Kind::Block, max_abs, fine: F16_FINE }
}

/// A block type that ggml does not know; its row is in the format's own file.
pub(crate) const fn foreign(name: &'static str, block: usize, bytes: usize, top: f32) -> Spec {
    Spec { name, ggml_id: None, block, bytes, kind: Kind::Block, max_abs: F16_MAX * top, fine: F16_FINE }
}

/// All tensor types that current GGUF files may contain, by id.
///
/// Where the scale follows from the largest weight alone, `top` is exact. The super-blocks' scales are found by a
/// search that may stretch them, so `top` is half of what it would be without one (Q6_K: 32 * 128, hence 2048).
/// The types with a codebook keep 1: far below what they reach, far above any weight.
pub static SPECS: &[Spec] = &[
    float("f32", 0, 4, f32::MAX, F32_FINE),
    float("f16", 1, 2, F16_MAX, F16_FINE),
    block("q4_0", 2, 32, 18, 8.0),
    block("q4_1", 3, 32, 20, 1.0), // the offset is the smallest weight itself
    block("q5_0", 6, 32, 22, 16.0),
    block("q5_1", 7, 32, 24, 1.0),
    block("q8_0", 8, 32, 34, 127.0),
    block("q8_1", 9, 32, 36, 1.0 / 32.0), // also stores the sum of the block
    block("q2_k", 10, 256, 84, 7.0),
    block("q3_k", 11, 256, 110, 64.0),
    block("q4_k", 12, 256, 144, 31.0),
    block("q5_k", 13, 256, 176, 31.0),
    block("q6_k", 14, 256, 210, 2048.0),
    unbounded("q8_k", 15, 256, 292), // f32 scale
    block("iq2_xxs", 16, 256, 66, 1.0),
    block("iq2_xs", 17, 256, 74, 1.0),
    block("iq3_xxs", 18, 256, 98, 1.0),
    block("iq1_s", 19, 256, 50, 1.0),
    block("iq4_nl", 20, 32, 18, 63.0),
    block("iq3_s", 21, 256, 110, 1.0),
    block("iq2_s", 22, 256, 82, 1.0),
    block("iq4_xs", 23, 256, 136, 2016.0),
    int("i8", 24, 1),
    int("i16", 25, 2),
    int("i32", 26, 4),
    int("i64", 27, 8),
    float("f64", 28, 8, f32::MAX, F32_FINE),
    block("iq1_m", 29, 256, 56, 1.0),
    float("bf16", 30, 2, BF16_MAX, F32_FINE),
    block("tq1_0", 34, 256, 54, 1.0),
    block("tq2_0", 35, 256, 66, 1.0),
    unbounded("mxfp4", 39, 32, 17),               // scales are powers of two up to 2^127
    block("nvfp4", 40, 64, 36, 2688.0 / F16_MAX), // scales are E4M3, at most 448, times 6
    block("q1_0", 41, 128, 18, 1.0),
    block("q2_0", 42, 64, 18, 1.0),
];

/// The row of this name, found when the program is compiled: a format without a row is no program.
pub(crate) const fn known(name: &str) -> &'static Spec {
    let mut i = 0;
    while i < SPECS.len() {
        if same(SPECS[i].name.as_bytes(), name.as_bytes()) {
            return &SPECS[i];
        }
        i += 1;
    }
    panic!("no row of SPECS has this name")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// The type with this ggml id.
pub fn by_ggml_id(id: u32) -> Option<&'static Spec> {
    SPECS.iter().find(|s| s.ggml_id == Some(id))
}

/// The type with this name, in any case.
pub fn by_name(name: &str) -> Option<&'static Spec> {
    SPECS.iter().find(|s| s.name.eq_ignore_ascii_case(name))
}
