//! Gemma 2: norms before and after each branch, soft caps, windows in every other block, GELU.

use super::build::Builder;
use super::conventions::{self, Conventions};
use super::from_hf::{self, KvHeads, LLAMA, Usual, WITHOUT_FACTORS, listed_pattern, refuse_flag};
use super::keys::Keys;
use super::to_hf::HfKeys;
use super::{Activation, Arch, Hyper, ModelGraph, RopeStyle};
use crate::Result;
use crate::checkpoint::config::{GgufConfig, HfConfig};
use crate::gguf::Metadata;

pub(super) static ARCH: Arch = Arch {
    title: "Gemma 2",
    gguf: "gemma2",
    hf: &["Gemma2ForCausalLM", "gemma2"],
    bases: &["Gemma2Model"],
    reads: &[from_hf::READ, READ],
    idle: IDLE,
    hyper,
    graph,
    keys,
    config,
    complete,
    cut: same_scale,
};

const CONVENTIONS: Conventions = Conventions { rope: RopeStyle::Halves, norm_less_one: true, ..conventions::LLAMA };

/// Keys of its own that it looks at.
pub(super) const READ: &[&str] = &[
    "hidden_activation",
    "sliding_window",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "query_pre_attn_scalar",
    "use_bidirectional_attention",
];

/// Keys that Google's files have beside those that count.
pub(super) const IDLE: &[&str] = &["hidden_act", "sliding_window_size"];

pub(super) const USUAL: Usual = Usual {
    head_dim: Some(256),
    kv_heads: KvHeads::Required,
    context: 8192,
    rope_types: WITHOUT_FACTORS,
    tied: true,
    activation_key: "hidden_activation",
    activations: &["gelu_pytorch_tanh"],
    biases: false,
    sliding: true,
    ..LLAMA
};

/// Blocks of the 27B model, the one whose scores llama.cpp scales by width / heads instead of the head's length.
const BLOCKS_27B: usize = 46;

fn hyper(c: &HfConfig) -> Result<Hyper> {
    refuse_flag(c, "use_bidirectional_attention")?;
    let mut h = from_hf::hyper(c, &USUAL)?;
    if !h.tied {
        return Err(c.unsupported("tie_word_embeddings", "false is not supported for this architecture"));
    }
    // transformers' defaults; null turns a cap off, which GGUF cannot say.
    h.attention_softcap = Some(c.opt_number("attn_logit_softcapping")?.unwrap_or(50.0) as f32);
    h.logit_softcap = Some(c.opt_number("final_logit_softcapping")?.unwrap_or(30.0) as f32);
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if c.map.get(key).is_some_and(serde_json::Value::is_null) || c.opt_number(key)?.is_some_and(|x| x <= 0.0) {
            return Err(c.unsupported(key, "must be above zero; GGUF cannot express that there is no cap"));
        }
    }
    h.window = h.window.or(Some(4096));
    h.window_pattern = Some(2);
    if h.blocks <= super::limits::MAX_BLOCKS && listed_pattern(c, h.blocks, 2)?.is_some_and(|p| p != 2) {
        return Err(c.unsupported("layer_types", "must have a window in every other layer, starting with the first"));
    }
    implied(&mut h, BLOCKS_27B);
    check_scale(c, &h)?;
    Ok(h)
}

/// What GGUF has no keys for: embeddings grow by the root of the width, and llama.cpp knows the scale of the scores by
/// the number of blocks.
pub(super) fn implied(h: &mut Hyper, blocks_27b: usize) {
    let over = if h.blocks == blocks_27b { h.width / h.heads } else { h.head_dim };
    h.attention_scale = Some(1.0 / (over as f32).sqrt());
    h.embedding_scale = Some((h.width as f32).sqrt());
}

/// The scale of the scores must not change with the number of blocks or heads.
pub(super) fn keep_scale(before: &Hyper, after: &Hyper, blocks_27b: usize) -> std::result::Result<(), String> {
    let mut said = after.clone();
    implied(&mut said, blocks_27b);
    match said.attention_scale == before.attention_scale {
        true => Ok(()),
        false => Err(format!(
            "llama.cpp knows the scale of attention scores by the number of blocks and heads; with {} blocks and {} \
             heads it would take another one",
            after.blocks, after.heads
        )),
    }
}

