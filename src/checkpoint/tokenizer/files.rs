//! What a folder says about its tokenizer: which files there are, and what their keys are. Knows the files, not what
//! they mean for GGUF.

use std::num::ParseIntError;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::read::{read_json, read_small_json, read_text};
use super::shapes::{AddedToken, Merge, Model, TokenizerJson, Vocabulary};
use super::tekken;
use crate::error::{Fault, Result};

const TOKENIZER: &str = "tokenizer.json";
const SLOW: &str = "vocab.json";

/// The files that say something about the tokenizer of `dir`; absent ones are `None`.
pub(super) struct Files {
    pub dir: PathBuf,
    pub tokenizer: Option<TokenizerJson>,
    /// The file that `tokenizer` was made from: tokenizer.json, vocab.json (with merges.txt) or tekken.json.
    pub from: &'static str,
    /// tokenizer_config.json; where it does not list added tokens, with the keys of special_tokens_map.json.
    pub config: Option<Map<String, Json>>,
    /// added_tokens.json of slow tokenizers: content -> id.
    pub added_tokens: Option<Map<String, Json>>,
}

impl Files {
    /// Reads what is there.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut config = settings(dir)?;
        let (from, tokenizer) = match read_json::<TokenizerJson>(&dir.join(TOKENIZER))? {
            Some(tokenizer) => (TOKENIZER, Some(tokenizer)),
            None => match slow_bpe(dir)? {
                Some(slow) => (SLOW, Some(slow)),
                None if dir.join("tokenizer.model").is_file() => (TOKENIZER, None),
                None => (tekken::NAME, tekken::read(dir)?),
            },
        };
        if let Some(tokenizer) = tokenizer.as_ref().filter(|_| from == tekken::NAME) {
            tekken::roles(tokenizer, config.get_or_insert_default());
        }
        let added_tokens = read_small_json(&dir.join("added_tokens.json"))?;
        Ok(Files { dir: dir.to_owned(), tokenizer, from, config, added_tokens })
    }

    /// Whether the vocabulary is that of tokenizer.json.
    pub fn fast(&self) -> bool {
        self.from == TOKENIZER
    }

    /// Whether the vocabulary is that of vocab.json and merges.txt.
    pub fn slow(&self) -> bool {
        self.from == SLOW
    }

    /// The file that has the vocabulary of `tokenizer`, to blame.
    pub fn vocabulary(&self) -> PathBuf {
        self.path(self.from)
    }

    /// What `dir` has beside a tokenizer.json with these added tokens.
    pub fn beside(dir: &Path, added_tokens: Vec<AddedToken>) -> Result<Self> {
        Ok(Files {
            dir: dir.to_owned(),
            tokenizer: Some(TokenizerJson { added_tokens, ..TokenizerJson::default() }),
            from: TOKENIZER,
            config: settings(dir)?,
            added_tokens: read_small_json(&dir.join("added_tokens.json"))?,
        })
    }

    /// Path of one of the files, to blame.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A key of tokenizer_config.json; null counts as absent.
    pub fn setting(&self, key: &str) -> Option<&Json> {
        self.config.as_ref()?.get(key).filter(|v| !v.is_null())
    }

    /// `tokenizer_class` without the "Fast" of the Rust-backed twin.
    pub fn class(&self) -> &str {
        let class = self.setting("tokenizer_class").and_then(Json::as_str).unwrap_or("");
        class.strip_suffix("Fast").unwrap_or(class)
    }

    /// `added_tokens_decoder` of tokenizer_config.json, by id; empty if absent.
    pub fn added_tokens_decoder(&self) -> Result<Vec<AddedToken>> {
        let path = self.path("tokenizer_config.json");
        let Some(decoder) = self.setting("added_tokens_decoder") else { return Ok(Vec::new()) };
        let bad = |fault: Fault| fault.of_key(&path, "added_tokens_decoder");
        let object = decoder.as_object().ok_or_else(|| bad("must be an object from id to token".into()))?;
        let mut tokens = Vec::with_capacity(object.len());
        for (id, token) in object {
            let no_id = || Fault::damaged(format!("key {id:?} is not a token id"));
            let id: u64 = id.parse().map_err(|e: ParseIntError| bad(no_id().because(e)))?;
            let content = token.get("content").and_then(Json::as_str);
            let content =
                content.ok_or_else(|| bad(format!("token {id} has no text in \"content\"").into()))?.to_owned();
            let flag = |key: &str| token.get(key).and_then(Json::as_bool);
            let [single_word, lstrip, rstrip, special] =
                ["single_word", "lstrip", "rstrip", "special"].map(|key| flag(key).unwrap_or(false));
            let normalized = flag("normalized");
            tokens.push(AddedToken { id, content, single_word, lstrip, rstrip, normalized, special });
        }
        Ok(tokens)
    }
}

/// tokenizer_config.json. As transformers does it, special_tokens_map.json is heard only where the list of added tokens
/// is not yet in there, and then before it.
pub(super) fn settings(dir: &Path) -> Result<Option<Map<String, Json>>> {
    let config: Option<Map<String, Json>> = read_small_json(&dir.join("tokenizer_config.json"))?;
    if config.as_ref().is_some_and(|c| c.contains_key("added_tokens_decoder")) {
        return Ok(config);
    }
    let Some(map) = read_small_json::<Map<String, Json>>(&dir.join("special_tokens_map.json"))? else {
        return Ok(config);
    };
    let mut config = config.unwrap_or_default();
    let special = |key: &str| key.ends_with("_token") || key.ends_with("_special_tokens");
    config.extend(map.into_iter().filter(|(key, value)| special(key) && !value.is_null()));
    Ok(Some(config))
}

/// vocab.json and merges.txt: what tokenizers without tokenizer.json have.
fn slow_bpe(dir: &Path) -> Result<Option<TokenizerJson>> {
    let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
    if !vocab.is_file() || !merges.is_file() {
        return Ok(None);
    }
    let Some(entries) = read_json::<Vocabulary>(&vocab)? else { return Ok(None) };
    let Some(text) = read_text(&merges)? else { return Ok(None) };
    let mut pairs = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || (i == 0 && line.starts_with('#')) {
            continue;
        }
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [a, b] => pairs.push(Merge(a.to_owned(), b.to_owned())),
            _ => return Err(Fault::damaged(format!("line {}: {line:?} is not two tokens", i + 1)).of(&merges)),
        }
    }
    let model = Model { kind: Some("BPE".into()), vocab: entries, merges: pairs, ..Model::default() };
    let byte_level = serde_json::json!({"type": "ByteLevel"});
    Ok(Some(TokenizerJson { model, decoder: byte_level, ..TokenizerJson::default() }))
}
