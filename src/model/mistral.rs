//! Mistral: Llama with a sliding window in every block.
//!
//! llama.cpp's "llama" architecture knows no window and its converter drops the key, so a GGUF file of this model
//! attends to everything there; up to `sliding_window` tokens that is the same.

use super::from_hf::{self, KvHeads, LLAMA, Usual};
use super::{Arch, Hyper, complete, cut, llama};
use crate::Result;
use crate::checkpoint::config::HfConfig;

pub(super) static ARCH: Arch = Arch {
    title: "Mistral",
    gguf: "llama",
    hf: &["MistralForCausalLM", "mistral"],
    bases: &["MistralModel"],
    reads: &[from_hf::READ, from_hf::ACTIVATION, &["sliding_window"]],
    idle: &[],
    hyper,
    graph: llama::graph,
    keys: llama::keys,
    config: llama::config,
    complete,
    cut: cut::any,
};

pub(super) const USUAL: Usual =
    Usual { kv_heads: KvHeads::Required, context: 131072, biases: false, sliding: true, ..LLAMA };

fn hyper(c: &HfConfig) -> Result<Hyper> {
    let mut h = from_hf::hyper(c, &USUAL)?;
    // transformers' default; null is how a file says that there is no window.
    if !c.map.contains_key("sliding_window") {
        h.window = Some(4096);
    }
    uniform_window(c, &mut h)?;
    Ok(h)
}

/// Newer configurations may also list what every layer does; they must agree.
pub(super) fn uniform_window(c: &HfConfig, h: &mut Hyper) -> Result<()> {
    if h.blocks <= super::limits::MAX_BLOCKS
        && let Some(layers) = from_hf::sliding_layers(c, h.blocks)?
    {
        match (layers.contains(&true), layers.contains(&false)) {
            (true, true) => {
                return Err(c.unsupported("layer_types", "mixed layers are not supported for this architecture"));
            }
            (false, _) if h.window.is_some() => {
                let what = "is full_attention in every layer, but Transformers goes by sliding_window here, which is \
                            set; remove one of the two";
                return Err(c.unsupported("layer_types", what));
            }
            (false, _) => {}
            (true, false) => h.window = Some(c.size("sliding_window")?),
        }
    }
    Ok(())
}
