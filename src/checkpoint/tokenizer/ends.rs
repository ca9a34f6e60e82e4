//! Which tokens end a generation. GGUF has keys for three; config.json and generation_config.json may list more.

use std::path::PathBuf;

use serde_json::{Map, Value as Json};

use super::read::read_small_json;
use super::rows::TokenList;
use super::special::check_named;
use crate::Result;
use crate::checkpoint::config::HfConfig;
use crate::gguf::{Metadata, Value, i32_array};

/// Spellings of tokens that end a generation in llama.cpp, whatever the keys say.
pub const SPELLED_ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// The key of all ends, where three keys are too few: Ollama's, which llama.cpp does not read.
pub const ALL_ENDS: &str = "tokenizer.ggml.eos_token_ids";

const EOS: &str = "tokenizer.ggml.eos_token_id";
/// Keys for two more ends, and the spellings that llama.cpp takes for them where they are missing.
const MORE: [(&str, &[&str]); 2] = [
    (
        "tokenizer.ggml.eot_token_id",
        &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "<｜end▁of▁sentence｜>",
            "<end_of_utterance>",
        ],
    ),
    ("tokenizer.ggml.eom_token_id", &["<|eom_id|>"]),
];

/// An id that a file lists as an end of text.
pub(crate) struct Listed {
    /// The token.
    pub id: u64,
    /// The file.
    pub path: PathBuf,
}

/// What config.json and generation_config.json list as `eos_token_id`, in their order, each id once; and remarks.
pub(crate) fn listed(config: &HfConfig) -> (Vec<Listed>, Vec<String>) {
    let mut notes = Vec::new();
    let path = config.path.with_file_name("generation_config.json");
    // transformers goes on without a file that it cannot read.
    let generation: Option<Map<String, Json>> = read_small_json(&path).unwrap_or_else(|e| {
        notes.push(format!("{e}; nothing of it is used"));
        None
    });
    let mut all: Vec<Listed> = Vec::new();
    let values =
        [(&config.path, config.get("eos_token_id")), (&path, generation.as_ref().and_then(|g| g.get("eos_token_id")))];
    for (path, value) in values {
        let ids = value.map_or(&[][..], |v| v.as_array().map_or(std::slice::from_ref(v), Vec::as_slice));
        for id in ids.iter().filter_map(Json::as_u64) {
            if !all.iter().any(|l| l.id == id) {
                all.push(Listed { id, path: path.clone() });
            }
        }
    }
    (all, notes)
}

/// Writes what is listed beside the end of text and has no spelling that llama.cpp knows: as end of turn and of
/// message, and where these are too few, all of them under a key of their own, with a note.
///
/// # Errors
/// If a listed row has no name.
pub(super) fn write(
    config: &HfConfig,
    vocabulary: &TokenList,
    out: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<()> {
    let (all, remarks) = listed(config);
    notes.extend(remarks);
    // No model generates a token that it has no row for.
    let inside: Vec<&Listed> = all.iter().filter(|l| l.id < vocabulary.tokens.len() as u64).collect();
    for l in &inside {
        check_named(vocabulary, l.id, &l.path, "eos_token_id")?;
    }
    let said = |out: &Metadata, id: u64| {
        let keys = [EOS, MORE[0].0, MORE[1].0].map(|key| out.get(key).and_then(Value::as_u64));
        keys.contains(&Some(id)) || vocabulary.name(id).is_some_and(|text| SPELLED_ENDS.contains(&text))
    };
    let mut rest: Vec<u64> = inside.iter().map(|l| l.id).filter(|&id| !said(out, id)).collect();
    // Keys that llama.cpp would fill by itself come last.
    for spelled in [false, true] {
        for (key, spellings) in MORE {
            let taken = out.get(key).is_some() || (!spelled && spellings.iter().any(|s| vocabulary.id(s).is_some()));
            if !taken && !rest.is_empty() {
                out.set(key, Value::U32(rest.remove(0) as u32));
            }
        }
    }
    if let Some(first) = rest.first() {
        out.set(ALL_ENDS, i32_array(inside.iter().map(|l| l.id as i32)));
        let (text, more) = (vocabulary.name(*first).unwrap_or_default(), rest.len() - 1);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        notes.push(format!(
            "a text also ends with token {first} ({text:?}){more}, which GGUF has no key for: llama.cpp goes on there"
        ));
    }
    Ok(())
}
