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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Map, json};

    use super::*;
    use crate::model::ARCHS;

    /// Names of which one counts: the others are looked at where the first is not there.
    const SYNONYMS: [&[&str]; 6] = [
        &["n_layer", "num_hidden_layers"],
        &["n_embd", "hidden_size"],
        &["n_head", "num_attention_heads"],
        &["n_positions", "max_position_embeddings"],
        &["num_experts", "num_local_experts"],
        &["layer_types", "sliding_window_pattern", "_sliding_window_pattern"],
    ];

    fn config(name: &str) -> Map<String, Json> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name).join("config.json");
        serde_json::from_slice(&std::fs::read(path).expect("a fixture")).expect("JSON")
    }

    /// A key that is said to be read is read: nonsense in it does not go by.
    #[test]
    fn keys_said_to_be_read_are_read() {
        let fixtures = [
            "stories260k",
            "tiny-mistral",
            "tiny-mixtral",
            "tiny-qwen2",
            "tiny-qwen3",
            "tiny-qwen3-moe",
            "tiny-gemma2",
            "tiny-gemma3",
            "tiny-phi3",
            "tiny-granite",
            "tiny-olmo2",
            "tiny-gpt2",
        ];
        for (arch, fixture) in ARCHS.iter().zip(fixtures) {
            let usual = config(fixture);
            let listed = usual["architectures"][0].as_str().expect("a class");
            assert!(arch.hf.contains(&listed), "{fixture}");
            // Among rotary settings, and then only where they stretch.
            let elsewhere = ["original_max_position_embeddings"];
            for key in arch.reads.iter().copied().flatten().filter(|key| !elsewhere.contains(key)) {
                let mut map = usual.clone();
                map.remove("rope_parameters");
                for names in SYNONYMS.iter().filter(|names| names.contains(key)) {
                    names.iter().for_each(|name| {
                        map.remove(*name);
                    });
                }
                let nonsense = if key.starts_with("rope_") && *key != "rope_theta" { json!("x") } else { json!([{}]) };
                map.insert((*key).to_owned(), nonsense);
                let said = match (arch.hyper)(&HfConfig { path: "config.json".into(), map }) {
                    Ok(_) => panic!("{}: {key} is not read", arch.title),
                    Err(e) => e.to_string(),
                };
                assert!(said.contains(key), "{}: {said}", arch.title);
            }
        }
    }
}
