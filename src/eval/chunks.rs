//! A text cut into chunks, and which of their tokens are scored.

use std::ops::Range;

use crate::{Error, Result};

/// Fewest tokens in a chunk. With fewer, no token has half a chunk before it and one after it.
pub const SHORTEST: usize = 4;

/// A text cut into chunks.
#[derive(Debug)]
pub struct Chunks<'a> {
    tokens: &'a [u32],
    context: usize,
    bos: Option<u32>,
}

impl<'a> Chunks<'a> {
    /// Cuts `tokens` into at most `most` whole chunks of `context` tokens. `bos` replaces the first token of each.
    ///
    /// # Errors
    /// If the text is empty or does not fill one chunk; the error says how long it is and what to try.
    pub fn new(tokens: &'a [u32], context: usize, bos: Option<u32>, most: Option<usize>) -> Result<Self> {
        if context < SHORTEST {
            return Err(Error::setting("context", context, format!("scoring needs at least {SHORTEST} tokens")));
        }
        // A BOS token alone is not a text.
        if tokens.is_empty() || (tokens.len() == 1 && tokens.first().copied() == bos) {
            let what = "the text is empty; there is nothing to score".to_owned();
            return Err(Error::TooShort { found: 0, needed: context, what });
        }
        let whole = tokens.len() / context;
        if whole == 0 {
            let advice = match tokens.len() {
                n if n < SHORTEST => "use a longer text".to_owned(),
                n => format!("use a longer text, or `context` {n} or less"),
            };
            let found = tokens.len();
            let what =
                format!("the text has {found} tokens, but one chunk of `context` {context} needs {context}; {advice}");
            return Err(Error::TooShort { found, needed: context, what });
        }
        let count = most.map_or(whole, |n| n.min(whole));
        Ok(Chunks { tokens: &tokens[..count * context], context, bos })
    }

    /// Number of chunks.
    pub fn count(&self) -> usize {
        self.tokens.len() / self.context
    }

    /// Tokens per chunk.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Tokens scored per chunk.
    pub fn scored(&self) -> usize {
        self.rows().len()
    }

    /// The tokens of all chunks, as they are in the text.
    pub fn tokens(&self) -> &'a [u32] {
        self.tokens
    }

    /// Positions whose logits are scored.
    pub(super) fn rows(&self) -> Range<usize> {
        self.context / 2..self.context - 1
    }

    /// The tokens of chunk `i` that the model sees: all but the last, which is only predicted.
    pub(super) fn input(&self, i: usize) -> Vec<u32> {
        let mut input = self.tokens[i * self.context..(i + 1) * self.context - 1].to_vec();
        if let Some(bos) = self.bos {
            input[0] = bos;
        }
        input
    }

    /// The token that follows position `at` of chunk `i`.
    pub(super) fn target(&self, i: usize, at: usize) -> usize {
        self.tokens[i * self.context + at + 1] as usize
    }
}
