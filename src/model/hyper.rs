//! The numbers that fix a model's shape and function, whichever file they came from.

use std::collections::BTreeMap;

use super::Yarn;

/// The numbers that fix a model's shape and function, whichever file they came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyper {
    /// Transformer blocks.
    pub blocks: usize,
    /// Longest context the model was made for.
    pub context: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width inside the MLP (of one expert, for a mixture).
    pub ffn: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Numbers per head.
    pub head_dim: usize,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Sliding window of the blocks that have one.
    pub window: Option<usize>,
    /// Every how many blocks one sees the whole context (Gemma 2: 2, Gemma 3: 6); `None`: the window is everywhere.
    pub window_pattern: Option<usize>,
    /// Mixture of experts.
    pub experts: Option<Experts>,
    /// Soft cap on attention scores.
    pub attention_softcap: Option<f32>,
    /// Soft cap on logits.
    pub logit_softcap: Option<f32>,
    /// Factor on attention scores, where it is not 1 / sqrt(head_dim).
    pub attention_scale: Option<f32>,
    /// Factor on embeddings (Granite; Gemma: the root of the width).
    pub embedding_scale: Option<f32>,
    /// Factor on what blocks add to the residual stream (Granite).
    pub residual_scale: Option<f32>,
    /// Logits are divided by this (Granite).
    pub logit_scale: Option<f32>,
    /// Whether query, key and value have biases.
    pub qkv_bias: bool,
    /// Whether the attention output has a bias.
    pub attn_out_bias: bool,
    /// Whether the MLP's matrices have biases.
    pub mlp_bias: bool,
    /// Whether the output matrix is the embedding table.
    pub tied: bool,
    /// Numbers that one architecture alone has, by their GGUF keys without the prefix. Its own file reads and writes them.
    pub own: BTreeMap<&'static str, f64>,
}

/// Rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// How many numbers of a head rotate (nothing rotates in models that learn positions).
    pub dims: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Base in blocks with a sliding window, where they have one of their own (Gemma 3); then `scaling` is not theirs.
    pub window_base: Option<f32>,
    /// Stretching to longer contexts.
    pub scaling: RopeScaling,
    /// Factor on sine and cosine.
    pub magnitude: f32,
}

/// How rotary frequencies are stretched.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided by the factor.
    Linear(f32),
    /// Per-frequency factors, stored in the GGUF file as `rope_freqs.weight` (Llama 3).
    /// `None` when read from a GGUF file: the tensor has them.
    Factors(Option<Vec<f32>>),
    /// Short waves stay, long ones are stretched.
    Yarn(Yarn),
    /// Long and short factors (Phi-3).
    Long {
        /// Factors beyond the original context; `None` when read from a GGUF file.
        long: Option<Vec<f32>>,
        /// Factors within it.
        short: Option<Vec<f32>>,
        /// Context the model was first trained with.
        original_context: usize,
    },
}

/// Mixture of experts.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many each token uses.
    pub used: usize,
    /// Whether the chosen weights are made to add up to one.
    pub normalize: bool,
}

/// What a smaller model was made from.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    /// Its numbers.
    pub hyper: Hyper,
    /// Which of its blocks stay.
    pub blocks: Vec<usize>,
}
