//! The JSON files of a tokenizer, read into the few fields that matter.
//!
//! tokenizer.json is deserialized straight into [`TokenizerJson`], not into a generic JSON value: a vocabulary of
//! 250 000 entries stays small, a list of a hundred million zeros costs nothing, and a wrong type is reported with
//! its line and column. Knows the files' shapes, not what they mean for GGUF.

use std::fmt;
use std::fs;
use std::num::ParseIntError;
use std::path::{Path, PathBuf};

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};

use crate::checkpoint::mmap;
use crate::error::{Fault, Result};

/// The files that say something about the tokenizer of `dir`; absent ones are `None`.
pub(super) struct Files {
    pub dir: PathBuf,
    pub tokenizer: Option<TokenizerJson>,
    /// tokenizer_config.json.
    pub config: Option<Map<String, Json>>,
    /// added_tokens.json of slow tokenizers: content -> id.
    pub added_tokens: Option<Map<String, Json>>,
}

/// tokenizer.json of Hugging Face `tokenizers`, or what vocab.json and merges.txt say.
#[derive(Deserialize)]
pub(super) struct TokenizerJson {
    pub model: Model,
    #[serde(default, deserialize_with = "null_is_default")]
    pub added_tokens: Vec<AddedToken>,
    #[serde(default, deserialize_with = "steps")]
    pub normalizer: Json,
    #[serde(default, deserialize_with = "steps")]
    pub pre_tokenizer: Json,
    #[serde(default, deserialize_with = "steps")]
    pub post_processor: Json,
    #[serde(default, deserialize_with = "steps")]
    pub decoder: Json,
}

#[derive(Deserialize, Default)]
pub(super) struct Model {
    /// Absent in files written before tokenizers 0.9.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub vocab: Vocabulary,
    #[serde(default, deserialize_with = "null_is_default")]
    pub merges: Vec<Merge>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub byte_fallback: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    pub ignore_merges: bool,
    #[serde(default)]
    pub unk_token: Option<String>,
}

/// Entries in file order; empty for the vocabularies of models that are refused anyway (Unigram has a list).
#[derive(Default)]
pub(super) struct Vocabulary(pub Vec<(String, u64)>);

/// `"a b"` (split at the first space) or `["a", "b"]`.
pub(super) struct Merge(pub String, pub String);

#[derive(Deserialize, Clone)]
pub(super) struct AddedToken {
    pub id: u64,
    pub content: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub special: bool,
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// Longest description of a processing step. Real ones take a few kilobytes, with a table of characters half a
/// megabyte; a generic JSON value takes forty times the memory of its text, so it must not be had for free.
const STEPS_LIMIT: usize = 1 << 20;

fn steps<'de, D: Deserializer<'de>>(d: D) -> Result<Json, D::Error> {
    let text = Box::<RawValue>::deserialize(d)?;
    match text.get().len() {
        0..=STEPS_LIMIT => serde_json::from_str(text.get()).map_err(serde::de::Error::custom),
        n => Err(serde::de::Error::custom(format!("a processing step of {n} bytes; at most {STEPS_LIMIT} are read"))),
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object from token to id")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Vocabulary(entries))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocabulary, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Vocabulary::default())
            }
        }
        d.deserialize_any(Entries)
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Merge;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge: \"left right\" or [\"left\", \"right\"]")
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<Merge, E> {
                let (a, b) = s.split_once(' ').ok_or_else(|| E::custom(format!("merge {s:?} has no space")))?;
                Ok(Merge(a.to_owned(), b.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let too_short = |n| serde::de::Error::invalid_length(n, &"two tokens");
                let a = seq.next_element()?.ok_or_else(|| too_short(0))?;
                let b = seq.next_element()?.ok_or_else(|| too_short(1))?;
                match seq.next_element::<IgnoredAny>()? {
                    None => Ok(Merge(a, b)),
                    Some(_) => Err(too_short(3)),
                }
            }
        }
        d.deserialize_any(Elements)
    }
}

impl Files {
    /// Reads what is there.
    pub fn read(dir: &Path) -> Result<Self> {
        let tokenizer = match read_json::<TokenizerJson>(&dir.join("tokenizer.json"))? {
            Some(t) => Some(t),
            None => slow_bpe(dir)?,
        };
        Ok(Files {
            dir: dir.to_owned(),
            tokenizer,
            config: read_small_json(&dir.join("tokenizer_config.json"))?,
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
            let special = token.get("special").and_then(Json::as_bool).unwrap_or(false);
            tokens.push(AddedToken { id, content, special });
        }
        Ok(tokens)
    }
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
    Ok(Some(TokenizerJson {
        model,
        added_tokens: Vec::new(),
        normalizer: Json::Null,
        pre_tokenizer: Json::Null,
        post_processor: Json::Null,
        decoder: byte_level,
    }))
}

/// The largest published tokenizer.json has about 35 MB.
const LARGEST: usize = 256 << 20;

/// A whole file, or `None` if there is none.
pub(super) fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => mmap::read_whole(path, LARGEST).map(Some),
    }
}

/// A whole file as UTF-8 without a byte order mark, or `None` if there is none.
pub(super) fn read_text(path: &Path) -> Result<Option<String>> {
    let Some(bytes) = read_bytes(path)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|e| {
        let what = format!("not UTF-8: invalid byte at offset {}", e.utf8_error().valid_up_to());
        Fault::damaged(what).because(e).of(path)
    })?;
    Ok(Some(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }))
}

/// A JSON file, or `None` if there is none.
pub(super) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read_bytes(path)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.is_data() => Err(Fault::json("unexpected content", e).of(path)),
        Err(e) => Err(Fault::json("not valid JSON", e).of(path)),
    }
}

/// Longest file that is read as a generic JSON value; the longest in use have two megabytes.
const SMALL: u64 = 16 << 20;

/// A JSON file of no fixed shape, or `None` if there is none.
pub(super) fn read_small_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    match fs::metadata(path) {
        Ok(m) if m.len() > SMALL => {
            Err(Fault::unsupported(format!("{} bytes; more than {SMALL} are not read", m.len())).of(path))
        }
        _ => read_json(path),
    }
}
