//! Vocabularies of the SentencePiece kind (`tokenizer.ggml.model` "llama"): from tokenizer.model, or from a
//! tokenizer.json whose BPE falls back to bytes.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use super::added;
use super::files::Files;
use super::rows::{Rows, TokenList};
use super::sentencepiece::{Piece, SentencePiece};
use super::shapes::{AddedToken, TokenizerJson};
use super::vocab::{ADDED_SCORE, Token, TokenType};
use crate::error::{Fault, Result};

/// How the checkpoint's family treats its vocabulary; see `super::Family`.
#[derive(Clone, Copy)]
pub(super) struct Overlay {
    /// Phi-3: tokens added by tokenizer.json count too, and only their `special` flag decides the type.
    pub phi3: bool,
}

/// Whether tokenizer.model is a list of base64 tokens with ranks (tiktoken), which some repositories ship under
/// SentencePiece's name.
pub(super) fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or(bytes);
    let line = std::str::from_utf8(line).unwrap_or("").trim_end();
    let base64 = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    line.split_once(' ').is_some_and(|(token, rank)| base64(token) && rank.parse::<u32>().is_ok())
}

fn piece_type(piece: &Piece) -> TokenType {
    match piece.kind {
        2 => TokenType::Unknown,
        3 => TokenType::Control,
        5 => TokenType::Unused,
        6 => TokenType::Byte,
        _ => TokenType::Normal,
    }
}

/// What a tokenizer.json has otherwise than the tokenizer.model beside it, which is then a leftover.
pub(super) fn contradiction(model: &SentencePiece, json: &TokenizerJson) -> Option<String> {
    if json.model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return None;
    }
    let added: HashSet<u64> = json.added_tokens.iter().map(|t| t.id).collect();
    let piece = |id: u64| usize::try_from(id).ok().and_then(|id| model.pieces.get(id)).map(|p| p.text.as_str());
    let other = |(text, id): &&(String, u64)| !added.contains(id) && piece(*id) != Some(text);
    let (text, id) = json.model.vocab.0.iter().find(other)?;
    let found = piece(*id).map_or_else(|| "missing".to_owned(), |piece| format!("{piece:?}"));
    Some(format!("token {id} is {text:?} in tokenizer.json and {found} in tokenizer.model"))
}

/// Bytes that no token spells: llama.cpp stops at a text with one.
fn bytes(vocabulary: &TokenList, notes: &mut Vec<String>) {
    let texts: HashSet<&str> = vocabulary.tokens.iter().map(|t| t.text.as_str()).collect();
    let spelled = |byte: u8| {
        let plain = byte.is_ascii().then(|| char::from(byte).to_string());
        texts.contains(format!("<0x{byte:02X}>").as_str()) || plain.is_some_and(|p| texts.contains(p.as_str()))
    };
    let missing: Vec<u8> = (0..=u8::MAX).filter(|&byte| !spelled(byte)).collect();
    if let Some(first) = missing.first() {
        let count = missing.len();
        notes.push(format!(
            "the vocabulary has no token for {count} of the 256 bytes (the first is <0x{first:02X}>): llama.cpp \
             stops at texts that need one"
        ));
    }
}

