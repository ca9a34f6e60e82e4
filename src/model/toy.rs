//! An architecture for tests: attention and MLP side by side on one norm, as in GPT-J, and no rotary embedding in every
//! n-th block, as in SmolLM3. It is one file and one row of the table.

use super::build::Builder;
use super::conventions;
use super::from_hf::{self, LLAMA, Usual};
use super::keys::Keys;
use super::to_hf::HfKeys;
use super::{Activation, Arch, Hyper, ModelGraph, cut};
use crate::Result;
use crate::checkpoint::config::{GgufConfig, HfConfig};
use crate::gguf::Metadata;

pub(super) static ARCH: Arch = Arch {
    title: "Toy",
    gguf: "toy",
    hf: &["ToyForCausalLM", "toy"],
    bases: &[],
    reads: &[from_hf::READ, from_hf::ACTIVATION, &[INTERVAL]],
    idle: &[],
    hyper,
    graph,
    keys,
    config,
    complete,
    cut: cut::any,
};

/// Every how many blocks one does not rotate. No other architecture has this number, so it is not a field of [`Hyper`].
const INTERVAL: &str = "no_rope_layer_interval";

fn hyper(c: &HfConfig) -> Result<Hyper> {
    let mut h = from_hf::hyper(c, &Usual { biases: false, ..LLAMA })?;
    h.own.insert(INTERVAL, c.size(INTERVAL)? as f64);
    Ok(h)
}

fn interval(h: &Hyper) -> usize {
    h.own[INTERVAL] as usize
}

fn graph(h: &Hyper) -> ModelGraph {
    let mut b = Builder::new(h, conventions::LLAMA);
    for i in 0..h.blocks {
        b.begin(i);
        let x = b.norm("attn_norm", "input_layernorm", b.residual, "attn_in");
        let (q, k, v) = b.qkv(x);
        if !(i + 1).is_multiple_of(interval(h)) {
            b.rope(q, k);
        }
        let attended = b.attend((q, k, v), "self_attn.o_proj");
        let y = b.gated_mlp(x, Activation::Silu);
        b.add(attended);
        b.add(y);
    }
    b.finish("norm")
}

fn keys(h: &Hyper, _: &HfConfig, to: &mut Metadata) {
    let mut keys = Keys::new("toy", to);
    keys.usual(h, h.ffn);
    keys.head_dim(h);
    keys.size(INTERVAL, interval(h));
}

fn complete(h: &mut Hyper, c: &GgufConfig) -> Result<()> {
    h.own.insert(INTERVAL, c.size(&format!("toy.{INTERVAL}"))? as f64);
    Ok(())
}

fn config(h: &Hyper, to: &mut HfKeys<'_>) -> Result<(), String> {
    to.class("ToyForCausalLM", "toy");
    to.set(INTERVAL, interval(h));
    to.usual(h, "silu")
}
