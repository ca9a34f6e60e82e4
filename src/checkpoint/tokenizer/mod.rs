//! The tokenizer of a Hugging Face directory as `tokenizer.*` keys of a GGUF.
//!
//! In: tokenizer.model, tokenizer.json, tekken.json, tokenizer_config.json and their companions, laid over each other
//! where they add tokens. Out: the keys that llama.cpp's converter writes, in its order. Two kinds of tokenizers exist
//! in GGUF terms: "llama" (SentencePiece BPE, also as a tokenizer.json with byte fallback) and "gpt2" (byte-level BPE).
//! Knows no tensors; the number of rows of the embedding, which is the length of the token list, is told.

mod added;
mod bpe;
mod ends;
mod files;
mod pre;
mod pre_table;
mod read;
mod rows;
mod sentencepiece;
mod shapes;
mod special;
mod spm;
mod steps;
mod tekken;
mod template;
mod vocab;

use std::path::Path;

use serde_json::Value as Json;

use self::files::Files;
use self::read::read_bytes;
use self::rows::TokenList;
use self::sentencepiece::SentencePiece;
use self::shapes::TokenizerJson;
use self::vocab::Token;
use super::config::HfConfig;
use crate::error::{Error, Fault, Result};
use crate::gguf::{Metadata, Value};

pub(crate) use self::added::complete;
pub(crate) use self::ends::listed as listed_ends;
pub use self::ends::{ALL_ENDS, SPELLED_ENDS};
pub use self::pre::{expressions as pre_tokenizer_expressions, ignores_merges, known_names as known_pre_tokenizers};
pub(crate) use self::special::named_tokens;
pub(crate) use self::template::MORE_TEMPLATES;
pub use self::vocab::TokenType;
pub(crate) use self::vocab::byte_alphabet;

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
/// Returns remarks worth telling the user: what the files disagree about, and what GGUF cannot express.
///
/// # Errors
/// If there is no tokenizer, if a file is malformed, if a role is that of a token without a name, if the end of text or
/// the chat template needs a token without a row, if the tokenizer is of another kind than the two supported ones, or
/// if its pre-tokenizer is not recognised and none is named.
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
    let kind = kind(&files, &mut notes)?;
    let added = added::collect(&files, &mut notes)?;
    added::remarks(&files, &added, family.phi3, &mut notes);
    if let Some(add) = files.setting("add_prefix_space").and_then(Json::as_bool).filter(|_| family.llama) {
        out.set(ADD_SPACE_PREFIX, Value::Bool(add));
    }
    let (vocabulary, add_space) = match &kind {
        Kind::Model(model) => {
            let overlay = spm::Overlay { phi3: family.phi3 };
            let vocabulary = spm::from_model(&files, model, rows, overlay, &added, &mut notes)?;
            write_tokens("llama", "default", &vocabulary.tokens, true, out);
            match files.tokenizer.as_ref().filter(|_| !files.slow()) {
                Some(json) => {
                    steps::sentence_piece(json, model.add_dummy_prefix, &mut notes);
                    steps::rebuilt(&files, json, family.model_type, &mut notes);
                }
                None => steps::model(model, &mut notes),
            }
            (vocabulary, model.add_dummy_prefix)
        }
        Kind::Fallback(json) => {
            let vocabulary = spm::from_json(&files, json, rows, &added, &mut notes)?;
            write_tokens("llama", "default", &vocabulary.tokens, true, out);
            steps::sentence_piece(json, spm::json_adds_space(json), &mut notes);
            steps::rebuilt(&files, json, family.model_type, &mut notes);
            (vocabulary, spm::json_adds_space(json))
        }
        Kind::ByteLevel(json) => {
            let name = pre::name(&files, json, family.model_type, pre, &mut notes)?;
            let vocabulary = bpe::tokens(&files, json, rows, &added, &mut notes)?;
            write_tokens("gpt2", &name, &vocabulary.tokens, false, out);
            steps::byte_level(&files, json, &mut notes);
            out.set("tokenizer.ggml.merges", bpe::merges(&files, json, &vocabulary)?);
            (vocabulary, true)
        }
    };
    special::write(&files, config, &vocabulary, out, &mut notes)?;
    let templates = template::write(&files, out, &mut notes)?;
    needed_by(&templates, &vocabulary, &files)?;
    if templates.is_empty() && files.from == tekken::NAME {
        let advice = "for conversations, put a chat_template.jinja beside it";
        notes.push(format!("{} comes without a chat template; {advice}", tekken::NAME));
    }
    empty_names(&templates, &files, out, &mut notes);
    if let Some(json) = &files.tokenizer {
        normalizer(&json.normalizer, 0, out);
    }
    family_keys(&family, &kind, rows, out);
    ends::write(config, &vocabulary, out, &mut notes)?;
    if !add_space && out.get(ADD_SPACE_PREFIX).is_none() {
        out.set(ADD_SPACE_PREFIX, Value::Bool(false));
    }
    Ok(notes)
}

