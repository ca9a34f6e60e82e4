//! Which tokens have a role (begin of text, end of text, ...), and which are put around a text by default.
//!
//! Follows llama.cpp's `SpecialVocab`: first the post-processor of tokenizer.json, then tokenizer_config.json, then
//! the ids of config.json; whoever speaks first is heard. The order of the answers is the order of keys in the file.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::files::{Files, settings};
use super::rows::TokenList;
use super::shapes::TokenizerJson;
use crate::checkpoint::config::HfConfig;
use crate::error::{Fault, Result};
use crate::gguf::{Metadata, Value};

/// Roles and their keys. `cls` is known to the JSON files, but GGUF has no key for it.
const ROLES: &[(&str, &str)] = &[
    ("bos", "tokenizer.ggml.bos_token_id"),
    ("eos", "tokenizer.ggml.eos_token_id"),
    ("unk", "tokenizer.ggml.unknown_token_id"),
    // Spelled as llama.cpp spells it.
    ("sep", "tokenizer.ggml.seperator_token_id"),
    ("pad", "tokenizer.ggml.padding_token_id"),
    ("cls", ""),
    ("mask", "tokenizer.ggml.mask_token_id"),
    ("eot", "tokenizer.ggml.eot_token_id"),
    ("eom", "tokenizer.ggml.eom_token_id"),
];

/// Roles that are asked for always; `eot` and `eom` only where a template changes the end of text.
const COMMON: usize = 7;

/// A list that keeps the order in which keys were first set.
#[derive(Default)]
struct Ordered<T>(Vec<(String, T)>);

