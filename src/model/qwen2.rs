//! Qwen 2 and 2.5: biases on query, key and value; heads rotate in halves.

use super::conventions::{self, Conventions};
use super::decoder::{self, ExpertNames, Variant};
use super::from_hf::{self, KvHeads, LLAMA, Usual, WITHOUT_FACTORS, refuse_flag};
use super::keys::Keys;
use super::to_hf::HfKeys;
use super::{Arch, Hyper, ModelGraph, RopeStyle, complete, cut};
use crate::Result;
use crate::checkpoint::config::HfConfig;
use crate::gguf::Metadata;

pub(super) static ARCH: Arch = Arch {
    title: "Qwen2",
    gguf: "qwen2",
    hf: &["Qwen2ForCausalLM", "qwen2"],
    bases: &["Qwen2Model"],
    reads: &[from_hf::READ, from_hf::ACTIVATION, &["use_sliding_window"]],
    idle: WITHOUT_WINDOW,
    hyper,
    graph,
    keys,
    config,
    complete,
    cut: cut::same_heads,
};

pub(super) const CONVENTIONS: Conventions = Conventions { rope: RopeStyle::Halves, ..conventions::LLAMA };

/// What counts only if `use_sliding_window` is true.
pub(super) const WITHOUT_WINDOW: &[&str] = &["sliding_window", "max_window_layers"];

pub(super) const USUAL: Usual =
    Usual { kv_heads: KvHeads::Required, context: 32768, biases: false, rope_types: WITHOUT_FACTORS, ..LLAMA };

/// Qwen's experts.
pub(super) const EXPERTS: ExpertNames =
    ExpertNames { router: &["mlp.gate.weight"], list: "mlp.experts", each: ["gate_proj", "up_proj", "down_proj"] };

/// Layers that slide are refused, but a window that no layer has is none.
pub(super) fn no_window(c: &HfConfig) -> Result<()> {
    if c.opt_flag("use_sliding_window")? != Some(true) {
        return Ok(());
    }
    // Transformers' default. If the layers are listed, the list is checked instead.
    let first = c.opt_size("max_window_layers")?.unwrap_or(28);
    match c.get("layer_types").is_some() || c.size("num_hidden_layers")? <= first {
        true => Ok(()),
        false => refuse_flag(c, "use_sliding_window"),
    }
}

fn hyper(c: &HfConfig) -> Result<Hyper> {
    no_window(c)?;
    let mut h = from_hf::hyper(c, &Usual { heads_fill_width: true, ..USUAL })?;
    h.qkv_bias = true;
    Ok(h)
}

fn graph(h: &Hyper) -> ModelGraph {
    decoder::graph(h, &Variant { to: CONVENTIONS, qk_norm: false, experts: &EXPERTS })
}

fn keys(h: &Hyper, c: &HfConfig, to: &mut Metadata) {
    let mut keys = Keys::new("qwen2", to);
    keys.usual(h, h.ffn);
    if c.get("head_dim").is_some() {
        keys.head_dim(h);
    }
}

fn config(h: &Hyper, to: &mut HfKeys<'_>) -> Result<(), String> {
    to.class("Qwen2ForCausalLM", "qwen2");
    to.set("use_sliding_window", false);
    to.usual(h, "silu")
}
