//! Qwen 3 with experts in every block.

use super::from_hf::{self, either, only, refuse_flag};
use super::keys::Keys;
use super::to_hf::HfKeys;
use super::{Arch, Experts, Hyper, complete, cut, qwen2, qwen3};
use crate::Result;
use crate::checkpoint::config::HfConfig;
use crate::gguf::Metadata;

pub(super) static ARCH: Arch = Arch {
    title: "Qwen3 MoE",
    gguf: "qwen3moe",
    hf: &["Qwen3MoeForCausalLM", "qwen3_moe"],
    bases: &["Qwen3MoeModel"],
    reads: &[from_hf::READ, from_hf::ACTIVATION, READ],
    idle: qwen2::WITHOUT_WINDOW,
    hyper,
    graph: qwen3::graph,
    keys,
    config,
    complete,
    cut: cut::any,
};

/// Keys of its own that it looks at.
const READ: &[&str] = &[
    "use_sliding_window",
    "decoder_sparse_step",
    "mlp_only_layers",
    "norm_topk_prob",
    "moe_intermediate_size",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
];

fn hyper(c: &HfConfig) -> Result<Hyper> {
    refuse_flag(c, "use_sliding_window")?;
    only(c, "decoder_sparse_step", 1.0)?;
    if let Some(layers) = c.get("mlp_only_layers")
        && layers.as_array().is_none_or(|l| !l.is_empty())
    {
        return Err(c.unsupported("mlp_only_layers", "blocks without experts are not supported"));
    }
    // llama.cpp always normalises; transformers' default is not to.
    if c.opt_flag("norm_topk_prob")? != Some(true) {
        return Err(c.unsupported("norm_topk_prob", "must be true; GGUF has no other way to weigh experts here"));
    }
    let mut h = from_hf::hyper(c, &qwen2::USUAL)?;
    h.ffn = c.size("moe_intermediate_size")?;
    let count = either(c, ["num_experts", "num_local_experts"])?;
    h.experts = Some(Experts { count, used: c.size("num_experts_per_tok")?, normalize: true });
    Ok(h)
}

fn keys(h: &Hyper, c: &HfConfig, to: &mut Metadata) {
    let mut keys = Keys::new("qwen3moe", to);
    // The width of an MLP that no block has; llama.cpp's converter writes it all the same.
    keys.usual(h, c.size("intermediate_size").unwrap_or(h.ffn));
    if c.get("head_dim").is_some() {
        keys.head_dim(h);
    }
    keys.size("expert_feed_forward_length", h.ffn);
}

fn config(h: &Hyper, to: &mut HfKeys<'_>) -> Result<(), String> {
    to.class("Qwen3MoeForCausalLM", "qwen3_moe");
    let experts = h.experts.as_ref().ok_or("a Qwen3 MoE model without experts")?;
    to.set("num_experts", experts.count);
    to.set("num_experts_per_tok", experts.used);
    to.set("norm_topk_prob", true);
    to.set("moe_intermediate_size", h.ffn);
    to.set("decoder_sparse_step", 1);
    to.set("mlp_only_layers", serde_json::json!([]));
    to.set("use_sliding_window", false);
    to.usual(h, "silu")
}
