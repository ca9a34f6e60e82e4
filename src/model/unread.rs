//! Keys of config.json that sound as if they changed what a model computes, and that nothing reads.
//!
//! Transformers keeps every key that it finds, but a class looks only at those that it knows, and so do we: all that
//! the classes of our architectures look at is read or refused (compared with Transformers 5.24). What is left is named
//! in a note, because the model may be of another kind than its class says.

use serde_json::Value as Json;

use super::{Arch, rope};
use crate::checkpoint::config::HfConfig;
use crate::error::{printable, printable_json};

/// Words that begin a part of a key which has to do with attention, rotary embeddings, norms, MLPs, routers or caps.
const FAMILIES: &[&str] = &[
    "act",
    "alibi",
    "attention",
    "attn",
    "bias",
    "bidirectional",
    "causal",
    "clip",
    "dense",
    "expert",
    "ffn",
    "gate",
    "gating",
    "glu",
    "group",
    "head",
    "kv",
    "layernorm",
    "logn",
    "mlp",
    "moe",
    "mrope",
    "multiplier",
    "nope",
    "norm",
    "ntk",
    "parallel",
    "position",
    "qk",
    "residual",
    "rms",
    "rope",
    "rotary",
    "router",
    "routed",
    "scale",
    "scaling",
    "scoring",
    "shared",
    "sink",
    "softcap",
    "sparse",
    "swa",
    "swiglu",
    "topk",
    "types",
    "window",
    "yarn",
];

/// Words that begin a part of a key which concerns training alone.
const TRAINING: &[&str] = &["aux", "coef", "dropout", "jitter", "loss", "pdrop"];

/// Keys of these families that change no result: how models are trained and run.
const IDLE: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_experts_implementation",
    "_flash_attn_2_enabled",
    "attn_implementation",
    "experts_implementation",
    "model_parallel",
    "output_attentions",
    "output_router_logits",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_flash_attn",
];

/// Words of keys for which one is what changes nothing.
const FACTORS: &[&str] = &["factor", "multiplier", "pct", "percent", "ratio", "scale", "scaling"];

/// Flags for what all architectures here do: false is what would make a difference.
const USUALLY_TRUE: &[&str] = &[
    "causal",
    "gated_mlp",
    "norm_topk_prob",
    "scale_attn_weights",
    "use_gated_mlp",
    "use_rms_norm",
    "use_rmsnorm",
    "use_rope",
    "use_rotary_emb",
    "use_rotary_embeddings",
];

/// What the user should know of a configuration that was read.
pub(super) fn notes(c: &HfConfig, arch: &Arch, context: usize) -> Vec<String> {
    let mut notes = rope::remarks(c, context);
    let nested = c.map.get("text_config").and_then(Json::as_object);
    let keys = nested.into_iter().flatten().chain(&c.map);
    let mut left: Vec<(String, Json)> = keys
        .filter(|(key, value)| matters(key, value, arch))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    left.extend(rope::unread(c));
    if !left.is_empty() {
        let list: Vec<_> =
            left.iter().map(|(key, value)| format!("{} {}", printable(key), printable_json(value))).collect();
        let it = if list.len() == 1 { "it" } else { "them" };
        notes.push(format!(
            "config.json has {}: Transformers does not read {it} for {}, and neither does this; check that the model \
             is of this architecture",
            list.join(", "),
            arch.title
        ));
    }
    notes
}

/// Whether one of the words begins a part of the key.
fn starts(key: &str, words: &[&str]) -> bool {
    key.split(['_', '.']).any(|part| words.iter().any(|word| part.starts_with(word)))
}

/// Whether a key is of these families.
pub(super) fn in_families(key: &str) -> bool {
    starts(key, FAMILIES) && !starts(key, TRAINING)
}

/// Whether a key is of these families, read by nobody, and says more than that there is nothing.
fn matters(key: &str, value: &Json, arch: &Arch) -> bool {
    let nothing = match value {
        Json::Null => true,
        Json::Bool(flag) => *flag == USUALLY_TRUE.contains(&key),
        Json::Number(n) => n.as_f64() == Some(0.0) || (n.as_f64() == Some(1.0) && starts(key, FACTORS)),
        Json::String(s) => s.is_empty() || s == "rope" || s == "none",
        Json::Array(list) => list.is_empty(),
        Json::Object(map) => map.is_empty(),
    };
    let read = arch.reads.iter().any(|keys| keys.contains(&key)) || arch.idle.contains(&key) || IDLE.contains(&key);
    !nothing && !read && in_families(key)
}
