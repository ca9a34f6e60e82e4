//! What the folder of an embedding model adds to a checkpoint: `modules.json` of sentence-transformers, and the folders
//! that it names, say how the tokens of a text become one vector.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::config::{read_json, read_json_object};
use super::directory_of;
use crate::error::{Fault, printable};
use crate::{Error, Result};

/// The list of modules.
pub const MODULES: &str = "modules.json";

/// Published lists have a few hundred bytes.
const MAX_LIST: usize = 1 << 16;

/// One step from text to vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingModule {
    /// The last part of its class: "Transformer", "Pooling", "Normalize".
    pub kind: String,
    /// Its folder, below the checkpoint's; empty if it is that.
    pub folder: PathBuf,
}

/// The vector that stands for a text, by llama.cpp's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all tokens.
    Mean = 1,
    /// The first token.
    First = 2,
    /// The last token.
    Last = 3,
}

/// Ways to pool, by what `pooling_mode_NAME` and `pooling_mode` call them.
const MODES: [(&str, &str, Pooling); 3] = [
    ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
    ("pooling_mode_cls_token", "cls", Pooling::First),
    ("pooling_mode_lasttoken", "lasttoken", Pooling::Last),
];

/// The module that is the model itself.
const MODEL: &str = "Transformer";
/// The module that scales vectors to length one, which llama.cpp does unless it is told not to.
const NORMALIZE: &str = "Normalize";

/// How the tokenizer is used for embeddings.
const USE: &str = "sentence_bert_config.json";
/// Prompts of an embedding model.
const PROMPTS: &str = "config_sentence_transformers.json";

/// The modules that a checkpoint's folder lists; none if it has no list.
///
/// # Errors
/// If the list is malformed, or names a folder that is not below the checkpoint's.
pub fn modules(dir: &Path) -> Result<Vec<EmbeddingModule>> {
    let path = dir.join(MODULES);
    if matches!(path.try_exists(), Ok(false)) {
        return Ok(Vec::new());
    }
    let list: Vec<Map<String, Json>> = read_json(&path, MAX_LIST)?;
    let module = |entry: &Map<String, Json>| {
        let text = |key: &str| match entry.get(key) {
            Some(Json::String(text)) => Ok(text.as_str()),
            _ => Err(Fault::damaged("must be a string in every module").of_key(&path, key)),
        };
        let (class, folder) = (text("type")?, PathBuf::from(text("path")?));
        if !folder.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            let what = format!("must be below this folder, found {}", printable(&folder.to_string_lossy()));
            return Err(Fault::damaged(what).of_key(&path, "path"));
        }
        Ok(EmbeddingModule { kind: class.rsplit('.').next().unwrap_or(class).to_owned(), folder })
    };
    list.iter().map(module).collect()
}

/// How a checkpoint's texts are pooled, if its folder says so in a way that llama.cpp knows. Also notes on what a GGUF
/// file cannot say.
///
/// # Errors
/// If the folder's files about it are malformed or missing.
pub fn pooling(dir: &Path) -> Result<(Option<Pooling>, Vec<String>)> {
    let (mut found, mut notes) = (None, Vec::new());
    let modules = modules(dir)?;
    for module in &modules {
        let place = printable(&module.folder.to_string_lossy());
        match module.kind.as_str() {
            "Pooling" => {
                let config = read_json_object(&dir.join(&module.folder).join("config.json"))?;
                found = mode(&config);
                if found.is_none() {
                    notes.push(format!(
                        "{place} pools tokens in a way that llama.cpp does not have (it has the mean, the first and \
                         the last token), so the file names none"
                    ));
                }
                if config.get("include_prompt").and_then(Json::as_bool) == Some(false) {
                    notes.push(format!("{place} leaves prompts out when it pools; the file cannot say so"));
                }
            }
            MODEL | NORMALIZE => {}
            kind => notes.push(format!(
                "module {} ({place}) of {MODULES} is not in the file, which gives the embeddings before it",
                printable(kind)
            )),
        }
    }
    if modules.iter().any(|module| module.kind == "Pooling") {
        if !modules.iter().any(|module| module.kind == NORMALIZE) {
            notes.push(format!(
                "{MODULES} has no {NORMALIZE}, so embeddings keep their length; llama.cpp scales them to length one \
                 unless it is told not to (--embd-normalize -1)"
            ));
        }
        notes.extend(texts(dir)?);
    }
    Ok((found, notes))
}

