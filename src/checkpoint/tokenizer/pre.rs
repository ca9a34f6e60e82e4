//! Names the pre-tokenizer of a byte-level BPE (`tokenizer.ggml.pre`).
//!
//! llama.cpp's converter encodes a test text and looks its hash up, so a fine-tune with one more token is unknown to
//! it. Here the pre-tokenizer itself is recognised: tokenizer.json's steps are brought to a canonical list of regular
//! expressions and compared with those that llama.cpp applies under each name.

use std::collections::HashSet;

use serde_json::Value as Json;

use super::files::Files;
use super::pre_table::{CONTRACTIONS, GPT2, IGNORE_MERGES, KNOWN, Known, OTHER_NAMES};
use super::shapes::TokenizerJson;
use crate::error::{Error, Fault, Result};

/// Every name that llama.cpp knows, sorted.
pub fn known_names() -> Vec<&'static str> {
    let named = KNOWN.iter().flat_map(|k| {
        let families = k.families.iter().map(|f| f.1);
        families.chain([k.name, k.ignoring_merges.unwrap_or(k.name)])
    });
    let mut names: Vec<_> = named.chain(OTHER_NAMES.iter().copied()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The regular expressions that llama.cpp applies one after the other under `name`, as tokenizer.json spells them;
/// `None` for names that are not recognised by their expressions.
pub fn expressions(name: &str) -> Option<&'static [&'static str]> {
    let has = |k: &&Known| k.name == name || k.ignoring_merges == Some(name) || k.families.iter().any(|f| f.1 == name);
    KNOWN.iter().find(has).map(|k| k.steps)
}

/// Whether models with this pre-tokenizer take a word from the vocabulary before they merge.
pub fn ignores_merges(name: &str) -> bool {
    IGNORE_MERGES.contains(&name)
}

/// Whether a pre-tokenizer or decoder works on GPT-2's byte alphabet.
pub(super) fn is_byte_level(step: &Json) -> bool {
    flat(step).iter().any(|s| kind(s) == "ByteLevel")
}

/// The steps of possibly nested sequences.
pub(super) fn flat(step: &Json) -> Vec<&Json> {
    let mut out = Vec::new();
    let mut stack = vec![step];
    while let Some(step) = stack.pop() {
        let nested = ["pretokenizers", "decoders", "normalizers"].iter().find_map(|k| step.get(k)?.as_array());
        match nested {
            Some(steps) => stack.extend(steps.iter().rev()),
            None => out.push(step),
        }
    }
    out
}

/// The `type` of a step; empty if it has none.
pub(super) fn kind(step: &Json) -> &str {
    step.get("type").and_then(Json::as_str).unwrap_or("")
}

