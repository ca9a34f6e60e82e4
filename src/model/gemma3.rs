//! Gemma 3's text model: Gemma 2 with norms on queries and keys instead of soft caps, windows in five of six blocks,
//! and another rotary base there. Vision towers are left out.

use super::conventions::{self, Conventions};
use super::from_hf::{self, KvHeads, Usual, refuse_flag, window_pattern};
use super::gemma2::{self, check_scale, implied};
use super::keys::Keys;
use super::to_hf::HfKeys;
use super::{Arch, Hyper, ModelGraph, RopeStyle, rope};
use crate::Result;
use crate::checkpoint::config::{GgufConfig, HfConfig};
use crate::gguf::Metadata;

pub(super) static ARCH: Arch = Arch {
    title: "Gemma 3",
    gguf: "gemma3",
    hf: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "gemma3_text", "gemma3"],
    bases: &["Gemma3TextModel", "Gemma3Model"],
    reads: &[from_hf::READ, gemma2::READ, READ],
    idle: gemma2::IDLE,
    hyper,
    graph,
    keys,
    config,
    complete,
    cut: same_scale,
};

const CONVENTIONS: Conventions = Conventions {
    roots: &["model.", "language_model.model.", "model.language_model.", "language_model.", ""],
    head: &["lm_head.weight", "language_model.lm_head.weight"],
    rope: RopeStyle::Halves,
    norm_less_one: true,
    ignored_starts: &["vision_tower.", "model.vision_tower.", "multi_modal_projector.", "model.multi_modal_projector."],
    ..conventions::LLAMA
};

/// Keys of its own that it looks at, beside those of Gemma 2.
const READ: &[&str] = &["rope_local_base_freq", "sliding_window_pattern", "_sliding_window_pattern"];

/// Every how many blocks one sees everything, unless said otherwise; GGUF files usually do not say.
const PATTERN: usize = 6;
/// Blocks of the 27B model.
const BLOCKS_27B: usize = 62;

fn hyper(c: &HfConfig) -> Result<Hyper> {
    refuse_flag(c, "use_bidirectional_attention")?;
    if c.opt_number("attn_logit_softcapping")?.is_some() {
        return Err(c.unsupported("attn_logit_softcapping", "is not supported for this architecture"));
    }
    // Google's own files leave these out; a wrong guess cannot pass, the tensors' shapes would not fit.
    let usual = Usual {
        heads: Some(8),
        kv_heads: KvHeads::Usually(4),
        vocab: Some(262208),
        context: 131072,
        rope_base: 1e6,
        rope_types: &["linear", "dynamic"],
        ..gemma2::USUAL
    };
    let mut h = from_hf::hyper(c, &usual)?;
    h.logit_softcap = c.opt_number("final_logit_softcapping")?.map(|x| x as f32);
    if h.blocks <= super::limits::MAX_BLOCKS {
        let pattern = window_pattern(c, h.blocks, PATTERN)?;
        h.window = h.window.or(Some(4096)).filter(|_| pattern > 1);
        h.window_pattern = h.window.map(|_| pattern);
    }
    h.rope.window_base = Some(rope::sliding_base(c)?);
    implied(&mut h, BLOCKS_27B);
    check_scale(c, &h)?;
    Ok(h)
}

fn graph(h: &Hyper) -> ModelGraph {
    gemma2::blocks(h, CONVENTIONS, true)
}

fn keys(h: &Hyper, _: &HfConfig, to: &mut Metadata) {
    let mut keys = Keys::new("gemma3", to);
    keys.usual(h, h.ffn);
    keys.head_dim(h);
    if let Some(cap) = h.logit_softcap {
        keys.number("final_logit_softcapping", cap);
    }
    if let Some(window) = h.window {
        keys.size("attention.sliding_window", window);
    }
    // llama.cpp reads it, though its converter does not write it.
    if let Some(pattern) = h.window_pattern.filter(|&p| p != PATTERN) {
        keys.size("attention.sliding_window_pattern", pattern);
    }
}

fn same_scale(before: &Hyper, after: &Hyper) -> std::result::Result<(), String> {
    gemma2::keep_scale(before, after, BLOCKS_27B)
}

/// llama.cpp's defaults for this architecture.
fn complete(h: &mut Hyper, _: &GgufConfig) -> Result<()> {
    h.window_pattern = h.window_pattern.or(Some(PATTERN)).filter(|_| h.window.is_some());
    h.rope.window_base = h.rope.window_base.or(Some(10000.0));
    implied(h, BLOCKS_27B);
    Ok(())
}

fn config(h: &Hyper, to: &mut HfKeys<'_>) -> Result<(), String> {
    to.class("Gemma3ForCausalLM", "gemma3_text");
    to.number("final_logit_softcapping", h.logit_softcap);
    to.number("attn_logit_softcapping", None);
    to.number("rope_local_base_freq", h.rope.window_base);
    let slides = |i: usize| h.window.is_some() && h.window_pattern.is_none_or(|p| i % p < p - 1);
    let layer = |i: usize| if slides(i) { "sliding_attention" } else { "full_attention" };
    to.set("layer_types", (0..h.blocks).map(layer).collect::<Vec<_>>());
    to.set("sliding_window", h.window.unwrap_or(4096));
    to.set("sliding_window_pattern", h.window_pattern.unwrap_or(1));
    gemma2::attention(h, to);
    to.usual(h, "gelu_pytorch_tanh")
}
