//! Checkpoints to be changed: tensors in memory, written to a folder of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;

use super::fixtures;

/// Type, shape, bytes.
pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// A checkpoint in memory.
#[derive(Clone)]
pub struct Checkpoint {
    /// By name.
    pub tensors: BTreeMap<String, Tensor>,
    /// config.json.
    pub config: Json,
}

fn load(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let copy = |(name, t): (String, TensorView<'_>)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()));
    file.tensors().into_iter().map(copy).collect()
}

impl Checkpoint {
    /// What GPTQModel wrote from bookworm-8m: two of its layers, with the embeddings that it shares with the float
    /// model.
    pub fn quantized(name: &str) -> Checkpoint {
        let folder = fixtures().join("quantized").join(name);
        let mut tensors = load(&folder.join("layers.safetensors"));
        let mut shared = load(&fixtures().join("models/bookworm-8m/model.safetensors"));
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            tensors.insert(name.to_owned(), shared.remove(name).unwrap());
        }
        let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        Checkpoint { tensors, config }
    }

    /// A fixture model.
    pub fn of(name: &str) -> Checkpoint {
        let folder = fixtures().join("models").join(name);
        let names = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
        let shards = names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("model"));
        let tensors = shards.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).flat_map(|p| load(&p));
        let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        Checkpoint { tensors: tensors.collect(), config }
    }

    /// The same with changes to config.json; null removes a key.
    pub fn with(mut self, changes: Json) -> Checkpoint {
        let map = self.config.as_object_mut().unwrap();
        for (key, value) in changes.as_object().unwrap() {
            match value {
                Json::Null => map.shift_remove(key),
                value => map.insert(key.clone(), value.clone()),
            };
        }
        self
    }

    /// Makes a folder of it, with bookworm-8m's tokenizer.
    pub fn write(&self, folder: &Path) {
        self.write_as("bookworm-8m", folder);
    }

    /// Makes a folder of it, with the tokenizer of that fixture.
    pub fn write_as(&self, model: &str, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let base = fixtures().join("models").join(model);
        for entry in fs::read_dir(base).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let companion = ["tokenizer", "vocab", "merges", "special", "added", "chat", "generation"];
            if companion.iter().any(|start| name.starts_with(start)) {
                fs::copy(&path, folder.join(name)).unwrap();
            }
        }
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    }
}
