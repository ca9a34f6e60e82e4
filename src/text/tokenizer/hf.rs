//! tokenizer.json, by the `tokenizers` crate; and what else a directory says about the end of a text.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value as Json;
use tokenizers::ConvertError;
use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};

use super::Special;
use crate::checkpoint::config::HfConfig;
use crate::error::Fault;
use crate::{Error, Result};

const UNREADABLE: &str = "not a tokenizer that can be read";

/// An opened tokenizer.json.
pub(super) struct TokenizerJson {
    path: PathBuf,
    inner: PipelineTokenizer,
}

impl std::fmt::Debug for TokenizerJson {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenizerJson({})", self.path.display())
    }
}

impl TokenizerJson {
    pub fn open(path: &Path) -> Result<Self> {
        // Files of earlier releases are brought to the one form that the reader accepts.
        let text = fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
        let text = tokenizers::canonicalize_str(&text).map_err(|e| match e {
            ConvertError::Json(e) => Fault::json("not valid JSON", e).of(path),
            e => Fault::damaged(UNREADABLE).because(e).of(path),
        })?;
        let inner = tokenizers::from_json(&text).map_err(|e| Fault::unsupported(UNREADABLE).because(e).of(path))?;
        Ok(TokenizerJson { path: path.to_owned(), inner })
    }

    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let options = EncodeOptions {
            add_special_tokens: special.add,
            encode_special_tokens: !special.parse,
            // A model's file may ask for both; a text is neither filled up nor cut here.
            padding: Override::Off,
            truncation: Override::Off,
        };
        let mut tokens = Vec::new();
        let done = self.inner.encode_into(text, &options, &mut tokens);
        done.map_err(|e| Fault::damaged("cannot tokenize the text").because(e).of(&self.path))?;
        Ok(tokens.into_iter().map(PipelineToken::id).collect())
    }
}

/// `ends` and the further ids that config.json and generation_config.json list as `eos_token_id`.
pub(super) fn with_listed_ends(config: &HfConfig, mut ends: Vec<u32>, rows: usize) -> Result<Vec<u32>> {
    let path = config.path.with_file_name("generation_config.json");
    let generation: Option<Json> = match fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|e| Fault::json("not valid JSON", e).of(&path))?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(Error::io(&path, "read", e)),
    };
    let listed = [config.get("eos_token_id"), generation.as_ref().and_then(|g| g.get("eos_token_id"))];
    for value in listed.into_iter().flatten() {
        let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        ends.extend(ids.iter().filter_map(Json::as_u64).filter(|&id| id < rows as u64).map(|id| id as u32));
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}
