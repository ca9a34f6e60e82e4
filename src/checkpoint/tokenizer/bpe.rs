//! Vocabularies of byte-level BPE (`tokenizer.ggml.model` "gpt2"): tokens in GPT-2's byte alphabet, and merges.

use std::collections::HashSet;

use serde_json::Value as Json;

use super::files::{Files, TokenizerJson};
use super::rows;
use super::vocab::{Token, TokenType, padding, texts};
use crate::error::{Fault, Result};
use crate::gguf::Value;

/// GPT-2's stand-in for a space. A merge is written as "left right", so a space inside a token must be spelled so.
const SPACE: &str = "\u{120}";

/// The token list: `rows` entries, those that the tokenizer does not name unused.
pub(super) fn tokens(files: &Files, json: &TokenizerJson, rows: usize) -> Result<Vec<Token>> {
    let path = files.path("tokenizer.json");
    let mut tokens = padding(rows);
    let normal = |text: &str| Token { text: text.to_owned(), score: 0.0, kind: TokenType::Normal };
    rows::place(&path, &json.model.vocab.0, &mut tokens, normal)?;
    rows::overlay_added(files, json, &mut tokens, Token::added)?;
    let special = named_special(files);
    for t in tokens.iter_mut().filter(|t| t.kind == TokenType::Normal && special.contains(t.text.as_str())) {
        t.kind = TokenType::Control;
    }
    Ok(tokens)
}

/// Texts that tokenizer_config.json names as special. transformers makes control tokens of them even where
/// tokenizer.json has them only as ordinary entries of its vocabulary.
fn named_special(files: &Files) -> HashSet<&str> {
    let text = |v: &'_ Json| v.as_str().is_some() || v.get("content").is_some_and(Json::is_string);
    let roles = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"].map(|r| files.setting(&format!("{r}_token")));
    let lists = ["additional_special_tokens", "extra_special_tokens"].map(|k| files.setting(k));
    let listed = lists.into_iter().flatten().flat_map(|v| match v {
        Json::Array(items) => items.iter().collect::<Vec<_>>(),
        Json::Object(named) => named.values().collect(),
        _ => Vec::new(),
    });
    let all = roles.into_iter().flatten().chain(listed).filter(|v| text(v));
    all.filter_map(|v| v.as_str().or_else(|| v.get("content")?.as_str())).collect()
}

/// The merges, in rank order.
///
/// # Errors
/// If there are none: llama.cpp refuses such a file.
pub(super) fn merges(files: &Files, json: &TokenizerJson) -> Result<Value> {
    if json.model.merges.is_empty() {
        return Err(Fault::damaged("a BPE model without merges").of(&files.path("tokenizer.json")));
    }
    let spell = |part: &str| part.replace(' ', SPACE);
    let lines: Vec<String> = json.model.merges.iter().map(|m| format!("{} {}", spell(&m.0), spell(&m.1))).collect();
    Ok(texts(lines.iter().map(String::as_str)))
}
