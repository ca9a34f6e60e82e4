//! Steps of a tokenizer that GGUF cannot express: each is named in a note.

use serde_json::Value as Json;

use super::files::Files;
use super::pre::{flat, kind};
use super::sentencepiece::SentencePiece;
use super::shapes::TokenizerJson;

/// U+2581, which SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// Of a byte-level tokenizer; its pre-tokenizer has a name or is refused.
pub(super) fn byte_level(files: &Files, json: &TokenizerJson, notes: &mut Vec<String>) {
    let mut lost: Vec<&str> = flat(&json.normalizer).into_iter().map(kind).filter(|k| !k.is_empty()).collect();
    // The class of a tokenizer without tokenizer.json says what is done.
    if files.slow() && files.class() == "Qwen2Tokenizer" {
        lost.push("NFC");
    }
    normalizers(&lost, notes);
    let lost: Vec<&str> = flat(&json.decoder).into_iter().map(kind).collect();
    let known = ["", "ByteLevel", "Fuse"];
    decoders(&lost.into_iter().filter(|k| !known.contains(k)).collect::<Vec<_>>(), notes);
}

/// Of a tokenizer of the SentencePiece kind. `add_space`: whether the file will say that a text begins with a space.
pub(super) fn sentence_piece(json: &TokenizerJson, add_space: bool, notes: &mut Vec<String>) {
    let text = |step: &Json, key: &str| step.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
    let replaces = |step: &Json, from: &str, to: &str| {
        let pattern = step.get("pattern").and_then(|p| p.get("String")).and_then(Json::as_str);
        kind(step) == "Replace" && pattern == Some(from) && text(step, "content") == to
    };
    let lost: Vec<&str> = flat(&json.normalizer)
        .into_iter()
        .filter(|step| !replaces(step, " ", SPACE))
        .filter(|step| !(kind(step) == "Prepend" && text(step, "prepend") == SPACE))
        .map(kind)
        .filter(|k| !k.is_empty())
        .collect();
    normalizers(&lost, notes);
    for step in flat(&json.pre_tokenizer) {
        let splits = step.get("pattern").and_then(|p| p.get("String")).and_then(Json::as_str) == Some(" ");
        match kind(step) {
            "" => {}
            "Metaspace" if add_space && text(step, "prepend_scheme") == "first" => notes.push(
                "tokenizer.json puts a space before the first word only, if there is none; llama.cpp also puts one \
                 before a space and behind special tokens"
                    .to_owned(),
            ),
            "Metaspace" if add_space => {
                notes.push("tokenizer.json puts no space before a text that begins with one; llama.cpp does".to_owned())
            }
            "Metaspace" => {}
            // No space is left where the normalizer has replaced them.
            "Split" if splits && flat(&json.normalizer).iter().any(|s| replaces(s, " ", SPACE)) => {}
            other => notes.push(format!(
                "tokenizer.json splits text by {other}, which GGUF cannot express here; some texts give other tokens"
            )),
        }
    }
    let known = ["", "ByteFallback", "Fuse", "Metaspace"];
    let lost: Vec<&str> = flat(&json.decoder)
        .into_iter()
        .filter(|step| !known.contains(&kind(step)) && !replaces(step, SPACE, " "))
        .filter(|step| !(kind(step) == "Strip" && text(step, "content") == " "))
        .map(kind)
        .collect();
    decoders(&lost, notes);
}

/// Transformers 5 rebuilds a Llama's tokenizer, and with it the rule of where a space is put, unless it is a `legacy`
/// one. Of those, only texts that begin with a space differ, and there the file is followed as it is written.
pub(super) fn rebuilt(files: &Files, json: &TokenizerJson, model_type: &str, notes: &mut Vec<String>) {
    let prepends = flat(&json.normalizer).into_iter().any(|step| kind(step) == "Prepend");
    let legacy = files.setting("legacy").and_then(Json::as_bool) == Some(true);
    if prepends && !legacy && model_type == "llama" && files.class() == "LlamaTokenizer" {
        notes.push(
            "transformers 5 puts no space behind special tokens or before a text that begins with one, whatever \
             tokenizer.json says; llama.cpp does"
                .to_owned(),
        );
    }
}

/// Of a tokenizer.model alone.
pub(super) fn model(model: &SentencePiece, notes: &mut Vec<String>) {
    if model.charsmap {
        normalizers(&[model.normalizer.as_str()], notes);
    }
}

fn normalizers(lost: &[&str], notes: &mut Vec<String>) {
    if !lost.is_empty() {
        let names = lost.join(", ");
        notes.push(format!(
            "GGUF cannot express the tokenizer's normalizer {names}: texts that it changes give other tokens"
        ));
    }
}

fn decoders(lost: &[&str], notes: &mut Vec<String>) {
    if !lost.is_empty() {
        let names = lost.join(", ");
        notes.push(format!("GGUF cannot express the tokenizer's decoder {names}: decoded text may differ"));
    }
}
