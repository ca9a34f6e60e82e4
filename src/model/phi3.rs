//! Phi-3: query, key and value in one matrix, gate and up in another, as GGUF keeps them too; long contexts by factors.

use super::build::Builder;
use super::conventions::{self, Conventions, Linear};
use super::from_hf::{self, LLAMA, Usual};
use super::keys::Keys;
use super::mistral::uniform_window;
use super::to_hf::HfKeys;
use super::{Activation, Arch, Hyper, ModelGraph, Op, Role, RopeScaling, RopeStyle, complete, cut, rope};
use crate::Result;
use crate::checkpoint::config::HfConfig;
use crate::gguf::Metadata;

pub(super) static ARCH: Arch = Arch {
    title: "Phi-3",
    gguf: "phi3",
    hf: &["Phi3ForCausalLM", "phi3"],
    bases: &["Phi3Model"],
    reads: &[from_hf::READ, from_hf::ACTIVATION, &["sliding_window"]],
    idle: &["full_attn_mod"],
    hyper,
    graph,
    keys,
    config,
    complete,
    cut: cut::same_heads,
};

const CONVENTIONS: Conventions = Conventions { rope: RopeStyle::Halves, ..conventions::LLAMA };

const USUAL: Usual = Usual {
    heads_fill_width: true,
    context: 4096,
    norm_eps: 1e-5,
    rope_types: &["longrope"],
    original_context: Some(4096),
    partial_rotary: true,
    biases: false,
    sliding: true,
    ..LLAMA
};

fn hyper(c: &HfConfig) -> Result<Hyper> {
    let mut h = from_hf::hyper(c, &USUAL)?;
    uniform_window(c, &mut h)?;
    // The file says it whether or not anything is stretched.
    c.opt_size(rope::ORIGINAL_CONTEXT)?;
    Ok(h)
}

fn graph(h: &Hyper) -> ModelGraph {
    let mut b = Builder::new(h, CONVENTIONS);
    for i in 0..h.blocks {
        b.begin(i);
        let x = b.norm("attn_norm", "input_layernorm", b.residual, "attn_in");
        let (q, k, v) = b.fused_qkv(x, "self_attn.qkv_proj");
        b.rope(q, k);
        let y = b.attend((q, k, v), "self_attn.o_proj");
        b.add(y);
        let x = b.norm("ffn_norm", "post_attention_layernorm", b.residual, "ffn_in");
        let both = Linear::new(Role::FfnUp, "ffn_up", "mlp.gate_up_proj", 2 * h.ffn, false);
        let x = b.linear(both, x, "gate_up");
        let (gate, up) = (b.slot("gate", h.ffn), b.slot("up", h.ffn));
        b.op(Op::Split { x, parts: vec![gate, up] });
        let y = b.gate_and_down(Activation::Silu, gate, up);
        b.add(y);
    }
    b.finish("norm")
}

fn keys(h: &Hyper, c: &HfConfig, to: &mut Metadata) {
    let mut keys = Keys::new("phi3", to);
    if let RopeScaling::Long { .. } = h.rope.scaling {
        keys.number("rope.scaling.attn_factor", h.rope.magnitude);
    }
    keys.size("context_length", h.context);
    let original = c.opt_size(rope::ORIGINAL_CONTEXT).ok().flatten().or(USUAL.original_context);
    keys.size("rope.scaling.original_context_length", original.unwrap_or(h.context));
    keys.size("embedding_length", h.width);
    keys.size("feed_forward_length", h.ffn);
    keys.size("block_count", h.blocks);
    keys.size("attention.head_count", h.heads);
    keys.size("attention.head_count_kv", h.kv_heads);
    keys.number("attention.layer_norm_rms_epsilon", h.norm_eps);
    keys.size("rope.dimension_count", h.rope.dims);
    keys.number("rope.freq_base", h.rope.base);
    // Zero for none: llama.cpp tells Phi-4 by it.
    keys.size("attention.sliding_window", h.window.unwrap_or(0));
}

fn config(h: &Hyper, to: &mut HfKeys<'_>) -> Result<(), String> {
    to.class("Phi3ForCausalLM", "phi3");
    to.set("sliding_window", h.window);
    to.number("partial_rotary_factor", Some(h.rope.dims as f32 / h.head_dim as f32));
    to.set("original_max_position_embeddings", h.context);
    to.usual(h, "silu")
}
