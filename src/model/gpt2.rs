//! GPT-2: learned positions, layer norms, biases everywhere, matrices stored transposed, a plain MLP.

use std::collections::BTreeMap;

use super::build::Builder;
use super::conventions::{Conventions, Linear};
use super::from_hf::{causal, divided, either, opt_either, refuse_flag};
use super::keys::Keys;
use super::to_hf::HfKeys;
use super::{
    Activation, Arch, Hyper, Import, ModelGraph, NormKind, Op, Role, Rope, RopeScaling, RopeStyle, complete, cut,
};
use crate::Result;
use crate::checkpoint::config::HfConfig;
use crate::gguf::Metadata;

pub(super) static ARCH: Arch = Arch {
    title: "GPT-2",
    gguf: "gpt2",
    hf: &["GPT2LMHeadModel", "gpt2"],
    bases: &["GPT2Model"],
    reads: &[READ],
    idle: &["summary_activation"],
    hyper,
    graph,
    keys,
    config,
    complete,
    cut: cut::same_heads,
};

const CONVENTIONS: Conventions = Conventions {
    roots: &["transformer.", ""],
    layers: "h",
    embedding: "wte.weight",
    head: &["lm_head.weight"],
    rope: RopeStyle::Halves,
    norm: NormKind::Layer,
    norm_less_one: false,
    transposed: true,
    ignored: &[".attn.bias", ".attn.masked_bias"],
    ignored_starts: &[],
};

/// Keys that it looks at.
const READ: &[&str] = &[
    "n_layer",
    "num_hidden_layers",
    "n_embd",
    "hidden_size",
    "n_head",
    "num_attention_heads",
    "n_positions",
    "max_position_embeddings",
    "n_inner",
    "vocab_size",
    "layer_norm_epsilon",
    "activation_function",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "add_cross_attention",
    "tie_word_embeddings",
    "is_causal",
];

fn hyper(c: &HfConfig) -> Result<Hyper> {
    causal(c)?;
    // The second name is what Transformers' attribute map calls the same thing.
    let blocks = either(c, ["n_layer", "num_hidden_layers"])?;
    let (width, heads) = (either(c, ["n_embd", "hidden_size"])?, either(c, ["n_head", "num_attention_heads"])?);
    let act = c.opt_text("activation_function")?.unwrap_or("gelu_new");
    if !["gelu_new", "gelu_pytorch_tanh"].contains(&act) {
        return Err(c.unsupported("activation_function", format!("{act:?} is not supported, only gelu_new")));
    }
    for key in ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"] {
        refuse_flag(c, key)?;
    }
    if c.opt_flag("scale_attn_weights")? == Some(false) {
        return Err(c.unsupported("scale_attn_weights", "false is not supported"));
    }
    Ok(Hyper {
        blocks,
        context: opt_either(c, ["n_positions", "max_position_embeddings"])?.unwrap_or(1024),
        width,
        ffn: c.opt_size("n_inner")?.unwrap_or(4 * width),
        vocab: c.size("vocab_size")?,
        heads,
        kv_heads: heads,
        head_dim: divided(c, width, heads)?,
        norm_eps: c.opt_number("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
        rope: Rope { dims: 0, base: 10000.0, window_base: None, scaling: RopeScaling::None, magnitude: 1.0 },
        window: None,
        window_pattern: None,
        experts: None,
        attention_softcap: None,
        logit_softcap: None,
        attention_scale: None,
        embedding_scale: None,
        residual_scale: None,
        logit_scale: None,
        qkv_bias: true,
        attn_out_bias: true,
        mlp_bias: true,
        tied: c.opt_flag("tie_word_embeddings")?.unwrap_or(true),
        own: BTreeMap::new(),
    })
}

fn graph(h: &Hyper) -> ModelGraph {
    let mut b = Builder::new(h, CONVENTIONS);
    let positions = [h.context, h.width];
    let table = b.weight(Role::Position, "position_embd.weight", "wpe.weight", &positions, Import::AsIs);
    b.op(Op::AddPosition { table, x: b.residual });
    for i in 0..h.blocks {
        b.begin(i);
        let x = b.norm("attn_norm", "ln_1", b.residual, "attn_in");
        let qkv = b.fused_qkv(x, "attn.c_attn");
        let y = b.attend(qkv, "attn.c_proj");
        b.add(y);
        let x = b.norm("ffn_norm", "ln_2", b.residual, "ffn_in");
        let x = b.linear(Linear::new(Role::FfnUp, "ffn_up", "mlp.c_fc", h.ffn, h.mlp_bias), x, "up");
        let out = b.slot("gated", h.ffn);
        b.op(Op::Act { act: Activation::GeluTanh, x, out });
        let down = Linear::new(Role::FfnDown, "ffn_down", "mlp.c_proj", h.width, h.mlp_bias);
        let y = b.linear(down, out, "ffn_out");
        b.add(y);
    }
    b.finish("ln_f")
}

fn keys(h: &Hyper, _: &HfConfig, to: &mut Metadata) {
    let mut keys = Keys::new("gpt2", to);
    keys.size("block_count", h.blocks);
    keys.size("context_length", h.context);
    keys.size("embedding_length", h.width);
    keys.size("feed_forward_length", h.ffn);
    keys.size("attention.head_count", h.heads);
    keys.number("attention.layer_norm_epsilon", h.norm_eps);
}

fn config(h: &Hyper, to: &mut HfKeys<'_>) -> Result<(), String> {
    to.class("GPT2LMHeadModel", "gpt2");
    to.set("vocab_size", h.vocab);
    to.set("n_positions", h.context);
    to.set("n_embd", h.width);
    to.set("n_layer", h.blocks);
    to.set("n_head", h.heads);
    to.set("n_inner", h.ffn);
    to.set("activation_function", "gelu_new");
    to.number("layer_norm_epsilon", Some(h.norm_eps));
    to.set("tie_word_embeddings", h.tied);
    Ok(())
}
