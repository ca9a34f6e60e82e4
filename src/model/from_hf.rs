//! What the architectures' config.json files have in common: the sizes, their checks, and refusals.
//!
//! A key may be left out only where transformers itself fills it in with the same value; a variation that the ops or
//! the GGUF file cannot express is an error that names the key, never ignored.

use std::collections::BTreeMap;

use serde_json::Value as Json;

pub(super) use super::usual::{KvHeads, LLAMA, Usual, WITHOUT_FACTORS};
use super::{Hyper, limits, rope};
use crate::Result;
use crate::checkpoint::config::HfConfig;

/// Keys that [`hyper`] looks at.
pub(super) const READ: &[&str] = &[
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "attention_bias",
    "mlp_bias",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "layer_types",
    "tie_word_embeddings",
    "is_causal",
];

/// The activation's key of most.
pub(super) const ACTIVATION: &[&str] = &["hidden_act"];

/// Reads what all have in common. Fields of [`Hyper`] that only some architectures have are left unset.
pub(super) fn hyper(c: &HfConfig, usual: &Usual) -> Result<Hyper> {
    causal(c)?;
    let (blocks, width) = (c.size("num_hidden_layers")?, c.size("hidden_size")?);
    let ffn = c.size("intermediate_size")?;
    let size_or = |key: &str, usual: Option<usize>| match (c.opt_size(key)?, usual) {
        (Some(n), _) | (None, Some(n)) => Ok(n),
        (None, None) => c.size(key),
    };
    let vocab = size_or("vocab_size", usual.vocab)?;
    let heads = size_or("num_attention_heads", usual.heads)?;
    let kv_heads = match usual.kv_heads {
        KvHeads::AsHeads => size_or("num_key_value_heads", Some(heads))?,
        KvHeads::Required => c.size("num_key_value_heads")?,
        KvHeads::Usually(n) => size_or("num_key_value_heads", Some(n))?,
    };
    let head_dim = match c.opt_size("head_dim")?.or(usual.head_dim) {
        Some(d) => d,
        None => divided(c, width, heads)?,
    };
    // Before the rotary factors, of which there are as many as a head has pairs.
    limits::head_row(c, heads, head_dim)?;
    if usual.heads_fill_width && head_dim * heads != width {
        let what = format!("{head_dim} times {heads} heads is not hidden_size {width}; not supported here");
        return Err(c.unsupported("head_dim", what));
    }
    let act = c.opt_text(usual.activation_key)?.unwrap_or(usual.activations[0]);
    if !usual.activations.contains(&act) {
        let what = format!("{act:?} is not supported; this architecture's is {:?}", usual.activations[0]);
        return Err(c.unsupported(usual.activation_key, what));
    }
    let (mut attention_bias, mut mlp_bias) = (false, false);
    if usual.biases {
        attention_bias = c.opt_flag("attention_bias")?.unwrap_or(false);
        mlp_bias = c.opt_flag("mlp_bias")?.unwrap_or(false);
    } else {
        refuse_flag(c, "attention_bias")?;
        refuse_flag(c, "mlp_bias")?;
    }
    let window = if usual.sliding { c.opt_size("sliding_window")? } else { None };
    let context = c.opt_size("max_position_embeddings")?.unwrap_or(usual.context);
    check_layer_types(c, blocks, usual.sliding)?;
    let h = Hyper {
        blocks,
        context,
        width,
        ffn,
        vocab,
        heads,
        kv_heads,
        head_dim,
        norm_eps: c.opt_number("rms_norm_eps")?.unwrap_or(usual.norm_eps) as f32,
        rope: rope::read(c, usual, head_dim, context)?,
        window,
        window_pattern: None,
        experts: None,
        attention_softcap: None,
        logit_softcap: None,
        attention_scale: None,
        embedding_scale: None,
        residual_scale: None,
        logit_scale: None,
        qkv_bias: attention_bias,
        attn_out_bias: attention_bias,
        mlp_bias,
        tied: c.opt_flag("tie_word_embeddings")?.unwrap_or(usual.tied),
        own: BTreeMap::new(),
    };
    Ok(h)
}

/// hidden_size / num_attention_heads.
pub(super) fn divided(c: &HfConfig, width: usize, heads: usize) -> Result<usize> {
    match width.is_multiple_of(heads) {
        true => Ok(width / heads),
        false => Err(c.error("num_attention_heads", format!("hidden_size {width} is not a multiple of {heads} heads"))),
    }
}

