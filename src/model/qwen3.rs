//! Qwen 3: the heads of queries and keys are normed before they rotate; no biases.

use super::decoder::{self, Variant};
use super::from_hf::{self, Usual};
use super::keys::Keys;
use super::to_hf::HfKeys;
use super::{Arch, Hyper, ModelGraph, complete, cut, qwen2};
use crate::Result;
use crate::checkpoint::config::HfConfig;
use crate::gguf::Metadata;

pub(super) static ARCH: Arch = Arch {
    title: "Qwen3",
    gguf: "qwen3",
    hf: &["Qwen3ForCausalLM", "qwen3"],
    bases: &["Qwen3Model"],
    reads: &[from_hf::READ, from_hf::ACTIVATION, &["use_sliding_window"]],
    idle: qwen2::WITHOUT_WINDOW,
    hyper,
    graph,
    keys,
    config,
    complete,
    cut: cut::any,
};

fn hyper(c: &HfConfig) -> Result<Hyper> {
    qwen2::no_window(c)?;
    from_hf::hyper(c, &Usual { head_dim: Some(128), ..qwen2::USUAL })
}

pub(super) fn graph(h: &Hyper) -> ModelGraph {
    decoder::graph(h, &Variant { to: qwen2::CONVENTIONS, qk_norm: true, experts: &qwen2::EXPERTS })
}

fn keys(h: &Hyper, _: &HfConfig, to: &mut Metadata) {
    let mut keys = Keys::new("qwen3", to);
    keys.usual(h, h.ffn);
    keys.head_dim(h);
}

fn config(h: &Hyper, to: &mut HfKeys<'_>) -> Result<(), String> {
    to.class("Qwen3ForCausalLM", "qwen3");
    to.set("attention_bias", h.qkv_bias);
    to.set("use_sliding_window", false);
    to.usual(h, "silu")
}
