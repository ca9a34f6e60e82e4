//! Tokens in the rows of the embedding that they stand for.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::shapes::AddedToken;
use super::vocab::{Token, TokenType, pad, padding};
use crate::error::{Fault, Result};

/// Ids above are a fault of the file: no embedding has so many rows.
const LARGEST: u64 = u32::MAX as u64;

/// The rows of an embedding, to be named.
pub(super) struct Rows {
    tokens: Vec<Token>,
    /// Ids of the vocabulary's own texts.
    known: HashMap<String, u64>,
    left_out: Vec<LeftOut>,
    faults: Vec<String>,
}

/// A token for which the embedding has no row.
pub(super) struct LeftOut {
    pub id: u64,
    pub text: String,
    /// Whether it was added to the vocabulary.
    pub added: bool,
}

/// The token list, one for every row.
pub(super) struct TokenList {
    pub tokens: Vec<Token>,
    pub left_out: Vec<LeftOut>,
}

impl TokenList {
    /// The row of a text.
    pub fn id(&self, text: &str) -> Option<u64> {
        self.tokens.iter().position(|t| t.text == text).map(|at| at as u64)
    }

    /// The text of a row that a file of the tokenizer names.
    pub fn name(&self, id: u64) -> Option<&str> {
        let row = usize::try_from(id).ok()?;
        let token = self.tokens.get(row)?;
        (token.text != pad(row).text).then_some(&token.text)
    }
}

impl Rows {
    /// `rows` rows without a name.
    pub fn new(rows: usize) -> Self {
        Rows { tokens: padding(rows), known: HashMap::new(), left_out: Vec::new(), faults: Vec::new() }
    }

    /// Names the row `id` after an entry of the vocabulary in `path`.
    ///
    /// # Errors
    /// If the row has a name already, or if the id cannot be one.
    pub fn place(&mut self, path: &Path, id: u64, token: Token) -> Result<()> {
        if id > LARGEST {
            let what = format!("token id {id} ({:?}) is outside any vocabulary; correct the file", token.text);
            return Err(Fault::damaged(what).of(path));
        }
        self.known.insert(token.text.clone(), id);
        match usize::try_from(id).ok().and_then(|id| self.tokens.get_mut(id)) {
            Some(row) if row.kind != TokenType::Unused => {
                let what =
                    format!("tokens {:?} and {:?} have the same id {id}; correct the file", row.text, token.text);
                Err(Fault::damaged(what).of(path))
            }
            Some(row) => {
                *row = token;
                Ok(())
            }
            None => {
                self.left_out.push(LeftOut { id, text: token.text, added: false });
                Ok(())
            }
        }
    }

    /// Names rows after tokens that were added to the vocabulary. One whose text the vocabulary has is that token.
    pub fn add(&mut self, added: &[AddedToken], make: impl Fn(&AddedToken) -> Token) {
        for token in added {
            let own = self.known.get(&token.content).copied();
            let id = own.unwrap_or(token.id);
            if id != token.id {
                let (text, wrong) = (&token.content, token.id);
                self.faults.push(format!("{text:?} is token {id} of the vocabulary, so that {wrong} has no name"));
            }
            match usize::try_from(id).ok().and_then(|id| self.tokens.get_mut(id)) {
                Some(row) => *row = make(token),
                None => self.left_out.push(LeftOut { id, text: token.content.clone(), added: true }),
            }
        }
    }

    /// The list. `special`: texts that are marks, whatever the vocabulary calls them; `path`: the vocabulary's file.
    ///
    /// Tokens without a row are left out with a note, as llama.cpp's converter does.
    ///
    /// # Errors
    /// If such tokens do not follow the last row: they belong to another embedding.
    pub fn finish(mut self, path: &Path, special: &HashSet<&str>, notes: &mut Vec<String>) -> Result<TokenList> {
        for t in self.tokens.iter_mut().filter(|t| t.kind == TokenType::Normal && special.contains(t.text.as_str())) {
            t.kind = TokenType::Control;
        }
        // llama.cpp does not open a file in which two tokens have one text.
        let mut seen = HashSet::with_capacity(self.tokens.len());
        let twins: Vec<usize> =
            (0..self.tokens.len()).filter(|&i| !seen.insert(self.tokens[i].text.as_str())).collect();
        for row in twins {
            let text = std::mem::replace(&mut self.tokens[row], pad(row)).text;
            self.faults.push(format!("{text:?} is the text of two tokens, so that {row} has no name"));
        }
        let (name, rows) = (path.display(), self.tokens.len());
        if let Some(first) = self.faults.first() {
            let more = match self.faults.len() {
                1 => String::new(),
                n => format!(", and {} more like it", n - 1),
            };
            notes.push(format!("{name}: {first}{more}"));
        }
        self.left_out.sort_unstable_by_key(|t| t.id);
        self.left_out.dedup_by_key(|t| t.id);
        // Whoever adds tokens and does not resize the embedding goes on counting.
        if let Some((LeftOut { id, text, .. }, _)) =
            self.left_out.iter().zip(rows as u64..).find(|(t, next)| t.id != *next)
        {
            let what = format!(
                "token id {id} ({text:?}) is outside the vocabulary of {rows} (rows of the embedding) and does not \
                 follow its last token; correct the id, or use the tokenizer that belongs to the model"
            );
            return Err(Fault::damaged(what).of(path));
        }
        if let Some(LeftOut { id, .. }) = self.left_out.first() {
            let count = self.left_out.len();
            notes.push(format!("{name}: {count} token(s) from id {id} left out: the embedding has {rows} rows"));
        }
        Ok(TokenList { tokens: self.tokens, left_out: self.left_out })
    }
}
