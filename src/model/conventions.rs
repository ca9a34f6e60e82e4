//! How an architecture's checkpoints spell and store things: what differs between files that hold the same blocks.

use super::{NormKind, Role, RopeStyle};

/// What an architecture's checkpoints have in common.
#[derive(Clone, Copy)]
pub(super) struct Conventions {
    /// What checkpoint names start with, the usual spelling first.
    pub roots: &'static [&'static str],
    /// What the list of blocks is called.
    pub layers: &'static str,
    /// The embedding table.
    pub embedding: &'static str,
    /// The output matrix (without a root).
    pub head: &'static [&'static str],
    /// How heads are rotated; interleaved heads are permuted on the way in.
    pub rope: RopeStyle,
    /// Kind of every norm.
    pub norm: NormKind,
    /// Whether norms are stored less one.
    pub norm_less_one: bool,
    /// Whether linears are stored `[in, out]`.
    pub transposed: bool,
    /// Checkpoint tensors that are not used, by their names' ends.
    pub ignored: &'static [&'static str],
    /// And by their starts.
    pub ignored_starts: &'static [&'static str],
}

/// Hugging Face's Llama, from which most others differ in a line or two.
pub(super) const LLAMA: Conventions = Conventions {
    roots: &["model.", ""],
    layers: "layers",
    embedding: "embed_tokens.weight",
    head: &["lm_head.weight"],
    rope: RopeStyle::Interleaved,
    norm: NormKind::Rms,
    norm_less_one: false,
    transposed: false,
    ignored: &[".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached"],
    ignored_starts: &[],
};

/// A projection: what it is called and how many rows it has.
pub(super) struct Linear {
    /// Its part.
    pub role: Role,
    /// GGUF name within the block, without `.weight`.
    pub gguf: &'static str,
    /// Checkpoint name within the block, without `.weight`.
    pub hf: &'static str,
    /// Rows.
    pub rows: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// Rotary heads among its rows.
    pub rotary_heads: Option<usize>,
}

impl Linear {
    /// A projection without rotary heads.
    pub fn new(role: Role, gguf: &'static str, hf: &'static str, rows: usize, bias: bool) -> Self {
        Linear { role, gguf, hf, rows, bias, rotary_heads: None }
    }

    /// With rotary heads.
    pub fn rotary(self, heads: usize) -> Self {
        Linear { rotary_heads: Some(heads), ..self }
    }
}