/// What is done to texts before they are tokenised, which a GGUF file cannot say.
fn texts(dir: &Path) -> Result<Vec<String>> {
    let read = |name: &str| match dir.join(name) {
        path if matches!(path.try_exists(), Ok(false)) => Ok(Map::new()),
        path => read_json_object(&path),
    };
    let mut notes = Vec::new();
    if read(USE)?.get("do_lower_case").and_then(Json::as_bool) == Some(true) {
        notes.push(format!("{USE} has do_lower_case, which the file cannot say; texts must be in lower case"));
    }
    if let Some(name) = read(PROMPTS)?.get("default_prompt_name").and_then(Json::as_str) {
        let name = printable(name);
        notes.push(format!("{PROMPTS} puts prompt {name} before every text, which the file cannot say"));
    }
    Ok(notes)
}

/// The one way to pool that a configuration turns on; none if it is another, or several at once.
fn mode(config: &Map<String, Json>) -> Option<Pooling> {
    let word = config.get("pooling_mode").and_then(|mode| match mode {
        Json::Array(modes) => modes.first().filter(|_| modes.len() == 1)?.as_str(),
        mode => mode.as_str(),
    });
    if let Some(word) = word {
        return MODES.iter().find(|(_, name, _)| *name == word).map(|(.., pooling)| *pooling);
    }
    let on = |key: &str| config.get(key).and_then(Json::as_bool) == Some(true);
    let mut modes = config.keys().filter(|key| key.starts_with("pooling_mode_") && on(key));
    let (one, more) = (modes.next()?, modes.next());
    MODES.iter().find(|(key, ..)| more.is_none() && key == one).map(|(.., pooling)| *pooling)
}

/// Files of an embedding model in the folders of its modules. A folder that is not there has none: Git keeps no empty
/// ones.
///
/// # Errors
/// Those of [`modules`].
pub fn companions(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for module in modules(dir)?.iter().filter(|module| !module.folder.as_os_str().is_empty()) {
        let folder = dir.join(&module.folder);
        if matches!(folder.try_exists(), Ok(false)) {
            continue;
        }
        let entries = folder.read_dir().map_err(|e| Error::io(&folder, "list", e))?;
        let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|path| path.is_file()).collect();
        found.sort();
        files.extend(found);
    }
    debug_assert!(files.iter().all(|file| directory_of(file).starts_with(dir)), "folders below the checkpoint's");
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(config: Json) -> Option<Pooling> {
        mode(config.as_object().expect("an object"))
    }

    #[test]
    fn one_way_to_pool_is_found_and_several_are_none() {
        use serde_json::json;
        assert_eq!(
            found(json!({"pooling_mode_lasttoken": true, "pooling_mode_cls_token": false})),
            Some(Pooling::Last)
        );
        assert_eq!(found(json!({"pooling_mode_mean_tokens": true})), Some(Pooling::Mean));
        assert_eq!(found(json!({"pooling_mode_cls_token": true})), Some(Pooling::First));
        assert_eq!(found(json!({"pooling_mode": "lasttoken"})), Some(Pooling::Last));
        assert_eq!(found(json!({"pooling_mode": ["mean", "max"]})), None);
        assert_eq!(found(json!({"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true})), None);
        assert_eq!(found(json!({"pooling_mode_weightedmean_tokens": true})), None);
    }
}
