//! Chat templates: a conversation as the one text that the model was trained on.
//!
//! In go conversations, out comes text with the marks of turns spelled out, to be encoded with
//! [`Special::RENDERED`](super::Special::RENDERED). Templates are Jinja as transformers runs it.

use std::fmt;

use minijinja::ErrorKind;
use minijinja::value::Serde;

use super::Tokenizer;
use super::conversation::Conversation;
use super::jinja::{environment, prepare};
use crate::gguf::Value;
use crate::{Error, Result};

const KEY: &str = "tokenizer.chat_template";

/// The template of a model.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    /// In the engine's words.
    source: String,
    /// The one for conversations with tools, if it is another.
    with_tools: Option<String>,
    /// Spellings of special tokens, by the names that templates know them under.
    tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// The template that comes with `tokenizer`.
    ///
    /// # Errors
    /// If there is none (the error names others that the file has), or it is no valid Jinja.
    pub fn open(tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        let text = |key: &str| match tokenizer.metadata().get(key) {
            Some(Value::String(source)) => Ok(Some(source.as_str())),
            Some(_) => Err(Error::text(format!("{key}: must be a string"))),
            None => Ok(None),
        };
        let Some(source) = text(KEY)? else {
            let names: Vec<&str> = match tokenizer.metadata().get("tokenizer.chat_templates") {
                Some(Value::Array(names)) => names.iter().filter_map(|n| n.as_str()).collect(),
                _ => Vec::new(),
            };
            let others = match names.len() {
                0 => String::new(),
                _ => format!(" without a name (only {})", names.join(", ")),
            };
            let advice = "it was not made for chat, or has lost its template; use a plain prompt without `chat`";
            return Err(Error::text(format!("the model has no chat template{others}; {advice}")));
        };
        Self::checked(source, text(&format!("{KEY}.tool_use"))?, tokenizer.named_tokens().to_vec())
    }

    /// A template, and what `bos_token` and `eos_token` stand for in it: for nothing if empty.
    ///
    /// # Errors
    /// If it is no valid Jinja: line and reason.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate> {
        let tokens = [("bos_token", bos), ("eos_token", eos)].into_iter().filter(|(_, text)| !text.is_empty());
        Self::checked(source, None, tokens.map(|(name, text)| (name.to_owned(), text.to_owned())).collect())
    }

    fn checked(source: &str, with_tools: Option<&str>, tokens: Vec<(String, String)>) -> Result<ChatTemplate> {
        let template = ChatTemplate { source: prepare(source), with_tools: with_tools.map(prepare), tokens };
        for source in [Some(&template.source), template.with_tools.as_ref()].into_iter().flatten() {
            environment().template_from_str(source).map_err(fault)?;
        }
        Ok(template)
    }

    /// The conversation as text; `answer`: up to where the assistant begins to speak.
    ///
    /// # Errors
    /// If the template refuses the conversation (many want user and assistant to take turns), or fails.
    pub fn render(&self, conversation: impl Into<Conversation>, answer: bool) -> Result<String> {
        let conversation = conversation.into();
        let source = self.with_tools.as_ref().filter(|_| conversation.has_tools()).unwrap_or(&self.source);
        let context = Serde(conversation.context(&self.tokens, answer));
        let environment = environment();
        let rendered = environment.template_from_str(source).and_then(|template| template.render(context));
        rendered.map_err(fault)
    }
}

fn fault(e: minijinja::Error) -> Error {
    let line = e.line().map_or(String::new(), |line| format!(", line {line}"));
    Error::Text { what: format!("chat template{line}"), source: Some(Box::new(Refusal(e))) }
}

/// What the engine says, without a name that the template does not have.
#[derive(Debug)]
struct Refusal(minijinja::Error);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0.detail() {
            Some(detail) => f.write_str(detail)?,
            None => self.0.kind().fmt(f)?,
        }
        match self.0.kind() {
            ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::UnknownMethod => {
                f.write_str("; write the template without it, or give the conversation as plain text")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
