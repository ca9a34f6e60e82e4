//! The tokenizer of a Hugging Face directory as `tokenizer.*` keys of a GGUF.
//!
//! In: tokenizer.model, tokenizer.json, tokenizer_config.json and their companions. Out: the keys that llama.cpp's
//! converter writes, in its order. Two kinds of tokenizers exist in GGUF terms: "llama" (SentencePiece BPE, also as
//! a tokenizer.json with byte fallback) and "gpt2" (byte-level BPE). Knows no tensors; the number of rows of the
//! embedding, which is the length of the token list, is told.

mod bpe;
mod files;
mod pre;
mod pre_table;
mod rows;
mod sentencepiece;
mod special;
mod spm;
mod template;
mod vocab;

use std::path::Path;

use serde_json::Value as Json;

use self::files::{Files, TokenizerJson, read_bytes};
use self::sentencepiece::SentencePiece;
use self::vocab::Token;
use super::config::HfConfig;
use crate::error::{Error, Fault, Result};
use crate::gguf::{Metadata, Value};

pub use self::pre::{expressions as pre_tokenizer_expressions, known_names as known_pre_tokenizers};
pub use self::vocab::TokenType;

/// What of the tokenizer depends on the model's family rather than on its files.
struct Family<'a> {
    model_type: &'a str,
    /// Families that llama.cpp converts as "llama": they hand `add_prefix_space` on.
    llama: bool,
    gemma: bool,
    phi3: bool,
}

/// `model_type`s whose llama.cpp converter is the one of Llama.
const LLAMA_LIKE: &[&str] =
    &["llama", "mistral", "mixtral", "ministral", "granite", "granitemoe", "smollm3", "arcee", "apertus", "yi"];

impl<'a> Family<'a> {
    fn of(config: &'a HfConfig) -> Self {
        let model_type = config.get("model_type").and_then(Json::as_str).unwrap_or("");
        Family {
            model_type,
            llama: LLAMA_LIKE.contains(&model_type),
            gemma: model_type.starts_with("gemma"),
            phi3: matches!(model_type, "phi3" | "phimoe"),
        }
    }
}

