//! The token list being built: text, score and type of each row of the embedding table.

use crate::gguf::{Value, ValueType, array};

/// Token types of llama.cpp (`tokenizer.ggml.token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum TokenType {
    /// A piece of text.
    Normal = 1,
    /// What stands for text that no token spells.
    Unknown = 2,
    /// A mark that is no text: begin, end, turn.
    Control = 3,
    /// Text that is cut out before anything is merged.
    UserDefined = 4,
    /// A row without meaning.
    Unused = 5,
    /// One byte, spelled `<0x0A>`.
    Byte = 6,
}

impl TokenType {
    /// The type with this number; `Unused` for numbers that mean nothing.
    pub fn from_number(n: i64) -> Self {
        use TokenType::*;
        [Normal, Unknown, Control, UserDefined, Byte].into_iter().find(|&t| t as i64 == n).unwrap_or(Unused)
    }
}

/// One row of the vocabulary.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub text: String,
    pub score: f32,
    pub kind: TokenType,
}

/// What fills a row that the tokenizer does not name.
const PAD_SCORE: f32 = -10000.0;
/// Score of tokens that no merge may produce.
pub(super) const ADDED_SCORE: f32 = -1000.0;

/// The unused token `[PAD7]` for row 7.
pub(super) fn pad(row: usize) -> Token {
    Token { text: format!("[PAD{row}]"), score: PAD_SCORE, kind: TokenType::Unused }
}

/// `rows` unused tokens.
pub(super) fn padding(rows: usize) -> Vec<Token> {
    (0..rows).map(pad).collect()
}

/// Tokens that some checkpoints forget to mark as special (deepseek-coder, gemma, command-r).
pub(super) fn looks_special(text: &str) -> bool {
    let between = |open: &str, close: &str| text.starts_with(open) && text.ends_with(close);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

/// U+2581, which SentencePiece writes for a space.
const META_SPACE: &str = "\u{2581}";

impl Token {
    /// A token that is matched in the text before merging: control, or user-defined with its spaces spelled out.
    pub fn added(content: &str, special: bool) -> Self {
        if special || looks_special(content) {
            Token { text: content.to_owned(), score: ADDED_SCORE, kind: TokenType::Control }
        } else {
            Token { text: content.replace(META_SPACE, " "), score: ADDED_SCORE, kind: TokenType::UserDefined }
        }
    }
}

pub(super) fn texts<'a>(items: impl Iterator<Item = &'a str>) -> Value {
    array(ValueType::String, items.map(|s| Value::String(s.to_owned())).collect())
}

pub(super) fn token_list(tokens: &[Token]) -> Value {
    texts(tokens.iter().map(|t| t.text.as_str()))
}

pub(super) fn scores(tokens: &[Token]) -> Value {
    array(ValueType::F32, tokens.iter().map(|t| Value::F32(t.score)).collect())
}

pub(super) fn token_types(tokens: &[Token]) -> Value {
    array(ValueType::I32, tokens.iter().map(|t| Value::I32(t.kind as i32)).collect())
}

/// Bytes that GPT-2's alphabet spells as themselves; the other 68 are U+0100 and on, in order.
fn spelled_as_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// GPT-2's letter for every byte.
pub(crate) fn byte_alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        b if spelled_as_itself(b) => char::from(b),
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("U+0100 to U+0143")
        }
    })
}