/// Tokens must not see later ones. Transformers looks at this key for every class, and takes null for false.
pub(super) fn causal(c: &HfConfig) -> Result<()> {
    let key = "is_causal";
    let text = c.map.get("text_config").and_then(Json::as_object);
    let null = text.into_iter().chain([&c.map]).any(|map| map.get(key).is_some_and(Json::is_null));
    match null || c.opt_flag(key)? == Some(false) {
        true => Err(c.unsupported(
            key,
            "must be true, attention to later tokens is not supported; remove the key for a causal model",
        )),
        false => Ok(()),
    }
}

/// A size that has two names. Transformers takes whichever comes last, so both must say the same.
pub(super) fn opt_either(c: &HfConfig, [usual, other]: [&str; 2]) -> Result<Option<usize>> {
    match (c.opt_size(usual)?, c.opt_size(other)?) {
        (Some(a), Some(b)) if a != b => {
            Err(c.error(other, format!("is {b}, but {usual} is {a}; they are two names of one number, so remove one")))
        }
        (a, b) => Ok(a.or(b)),
    }
}

/// The same, where it must be there.
pub(super) fn either(c: &HfConfig, names: [&str; 2]) -> Result<usize> {
    opt_either(c, names)?.map_or_else(|| c.size(names[0]), Ok)
}

/// A flag that must not be set.
pub(super) fn refuse_flag(c: &HfConfig, key: &str) -> Result<()> {
    match c.opt_flag(key)? {
        Some(true) => Err(c.unsupported(key, "true is not supported for this architecture")),
        _ => Ok(()),
    }
}

/// A number that must have one value, which is also the one it has when absent.
pub(super) fn only(c: &HfConfig, key: &str, value: f64) -> Result<()> {
    match c.opt_number(key)? {
        Some(found) if found != value => Err(c.unsupported(key, format!("{found} is not supported, only {value}"))),
        _ => Ok(()),
    }
}

/// Which blocks slide, if `layer_types` says so.
pub(super) fn sliding_layers(c: &HfConfig, blocks: usize) -> Result<Option<Vec<bool>>> {
    let key = "layer_types";
    let Some(value) = c.get(key) else { return Ok(None) };
    let list = value.as_array().filter(|l| l.len() == blocks);
    let list = list.ok_or_else(|| c.error(key, format!("must be a list of {blocks} strings, one per layer")))?;
    let read = |v: &Json| match v.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(c.unsupported(key, format!("{v} is not supported, only full_attention and sliding_attention"))),
    };
    list.iter().map(read).collect::<Result<Vec<_>>>().map(Some)
}

/// Every how many blocks one sees the whole context, if `layer_types` says so. `usual` wins where several fit.
pub(super) fn listed_pattern(c: &HfConfig, blocks: usize, usual: usize) -> Result<Option<usize>> {
    let Some(layers) = sliding_layers(c, blocks)? else { return Ok(None) };
    let fits = |p: usize, layers: &[bool]| layers.iter().enumerate().all(|(i, &slides)| slides == (i % p < p - 1));
    match std::iter::once(usual).chain(1..=blocks + 1).find(|&p| fits(p, &layers)) {
        None => {
            let what = "is supported only if every n-th layer, and no other, has full attention";
            Err(c.unsupported("layer_types", what))
        }
        found => Ok(found),
    }
}

/// The same: `layer_types`, else the key of that name, else `usual`.
pub(super) fn window_pattern(c: &HfConfig, blocks: usize, usual: usize) -> Result<usize> {
    if let Some(listed) = listed_pattern(c, blocks, usual)? {
        return Ok(listed);
    }
    for key in ["sliding_window_pattern", "_sliding_window_pattern"] {
        if let Some(p) = c.opt_size(key)? {
            return Ok(p);
        }
    }
    Ok(usual)
}

/// Blocks without a pattern are all of one kind, and slide only where `sliding_window` does.
fn check_layer_types(c: &HfConfig, blocks: usize, sliding: bool) -> Result<()> {
    // Patterns have their own reader; here only what has none is looked at.
    if sliding || blocks > limits::MAX_BLOCKS {
        return Ok(());
    }
    match sliding_layers(c, blocks)? {
        Some(layers) if layers.contains(&true) => {
            Err(c.unsupported("layer_types", "sliding_attention is not supported for this architecture"))
        }
        _ => Ok(()),
    }
}
