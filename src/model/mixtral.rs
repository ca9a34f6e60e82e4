//! Mixtral: Mistral with experts instead of the MLP. Its GGUF files are "llama" with expert tensors.

use super::from_hf::{self, Usual, either};
use super::keys::Keys;
use super::mistral::{self, uniform_window};
use super::{Arch, Experts, Hyper, complete, cut, llama};
use crate::Result;
use crate::checkpoint::config::HfConfig;
use crate::gguf::Metadata;

pub(super) static ARCH: Arch = Arch {
    title: "Mixtral",
    gguf: "llama",
    hf: &["MixtralForCausalLM", "mixtral"],
    bases: &["MixtralModel"],
    reads: &[from_hf::READ, from_hf::ACTIVATION, READ],
    idle: &[],
    hyper,
    graph: llama::graph,
    keys,
    config: llama::config,
    complete,
    cut: cut::any,
};

/// Keys of its own that it looks at.
const READ: &[&str] = &["sliding_window", "num_local_experts", "num_experts", "num_experts_per_tok"];

fn hyper(c: &HfConfig) -> Result<Hyper> {
    let mut h = from_hf::hyper(c, &Usual { norm_eps: 1e-5, rope_base: 1e6, ..mistral::USUAL })?;
    uniform_window(c, &mut h)?;
    let (count, used) = (either(c, ["num_local_experts", "num_experts"])?, c.size("num_experts_per_tok")?);
    h.experts = Some(Experts { count, used, normalize: true });
    Ok(h)
}

fn keys(h: &Hyper, c: &HfConfig, to: &mut Metadata) {
    let mut keys = Keys::new("llama", to);
    keys.usual(h, h.ffn);
    if c.get("head_dim").is_some() {
        keys.head_dim(h);
    }
    keys.size("vocab_size", h.vocab);
    keys.size("rope.dimension_count", h.rope.dims);
}
