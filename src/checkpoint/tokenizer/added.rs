//! Tokens that the JSON files add to a vocabulary.
//!
//! Three files may list them: tokenizer.json, tokenizer_config.json and added_tokens.json. transformers has changed
//! over the years which of them it writes and reads, so all are laid over each other, and what they disagree about is
//! told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde_json::Value as Json;

use super::files::Files;
use super::shapes::AddedToken;
use crate::error::{Fault, Result};

const JSON: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const OLD: &str = "added_tokens.json";

/// The added tokens of `files`, by id; of two that have the same id or text, the one of the better file.
pub(super) fn collect(files: &Files, notes: &mut Vec<String>) -> Result<Vec<AddedToken>> {
    let mut all = Overlay::default();
    for token in old(files)? {
        all.put(OLD, token);
    }
    for token in files.tokenizer.iter().flat_map(|t| &t.added_tokens) {
        all.put(JSON, token.clone());
    }
    let listed = files.added_tokens_decoder()?;
    let has_list = !listed.is_empty();
    for token in listed {
        all.put(CONFIG, token);
    }
    all.one_id_each();
    if has_list {
        all.unread();
    }
    let mut tokens = all.finish(notes);
    // What has a role is a mark, whatever the list says.
    let roles = role_texts(files);
    for token in tokens.iter_mut().filter(|t| roles.contains(t.content.as_str())) {
        token.special = true;
    }
    Ok(tokens)
}

/// Makes a tokenizer.json in `dir` know the tokens that only the files beside it have.
///
/// # Errors
/// If one of the files is malformed.
pub(crate) fn complete(dir: &Path, json: &mut Json) -> Result<()> {
    let own = json.get("added_tokens").cloned().filter(|t| !t.is_null()).unwrap_or(Json::Array(Vec::new()));
    let own: Vec<AddedToken> =
        serde_json::from_value(own).map_err(|e| Fault::json("added_tokens", e).of(&dir.join(JSON)))?;
    let all = collect(&Files::beside(dir, own.clone())?, &mut Vec::new())?;
    if all == own {
        return Ok(());
    }
    let entry = |t: &AddedToken| {
        let mut entry = serde_json::to_value(t).unwrap_or_default();
        entry["normalized"] = Json::Bool(t.normalized.unwrap_or(!t.special));
        entry
    };
    if let Some(vocabulary) = json.get_mut("model").and_then(|m| m.get_mut("vocab")).and_then(Json::as_object_mut) {
        for token in &all {
            // An added token has the id that the vocabulary gives to its text.
            vocabulary.entry(token.content.clone()).or_insert_with(|| token.id.into());
        }
    }
    json["added_tokens"] = all.iter().map(entry).collect();
    Ok(())
}

/// Texts that tokenizer_config.json names as special. transformers makes control tokens of them even where
/// tokenizer.json has them only as ordinary entries of its vocabulary.
pub(super) fn named_special(files: &Files) -> HashSet<&str> {
    let lists = ["additional_special_tokens", "extra_special_tokens"].map(|k| files.setting(k));
    let listed = lists.into_iter().flatten().flat_map(|v| match v {
        Json::Array(items) => items.iter().collect::<Vec<_>>(),
        Json::Object(named) => named.values().collect(),
        _ => Vec::new(),
    });
    role_texts(files).into_iter().chain(listed.filter_map(text)).collect()
}

fn role_texts(files: &Files) -> HashSet<&str> {
    let roles = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"].map(|r| files.setting(&format!("{r}_token")));
    roles.into_iter().flatten().filter_map(text).collect()
}

/// The text of a token given as a string or as an object.
fn text(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str()).filter(|text| !text.is_empty())
}

/// added_tokens.json, which does not say which tokens are special.
fn old(files: &Files) -> Result<Vec<AddedToken>> {
    let special = named_special(files);
    let token = |(content, id): (&String, &Json)| {
        let needed = || Fault::damaged(format!("must be a token id, found {id}")).of_key(&files.path(OLD), content);
        let id = id.as_u64().ok_or_else(needed)?;
        Ok(AddedToken::plain(id, content.clone(), special.contains(content.as_str())))
    };
    files.added_tokens.iter().flatten().map(token).collect()
}

