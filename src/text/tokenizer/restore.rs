//! The tokenizer of a GGUF file as the Hugging Face libraries read it: tokenizer.json and tokenizer_config.json.
//!
//! In: the `tokenizer.*` keys, with llama.cpp's defaults where they are silent. Out: JSON, and what the keys do not
//! say.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::keys::{Keys, Loaded};
use super::pre::{self, PRE};
use super::vocab::{META_SPACE, Vocab};
use crate::Result;
use crate::checkpoint::tokenizer::{TokenType, ignores_merges};
use crate::error::Fault;
use crate::gguf::{Metadata, Value};

/// A tokenizer, as files of a Hugging Face folder.
#[derive(Debug, Clone)]
pub struct Restored {
    /// tokenizer.json.
    pub tokenizer: Json,
    /// tokenizer_config.json.
    pub config: Map<String, Json>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// Tokens that end a generation, sorted.
    pub ends: Vec<u32>,
    /// The token that fills up batches.
    pub pad: Option<u32>,
}

const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const TEMPLATE: &str = "tokenizer.chat_template";

/// Makes the files of the keys in `metadata`; `path` is only named in errors.
///
/// # Errors
/// If there is no tokenizer, if it is of a kind that is not supported, if its keys contradict each other, or if its
/// pre-tokenizer is not known.
pub fn restored(path: &Path, metadata: &Metadata) -> Result<Restored> {
    let keys = Keys { path, metadata };
    let loaded = keys.load()?;
    let (model, steps) = match &loaded.ranks {
        None => (sentence_piece(&loaded.vocab), sentence_piece_steps(loaded.space_prefix)),
        Some(merges) => {
            let steps = byte_level_steps(&loaded.pre).ok_or_else(|| {
                let what = format!("unknown pre-tokenizer {:?}", loaded.pre);
                keys.error(PRE, Fault::unsupported(what))
            })?;
            (byte_level(&loaded, merges), steps)
        }
    };
    let [normalizer, pre_tokenizer, decoder] = steps;
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added(&loaded.vocab, keys.strips_like_phi3()?),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": around(&loaded),
        "decoder": decoder,
        "model": model,
    });
    let id = |role: &str| {
        let id = metadata.get(&format!("tokenizer.ggml.{role}_token_id"))?.as_u64()?;
        u32::try_from(id).ok().filter(|id| (*id as usize) < loaded.vocab.len())
    };
    let mut config = Map::new();
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    config.insert("add_bos_token".to_owned(), json!(loaded.add_bos));
    config.insert("add_eos_token".to_owned(), json!(loaded.add_eos.is_some()));
    if let Some(add) = metadata.get(SPACE_PREFIX).and_then(Value::as_bool).filter(|_| loaded.ranks.is_some()) {
        config.insert("add_prefix_space".to_owned(), json!(add));
    }
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    config.extend(loaded.named(metadata).into_iter().map(|(name, text)| (name, json!(text))));
    if let Some(template) = templates(metadata) {
        config.insert("chat_template".to_owned(), template);
    }
    let Loaded { bos, end, eos: ends, .. } = loaded;
    Ok(Restored { tokenizer, config, bos, eos: end, ends, pad: id("padding") })
}

/// The chat template; several as a list with names.
fn templates(metadata: &Metadata) -> Option<Json> {
    let default = metadata.get(TEMPLATE).and_then(Value::as_str);
    let start = format!("{TEMPLATE}.");
    let named = metadata.iter().filter_map(|(key, value)| Some((key.strip_prefix(&start)?, value.as_str()?)));
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        return default.map(|text| json!(text));
    }
    let all = default.map(|text| ("default", text)).into_iter().chain(named);
    Some(all.map(|(name, text)| json!({"name": name, "template": text})).collect())
}

/// Tokens that are cut out of a text before anything is merged.
fn added(vocab: &Vocab, phi3: bool) -> Vec<Json> {
    let marks = vocab
        .tokens()
        .filter(|(_, t)| matches!(t.kind, TokenType::Control | TokenType::Unknown | TokenType::UserDefined));
    let token = |(id, t): (u32, &super::vocab::Token)| {
        json!({
            "id": id,
            "content": t.text,
            "single_word": false,
            "lstrip": false,
            "rstrip": phi3 && !super::special::PHI3_KEEPING.contains(&t.text.as_str()),
            "normalized": false,
            "special": t.kind != TokenType::UserDefined,
        })
    };
    marks.map(token).collect()
}

/// Every token that has a text.
fn entries(vocab: &Vocab) -> Map<String, Json> {
    vocab.tokens().filter(|(_, t)| t.kind != TokenType::Unused).map(|(id, t)| (t.text.clone(), json!(id))).collect()
}