impl<T> Ordered<T> {
    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    fn get(&self, key: &str) -> Option<T>
    where
        T: Copy,
    {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| *value)
    }

    fn set(&mut self, key: &str, value: T) {
        match self.0.iter_mut().find(|(k, _)| k == key) {
            Some((_, v)) => *v = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    fn set_default(&mut self, key: &str, value: T) {
        if !self.has(key) {
            self.set(key, value);
        }
    }
}

/// Roles without which a model cannot be spoken to.
const NEEDED: &[&str] = &["eos", "eot", "eom"];

/// Writes ids of roles and `add_*_token` flags.
///
/// # Errors
/// If a role is that of a row without a name, or the end of text that of a token without a row.
pub(super) fn write(
    files: &Files,
    config: &HfConfig,
    vocabulary: &TokenList,
    out: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<()> {
    let mut state = State {
        settings: files.config.clone().unwrap_or_default(),
        roles: ROLES[..COMMON].iter().map(|r| r.0).collect(),
        add: Ordered::default(),
        ids: Ordered::default(),
        outside: Vec::new(),
        vocabulary,
        notes,
    };
    if let Some(json) = &files.tokenizer {
        state.post_processor(json);
    }
    state.tokenizer_config(files)?;
    if let Some(json) = files.tokenizer.as_ref().filter(|_| files.fast()) {
        state.as_transformers_adds(json);
    }
    state.model_config(config)?;
    state.without_rows(files)?;
    for (role, id) in &state.ids.0 {
        if let Some((_, key)) = ROLES.iter().find(|(r, key)| r == role && !key.is_empty()) {
            out.set(*key, Value::U32(*id));
        }
    }
    for (role, add) in state.add.0.iter().filter(|(role, _)| matches!(role.as_str(), "bos" | "eos" | "sep")) {
        out.set(format!("tokenizer.ggml.add_{role}_token"), Value::Bool(*add));
    }
    Ok(())
}

/// What tokenizer_config.json in `dir` calls `bos_token` and so on, over `known`, which is heard where it is silent:
/// for a null there is no such token.
///
/// # Errors
/// If the file is malformed.
pub(crate) fn named_tokens(dir: &Path, known: Vec<(String, String)>) -> Result<Vec<(String, String)>> {
    let Some(settings) = settings(dir)? else { return Ok(known) };
    let mut all: Vec<(String, String)> = known.into_iter().filter(|(name, _)| !settings.contains_key(name)).collect();
    let more = settings.get("extra_special_tokens").and_then(Json::as_object).into_iter().flatten();
    for (name, value) in settings.iter().filter(|(name, _)| name.ends_with("_token")).chain(more) {
        if let Some(text) = text(Some(value)) {
            all.push((name.clone(), text.to_owned()));
        }
    }
    Ok(all)
}

/// An error unless a file of the tokenizer names the row `id`, which `key` of `path` points at.
pub(super) fn check_named(vocabulary: &TokenList, id: u64, path: &Path, key: &str) -> Result<()> {
    if vocabulary.name(id).is_some() {
        return Ok(());
    }
    let what = format!(
        "token {id} has no name: neither the vocabulary nor tokenizer_config.json (added_tokens_decoder), \
         added_tokens.json or tokenizer.json lists it; copy the file that does from the original repository, or \
         correct the id"
    );
    Err(Fault::damaged(what).of_key(path, key))
}

struct State<'a> {
    /// tokenizer_config.json as the post-processor corrects it.
    settings: Map<String, Json>,
    roles: Vec<&'static str>,
    add: Ordered<bool>,
    ids: Ordered<u32>,
    /// Roles whose token has no row.
    outside: Vec<(&'static str, u64)>,
    vocabulary: &'a TokenList,
    notes: &'a mut Vec<String>,
}

/// The text of a token given as a string or as an object with "content".
fn text(value: Option<&Json>) -> Option<&str> {
    let value = value?;
    value.as_str().or_else(|| value.get("content")?.as_str()).filter(|t| !t.is_empty())
}

/// The token of a step of a template, if it is a special token.
fn special(step: Option<&Json>) -> Option<&str> {
    step?.get("SpecialToken")?.get("id")?.as_str().filter(|t| !t.is_empty())
}

fn sequence(step: Option<&Json>) -> Option<&str> {
    step?.get("Sequence")?.get("id")?.as_str()
}

/// Whether a post-processor puts a token before a text, or behind it if `last`; `None` if it is of an unknown kind.
fn adds(processor: &Json, last: bool) -> Option<bool> {
    let one = std::slice::from_ref(processor);
    let mut any = false;
    for step in processor.get("processors").and_then(Json::as_array).map_or(one, Vec::as_slice) {
        any |= match step.get("type").and_then(Json::as_str) {
            None | Some("ByteLevel") => false,
            Some("TemplateProcessing") => {
                let single = step.get("single").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
                special(if last { single.last() } else { single.first() }).is_some()
            }
            Some("RobertaProcessing" | "BertProcessing") => true,
            Some(_) => return None,
        };
    }
    Some(any)
}

impl State<'_> {
    fn token(&self, role: &str) -> Option<String> {
        text(self.settings.get(&format!("{role}_token"))).map(str::to_owned)
    }

    fn set_token(&mut self, role: &str, token: Option<&str>) {
        if let Some(token) = token {
            self.settings.insert(format!("{role}_token"), Json::String(token.to_owned()));
        }
    }

    fn post_processor(&mut self, json: &TokenizerJson) {
        // BERT-like tokenizers call the ends cls and sep.
        for (role, twin) in [("bos", "cls"), ("eos", "sep")] {
            if self.token(role).is_none() {
                let token = self.token(twin);
                self.set_token(role, token.as_deref());
            }
        }
        let one = std::slice::from_ref(&json.post_processor);
        let steps = json.post_processor.get("processors").and_then(Json::as_array).map_or(one, Vec::as_slice);
        for step in steps {
            match step.get("type").and_then(Json::as_str) {
                Some("ByteLevel") => {
                    self.add.set_default("bos", false);
                    self.add.set_default("eos", false);
                }
                Some("RobertaProcessing") => {
                    for role in ["bos", "eos", "sep"] {
                        self.add.set(role, true);
                    }
                    for role in ["cls", "sep"] {
                        if self.token(role).is_none() {
                            self.set_token(role, step.get(role).and_then(|pair| pair.get(0)?.as_str()));
                        }
                    }
                }
                Some("TemplateProcessing") => self.template(step),
                _ => {}
            }
        }
    }

    /// Transformers goes by the post-processor of tokenizer.json alone, whatever tokenizer_config.json asks for.
    fn as_transformers_adds(&mut self, json: &TokenizerJson) {
        for role in ["bos", "eos"] {
            let Some(adds) = adds(&json.post_processor, role == "eos") else { return };
            match self.add.get(role) {
                // It puts none; llama.cpp would, for some kinds, unless told otherwise.
                None if role == "bos" && !adds => self.add.set(role, false),
                Some(true) if !adds => {
                    self.add.set(role, false);
                    self.notes.push(format!(
                        "tokenizer_config.json says add_{role}_token, but tokenizer.json puts no {role} token: none is \
                         put, as transformers does"
                    ));
                }
                _ => {}
            }
        }
    }

    /// `[BOS] A [EOS]` and `[BOS] A [SEP] B [EOS]`; richer templates cannot be said in GGUF.
    fn template(&mut self, step: &Json) {
        let part = |key: &str| step.get(key).and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        let (single, pair) = (part("single"), part("pair"));
        let (mut first, mut last) = (None, None);
        if single.len() > 1 {
            first = special(single.first());
            last = special(single.last());
        }
        if let Some(first) = first {
            let known = |s: &Self| [s.token("bos"), s.token("cls")].iter().any(|t| t.as_deref() == Some(first));
            if !known(self) {
                for role in ["bos", "cls"] {
                    if self.token(role).is_none() {
                        self.set_token(role, Some(first));
                    }
                }
            }
            let add = known(self);
            self.add.set("bos", add);
            if !add {
                self.notes.push(format!("tokenizer.json puts {first} before a text; GGUF can only express BOS"));
            }
        }
        if let Some(last) = last {
            let eos = self.token("eos");
            if eos.as_deref() != Some(last) {
                // What was the end of text is still the end of a turn.
                if let Some(role) = ["eot", "eom"].into_iter().find(|r| !self.roles.contains(r)) {
                    self.roles.push(role);
                    self.set_token(role, eos.as_deref());
                }
                self.set_token("eos", Some(last));
            }
            self.add.set("eos", true);
        }
        let mut inside = single.iter().filter_map(|step| special(Some(step)));
        let other = inside.find(|t| Some(*t) != first && Some(*t) != last).map(str::to_owned);
        if let Some(other) = other {
            self.notes.push(format!("tokenizer.json puts {other} around a text; GGUF can only express BOS and EOS"));
        }
        let starts = usize::from(first.is_some() && special(pair.first()) == first);
        let ends = usize::from(last.is_some() && special(pair.last()) == last);
        let Some(inner) = pair.get(starts..pair.len().saturating_sub(ends)).filter(|p| p.len() > 2) else { return };
        if sequence(inner.first()) != Some("A") || sequence(inner.last()) != Some("B") {
            return;
        }
        let between = &inner[1..inner.len() - 1];
        let eos = self.token("eos");
        let separates = |s: Option<&str>| s.is_some() && (s == self.token("sep").as_deref() || s == eos.as_deref());
        let mut add = separates(special(between.first())) && last.is_none();
        if between.len() == 2 {
            add |= separates(special(between.get(1)));
        }
        self.add.set("sep", add);
        if add && self.token("sep").is_none() {
            self.set_token("sep", eos.as_deref());
        }
    }

    fn tokenizer_config(&mut self, files: &Files) -> Result<()> {
        let path = files.path("tokenizer_config.json");
        for role in self.roles.clone() {
            if let Some(add) = self.settings.get(&format!("add_{role}_token")).and_then(Json::as_bool) {
                self.add.set_default(role, add);
            }
            let Some(token) = self.token(role) else { continue };
            let left_out = || Some(self.vocabulary.left_out.iter().find(|t| t.text == token)?.id);
            match self.vocabulary.id(&token).or_else(left_out) {
                Some(id) => self.set_id(role, id, &path)?,
                None => self.notes.push(format!(
                    "{}: {role}_token {token:?} is in no vocabulary; transformers adds it, which is not done here",
                    path.display()
                )),
            }
        }
        Ok(())
    }

    fn model_config(&mut self, config: &HfConfig) -> Result<()> {
        for role in self.roles.clone() {
            match config.get(&format!("{role}_token_id")) {
                Some(Json::Number(n)) => match n.as_u64() {
                    Some(id) => self.set_id(role, id, &config.path)?,
                    // -1 is a common way to say "none".
                    None => self.notes.push(format!("{}: {role}_token_id {n} ignored", config.path.display())),
                },
                // Several ends of text: the first is the one the others are alternatives to.
                Some(Json::Array(ids)) => {
                    if let Some(id) = ids.first().and_then(Json::as_u64) {
                        self.set_id(role, id, &config.path)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn set_id(&mut self, role: &'static str, id: u64, path: &Path) -> Result<()> {
        if self.ids.has(role) {
            return Ok(());
        }
        match u32::try_from(id).ok().filter(|_| id < self.vocabulary.tokens.len() as u64) {
            Some(row) => {
                check_named(self.vocabulary, id, path, &format!("{role}_token_id"))?;
                self.ids.set(role, row);
            }
            None => self.outside.push((role, id)),
        }
        Ok(())
    }

    /// Tokens of roles without a row are left out, unless a text could not end without.
    fn without_rows(&mut self, files: &Files) -> Result<()> {
        let rows = self.vocabulary.tokens.len();
        for (role, id) in std::mem::take(&mut self.outside) {
            let what = format!("{role} token id {id} is outside the vocabulary of {rows} (rows of the embedding)");
            if NEEDED.contains(&role) && !self.ids.has(role) {
                let advice = "no text would end; use an embedding that was resized for it, or name another token";
                return Err(Fault::damaged(format!("{what}: {advice}")).of(&files.dir));
            }
            self.notes.push(format!("{what}; left out"));
        }
        Ok(())
    }
}
