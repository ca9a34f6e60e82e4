//! Chat templates: a conversation as the one text that the model was trained on.
//!
//! In go messages, out comes text with the marks of turns spelled out, to be encoded with
//! [`Special::RENDERED`](super::Special::RENDERED). Templates are Jinja as Hugging Face runs it: blocks swallow the
//! newline behind them and the indentation before them, Python's string methods work, `raise_exception` refuses a
//! conversation. Nothing that a template does can read files or the clock.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value as Item, context};
use regex::Regex;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use super::Tokenizer;
use crate::gguf::Value;
use crate::{Error, Result};

const KEY: &str = "tokenizer.chat_template";

/// Instructions that one rendering may take: a long conversation takes some ten thousand, a hostile template any
/// number.
const FUEL: u64 = 10_000_000;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks: "system", "user" or "assistant".
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }
}

/// The template of a model.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// The template that comes with `tokenizer`.
    ///
    /// # Errors
    /// If there is none (the error names others that the file has), or it is no valid Jinja.
    pub fn open(tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        let source = match tokenizer.metadata().get(KEY) {
            Some(Value::String(source)) => source,
            Some(_) => return Err(Error::text(format!("{KEY}: must be a string"))),
            None => {
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
            }
        };
        let spelled = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or("");
        Self::new(source, spelled(tokenizer.bos()), spelled(tokenizer.end_of_text()))
    }

    /// A template, and what `bos_token` and `eos_token` stand for in it.
    ///
    /// # Errors
    /// If it is no valid Jinja: line and reason.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate> {
        // Marks of what to train on, which Hugging Face adds to the language; they write nothing.
        let marks = Regex::new(r"\{%(-?)\s*(?:end)?generation\s*(-?)%\}").expect("a valid expression");
        let source = marks.replace_all(source, "{%${1} if true ${2}%}{% endif %}").into_owned();
        let template = ChatTemplate { source, bos: bos.to_owned(), eos: eos.to_owned() };
        environment().template_from_str(&template.source).map_err(fault)?;
        Ok(template)
    }

    /// The conversation as text; `answer`: up to where the assistant begins to speak.
    ///
    /// # Errors
    /// If the template refuses the conversation (many want user and assistant to take turns), or fails.
    pub fn render(&self, messages: &[Message], answer: bool) -> Result<String> {
        let mut environment = environment();
        let rendered = self.render_in(&environment, messages, answer);
        match rendered {
            // Most templates have a date of their own for where there is no clock. For the others it is the same day
            // for ever, so that the same input gives the same text.
            Err(e) if e.kind() == ErrorKind::UnknownFunction && e.to_string().contains("strftime_now") => {
                environment.add_function("strftime_now", |format: &str| fixed_date(format));
                self.render_in(&environment, messages, answer)
            }
            rendered => rendered,
        }
        .map_err(fault)
    }

    fn render_in(
        &self,
        environment: &Environment,
        messages: &[Message],
        answer: bool,
    ) -> Result<String, minijinja::Error> {
        environment.template_from_str(&self.source)?.render(context! {
            messages => Serde(messages),
            add_generation_prompt => answer,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools => (),
            documents => (),
        })
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
            Some(detail) => f.write_str(detail),
            None => self.0.kind().fmt(f),
        }
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Jinja as `transformers` sets it up.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |what: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
    });
    environment.add_filter("tojson", tojson);
    environment
}

/// `json.dumps` with `ensure_ascii=False`, which `transformers` puts in the place of Jinja's own, made for HTML.
fn tojson(value: &Item, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Accepted and without effect: characters are never escaped.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(n) => {
            // More columns than anyone reads would only be memory.
            let spaces = " ".repeat(n.min(64));
            value.serialize(&mut Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(spaces.as_bytes())))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced(CompactFormatter))),
    };
    written.map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

/// Python's separators: ", " and ": ".
struct Spaced(CompactFormatter);

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        self.0.begin_object_value(w)?;
        w.write_all(b" ")
    }
}

/// `strftime` of Friday, 26 July 2024, the date that Llama's templates fall back to; midnight.
fn fixed_date(format: &str) -> String {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('d') => out.push_str("26"),
            Some('b' | 'h') => out.push_str("Jul"),
            Some('B') => out.push_str("July"),
            Some('m') => out.push_str("07"),
            Some('y') => out.push_str("24"),
            Some('Y') => out.push_str("2024"),
            Some('a') => out.push_str("Fri"),
            Some('A') => out.push_str("Friday"),
            Some('j') => out.push_str("208"),
            Some('H' | 'M' | 'S') => out.push_str("00"),
            Some('F') => out.push_str("2024-07-26"),
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}
