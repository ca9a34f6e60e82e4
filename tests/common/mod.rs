//! Slow twins of what the library does fast, and the fixtures to hold them against.

// Every test file compiles this module for itself and uses a part of it.
#![allow(dead_code, unused_imports, clippy::missing_panics_doc)]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use aurora_quant::checkpoint::Config;
use aurora_quant::checkpoint::config::HfConfig;
use serde_json::Value as Json;

pub mod bad;
pub mod binary;
pub mod canonical;
pub mod checkpoint;
pub mod conversion;
pub mod interpreter;
pub mod mixtures;
pub mod packed;
pub mod sparse;
pub mod strangers;
pub mod tokenizer;
pub mod twin;

/// All Hugging Face fixtures: the folders with golden logits.
pub static MODELS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let folders = std::fs::read_dir(fixtures().join("models")).unwrap().map(|entry| entry.unwrap());
    let golden = folders.filter(|folder| folder.path().join("golden.safetensors").is_file());
    let mut names: Vec<&str> = golden.map(|folder| &*folder.file_name().into_string().unwrap().leak()).collect();
    names.sort_unstable();
    names
});

/// `tests/fixtures`, with its weights unpacked.
pub fn fixtures() -> PathBuf {
    packed::unpacked().to_owned()
}

/// `tests/fixtures` as it is stored: all but the weights.
pub fn plain_fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// config.json of a model folder.
pub fn hf_config(dir: &Path) -> Config {
    let path = dir.join("config.json");
    let map = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    Config::HuggingFace(HfConfig { path, map })
}

/// config.json of the fixture `name` with changes; null removes a key.
pub fn changed(name: &str, changes: Json) -> Config {
    let Config::HuggingFace(HfConfig { path, mut map }) = hf_config(&fixtures().join("models").join(name)) else {
        unreachable!()
    };
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Json::Null => map.shift_remove(key),
            value => map.insert(key.clone(), value.clone()),
        };
    }
    Config::HuggingFace(HfConfig { path, map })
}
