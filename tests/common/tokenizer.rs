//! The tokenizer's files of a fixture, to be changed; and what is made of them.

use std::fs;
use std::path::Path;

use aurora_quant::checkpoint::config::HfConfig;
use aurora_quant::checkpoint::tokenizer;
use aurora_quant::gguf::{Metadata, Value};
use aurora_quant::text::Tokenizer;
use serde_json::Value as Json;

use super::plain_fixtures;

/// A JSON file.
pub fn json(path: &Path) -> Json {
    let text = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// A copy of a fixture's folder without its tensors.
pub struct Copy(pub tempfile::TempDir);

impl Copy {
    /// Of the fixture `model`.
    pub fn of(model: &str) -> Self {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(plain_fixtures().join("models").join(model)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.contains(".safetensors") && !name.starts_with("golden") {
                fs::write(copy.path().join(name), fs::read(&path).unwrap()).unwrap();
            }
        }
        Copy(copy)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Without a file.
    pub fn without(self, name: &str) -> Self {
        fs::remove_file(self.path().join(name)).unwrap();
        self
    }

    /// With another file, or another content of one.
    pub fn with(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// With a JSON file changed.
    pub fn edited(self, name: &str, edit: impl FnOnce(&mut Json)) -> Self {
        let mut value = json(&self.path().join(name));
        edit(&mut value);
        self.with(name, value.to_string())
    }

    /// Without keys of tokenizer_config.json.
    pub fn forgetting(self, keys: &[&str]) -> Self {
        self.edited("tokenizer_config.json", |c| {
            keys.iter().for_each(|key| {
                c.as_object_mut().unwrap().shift_remove(*key);
            });
        })
    }

    /// config.json.
    pub fn config(&self) -> HfConfig {
        let path = self.path().join("config.json");
        let map = json(&path).as_object().unwrap().clone();
        HfConfig { path, map }
    }

    /// The keys of a conversion, and the notes on them, for an embedding of `rows` rows.
    pub fn noted(&self, rows: usize) -> aurora_quant::Result<(Metadata, Vec<String>)> {
        let mut out = Metadata::new();
        let notes = tokenizer::metadata(self.path(), &self.config(), rows, None, &mut out)?;
        Ok((out, notes))
    }

    /// The keys of a conversion.
    pub fn read(&self, rows: usize) -> aurora_quant::Result<Metadata> {
        Ok(self.noted(rows)?.0)
    }

    /// Why there is none.
    pub fn error(&self, rows: usize) -> String {
        self.read(rows).unwrap_err().explain()
    }
}

/// The texts of a key of the token list.
pub fn texts(out: &Metadata) -> Vec<String> {
    let Some(Value::Array(items)) = out.get("tokenizer.ggml.tokens") else { panic!("no tokens") };
    items.iter().map(|t| t.as_str().unwrap().to_owned()).collect()
}

/// The type of a token.
pub fn kind(out: &Metadata, id: usize) -> i64 {
    let Some(Value::Array(items)) = out.get("tokenizer.ggml.token_type") else { panic!("no types") };
    items.get(id).unwrap().as_i64().unwrap()
}

/// The id of a role.
pub fn role(out: &Metadata, role: &str) -> Option<u64> {
    out.get(&format!("tokenizer.ggml.{role}_token_id"))?.as_u64()
}

/// The tokenizer of a file with these keys.
pub fn written(out: &Metadata) -> Tokenizer {
    Tokenizer::from_keys(Path::new("written.gguf"), out).unwrap()
}
