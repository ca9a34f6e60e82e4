//! Tokens in the rows of the embedding that they stand for.

use std::path::Path;

use super::files::{Files, TokenizerJson};
use super::vocab::{Token, TokenType};
use crate::error::{Fault, Result};

/// Puts `entries` into their rows.
pub(super) fn place(
    path: &Path,
    entries: &[(String, u64)],
    tokens: &mut [Token],
    make: impl Fn(&str) -> Token,
) -> Result<()> {
    for (text, id) in entries {
        let row = row(path, *id, text, tokens)?;
        if row.kind != TokenType::Unused {
            let what = format!("tokens {:?} and {text:?} have the same id {id}", row.text);
            return Err(Fault::damaged(what).of(path));
        }
        *row = make(text);
    }
    Ok(())
}

/// Puts the tokens that tokenizer.json and tokenizer_config.json add into their rows.
pub(super) fn overlay_added(
    files: &Files,
    json: &TokenizerJson,
    tokens: &mut [Token],
    make: impl Fn(&str, bool) -> Token,
) -> Result<()> {
    let path = files.path("tokenizer.json");
    for t in &json.added_tokens {
        *row(&path, t.id, &t.content, tokens)? = make(&t.content, t.special);
    }
    let path = files.path("tokenizer_config.json");
    for t in files.added_tokens_decoder()? {
        *row(&path, t.id, &t.content, tokens)? = make(&t.content, t.special);
    }
    Ok(())
}

fn row<'t>(path: &Path, id: u64, text: &str, tokens: &'t mut [Token]) -> Result<&'t mut Token> {
    let rows = tokens.len();
    usize::try_from(id).ok().and_then(|id| tokens.get_mut(id)).ok_or_else(|| {
        let what = format!("token id {id} ({text:?}) is outside the vocabulary of {rows} (rows of the embedding)");
        Fault::damaged(what).of(path)
    })
}
