//! tokenizer.json, by the `tokenizers` crate; and what else a directory says about the end of a text.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use tokenizers::ConvertError;
use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};

use super::Special;
use crate::checkpoint::config::HfConfig;
use crate::checkpoint::json;
use crate::checkpoint::tokenizer::{complete, listed_ends};
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
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", e))?;
        let mut json: Json = json::parse(&bytes).map_err(|fault| fault.of(path))?;
        // Files of earlier releases are brought to the one form that the reader accepts.
        let invalid = |e: ConvertError| match e {
            ConvertError::Json(e) => Fault::json("not valid JSON", e).of(path),
            e => Fault::damaged(UNREADABLE).because(e).of(path),
        };
        tokenizers::canonicalize_value(&mut json).map_err(invalid)?;
        complete(path.parent().unwrap_or(path), &mut json)?;
        let unreadable = |e| Fault::unsupported(UNREADABLE).because(e).of(path);
        let inner = tokenizers::from_json(&json.to_string()).map_err(unreadable)?;
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
pub(super) fn with_listed_ends(config: &HfConfig, mut ends: Vec<u32>, rows: usize) -> Vec<u32> {
    let (listed, _) = listed_ends(config);
    ends.extend(listed.iter().filter(|l| l.id < rows as u64).map(|l| l.id as u32));
    ends.sort_unstable();
    ends.dedup();
    ends
}
