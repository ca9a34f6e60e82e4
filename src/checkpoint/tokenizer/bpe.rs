//! Vocabularies of byte-level BPE (`tokenizer.ggml.model` "gpt2"): tokens in GPT-2's byte alphabet, and merges.

use std::collections::HashSet;

use super::added;
use super::files::Files;
use super::rows::{Rows, TokenList};
use super::shapes::{AddedToken, Merge, TokenizerJson};
use super::vocab::{Token, TokenType, texts};
use crate::error::{Fault, Result};
use crate::gguf::Value;

/// GPT-2's stand-in for a space. A merge is written as "left right", so a space inside a token must be spelled so.
const SPACE: &str = "\u{120}";

/// The token list: `rows` entries, those that the tokenizer does not name unused.
pub(super) fn tokens(
    files: &Files,
    json: &TokenizerJson,
    rows: usize,
    added: &[AddedToken],
    notes: &mut Vec<String>,
) -> Result<TokenList> {
    let path = files.vocabulary();
    let mut out = Rows::new(rows);
    for (text, id) in &json.model.vocab.0 {
        out.place(&path, *id, Token { text: text.clone(), score: 0.0, kind: TokenType::Normal })?;
    }
    out.add(added, |t| Token::added(&t.content, t.special));
    out.finish(&path, &added::named_special(files), notes)
}

/// The merges, in rank order, but for those that need a token that was left out.
///
/// # Errors
/// If there are none: llama.cpp refuses such a file.
pub(super) fn merges(files: &Files, json: &TokenizerJson, vocabulary: &TokenList) -> Result<Value> {
    if json.model.merges.is_empty() {
        let what = "a BPE model without merges; copy the file (or merges.txt) from the original repository again";
        return Err(Fault::damaged(what).of(&files.vocabulary()));
    }
    let left_out: HashSet<&str> = vocabulary.left_out.iter().map(|t| t.text.as_str()).collect();
    let whole = |m: &&Merge| {
        left_out.is_empty()
            || ![m.0.as_str(), m.1.as_str(), &format!("{}{}", m.0, m.1)].iter().any(|t| left_out.contains(t))
    };
    let spell = |part: &str| part.replace(' ', SPACE);
    let kept = json.model.merges.iter().filter(whole);
    let lines: Vec<String> = kept.map(|m| format!("{} {}", spell(&m.0), spell(&m.1))).collect();
    Ok(texts(lines.iter().map(String::as_str)))
}
