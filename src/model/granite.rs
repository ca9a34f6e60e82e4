//! Granite (dense): Llama with factors on embeddings, attention scores, branches and logits.

use super::from_hf::{self, LLAMA};
use super::keys::Keys;
use super::to_hf::HfKeys;
use super::{Arch, Hyper, complete, cut, llama};
use crate::Result;
use crate::checkpoint::config::HfConfig;
use crate::gguf::Metadata;

pub(super) static ARCH: Arch = Arch {
    title: "Granite",
    gguf: "granite",
    hf: &["GraniteForCausalLM", "granite"],
    bases: &["GraniteModel"],
    reads: &[from_hf::READ, from_hf::ACTIVATION, READ],
    idle: &[],
    hyper,
    graph: llama::graph,
    keys,
    config,
    complete,
    cut: cut::any,
};

/// Keys of its own that it looks at.
const READ: &[&str] = &["embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"];

fn hyper(c: &HfConfig) -> Result<Hyper> {
    let mut h = from_hf::hyper(c, &LLAMA)?;
    let factor = |key: &str| match c.opt_number(key)?.unwrap_or(1.0) as f32 {
        // llama.cpp takes zero for "not given".
        x if x > 0.0 => Ok(x),
        x => Err(c.error(key, format!("must be above zero, found {x}"))),
    };
    h.embedding_scale = Some(factor("embedding_multiplier")?);
    h.attention_scale = Some(factor("attention_multiplier")?);
    h.residual_scale = Some(factor("residual_multiplier")?);
    h.logit_scale = Some(factor("logits_scaling")?);
    Ok(h)
}

fn keys(h: &Hyper, _: &HfConfig, to: &mut Metadata) {
    let mut keys = Keys::new("granite", to);
    keys.usual(h, h.ffn);
    // By default, heads share the width among them; fewer are left where some were removed.
    if h.heads * h.head_dim != h.width {
        keys.head_dim(h);
    }
    keys.size("vocab_size", h.vocab);
    keys.size("rope.dimension_count", h.rope.dims);
    let factors = [
        ("attention.scale", h.attention_scale),
        ("embedding_scale", h.embedding_scale),
        ("residual_scale", h.residual_scale),
        ("logit_scale", h.logit_scale),
    ];
    for (key, factor) in factors {
        keys.number(key, factor.unwrap_or(1.0));
    }
}

fn config(h: &Hyper, to: &mut HfKeys<'_>) -> Result<(), String> {
    to.class("GraniteForCausalLM", "granite");
    to.number("embedding_multiplier", h.embedding_scale.or(Some(1.0)));
    to.number("attention_multiplier", h.attention_scale.or(Some(1.0)));
    to.number("residual_multiplier", h.residual_scale.or(Some(1.0)));
    to.number("logits_scaling", h.logit_scale.or(Some(1.0)));
    to.biases(h)?;
    to.usual(h, "silu")
}