#[derive(Default)]
struct Overlay {
    tokens: BTreeMap<u64, (&'static str, AddedToken)>,
    /// What the files disagree about.
    faults: Vec<String>,
}

impl Overlay {
    /// A token of `file`, which is believed more than those before it.
    fn put(&mut self, file: &'static str, token: AddedToken) {
        if let Some((other, old)) = self.tokens.get(&token.id)
            && old.content != token.content
        {
            let (id, wrong, right) = (token.id, &old.content, &token.content);
            self.faults.push(format!("token {id} is {wrong:?} in {other} and {right:?} in {file}, which is believed"));
        }
        self.tokens.insert(token.id, (file, token));
    }

    /// A text has one id: that of the better file, and the first of two in one.
    fn one_id_each(&mut self) {
        let rank = |file: &str| [CONFIG, JSON, OLD].iter().position(|f| *f == file);
        let mut order: Vec<u64> = self.tokens.keys().copied().collect();
        order.sort_by_key(|id| rank(self.tokens[id].0));
        let mut first: HashMap<String, (u64, &str)> = HashMap::new();
        for id in order {
            let (file, token) = &self.tokens[&id];
            match first.get(&token.content) {
                None => {
                    first.insert(token.content.clone(), (id, file));
                }
                Some((right, other)) => {
                    let text = &token.content;
                    self.faults
                        .push(format!("{text:?} is token {id} in {file} and {right} in {other}, which is believed"));
                    self.tokens.remove(&id);
                }
            }
        }
    }

    /// transformers does not read the oldest list beside the one in tokenizer_config.json.
    fn unread(&mut self) {
        let alone = self.tokens.values().filter(|(file, _)| *file == OLD);
        for (_, token) in alone {
            let (text, id) = (&token.content, token.id);
            self.faults
                .push(format!("only {OLD} has {text:?} (token {id}); transformers does not read it beside {CONFIG}"));
        }
    }

    fn finish(self, notes: &mut Vec<String>) -> Vec<AddedToken> {
        if let Some(first) = self.faults.first() {
            let more = match self.faults.len() {
                1 => String::new(),
                n => format!(", and {} more like it", n - 1),
            };
            notes.push(format!("the tokenizer's files disagree: {first}{more}"));
        }
        self.tokens.into_values().map(|(_, token)| token).collect()
    }
}

/// What GGUF cannot express about added tokens.
pub(super) fn remarks(files: &Files, tokens: &[AddedToken], phi3: bool, notes: &mut Vec<String>) {
    numbered(files, tokens, notes);
    // llama.cpp knows Phi-3 by its name.
    let wide = |t: &&AddedToken| t.lstrip || t.rstrip && !phi3;
    for (what, first) in [
        ("swallows the white space beside it", tokens.iter().find(wide)),
        ("is only found as a whole word", tokens.iter().find(|t| t.single_word)),
    ] {
        if let Some(AddedToken { id, content, .. }) = first {
            notes.push(format!(
                "token {id} ({content:?}) {what}, which GGUF cannot express: texts around it may differ"
            ));
        }
    }
}

/// transformers 5 counts on where tokenizer.json ends, whatever ids other files give.
fn numbered(files: &Files, tokens: &[AddedToken], notes: &mut Vec<String>) {
    let Some(json) = &files.tokenizer else { return };
    let known: HashMap<&str, u64> = json.model.vocab.0.iter().map(|(text, id)| (text.as_str(), *id)).collect();
    let own: HashSet<u64> = json.added_tokens.iter().map(|t| t.id).collect();
    let last = known.values().chain(&own).max().copied().unwrap_or_default();
    let new = tokens.iter().filter(|t| !own.contains(&t.id) && !known.contains_key(t.content.as_str()));
    // Ids that no row can have are nobody's concern here.
    let counted = (last.min(u64::from(u32::MAX)) + 1..).zip(new);
    if let Some((next, AddedToken { id, content, .. })) = counted.into_iter().find(|(next, t)| t.id != *next) {
        notes.push(format!("{content:?} is written as token {id}, as its file has it; transformers 5 makes it {next}"));
    }
}
