//! What Transformers assumes of an architecture where config.json leaves it out.

/// What transformers assumes of an architecture, and what of it can be expressed.
#[derive(Clone, Copy)]
pub(super) struct Usual {
    /// `head_dim` when the key is absent; `None`: hidden_size / num_attention_heads.
    pub head_dim: Option<usize>,
    /// Whether `head_dim` must be hidden_size / num_attention_heads (no key for another one in GGUF).
    pub heads_fill_width: bool,
    /// `num_attention_heads` when absent; most must have the key.
    pub heads: Option<usize>,
    /// `num_key_value_heads` when absent.
    pub kv_heads: KvHeads,
    /// `vocab_size` when absent; most must have the key.
    pub vocab: Option<usize>,
    /// `max_position_embeddings` when absent.
    pub context: usize,
    /// `rms_norm_eps` when absent.
    pub norm_eps: f64,
    /// `rope_theta` when absent.
    pub rope_base: f64,
    /// Rope types that can be expressed, besides "default".
    pub rope_types: &'static [&'static str],
    /// `original_max_position_embeddings` when absent, where the class has a default; it then counts more than what
    /// the rotary settings say.
    pub original_context: Option<usize>,
    /// Whether part of a head may rotate.
    pub partial_rotary: bool,
    /// `tie_word_embeddings` when absent.
    pub tied: bool,
    /// Key of the activation.
    pub activation_key: &'static str,
    /// Spellings of the activation that is built in.
    pub activations: &'static [&'static str],
    /// Whether `attention_bias` and `mlp_bias` are expressed.
    pub biases: bool,
    /// Whether `sliding_window` is.
    pub sliding: bool,
}

/// What transformers makes of an absent `num_key_value_heads`.
#[derive(Clone, Copy)]
pub(super) enum KvHeads {
    /// As many as num_attention_heads.
    AsHeads,
    /// A number that fits one model and is wrong for others, so the key is needed.
    Required,
    /// A number on which published checkpoints rely.
    Usually(usize),
}

/// Rope types of architectures whose GGUF files have no factors for single frequencies.
pub(super) const WITHOUT_FACTORS: &[&str] = &["linear", "dynamic", "yarn"];

/// LlamaConfig.
pub(super) const LLAMA: Usual = Usual {
    head_dim: None,
    heads_fill_width: false,
    heads: None,
    kv_heads: KvHeads::AsHeads,
    vocab: None,
    context: 2048,
    norm_eps: 1e-6,
    rope_base: 10000.0,
    rope_types: &["linear", "dynamic", "yarn", "longrope", "llama3"],
    original_context: None,
    partial_rotary: false,
    tied: false,
    activation_key: "hidden_act",
    activations: &["silu", "swish"],
    biases: true,
    sliding: false,
};
