//! Text in, tokens out, and back: tokenizers and chat templates of any checkpoint or GGUF file.
//!
//! In go the keys of a header or the files of a Hugging Face directory, all of them treated as written by an enemy.
//! Knows no tensors and nothing of how a model is run.

pub mod chat;
pub mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use tokenizer::{Control, Decoder, Special, Tokenizer};
