//! Decodes a sequence token by token: a character that is spread over tokens comes out with its last byte.

use super::{Control, Tokenizer};
use crate::Result;

/// Decodes token by token what a tokenizer would decode at once.
#[derive(Debug)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    control: Control,
    /// Bytes of a character that is not complete; at most three.
    pending: Vec<u8>,
}

impl<'a> Decoder<'a> {
    /// At the start of a sequence.
    pub fn new(tokenizer: &'a Tokenizer, control: Control) -> Self {
        Decoder { tokenizer, control, pending: Vec::new() }
    }

    /// The text that `id` completes: whole characters, U+FFFD for bytes that can begin or continue none.
    ///
    /// # Errors
    /// If the id is outside the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.pending.extend_from_slice(self.tokenizer.piece(id, self.control)?);
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let bad = chunk.invalid();
            if bad.is_empty() {
                continue;
            }
            // Only at the very end may more bytes still make a character of it.
            let unfinished = done + bad.len() == self.pending.len()
                && std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none());
            if !unfinished {
                text.push(char::REPLACEMENT_CHARACTER);
                done += bad.len();
            }
        }
        self.pending.drain(..done);
        Ok(text)
    }

    /// What is left of a character that never became complete.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}
