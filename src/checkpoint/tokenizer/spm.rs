//! Vocabularies of the SentencePiece kind (`tokenizer.ggml.model` "llama"): from tokenizer.model, or from a
//! tokenizer.json whose BPE falls back to bytes.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::files::{AddedToken, Files, TokenizerJson};
use super::rows;
use super::sentencepiece::{Piece, SentencePiece};
use super::vocab::{ADDED_SCORE, Token, TokenType, padding};
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
        // User-defined pieces too: llama.cpp's converter writes them as normal ones unless a JSON file lists them.
        _ => TokenType::Normal,
    }
}

/// The vocabulary of tokenizer.model with what the JSON files add. Tokens beyond `rows` cannot be written: the
/// embedding has no row for them; they are left out with a note, as llama.cpp's converter does.
pub(super) fn from_model(
    files: &Files,
    model: &SentencePiece,
    rows: usize,
    overlay: Overlay,
    notes: &mut Vec<String>,
) -> Result<Vec<Token>> {
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
    let mut tokens = padding(rows);
    let mut left_out = Vec::new();
    for (id, piece) in model.pieces.iter().enumerate() {
        match tokens.get_mut(id) {
            Some(t) => *t = Token { text: piece.text.clone(), score: piece.score, kind: piece_type(piece) },
            None => left_out.push(id as u64),
        }
    }
    let mut put = |id: u64, token: Token| match usize::try_from(id).ok().and_then(|id| tokens.get_mut(id)) {
        Some(t) => *t = token,
        None => left_out.push(id),
    };
    for (content, id) in files.added_tokens.iter().flatten() {
        let id = id.as_u64().ok_or_else(|| {
            let what = format!("must be a token id, found {id}");
            Fault::damaged(what).of_key(&files.path("added_tokens.json"), content)
        })?;
        put(id, Token { text: content.clone(), score: ADDED_SCORE, kind: TokenType::UserDefined });
    }
    let make = |t: &AddedToken| match overlay.phi3 {
        false => Token::added(&t.content, t.special),
        true => Token {
            text: t.content.clone(),
            score: ADDED_SCORE,
            kind: if t.special { TokenType::Control } else { TokenType::UserDefined },
        },
    };
    let listed = files.added_tokens_decoder()?;
    for t in &listed {
        put(t.id, make(t));
    }
    // transformers 5 writes no added_tokens_decoder: there tokenizer.json is the only file that knows them.
    if let Some(json) = files.tokenizer.as_ref().filter(|_| overlay.phi3 || listed.is_empty()) {
        for t in &json.added_tokens {
            put(t.id, make(t));
        }
    }
    left_out.sort_unstable();
    left_out.dedup();
    if let Some(first) = left_out.first() {
        let (name, count) = (path.display(), left_out.len());
        notes.push(format!("{name}: {count} token(s) from id {first} left out: the embedding has {rows} rows"));
    }
    Ok(tokens)
}

/// The vocabulary of a tokenizer.json with byte fallback.
///
/// llama.cpp merges the pair whose result has the highest score. tokenizer.json has ranks of merges instead of
/// scores, so the score of a token is minus the rank of the first merge that makes it: the same order. (llama.cpp's
/// converter writes -1000 for every token here, which loses the order and splits words differently.)
pub(super) fn from_json(files: &Files, json: &TokenizerJson, rows: usize) -> Result<Vec<Token>> {
    let path = files.path("tokenizer.json");
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(json.model.merges.len());
    for (rank, merge) in json.model.merges.iter().enumerate() {
        ranks.entry(format!("{}{}", merge.0, merge.1)).or_insert(rank);
    }
    let unmerged = json.model.merges.len();
    let mut tokens = padding(rows);
    rows::place(&path, &json.model.vocab.0, &mut tokens, |text| {
        let byte = is_byte(text);
        let unknown = json.model.unk_token.as_deref() == Some(text);
        Token {
            text: text.to_owned(),
            score: match byte || unknown {
                true => 0.0,
                false => -(ranks.get(text).copied().unwrap_or(unmerged) as f32),
            },
            kind: match (byte, unknown) {
                (true, _) => TokenType::Byte,
                (_, true) => TokenType::Unknown,
                _ => TokenType::Normal,
            },
        }
    })?;
    rows::overlay_added(files, json, &mut tokens, Token::added)?;
    Ok(tokens)
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
