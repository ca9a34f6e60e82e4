//! The `tokenizer.ggml.*` keys of a header, checked, with what llama.cpp assumes where they are silent.

use std::path::Path;

use super::pre::{self, PRE};
use super::vocab::{Spelling, Vocab};
use crate::checkpoint::tokenizer::{ALL_ENDS, SPELLED_ENDS, TokenType};
use crate::error::Fault;
use crate::gguf::{Metadata, Value};
use crate::{Error, Result};

/// A header and the file to blame.
pub(super) struct Keys<'a> {
    pub path: &'a Path,
    pub metadata: &'a Metadata,
}

/// What the keys say.
pub(super) struct Loaded {
    pub vocab: Vocab,
    /// Merges, best first; `None` for SentencePiece.
    pub ranks: Option<Vec<(String, String)>>,
    /// Name of the pre-tokenizer.
    pub pre: String,
    pub bos: Option<u32>,
    /// The one that the keys name.
    pub end: Option<u32>,
    /// Tokens that end a generation, sorted.
    pub eos: Vec<u32>,
    pub add_bos: bool,
    /// The token to put behind a text.
    pub add_eos: Option<u32>,
    pub space_prefix: bool,
}

pub(super) const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";

/// llama.cpp's ids where a header has none: SentencePiece's own, and Falcon's single special token, which is used only
/// by a file that asks for a mark without saying which.
const SPM_BOS: u32 = 1;
const SPM_EOS: u32 = 2;
const BPE_MARK: u32 = 11;

