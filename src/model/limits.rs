//! What every model must fulfil before anything is allocated for it, in the words of the file it came from.

use super::Hyper;
use crate::checkpoint::Config;
use crate::checkpoint::config::HfConfig;
use crate::{Error, Result};

/// More transformer blocks than any model has; a graph of this many is still small.
pub(super) const MAX_BLOCKS: usize = 4096;
/// Widest row; with [`MAX_EXPERTS`] no product of three sizes overflows.
const MAX_WIDTH: usize = 1 << 24;
/// Longest token list.
const MAX_VOCAB: usize = 1 << 28;
/// Most experts in a block.
const MAX_EXPERTS: usize = 4096;
/// Most experts in all blocks together.
const MAX_ALL_EXPERTS: usize = 1 << 15;

/// Checks the width of all heads together.
pub(super) fn head_row(c: &HfConfig, heads: usize, head_dim: usize) -> Result<()> {
    match heads.saturating_mul(head_dim) {
        0..=MAX_WIDTH => Ok(()),
        row => Err(c.error(
            "head_dim",
            format!("{heads} heads of {head_dim} come to {row}; no model has more than {MAX_WIDTH}"),
        )),
    }
}

/// Checks the sizes, on their own and against each other.
pub(super) fn check(h: &Hyper, config: &Config) -> Result<()> {
    // The key to blame: in config.json, in GPT-2's, in a GGUF header.
    let error = |[hf, gpt2, gguf]: [&str; 3], what: String| -> Error {
        match config {
            Config::HuggingFace(c) if c.get(hf).is_none() => c.error(gpt2, what),
            Config::HuggingFace(c) => c.error(hf, what),
            Config::Gguf(c) => {
                let arch = c.opt_text("general.architecture").ok().flatten().unwrap_or_default();
                c.error(&format!("{arch}.{gguf}"), what)
            }
        }
    };
    let experts = h.experts.as_ref().map_or(0, |e| e.count);
    let row = h.heads.saturating_mul(h.head_dim);
    let blocks = ["num_hidden_layers", "n_layer", "block_count"];
    let head_count = ["num_attention_heads", "n_head", "attention.head_count"];
    let expert_count = ["num_experts", "num_local_experts", "expert_count"];
    let bounds = [
        (blocks, h.blocks, MAX_BLOCKS),
        (["hidden_size", "n_embd", "embedding_length"], h.width, MAX_WIDTH),
        (["intermediate_size", "n_inner", "feed_forward_length"], h.ffn, MAX_WIDTH),
        (["vocab_size", "vocab_size", "vocab_size"], h.vocab, MAX_VOCAB),
        (["max_position_embeddings", "n_positions", "context_length"], h.context, u32::MAX as usize),
        (expert_count, experts, MAX_EXPERTS),
        (expert_count, experts.saturating_mul(h.blocks), MAX_ALL_EXPERTS),
        (head_count, row, MAX_WIDTH),
    ];
    for (keys, found, most) in bounds {
        if found > most {
            return Err(error(keys, format!("comes to {found}; no model has more than {most}")));
        }
    }
    if h.kv_heads == 0 || !h.heads.is_multiple_of(h.kv_heads) {
        let what = format!("{} query heads are not a multiple of {} key and value heads", h.heads, h.kv_heads);
        return Err(error(["num_key_value_heads", "n_head", "attention.head_count_kv"], what));
    }
    if let Some(e) = &h.experts
        && (e.used == 0 || e.used > e.count)
    {
        let what = format!("{} of {} experts cannot be used per token", e.used, e.count);
        return Err(error(["num_experts_per_tok", "num_experts_per_tok", "expert_used_count"], what));
    }
    if !(h.norm_eps.is_finite() && h.norm_eps >= 0.0) {
        let what = format!("must be at least zero, found {}", h.norm_eps);
        return Err(error(["rms_norm_eps", "layer_norm_epsilon", "attention.layer_norm_rms_epsilon"], what));
    }
    Ok(())
}
