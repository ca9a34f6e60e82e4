//! The token list: text, score and type of every token, the bytes it stands for, and the way back from text to id.

use std::collections::HashMap;

use crate::checkpoint::tokenizer::{TokenType, byte_alphabet};

/// U+2581, which SentencePiece writes for a space.
pub(super) const META_SPACE: &str = "\u{2581}";

/// One token.
#[derive(Debug)]
pub(super) struct Token {
    pub text: String,
    pub kind: TokenType,
    /// Rank of the merge that makes it, lowest first; only SentencePiece has it.
    pub priority: u32,
    /// What it stands for in a text.
    bytes: Vec<u8>,
}

/// All tokens.
#[derive(Debug)]
pub(super) struct Vocab {
    tokens: Vec<Token>,
    ids: HashMap<String, u32>,
}

/// How token texts spell bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// As they are, but for U+2581 and `<0x0A>`.
    SentencePiece,
    /// In GPT-2's byte alphabet.
    ByteLevel,
}

impl Vocab {
    /// From the columns of a header, which are equally long. Scores must be numbers.
    pub fn new(texts: Vec<String>, scores: &[f32], kinds: &[TokenType], spelling: Spelling) -> Self {
        let mut ids = HashMap::with_capacity(texts.len());
        let mut tokens = Vec::with_capacity(texts.len());
        for (i, mut text) in texts.into_iter().enumerate() {
            if text.is_empty() {
                // So llama.cpp names it; an empty text would match everywhere.
                text = format!("[EMPTY_{i}]");
            }
            let kind = kinds.get(i).copied().unwrap_or(TokenType::Normal);
            let priority = priority(scores.get(i).copied().unwrap_or(0.0));
            ids.insert(text.clone(), i as u32);
            tokens.push(Token { bytes: bytes(&text, kind, spelling), text, kind, priority });
        }
        Vocab { tokens, ids }
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn token(&self, id: u32) -> Option<&Token> {
        self.tokens.get(id as usize)
    }

    pub fn tokens(&self) -> impl Iterator<Item = (u32, &Token)> {
        (0..).zip(&self.tokens)
    }

    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Makes a control token of one that is not marked as such.
    pub fn set_kind(&mut self, id: u32, kind: TokenType) {
        let token = &mut self.tokens[id as usize];
        token.kind = kind;
        if kind == TokenType::Control || kind == TokenType::UserDefined {
            token.bytes = token.text.clone().into_bytes();
        }
    }

    /// What a token stands for; control and unknown tokens for nothing unless `control`.
    pub fn piece(&self, id: u32, control: bool) -> Option<&[u8]> {
        let token = self.token(id)?;
        let hidden = matches!(token.kind, TokenType::Control | TokenType::Unknown) && !control;
        Some(if hidden { &[] } else { &token.bytes })
    }

    /// The token of one byte.
    pub fn byte(&self, byte: u8) -> Option<u32> {
        let plain = || self.id(char::from(byte).encode_utf8(&mut [0; 4])).filter(|_| byte.is_ascii());
        self.id(&format!("<0x{byte:02X}>")).or_else(plain)
    }
}

/// A score as a rank: higher scores come first, equal scores are equal.
fn priority(score: f32) -> u32 {
    // Adding zero makes -0.0 equal to 0.0; the rest orders the bits of floats as their values are ordered.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

fn bytes(text: &str, kind: TokenType, spelling: Spelling) -> Vec<u8> {
    match kind {
        TokenType::Control | TokenType::Unknown | TokenType::UserDefined => text.as_bytes().to_vec(),
        TokenType::Byte => hex_byte(text).map_or_else(|| text.as_bytes().to_vec(), |b| vec![b]),
        TokenType::Unused => Vec::new(),
        TokenType::Normal => match spelling {
            Spelling::SentencePiece => text.replace(META_SPACE, " ").into_bytes(),
            Spelling::ByteLevel => from_alphabet(text),
        },
    }
}

/// The byte of `<0x0A>`.
fn hex_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 2)
}

/// Reads GPT-2's alphabet; letters outside it stand for themselves.
fn from_alphabet(text: &str) -> Vec<u8> {
    let alphabet = byte_alphabet();
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match c as u32 {
            n @ 0..=0xff if alphabet[n as usize] == c => out.push(n as u8),
            0x100..=0x143 => out.extend(alphabet.iter().position(|&a| a == c).map(|b| b as u8)),
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}
