//! OLMo 2: no norm before a branch, one after it; queries and keys are normed over their whole rows.

use super::build::Builder;
use super::conventions::{self, Conventions};
use super::from_hf::{self, LLAMA, Usual, WITHOUT_FACTORS};
use super::keys::Keys;
use super::to_hf::HfKeys;
use super::{Activation, Arch, Hyper, ModelGraph, RopeStyle, cut};
use crate::Result;
use crate::checkpoint::config::{GgufConfig, HfConfig};
use crate::gguf::Metadata;

pub(super) static ARCH: Arch = Arch {
    title: "OLMo 2",
    gguf: "olmo2",
    hf: &["Olmo2ForCausalLM", "olmo2"],
    bases: &["Olmo2Model"],
    reads: &[from_hf::READ, from_hf::ACTIVATION],
    idle: &[],
    hyper,
    graph,
    keys,
    config,
    complete,
    cut: cut::same_heads,
};

const CONVENTIONS: Conventions = Conventions { rope: RopeStyle::Halves, ..conventions::LLAMA };

fn hyper(c: &HfConfig) -> Result<Hyper> {
    let usual = Usual { norm_eps: 1e-5, heads_fill_width: true, biases: false, rope_types: WITHOUT_FACTORS, ..LLAMA };
    let h = from_hf::hyper(c, &usual)?;
    match h.tied {
        true => {
            Err(c.unsupported("tie_word_embeddings", "true is not supported; llama.cpp needs an output matrix here"))
        }
        false => Ok(h),
    }
}

fn graph(h: &Hyper) -> ModelGraph {
    let mut b = Builder::new(h, CONVENTIONS);
    for i in 0..h.blocks {
        b.begin(i);
        let (q, k, v) = b.qkv(b.residual);
        b.qk_norm(q, k, true);
        b.rope(q, k);
        let y = b.attend((q, k, v), "self_attn.o_proj");
        let y = b.norm("post_attention_norm", "post_attention_layernorm", y, "attn_normed");
        b.add(y);
        let y = b.gated_mlp(b.residual, Activation::Silu);
        let y = b.norm("post_ffw_norm", "post_feedforward_layernorm", y, "ffn_normed");
        b.add(y);
    }
    b.finish("norm")
}

fn keys(h: &Hyper, c: &HfConfig, to: &mut Metadata) {
    let mut keys = Keys::new("olmo2", to);
    keys.usual(h, h.ffn);
    if c.get("head_dim").is_some() {
        keys.head_dim(h);
    }
}

/// OLMo 3 shares the GGUF name: windows, but in every fourth block, and stretching only there.
fn complete(h: &mut Hyper, _: &GgufConfig) -> Result<()> {
    if h.window.is_some() {
        h.window_pattern = h.window_pattern.or(Some(4));
        h.rope.window_base = h.rope.window_base.or(Some(h.rope.base));
    }
    Ok(())
}

fn config(h: &Hyper, to: &mut HfKeys<'_>) -> Result<(), String> {
    if h.window.is_some() {
        return Err("OLMo 3, whose GGUF files have windows, cannot be expressed in OLMo 2's config.json".to_owned());
    }
    to.class("Olmo2ForCausalLM", "olmo2");
    to.set("attention_bias", false);
    to.usual(h, "silu")
}