/// The vocabulary of tokenizer.model with what the JSON files add.
pub(super) fn from_model(
    files: &Files,
    model: &SentencePiece,
    rows: usize,
    overlay: Overlay,
    added: &[AddedToken],
    notes: &mut Vec<String>,
) -> Result<TokenList> {
    let path = files.path("tokenizer.model");
    if model.model_type != 2 {
        let kind = match model.model_type {
            1 => "Unigram",
            3 => "Word",
            4 => "Char",
            _ => "unknown",
        };
        let what =
            format!("SentencePiece {kind} models are not supported; supported: SentencePiece BPE, byte-level BPE");
        return Err(Fault::unsupported(what).of(&path));
    }
    let mut out = Rows::new(rows);
    for (id, piece) in model.pieces.iter().enumerate() {
        // What the user defined is cut out of a text, as transformers does; no merge leads there.
        let token = match piece.kind {
            4 => Token::added(&piece.text, false),
            _ => Token { text: piece.text.clone(), score: piece.score, kind: piece_type(piece) },
        };
        out.place(&path, id as u64, token)?;
    }
    out.add(added, |t| match overlay.phi3 {
        false => Token::added(&t.content, t.special),
        true => Token {
            text: t.content.clone(),
            score: ADDED_SCORE,
            kind: if t.special { TokenType::Control } else { TokenType::UserDefined },
        },
    });
    let vocabulary = out.finish(&path, &added::named_special(files), notes)?;
    bytes(&vocabulary, notes);
    Ok(vocabulary)
}

/// The vocabulary of a tokenizer.json with byte fallback.
///
/// llama.cpp merges the pair whose result has the highest score. tokenizer.json has ranks of merges instead of
/// scores, so the score of a token is minus the rank of the first merge that makes it: the same order. (llama.cpp's
/// converter writes -1000 for every token here, which loses the order and splits words differently.)
pub(super) fn from_json(
    files: &Files,
    json: &TokenizerJson,
    rows: usize,
    added: &[AddedToken],
    notes: &mut Vec<String>,
) -> Result<TokenList> {
    let path = files.vocabulary();
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(json.model.merges.len());
    for (rank, merge) in json.model.merges.iter().enumerate() {
        ranks.entry(format!("{}{}", merge.0, merge.1)).or_insert(rank);
    }
    let unmerged = json.model.merges.len();
    let mut out = Rows::new(rows);
    for (text, id) in &json.model.vocab.0 {
        let byte = is_byte(text);
        let unknown = json.model.unk_token.as_deref() == Some(text);
        let token = Token {
            text: text.clone(),
            score: match byte || unknown {
                true => 0.0,
                false => -(ranks.get(text).copied().unwrap_or(unmerged) as f32),
            },
            kind: match (byte, unknown) {
                (true, _) => TokenType::Byte,
                (_, true) => TokenType::Unknown,
                _ => TokenType::Normal,
            },
        };
        out.place(&path, *id, token)?;
    }
    out.add(added, |t| Token::added(&t.content, t.special));
    let vocabulary = out.finish(&path, &added::named_special(files), notes)?;
    bytes(&vocabulary, notes);
    Ok(vocabulary)
}

/// `<0x00>` to `<0xFF>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether tokenizer.json puts a space before the text, as llama.cpp's "llama" tokenizer does unless told otherwise.
pub(super) fn json_adds_space(json: &TokenizerJson) -> bool {
    fn any(step: &Json, depth: usize) -> bool {
        let nested = ["normalizers", "pretokenizers"].iter().filter_map(|k| step.get(k)?.as_array()).flatten();
        let here = match step.get("type").and_then(Json::as_str) {
            Some("Prepend") => true,
            Some("Metaspace") => match step.get("prepend_scheme").and_then(Json::as_str) {
                Some(scheme) => scheme != "never",
                None => step.get("add_prefix_space").and_then(Json::as_bool) != Some(false),
            },
            _ => false,
        };
        here || (depth < 8 && nested.into_iter().any(|s| any(s, depth + 1)))
    }
    any(&json.normalizer, 0) || any(&json.pre_tokenizer, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiktoken_is_not_sentencepiece() {
        assert!(is_tiktoken(b"IQ== 0\nIg== 1\n"));
        assert!(!is_tiktoken(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02"));
        assert!(!is_tiktoken(b""));
    }

    #[test]
    fn byte_tokens() {
        assert!(is_byte("<0x0A>") && is_byte("<0xff>"));
        assert!(!is_byte("<0x0>") && !is_byte("<0xGG>") && !is_byte("0x0A"));
    }
}