/// Marks of infilling that end a generation too, and the keys that can name them instead.
const FILL_ENDS: &[(&str, &[&str])] = &[
    ("tokenizer.ggml.fim_pad_token_id", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("tokenizer.ggml.fim_rep_token_id", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("tokenizer.ggml.fim_sep_token_id", &["<|file_sep|>"]),
];

/// Other marks of infilling: control tokens even in files that do not say so.
#[rustfmt::skip]
const FILL_MARKS: &[&str] = &[
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>",
    "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>",
    "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>",
];

/// gpt-oss's marks, which are part of the text that it writes.
const SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Roles as keys and chat templates spell them.
pub(super) const ROLES: [(&str, &str); 6] =
    [("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("seperator", "sep"), ("padding", "pad"), ("mask", "mask")];

impl Loaded {
    /// The spelling of every role that has a token, as `bos_token` and so on.
    pub fn named(&self, metadata: &Metadata) -> Vec<(String, String)> {
        let id = |key: &str| match key {
            "bos" => self.bos,
            "eos" => self.end,
            _ => u32::try_from(metadata.get(&format!("tokenizer.ggml.{key}_token_id"))?.as_u64()?).ok(),
        };
        let spelled = |(key, role)| Some((format!("{role}_token"), self.vocab.token(id(key)?)?.text.clone()));
        ROLES.into_iter().filter_map(spelled).collect()
    }
}

impl Keys<'_> {
    pub fn error(&self, key: &str, fault: impl Into<Fault>) -> Error {
        fault.into().of_key(self.path, key)
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Value::as_str)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn typed<'v, T>(&'v self, key: &str, need: &str, read: impl Fn(&'v Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        match read(value) {
            Some(t) => Ok(Some(t)),
            None => Err(self.error(key, format!("must be {need}, found {}", value.to_string_representation()))),
        }
    }

    /// An array, every element read by `read`; `need` says what of.
    fn array<'v, T>(&'v self, key: &str, need: &str, read: impl Fn(&'v Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let Value::Array(items) = value else {
            return Err(self.error(key, format!("must be an array of {need}, found another type")));
        };
        let read = |(i, v)| read(v).ok_or_else(|| self.error(key, format!("element {i} must be one of {need}")));
        items.iter().enumerate().map(read).collect::<Result<Vec<T>>>().map(Some)
    }

    /// The array has one element for each token (or more, which llama.cpp allows).
    fn columns<T>(&self, key: &str, column: Option<Vec<T>>, tokens: usize) -> Result<Option<Vec<T>>> {
        match column {
            Some(c) if c.len() < tokens => {
                Err(self.error(key, format!("has {} elements for {tokens} tokens", c.len())))
            }
            column => Ok(column),
        }
    }

    pub fn load(&self) -> Result<Loaded> {
        let missing = "missing; the file has no tokenizer. Convert the model again from its source";
        let model = self.text(MODEL)?.ok_or_else(|| self.error(MODEL, missing))?;
        let spelling = match model {
            "llama" => Spelling::SentencePiece,
            "gpt2" => Spelling::ByteLevel,
            other => {
                let known = "supported: \"llama\" (SentencePiece BPE) and \"gpt2\" (byte-level BPE)";
                let what = format!("tokenizer kind {other:?} is not supported; {known}");
                return Err(self.error(MODEL, Fault::unsupported(what)));
            }
        };
        let spm = spelling == Spelling::SentencePiece;
        let texts = self.array(TOKENS, "strings", |v| v.as_str().map(str::to_owned))?;
        let texts = texts.ok_or_else(|| self.error(TOKENS, missing))?;
        let n = texts.len();
        if n == 0 || u32::try_from(n).is_err() {
            return Err(self.error(TOKENS, format!("{n} tokens; needed are at least one and at most {}", u32::MAX)));
        }
        let scores = self.array(SCORES, "numbers", |v| v.as_f64().or_else(|| Some(v.as_i64()? as f64)))?;
        let scores = self.columns(SCORES, scores, n)?.unwrap_or_default();
        if let Some(i) = scores.iter().position(|s| s.is_nan()) {
            return Err(self.error(SCORES, format!("element {i} is not a number")));
        }
        if spm && scores.is_empty() {
            return Err(self.error(SCORES, "missing; a SentencePiece vocabulary merges by its scores"));
        }
        let scores: Vec<f32> = scores.into_iter().map(|s| s as f32).collect();
        let types = self.array(TYPES, "integers", |v| v.as_i64().or_else(|| i64::try_from(v.as_u64()?).ok()))?;
        let types = self.columns(TYPES, types, n)?.unwrap_or_default();
        let types: Vec<TokenType> = types.into_iter().map(TokenType::from_number).collect();
        let mut vocab = Vocab::new(texts, &scores, &types, spelling);
        let pre = self.text(PRE)?.unwrap_or("default").to_owned();
        let ranks = if spm { None } else { Some(self.merges()?) };
        let add_bos = self.flag(ADD_BOS)?.unwrap_or(spm || pre::adds_bos(&pre));
        let add_eos = self.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let bos = self.role("bos", n, spm.then_some(SPM_BOS).or(add_bos.then_some(BPE_MARK)))?;
        let eos = self.role("eos", n, spm.then_some(SPM_EOS).or(add_eos.then_some(BPE_MARK)))?;
        if add_bos && bos.is_none() {
            return Err(self.error(ADD_BOS, "is true, but the file names no beginning-of-text token"));
        }
        let space_prefix = self.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) && spm;
        let ends = self.ends(&mut vocab, eos)?;
        let add_eos = eos.filter(|_| add_eos);
        Ok(Loaded { vocab, ranks, pre, bos, end: eos, eos: ends, add_bos, add_eos, space_prefix })
    }

    fn merges(&self) -> Result<Vec<(String, String)>> {
        let missing = "missing; byte-level BPE needs it. Convert the model again from its source";
        let lines = self.array(MERGES, "strings", Value::as_str)?.ok_or_else(|| self.error(MERGES, missing))?;
        let split = |(i, line): (usize, &str)| {
            // From the second character on: the first may be a space itself.
            let at = line.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(at, _)| at);
            let at = at.ok_or_else(|| self.error(MERGES, format!("merge {i}, {line:?}, is not two tokens")))?;
            Ok((line[..at].to_owned(), line[at + 1..].to_owned()))
        };
        lines.into_iter().enumerate().map(split).collect()
    }

    /// The id of a role; an id without a token is ignored, as llama.cpp does.
    fn role(&self, role: &str, tokens: usize, default: Option<u32>) -> Result<Option<u32>> {
        let id = self.id(&format!("tokenizer.ggml.{role}_token_id"))?;
        let inside = |id: &u32| (*id as usize) < tokens;
        Ok(id.filter(inside).or(default.filter(inside)))
    }

    fn id(&self, key: &str) -> Result<Option<u32>> {
        // -1 is a common way to say "none".
        let id = self.typed(key, "a token id", |v| v.as_i64().or_else(|| i64::try_from(v.as_u64()?).ok()))?;
        Ok(id.and_then(|id| u32::try_from(id).ok()))
    }

    /// Finds what ends a generation, and corrects the types of tokens whose spelling says that they are marks.
    fn ends(&self, vocab: &mut Vocab, eos: Option<u32>) -> Result<Vec<u32>> {
        let n = vocab.len();
        let mut ends: Vec<u32> = eos.into_iter().collect();
        ends.extend(self.role("eot", n, None)?);
        ends.extend(self.role("eom", n, None)?);
        let listed = self.array(ALL_ENDS, "token ids", |v| v.as_i64().or_else(|| i64::try_from(v.as_u64()?).ok()))?;
        let listed = listed.unwrap_or_default().into_iter().filter_map(|id| u32::try_from(id).ok());
        ends.extend(listed.filter(|&id| (id as usize) < n));
        let mut control: Vec<u32> = SPELLED_ENDS.iter().chain(FILL_MARKS).filter_map(|text| vocab.id(text)).collect();
        ends.extend(SPELLED_ENDS.iter().filter_map(|text| vocab.id(text)));
        for (key, texts) in FILL_ENDS {
            let named = self.id(key)?.filter(|&id| (id as usize) < n);
            let spelled = || texts.iter().find_map(|text| vocab.id(text));
            let found = named.or_else(|| spelled().inspect(|&id| control.push(id)));
            ends.extend(found);
        }
        for id in control {
            vocab.set_kind(id, TokenType::Control);
        }
        for id in SHOWN.iter().filter_map(|text| vocab.id(text)).collect::<Vec<_>>() {
            vocab.set_kind(id, TokenType::UserDefined);
        }
        // Where turns end with other marks, <|end|> is a part of a turn and </s> is text.
        let has = |text: &str| vocab.id(text).is_some_and(|id| ends.contains(&id));
        let calls = has("<|call|>") || has("<|calls|>");
        let parts = [
            ("<|end|>", TokenType::UserDefined, calls && (has("<|return|>") || has("<|flush|>"))),
            ("</s>", TokenType::Normal, has("<|tool_response>") || has("<|plamo:eos|>")),
        ];
        for (text, kind, is_text) in parts {
            if let Some(id) = vocab.id(text).filter(|_| is_text) {
                ends.retain(|&end| end != id);
                vocab.set_kind(id, kind);
            }
        }
        ends.sort_unstable();
        ends.dedup();
        Ok(ends)
    }

    /// Whether special tokens swallow the white space behind them. GGUF has no key for it; llama.cpp goes by the name.
    pub fn strips_like_phi3(&self) -> Result<bool> {
        let name = self.text("general.name")?.unwrap_or("").to_ascii_lowercase();
        Ok(name.contains("phi-3") || name.contains("phi3"))
    }
}