/// A tokenizer of a kind that GGUF can hold.
enum Kind<'a> {
    Model(SentencePiece),
    Fallback(&'a TokenizerJson),
    ByteLevel(&'a TokenizerJson),
}

/// Writes every `tokenizer.*` key. `rows`: rows of the embedding table, which is how many tokens the file will
/// have; `pre`: name of the pre-tokenizer instead of the recognised one (byte-level BPE only).
///
/// Returns remarks worth telling the user; none of them makes the result wrong.
///
/// # Errors
/// If there is no tokenizer, if a file is malformed, if a token's id has no row, if the tokenizer is of another kind
/// than the two supported ones, or if its pre-tokenizer is not recognised and none is named.
pub fn metadata(
    dir: &Path,
    config: &HfConfig,
    rows: usize,
    pre: Option<&str>,
    out: &mut Metadata,
) -> Result<Vec<String>> {
    let files = Files::read(dir)?;
    let family = Family::of(config);
    let mut notes = Vec::new();
    let kind = kind(&files)?;
    if let Some(add) = files.setting("add_prefix_space").and_then(Json::as_bool).filter(|_| family.llama) {
        out.set(ADD_SPACE_PREFIX, Value::Bool(add));
    }
    let add_space = match &kind {
        Kind::Model(model) => {
            let overlay = spm::Overlay { phi3: family.phi3 };
            let tokens = spm::from_model(&files, model, rows, overlay, &mut notes)?;
            write_tokens("llama", "default", &tokens, true, out);
            model.add_dummy_prefix
        }
        Kind::Fallback(json) => {
            write_tokens("llama", "default", &spm::from_json(&files, json, rows)?, true, out);
            spm::json_adds_space(json)
        }
        Kind::ByteLevel(json) => {
            let name = pre::name(&files, json, family.model_type, pre, &mut notes)?;
            write_tokens("gpt2", &name, &bpe::tokens(&files, json, rows)?, false, out);
            out.set("tokenizer.ggml.merges", bpe::merges(&files, json)?);
            true
        }
    };
    special::write(&files, config, rows, out, &mut notes);
    template::write(&files, out, &mut notes)?;
    if let Some(json) = &files.tokenizer {
        normalizer(&json.normalizer, 0, out);
    }
    family_keys(&family, &kind, rows, out);
    if !add_space && out.get(ADD_SPACE_PREFIX).is_none() {
        out.set(ADD_SPACE_PREFIX, Value::Bool(false));
    }
    Ok(notes)
}

const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

fn write_tokens(model: &str, pre: &str, tokens: &[Token], scores: bool, out: &mut Metadata) {
    out.set("tokenizer.ggml.model", Value::String(model.to_owned()));
    out.set("tokenizer.ggml.pre", Value::String(pre.to_owned()));
    out.set("tokenizer.ggml.tokens", vocab::token_list(tokens));
    if scores {
        out.set("tokenizer.ggml.scores", vocab::scores(tokens));
    }
    out.set("tokenizer.ggml.token_type", vocab::token_types(tokens));
}

/// What the converter of a family adds on its own.
fn family_keys(family: &Family, kind: &Kind, rows: usize, out: &mut Metadata) {
    let spm = !matches!(kind, Kind::ByteLevel(_));
    let eot = match (family.model_type, rows) {
        // CodeLlama; ids from its tokenizer: 32010 is <EOT>. llama.cpp finds the infill tokens by their text.
        (_, 32016) if family.llama => Some((32010, "▁<EOT>")),
        ("gemma", _) => Some((107, "<end_of_turn>")),
        _ => None,
    };
    if let Some((id, text)) = eot.filter(|_| spm)
        && token_text(out, id) == Some(text)
    {
        out.set("tokenizer.ggml.eot_token_id", Value::U32(id as u32));
    }
    // Granite's small code models and SmolLM: the template does not say it, but they were trained without BOS.
    if family.llama && rows == 49152 {
        out.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    }
    if family.gemma && spm {
        out.set(ADD_SPACE_PREFIX, Value::Bool(false));
    }
}

fn token_text(out: &Metadata, id: usize) -> Option<&str> {
    match out.get("tokenizer.ggml.tokens")? {
        Value::Array(tokens) => tokens.get(id)?.as_str(),
        _ => None,
    }
}

/// Case and accent folding, which llama.cpp can do for BPE.
fn normalizer(step: &Json, depth: usize, out: &mut Metadata) {
    let flag = |key: &str| step.get(key).and_then(Json::as_bool);
    let (mut lowercase, mut strip) = (None, None);
    match step.get("type").and_then(Json::as_str) {
        Some("Lowercase") => lowercase = Some(true),
        Some("StripAccents") => strip = Some(true),
        Some("BertNormalizer") => (lowercase, strip) = (flag("lowercase"), flag("strip_accents")),
        Some("Sequence") if depth < 8 => {
            for s in step.get("normalizers").and_then(Json::as_array).into_iter().flatten() {
                normalizer(s, depth + 1, out);
            }
        }
        _ => {}
    }
    for (key, value) in [("lowercase", lowercase), ("strip_accents", strip)] {
        if let Some(value) = value {
            out.set(format!("tokenizer.ggml.normalizer.{key}"), Value::Bool(value));
        }
    }
}

const SUPPORTED: &str =
    "supported: tokenizer.model (SentencePiece BPE), tokenizer.json (BPE, byte-level or with byte fallback)";

fn kind(files: &Files) -> Result<Kind<'_>> {
    let path = files.path("tokenizer.model");
    if let Some(bytes) = read_bytes(&path)?
        && !(spm::is_tiktoken(&bytes) && files.tokenizer.is_some())
    {
        if spm::is_tiktoken(&bytes) {
            let what = format!("a tiktoken vocabulary, not SentencePiece; {SUPPORTED}");
            return Err(Fault::unsupported(what).of(&path));
        }
        let model = SentencePiece::parse(&bytes).map_err(|fault| fault.about("not a SentencePiece model").of(&path))?;
        return Ok(Kind::Model(model));
    }
    let Some(json) = &files.tokenizer else {
        let others = ["tekken.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"];
        let found = others.into_iter().find(|f| files.path(f).is_file());
        let found = found.map_or(String::new(), |f| format!(", only {f}, which is a different kind"));
        let missing = vec![files.path("tokenizer.json")];
        return Err(Error::missing(&files.dir, missing, format!("no tokenizer found{found}; {SUPPORTED}")));
    };
    let path = files.path("tokenizer.json");
    let kind = json.model.kind.as_deref().unwrap_or("BPE");
    if kind != "BPE" {
        return Err(Fault::unsupported(format!("{kind} tokenizers are not supported; {SUPPORTED}")).of(&path));
    }
    if json.model.vocab.0.is_empty() {
        return Err(Fault::damaged("model.vocab is missing or empty").of(&path));
    }
    if json.model.byte_fallback {
        return Ok(Kind::Fallback(json));
    }
    if pre::is_byte_level(&json.pre_tokenizer) || pre::is_byte_level(&json.decoder) {
        return Ok(Kind::ByteLevel(json));
    }
    Err(Fault::unsupported(format!("BPE that is neither byte-level nor has byte fallback; {SUPPORTED}")).of(&path))
}
