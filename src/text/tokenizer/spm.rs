//! SentencePiece BPE as llama.cpp does it: the pair whose token has the highest score is merged first, and what no
//! token spells is written as bytes.

use super::merge::Merger;
use super::vocab::{META_SPACE, Vocab};
use crate::{Error, Result};

/// Appends the tokens of `text`, which holds no special tokens. `prefix`: put a space in front.
pub(super) fn encode(text: &str, prefix: bool, vocab: &Vocab, ids: &mut Vec<u32>) -> Result<()> {
    let text = if prefix { format!(" {text}") } else { text.to_owned() };
    let text = text.replace(' ', META_SPACE);
    let mut merger = Merger::default();
    merger.start(text.char_indices().map(|(start, c)| {
        let end = start + c.len_utf8();
        (start, end, vocab.id(&text[start..end]))
    }));
    let merged = merger.run(|left, right| {
        let id = vocab.id(&text[left.start..right.end])?;
        Some((vocab.token(id)?.priority, id))
    });
    for symbol in merged {
        match symbol.id {
            Some(id) => ids.push(id),
            None => {
                for &byte in &text.as_bytes()[symbol.start..symbol.end] {
                    ids.push(vocab.byte(byte).ok_or_else(|| {
                        Error::text(format!("the vocabulary has no token for the byte <0x{byte:02X}>"))
                    })?);
                }
            }
        }
    }
    Ok(())
}