/// Tokens without a row may be left out as long as no conversation is written with them.
fn needed_by(templates: &[String], vocabulary: &TokenList, files: &Files) -> Result<()> {
    let added = vocabulary.left_out.iter().filter(|t| t.added);
    let needed = |text: &str| templates.iter().any(|template| template.contains(text));
    let Some(token) = added.clone().find(|t| needed(&t.text)) else { return Ok(()) };
    let (id, text, rows) = (token.id, &token.text, vocabulary.tokens.len());
    let what = format!(
        "the chat template writes {text:?}, token {id}, for which the embedding of {rows} rows has none; use an \
         embedding that was resized for it"
    );
    Err(Fault::damaged(what).of(&files.dir))
}

/// In transformers a template writes nothing for a token that tokenizer_config.json does not name; whoever reads the
/// file goes by the ids.
fn empty_names(templates: &[String], files: &Files, out: &Metadata, notes: &mut Vec<String>) {
    if files.config.is_none() {
        return;
    }
    for role in ["bos", "eos"] {
        let name = format!("{role}_token");
        let id = out.get(&format!("tokenizer.ggml.{role}_token_id")).and_then(Value::as_u64);
        let writes = templates.iter().any(|template| template.contains(&name));
        if let Some(text) =
            id.and_then(|id| token_text(out, id as usize)).filter(|_| writes && files.setting(&name).is_none())
        {
            notes.push(format!(
                "the chat template writes {name}, which tokenizer_config.json does not name: transformers writes \
                 nothing there, llama.cpp {text:?}"
            ));
        }
    }
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

const SUPPORTED: &str = "supported: tokenizer.model (SentencePiece BPE), tokenizer.json (BPE, byte-level or with byte \
                         fallback), tekken.json";

fn kind<'f>(files: &'f Files, notes: &mut Vec<String>) -> Result<Kind<'f>> {
    let path = files.path("tokenizer.model");
    if let Some(bytes) = read_bytes(&path)?
        && !(spm::is_tiktoken(&bytes) && files.tokenizer.is_some())
    {
        if spm::is_tiktoken(&bytes) {
            let what = format!("a tiktoken vocabulary, not SentencePiece; {SUPPORTED}");
            return Err(Fault::unsupported(what).of(&path));
        }
        let model = SentencePiece::parse(&bytes).map_err(|fault| fault.about("not a SentencePiece model").of(&path))?;
        let fast = files.tokenizer.as_ref().filter(|_| !files.slow());
        match fast.and_then(|json| spm::contradiction(&model, json)) {
            None => return Ok(Kind::Model(model)),
            Some(what) => notes.push(format!("{what}; tokenizer.json is believed, as transformers does")),
        }
    }
    let Some(json) = &files.tokenizer else {
        let others =
            ["vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model.v3", "tokenizer.model.v7"];
        let found = others.into_iter().find(|f| files.path(f).is_file());
        let found = found.map_or(String::new(), |f| format!(", only {f}, which is a different kind or name"));
        let what = format!("no tokenizer found{found}; {SUPPORTED}; copy one from the original repository");
        return Err(Error::missing(&files.dir, vec![files.path("tokenizer.json")], what));
    };
    let path = files.vocabulary();
    let kind = json.model.kind.as_deref().unwrap_or("BPE");
    if kind != "BPE" {
        return Err(Fault::unsupported(format!("{kind} tokenizers are not supported; {SUPPORTED}")).of(&path));
    }
    if json.model.vocab.0.is_empty() {
        return Err(Fault::damaged("model.vocab is missing or empty").of(&path));
    }
    for (key, mark) in [
        ("continuing_subword_prefix", &json.model.continuing_subword_prefix),
        ("end_of_word_suffix", &json.model.end_of_word_suffix),
    ] {
        if let Some(mark) = mark.as_deref().filter(|m| !m.is_empty()) {
            let what = format!("a BPE with the {key} {mark:?}, which GGUF cannot express; {SUPPORTED}");
            return Err(Fault::unsupported(what).of(&path));
        }
    }
    // Some set the flag beside the byte alphabet, which leaves nothing to fall back for.
    if pre::is_byte_level(&json.pre_tokenizer) || pre::is_byte_level(&json.decoder) {
        return Ok(Kind::ByteLevel(json));
    }
    if json.model.byte_fallback {
        return Ok(Kind::Fallback(json));
    }
    Err(Fault::unsupported(format!("BPE that is neither byte-level nor has byte fallback; {SUPPORTED}")).of(&path))
}