fn byte_level(loaded: &Loaded, merges: &[(String, String)]) -> Json {
    let merges: Vec<Json> = merges.iter().map(|(left, right)| json!([left, right])).collect();
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": ignores_merges(&loaded.pre),
        "vocab": entries(&loaded.vocab),
        "merges": merges,
    })
}

/// Normalizer, pre-tokenizer and decoder.
fn byte_level_steps(name: &str) -> Option<[Json; 3]> {
    let mut steps = pre::expressions(name)?;
    // The step that turns bytes into letters can split as GPT-2 does.
    let gpt2 = steps.last() == Some(&pre::GPT2);
    steps = &steps[..steps.len() - usize::from(gpt2)];
    let bytes =
        |split: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": split});
    let mut steps: Vec<Json> = steps.iter().map(|step| split(step)).collect();
    steps.push(bytes(gpt2));
    let pre_tokenizer = match steps.len() {
        1 => steps.remove(0),
        _ => json!({"type": "Sequence", "pretokenizers": steps}),
    };
    Some([Json::Null, pre_tokenizer, bytes(true)])
}

fn split(step: &str) -> Json {
    match (step, step.strip_prefix("Punctuation ")) {
        (_, Some(behavior)) => json!({"type": "Punctuation", "behavior": behavior}),
        (r"\p{N}", _) => json!({"type": "Digits", "individual_digits": true}),
        (r"\p{N}+", _) => json!({"type": "Digits", "individual_digits": false}),
        _ => json!({"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": false}),
    }
}

/// SentencePiece merges by the score of what a merge makes; a list of merges says the same.
fn sentence_piece(vocab: &Vocab) -> Json {
    let text = |t: &super::vocab::Token| matches!(t.kind, TokenType::Normal | TokenType::UserDefined);
    let mut merges = Vec::new();
    for (_, token) in vocab.tokens().filter(|(_, t)| text(t)) {
        let mut ways: Vec<_> = token
            .text
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| {
                let (left, right) = token.text.split_at(at);
                Some((vocab.id(left)?, vocab.id(right)?, left, right))
            })
            .collect();
        ways.sort_unstable();
        let length = |text: &str| std::cmp::Reverse(text.chars().count());
        merges.extend(
            ways.into_iter().map(|(.., left, right)| (token.priority, length(left), length(right), left, right)),
        );
    }
    // Stable: of equals, those of the earlier token come first.
    merges.sort_by_key(|(priority, left, right, ..)| (*priority, *left, *right));
    let merges: Vec<Json> = merges.into_iter().map(|(.., left, right)| json!([left, right])).collect();
    let unknown = vocab.tokens().find(|(_, t)| t.kind == TokenType::Unknown).map(|(_, t)| t.text.as_str());
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": true,
        "ignore_merges": false,
        "vocab": entries(vocab),
        "merges": merges,
    })
}

/// Normalizer, pre-tokenizer and decoder. `prefix`: whether a text gets a space in front.
fn sentence_piece_steps(prefix: bool) -> [Json; 3] {
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": META_SPACE});
    let mut back = vec![
        json!({"type": "Replace", "pattern": {"String": META_SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let normalizer = match prefix {
        true => {
            back.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": META_SPACE}, spaces]})
        }
        false => spaces,
    };
    [normalizer, Json::Null, json!({"type": "Sequence", "decoders": back})]
}

/// What is put around a text.
fn around(loaded: &Loaded) -> Json {
    let text = |id: Option<u32>| id.and_then(|id| Some((id, loaded.vocab.token(id)?.text.as_str())));
    let (first, last) = (text(loaded.bos.filter(|_| loaded.add_bos)), text(loaded.add_eos));
    let bytes = || json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    if first.is_none() && last.is_none() {
        return if loaded.ranks.is_some() { bytes() } else { Json::Null };
    }
    let part = |sequence: &str, kind: u32| {
        let mark = |(_, text): (u32, &str)| json!({"SpecialToken": {"id": text, "type_id": kind}});
        let sequence = json!({"Sequence": {"id": sequence, "type_id": kind}});
        first.map(mark).into_iter().chain([sequence]).chain(last.map(mark)).collect::<Vec<_>>()
    };
    let known = first.into_iter().chain(last);
    let known = known.map(|(id, text)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})));
    let pair = [part("A", 0), part("B", 1)].concat();
    let template = json!({
        "type": "TemplateProcessing",
        "single": part("A", 0),
        "pair": pair,
        "special_tokens": known.collect::<Map<_, _>>(),
    });
    match loaded.ranks {
        None => template,
        Some(_) => json!({"type": "Sequence", "processors": [bytes(), template]}),
    }
}