fn same_scale(before: &Hyper, after: &Hyper) -> std::result::Result<(), String> {
    keep_scale(before, after, BLOCKS_27B)
}

/// What config.json says of the scale must be what llama.cpp will assume.
pub(super) fn check_scale(c: &HfConfig, h: &Hyper) -> Result<()> {
    let key = "query_pre_attn_scalar";
    let found = c.opt_number(key)?.unwrap_or(256.0);
    let scale = h.attention_scale.expect("set before");
    if found > 0.0 && (1.0 / found.sqrt() - f64::from(scale)).abs() < 1e-6 {
        return Ok(());
    }
    let need = 1.0 / f64::from(scale * scale);
    Err(c.unsupported(
        key,
        format!("{found} is not supported: GGUF has no key for it and llama.cpp assumes {need:.0} here"),
    ))
}

fn graph(h: &Hyper) -> ModelGraph {
    blocks(h, CONVENTIONS, false)
}

/// The blocks that Gemma 2 and 3 share.
pub(super) fn blocks(h: &Hyper, to: Conventions, qk_norm: bool) -> ModelGraph {
    let mut b = Builder::new(h, to);
    for i in 0..h.blocks {
        b.begin(i);
        let x = b.norm("attn_norm", "input_layernorm", b.residual, "attn_in");
        let (q, k, v) = b.qkv(x);
        if qk_norm {
            b.qk_norm(q, k, false);
        }
        b.rope(q, k);
        let y = b.attend((q, k, v), "self_attn.o_proj");
        let y = b.norm("post_attention_norm", "post_attention_layernorm", y, "attn_normed");
        b.add(y);
        let x = b.norm("ffn_norm", "pre_feedforward_layernorm", b.residual, "ffn_in");
        let y = b.gated_mlp(x, Activation::GeluTanh);
        let y = b.norm("post_ffw_norm", "post_feedforward_layernorm", y, "ffn_normed");
        b.add(y);
    }
    b.finish("norm")
}

fn keys(h: &Hyper, _: &HfConfig, to: &mut Metadata) {
    let mut keys = Keys::new("gemma2", to);
    keys.size("context_length", h.context);
    keys.size("embedding_length", h.width);
    keys.size("block_count", h.blocks);
    keys.size("feed_forward_length", h.ffn);
    keys.size("attention.head_count", h.heads);
    keys.size("attention.head_count_kv", h.kv_heads);
    keys.number("attention.layer_norm_rms_epsilon", h.norm_eps);
    keys.head_dim(h);
    // The reference converter drops another base; llama.cpp reads it all the same.
    if h.rope.base != 10000.0 {
        keys.number("rope.freq_base", h.rope.base);
    }
    keys.rope_scaling(h);
    if let (Some(scores), Some(logits)) = (h.attention_softcap, h.logit_softcap) {
        keys.number("attn_logit_softcapping", scores);
        keys.number("final_logit_softcapping", logits);
    }
    if let Some(window) = h.window {
        keys.size("attention.sliding_window", window);
    }
}

/// llama.cpp's defaults for this architecture.
fn complete(h: &mut Hyper, _: &GgufConfig) -> Result<()> {
    h.window = h.window.or(Some(4096));
    h.window_pattern = h.window_pattern.or(Some(2));
    h.attention_softcap = h.attention_softcap.or(Some(50.0));
    h.logit_softcap = h.logit_softcap.or(Some(30.0));
    implied(h, BLOCKS_27B);
    Ok(())
}

fn config(h: &Hyper, to: &mut HfKeys<'_>) -> Result<(), String> {
    to.class("Gemma2ForCausalLM", "gemma2");
    to.number("attn_logit_softcapping", h.attention_softcap);
    to.number("final_logit_softcapping", h.logit_softcap);
    to.set("sliding_window", h.window);
    attention(h, to);
    to.usual(h, ACTIVATION)
}

const ACTIVATION: &str = "gelu_pytorch_tanh";

/// What Gemma 2 and 3 say of attention scores, and their own key of the activation.
pub(super) fn attention(h: &Hyper, to: &mut HfKeys<'_>) {
    let scale = h.attention_scale.expect("set for this architecture");
    to.set("query_pre_attn_scalar", (1.0 / f64::from(scale * scale)).round() as u64);
    to.set("hidden_activation", ACTIVATION);
    to.set("attention_bias", false);
}
