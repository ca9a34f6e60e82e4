//! The files beside the tensors in a Hugging Face folder (tokenizer, generation settings, licences), copied unchanged.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::checkpoint::tokenizer::MORE_TEMPLATES;
use crate::checkpoint::{directory_of, embedding};
use crate::{Error, Result};

/// Prefixes of the names of files that are copied.
const COPIED: [&str; 16] = [
    "tokenizer",
    "vocab",
    "merges",
    "special_tokens_map",
    "added_tokens",
    "generation_config",
    "chat_template",
    "tekken",
    "spiece",
    "sentencepiece",
    "modules.json",
    "sentence_bert_config",
    "config_sentence_transformers",
    "LICENSE",
    "NOTICE",
    "USE_POLICY",
];

/// Copies a checkpoint's companions from one folder to another.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    copy_if(from, to, &|name| COPIED.iter().any(|start| name.starts_with(start)))?;
    for path in embedding::companions(from)? {
        let place = to.join(path.strip_prefix(from).expect("below the folder"));
        let folder = directory_of(&place);
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
        fs::copy(&path, &place).map_err(|e| Error::io(&path, "copy", e))?;
    }
    let (from, to) = (from.join(MORE_TEMPLATES), to.join(MORE_TEMPLATES));
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(&to).map_err(|e| Error::io(&to, "create", e))?;
    copy_if(&from, &to, &|name| name.ends_with(".jinja"))
}

fn copy_if(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let entries = fs::read_dir(from).map_err(|e| Error::io(from, "list", e))?;
    let mut names: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    names.sort();
    for path in names.iter().filter(|p| p.is_file()) {
        let name = path.file_name().unwrap_or_default();
        if wanted(&name.to_string_lossy()) {
            fs::copy(path, to.join(name)).map_err(|e| Error::io(path, "copy", e))?;
        }
    }
    Ok(())
}

/// Writes pretty-printed JSON.
pub(super) fn write_json(path: &Path, json: &Json) -> Result<()> {
    let text = serde_json::to_string_pretty(json).expect("JSON of JSON");
    fs::write(path, text + "\n").map_err(|e| Error::io(path, "write", e))
}
