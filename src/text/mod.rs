//! Text in, tokens out, and back: tokenizers and chat templates of any checkpoint or GGUF file.
//!
//! In go the keys of a header or the files of a Hugging Face directory, all of them treated as written by an enemy.
//! Knows no tensors and nothing of how a model is run.

use std::path::Path;

use crate::error::Fault;
use crate::{Error, Result};

pub mod chat;
pub mod conversation;
mod jinja;
pub mod tokenizer;

pub use chat::ChatTemplate;
pub use conversation::{Conversation, Message};
pub use tokenizer::{Control, Decoder, Special, Tokenizer};

/// A text file of the user's. `purpose`: what it is for, as the message about an empty one ends ("score").
///
/// # Errors
/// If it cannot be read, is not UTF-8 (where), or is empty.
pub fn read_file(path: &Path, purpose: &str) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let what = format!("not UTF-8 text: byte {at} starts no character; convert it first");
        Fault::damaged(what).because(e).of(path)
    })?;
    if text.trim().is_empty() {
        let what = format!("{}: the text is empty; there is nothing to {purpose}", path.display());
        return Err(Error::TooShort { found: 0, needed: 1, what });
    }
    Ok(text)
}
