//! tokenizer.json, read into the few fields that matter.
//!
//! It is deserialized straight into [`TokenizerJson`], not into a generic JSON value: a vocabulary of 250 000 entries
//! stays small, a list of a hundred million zeros costs nothing, and a wrong type is reported with its line and column.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value as Json;
use serde_json::value::RawValue;

/// tokenizer.json of Hugging Face `tokenizers`, or what vocab.json and merges.txt say.
#[derive(Deserialize, Default)]
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
    #[serde(default)]
    pub continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub end_of_word_suffix: Option<String>,
}

/// Entries in file order; empty for the vocabularies of models that are refused anyway (Unigram has a list).
#[derive(Default)]
pub(super) struct Vocabulary(pub Vec<(String, u64)>);

/// `"a b"` (split at the first space) or `["a", "b"]`.
pub(super) struct Merge(pub String, pub String);

/// A token that is cut out of a text before anything else is done with it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub id: u64,
    pub content: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub single_word: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    pub lstrip: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    pub rstrip: bool,
    /// Looked for in the normalized text; `None`: unless it is special.
    #[serde(default)]
    pub normalized: Option<bool>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub special: bool,
}

impl AddedToken {
    /// A token that nothing more is known of.
    pub fn plain(id: u64, content: String, special: bool) -> Self {
        AddedToken { id, content, single_word: false, lstrip: false, rstrip: false, normalized: None, special }
    }
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
