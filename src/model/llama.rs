//! Llama, and the graph that reads every GGUF file of architecture "llama" (Mistral's and Mixtral's too).

use super::conventions;
use super::decoder::{self, ExpertNames, Variant};
use super::from_hf::{self, LLAMA};
use super::keys::Keys;
use super::to_hf::HfKeys;
use super::{Arch, Hyper, ModelGraph, complete, cut};
use crate::Result;
use crate::checkpoint::config::HfConfig;
use crate::gguf::Metadata;

pub(super) static ARCH: Arch = Arch {
    title: "Llama",
    gguf: "llama",
    hf: &["LlamaForCausalLM", "LLaMAForCausalLM", "llama"],
    bases: &["LlamaModel"],
    reads: &[from_hf::READ, from_hf::ACTIVATION],
    idle: &[],
    hyper,
    graph,
    keys,
    config,
    complete,
    cut: cut::any,
};

/// Mixtral's experts: w1 is the gate, w3 the up branch, w2 goes down.
const EXPERTS: ExpertNames = ExpertNames {
    router: &["block_sparse_moe.gate.weight", "mlp.gate.weight"],
    list: "block_sparse_moe.experts",
    each: ["w1", "w3", "w2"],
};

fn hyper(c: &HfConfig) -> Result<Hyper> {
    from_hf::hyper(c, &LLAMA)
}

pub(super) fn graph(h: &Hyper) -> ModelGraph {
    decoder::graph(h, &Variant { to: conventions::LLAMA, qk_norm: false, experts: &EXPERTS })
}

/// llama.cpp wants the vocabulary's size and the rotary dimensions spelled out for this architecture.
pub(super) fn keys(h: &Hyper, _: &HfConfig, to: &mut Metadata) {
    let mut keys = Keys::new("llama", to);
    keys.usual(h, h.ffn);
    keys.head_dim(h);
    keys.size("vocab_size", h.vocab);
    keys.size("rope.dimension_count", h.rope.dims);
}

/// Mixtral's files are of this architecture too; it is told by its experts.
pub(super) fn config(h: &Hyper, to: &mut HfKeys<'_>) -> Result<(), String> {
    match &h.experts {
        None => to.class("LlamaForCausalLM", "llama"),
        Some(e) => {
            to.class("MixtralForCausalLM", "mixtral");
            to.set("num_local_experts", e.count);
            to.set("num_experts_per_tok", e.used);
            to.set("sliding_window", serde_json::Value::Null);
        }
    }
    to.biases(h)?;
    to.usual(h, "silu")
}