/// The name to write: `wanted` if given, else that of the recognised pre-tokenizer.
pub(super) fn name(
    files: &Files,
    json: &TokenizerJson,
    model_type: &str,
    wanted: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<String> {
    let Some(wanted) = wanted else { return recognised(files, json, model_type, notes) };
    if !known_names().contains(&wanted) {
        return Err(Error::setting("pre", wanted, format!("llama.cpp knows {}", known_names().join(", "))));
    }
    match recognised(files, json, model_type, &mut Vec::new()) {
        Ok(own) if own == wanted => {}
        Ok(own) => notes.push(format!("the pre-tokenizer is written as {wanted}, as asked; it is that of {own}")),
        Err(_) => {
            notes.push(format!("the pre-tokenizer is written as {wanted}, as asked; it is none that llama.cpp has"))
        }
    }
    Ok(wanted.to_owned())
}

fn recognised(files: &Files, json: &TokenizerJson, model_type: &str, notes: &mut Vec<String>) -> Result<String> {
    if json.pre_tokenizer.is_null() {
        // vocab.json and merges.txt: the class of the tokenizer, or else that of the model, implies the pre-tokenizer.
        match (files.class(), model_type) {
            ("GPT2Tokenizer", _) | ("", "gpt2") => return Ok("gpt-2".into()),
            ("Qwen2Tokenizer", _) | ("", "qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe") => return Ok("qwen2".into()),
            _ => {}
        }
    }
    let steps = steps(&json.pre_tokenizer);
    let found = steps.as_ref().ok().and_then(|s| KNOWN.iter().find(|k| k.steps == s.as_slice()));
    let Some(known) = found else {
        let shown = match steps {
            Ok(steps) if steps.is_empty() => "no pre-tokenizer".to_owned(),
            Ok(steps) => format!("the pre-tokenizer {}", steps.join("  then  ")),
            Err(step) => format!("a pre-tokenizer with the step {step}"),
        };
        let what = format!(
            "llama.cpp does not have {shown}. If one of its names is close enough, choose it with `pre`: {}",
            known_names().join(", ")
        );
        return Err(Fault::unsupported(what).of(&files.vocabulary()));
    };
    let prefix = |s: &&Json| kind(s) == "ByteLevel" && s.get("add_prefix_space").and_then(Json::as_bool) == Some(true);
    if flat(&json.pre_tokenizer).iter().any(prefix) {
        notes.push("tokenizer.json puts a space before every text; llama.cpp does not".into());
    } else if files.setting("add_prefix_space") == Some(&Json::Bool(true)) {
        notes.push("tokenizer_config.json says add_prefix_space; llama.cpp puts no space before a text".into());
    }
    let name = choose(known, files, json, model_type);
    if ignores_merges(name) != json.model.ignore_merges && !merges_make_all(json) {
        let (is, other) = if json.model.ignore_merges { ("first", "does not") } else { ("never", "does") };
        notes.push(format!(
            "tokenizer.json {is} looks for whole words in its vocabulary; llama.cpp {other} under {name}"
        ));
    }
    Ok(name.to_owned())
}

/// Whether all tokens are letters or made by merges, so that it does not matter which is looked at first.
fn merges_make_all(json: &TokenizerJson) -> bool {
    let made: HashSet<String> = json.model.merges.iter().map(|m| format!("{}{}", m.0, m.1)).collect();
    let added: HashSet<&str> = json.added_tokens.iter().map(|t| t.content.as_str()).collect();
    let letter = |text: &str| text.chars().nth(1).is_none();
    json.model.vocab.0.iter().all(|(text, _)| letter(text) || made.contains(text) || added.contains(text.as_str()))
}

/// Which of the names that share a pre-tokenizer llama.cpp's converter would write.
fn choose(known: &Known, files: &Files, json: &TokenizerJson, model_type: &str) -> &'static str {
    if let Some(name) = known.ignoring_merges.filter(|_| json.model.ignore_merges) {
        // Only these families have names of their own that also ignore merges.
        let own = known.families.iter().find(|f| f.0 == model_type && OWN_IGNORING.contains(&f.1));
        return own.map_or(name, |f| f.1);
    }
    let tidy = files.setting("clean_up_tokenization_spaces").and_then(Json::as_bool);
    match known.families.iter().find(|f| f.0 == model_type) {
        // Llama-shaped models with StarCoder's split: Granite's code models clean spaces up, SmolLM does not.
        Some((_, "smollm")) if tidy == Some(true) => "refact",
        Some((_, name)) => name,
        None => known.name,
    }
}

/// Names whose pre-tokenizer ignores merges in llama.cpp, besides llama-bpe.
const OWN_IGNORING: &[&str] = &["glm4", "lfm2", "falcon-h1"];

/// The canonical steps; the step itself if it is of a kind that no name covers.
fn steps(pre_tokenizer: &Json) -> std::result::Result<Vec<String>, String> {
    let mut out = Vec::new();
    for step in flat(pre_tokenizer) {
        let flag = |key: &str| step.get(key).and_then(Json::as_bool);
        match kind(step) {
            "ByteLevel" if flag("use_regex") == Some(false) => {}
            "ByteLevel" => out.push(GPT2.to_owned()),
            // char::is_numeric is \p{N}.
            "Digits" if flag("individual_digits") == Some(true) => out.push(r"\p{N}".to_owned()),
            "Digits" => out.push(r"\p{N}+".to_owned()),
            "Punctuation" => out.push(format!("Punctuation {}", behavior(step))),
            "Split" => {
                let pattern = step.get("pattern").and_then(|p| p.get("Regex")).and_then(Json::as_str);
                // Keeping what matches, or what lies between matches too: the same where a pattern covers all text,
                // as these do.
                let whole = match (behavior(step), flag("invert").unwrap_or(false)) {
                    ("Isolated", _) | ("Removed", true) => pattern,
                    _ => None,
                };
                out.push(canonical(whole.ok_or_else(|| step.to_string())?));
            }
            _ if step.is_null() => {}
            _ => return Err(step.to_string()),
        }
    }
    Ok(out)
}

