//! What an architecture's row says of the keys that it reads, put to the test.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::ARCHS;
use crate::checkpoint::config::HfConfig;

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
