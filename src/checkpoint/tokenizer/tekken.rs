//! tekken.json: the vocabulary of Mistral's own tools, special tokens first.
//!
//! Its tokens are bytes in the order of their ranks; merges are not in it but follow: two tokens that make a third are
//! merged, the one with the lowest rank first. Ids are those of mistral-common, merges those of transformers.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::read::read_json;
use super::shapes::{AddedToken, Merge, Model, TokenizerJson, Vocabulary};
use super::vocab::byte_alphabet;
use crate::error::{Fault, Result};

/// The file's name.
pub(super) const NAME: &str = "tekken.json";

#[derive(Deserialize)]
struct Tekken {
    config: Config,
    vocab: Vec<Entry>,
    #[serde(default)]
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    #[serde(default)]
    default_vocab_size: Option<usize>,
    #[serde(default)]
    default_num_special_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct Entry {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: usize,
    token_str: String,
}

/// Special tokens of files that do not list them, by rank.
#[rustfmt::skip]
const OLD: &[&str] = &[
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
];

/// Longest token; those in use have at most a few hundred bytes, and all ways to split one are tried.
const LONGEST: usize = 4096;

/// The file as a tokenizer.json, or `None` if there is none.
///
/// # Errors
/// If it is malformed: what, and where another tokenizer can be had.
pub(super) fn read(dir: &Path) -> Result<Option<TokenizerJson>> {
    let path = dir.join(NAME);
    let Some(tekken) = read_json::<Tekken>(&path)? else { return Ok(None) };
    let converted = convert(tekken).map_err(|what| {
        let advice = "or use the tokenizer.json of a repository in transformers' format";
        Fault::damaged(format!("{what}; copy the file again, {advice}")).of(&path)
    })?;
    Ok(Some(converted))
}

/// Roles that the special tokens have by their text, for a tokenizer_config.json that is silent.
pub(super) fn roles(tokenizer: &TokenizerJson, settings: &mut Map<String, Json>) {
    let known: HashSet<&str> = tokenizer.added_tokens.iter().map(|t| t.content.as_str()).collect();
    for (name, text) in [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>"), ("unk_token", "<unk>")] {
        if known.contains(text) {
            settings.entry(name).or_insert(json!(text));
        }
    }
    settings.entry("add_bos_token").or_insert(json!(known.contains("<s>")));
    settings.entry("add_eos_token").or_insert(json!(false));
}

fn convert(tekken: Tekken) -> std::result::Result<TokenizerJson, String> {
    let special = special_tokens(&tekken)?;
    let mut tokens = Vec::with_capacity(tekken.vocab.len());
    let size = tekken.config.default_vocab_size.map(|size| size.saturating_sub(special.len()));
    if size.is_some_and(|size| size > tekken.vocab.len()) {
        let (found, needed) = (tekken.vocab.len(), size.unwrap_or_default());
        return Err(format!("the vocabulary has {found} tokens, needed are {needed} beside the special ones"));
    }
    for (i, entry) in tekken.vocab.iter().take(size.unwrap_or(usize::MAX)).enumerate() {
        if entry.rank != i {
            return Err(format!("token {i} of the vocabulary has the rank {}", entry.rank));
        }
        let bytes = BASE64_STANDARD.decode(&entry.token_bytes).map_err(|e| format!("token {i} is no base64: {e}"))?;
        if bytes.is_empty() || bytes.len() > LONGEST {
            return Err(format!("token {i} has {} bytes; needed are 1 to {LONGEST}", bytes.len()));
        }
        tokens.push(bytes);
    }
    if tokens.is_empty() {
        return Err("the vocabulary is empty".to_owned());
    }
    let letters = byte_alphabet();
    let spell = |bytes: &[u8]| bytes.iter().map(|&b| letters[usize::from(b)]).collect::<String>();
    let shift = special.len() as u64;
    // A text that is a special token's is that token, as in transformers.
    let marks: HashSet<&str> = special.iter().map(String::as_str).collect();
    let entries = tokens.iter().zip(shift..).map(|(bytes, id)| (spell(bytes), id));
    let entries = entries.filter(|(text, _)| !marks.contains(text.as_str())).collect();
    let merges = merges(&tokens)?.into_iter().map(|(left, right)| Merge(spell(left), spell(right))).collect();
    let added = special.into_iter().zip(0..).map(|(content, id)| AddedToken::plain(id, content, true));
    Ok(TokenizerJson {
        model: Model {
            kind: Some("BPE".to_owned()),
            vocab: Vocabulary(entries),
            merges,
            ignore_merges: true,
            ..Model::default()
        },
        added_tokens: added.collect(),
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": tekken.config.pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]}),
        decoder: json!({"type": "ByteLevel"}),
        ..TokenizerJson::default()
    })
}

/// Special tokens by id; those without a text have their id in it.
fn special_tokens(tekken: &Tekken) -> std::result::Result<Vec<String>, String> {
    let mut texts: Vec<Option<String>> = Vec::new();
    match &tekken.special_tokens {
        None => texts.extend(OLD.iter().map(|text| Some((*text).to_owned()))),
        Some(listed) => {
            texts.resize(listed.len(), None);
            for token in listed {
                let place = texts.get_mut(token.rank).filter(|t| t.is_none());
                *place.ok_or_else(|| format!("{:?} has the rank {}", token.token_str, token.rank))? =
                    Some(token.token_str.clone());
            }
        }
    }
    let count = tekken.config.default_num_special_tokens.unwrap_or(texts.len());
    if count < texts.len() || count > 1 << 20 {
        return Err(format!("{} special tokens are listed, the configuration says {count}", texts.len()));
    }
    texts.resize(count, None);
    let texts: Vec<String> =
        texts.into_iter().enumerate().map(|(i, text)| text.unwrap_or_else(|| format!("<SPECIAL_{i}>"))).collect();
    match texts.iter().collect::<HashSet<_>>().len() == texts.len() {
        true => Ok(texts),
        false => Err("two special tokens have one text".to_owned()),
    }
}

/// What is merged.
type Pair<'t> = (&'t [u8], &'t [u8]);

/// Pairs of tokens that make a token: by its rank, of one token's by the ranks of the two.
fn merges(tokens: &[Vec<u8>]) -> std::result::Result<Vec<Pair<'_>>, String> {
    let ranks: HashMap<&[u8], usize> = tokens.iter().zip(0..).map(|(t, rank)| (t.as_slice(), rank)).collect();
    if ranks.len() != tokens.len() {
        return Err("two tokens of the vocabulary have the same bytes".to_owned());
    }
    let mut all = Vec::new();
    for token in tokens {
        let split = |at: usize| {
            let (left, right) = token.split_at(at);
            Some((*ranks.get(left)?, *ranks.get(right)?, left, right))
        };
        let mut ways: Vec<_> = (1..token.len()).filter_map(split).collect();
        ways.sort_unstable();
        all.extend(ways.into_iter().map(|(.., left, right)| (left, right)));
    }
    Ok(all)
}