fn behavior(step: &Json) -> &str {
    step.get("behavior").and_then(Json::as_str).unwrap_or("Isolated")
}

/// One spelling for regular expressions that are spelled differently but mean the same.
pub(super) fn canonical(regex: &str) -> String {
    let mut s = regex.replace('\r', r"\r").replace('\n', r"\n").replace('\t', r"\t");
    for same in [
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
        r"'(?i:[sdmt]|ll|ve|re)",
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])",
    ] {
        s = s.replace(same, CONTRACTIONS);
    }
    // A possessive quantifier changes nothing where what follows cannot match what it took.
    s = s.replace(r"[^\r\n\p{L}\p{N}]?+\p{L}", r"[^\r\n\p{L}\p{N}]?\p{L}");
    s = s.replace(r"[^\s\p{L}\p{N}]++[\r\n]*", r"[^\s\p{L}\p{N}]+[\r\n]*");
    s = s.replace(r"\p{N}{1}|", r"\p{N}|");
    // In GPT-2's expression the last alternative is what remains anyway.
    match s.strip_suffix(r"|\s+") {
        Some(head) if head == GPT2 => GPT2.to_owned(),
        _ => s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(pre_tokenizer: Json, model_type: &str, ignore_merges: bool) -> Option<String> {
        let text = json!({
            "model": {"type": "BPE", "ignore_merges": ignore_merges}, "pre_tokenizer": pre_tokenizer
        });
        let json: TokenizerJson = serde_json::from_value(text).unwrap();
        let files =
            Files { dir: "x".into(), tokenizer: None, from: "tokenizer.json", config: None, added_tokens: None };
        name(&files, &json, model_type, None, &mut Vec::new()).ok()
    }

    fn split(regex: &str, behavior: &str, invert: bool) -> Json {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})
    }

    #[test]
    fn families_share_expressions() {
        let cl100k = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        assert_eq!(find(split(cl100k, "Isolated", false), "llama", true).unwrap(), "llama-bpe");
        assert_eq!(find(split(cl100k, "Removed", true), "olmo2", false).unwrap(), "dbrx");
        assert_eq!(find(split(cl100k, "Isolated", false), "glm4", true).unwrap(), "glm4");
        assert_eq!(find(split(cl100k, "Isolated", false), "llama", false).unwrap(), "smaug-bpe");
        assert_eq!(find(split(cl100k, "Removed", false), "llama", false), None);
        let digits = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]});
        for (model_type, name) in [("granite", "refact"), ("starcoder2", "starcoder"), ("cohere", "command-r")] {
            assert_eq!(find(digits.clone(), model_type, false).unwrap(), name);
        }
        assert_eq!(find(json!({"type": "ByteLevel"}), "gpt2", false).unwrap(), "gpt-2");
        assert_eq!(find(json!({"type": "ByteLevel"}), "olmo", false).unwrap(), "olmo");
        assert_eq!(find(json!({"type": "Whitespace"}), "gpt2", false), None);
    }

    #[test]
    fn the_table_is_canonical_and_unambiguous() {
        for (i, k) in KNOWN.iter().enumerate() {
            for step in k.steps {
                assert_eq!(canonical(step), *step, "{}", k.name);
            }
            assert!(KNOWN[..i].iter().all(|other| other.steps != k.steps), "{}", k.name);
        }
    }

    #[test]
    fn unknown_ones_are_shown() {
        let json: TokenizerJson =
            serde_json::from_value(json!({"model": {}, "pre_tokenizer": split("[a-z]+x", "Isolated", false)})).unwrap();
        let files =
            Files { dir: "x".into(), tokenizer: None, from: "tokenizer.json", config: None, added_tokens: None };
        let error = name(&files, &json, "llama", None, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("[a-z]+x") && error.contains("`pre`") && error.contains("qwen2"), "{error}");
        assert_eq!(name(&files, &json, "llama", Some("tekken"), &mut Vec::new()).unwrap(), "tekken");
        assert!(name(&files, &json, "llama", Some("nonsense"), &mut Vec::new()).is_err());
    }
}
