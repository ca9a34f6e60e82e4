//! Splits text into words by the regular expressions behind `tokenizer.ggml.pre`.
//!
//! Most of them end with "white space, but not the last of it if a word follows", a look-ahead that would need a
//! backtracking engine. That ending is cut off and done by hand, so that what remains runs in linear time on any text.

use std::path::Path;

use crate::checkpoint::tokenizer::{known_pre_tokenizers, pre_tokenizer_expressions};
use crate::error::{Cause, Fault};
use crate::{Error, Result};

/// The key that names a pre-tokenizer.
pub(super) const PRE: &str = "tokenizer.ggml.pre";

pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// What llama.cpp applies where it differs from the files that it was made from, or where no file says it.
const OWN: &[(&str, &[&str])] = &[
    ("default", &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]),
    ("falcon", &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"]),
    (
        "chameleon",
        &[
            r"<sentinel:[0-9]+>",
            r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ],
    ),
];

/// Names that share the expressions of another.
const TWINS: &[(&str, &[&str])] = &[
    ("llama-bpe", &["llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0", "jina-v5-nano"]),
    (
        "gpt-2",
        &["a.x-4.0", "gigachat", "granite-docling", "jina-de", "jina-es", "jina-v1-en", "jina-v2-code", "jina-v2-de"],
    ),
    ("gpt-2", &["jina-v2-es", "mellum", "trillion"]),
    ("qwen2", &["deepseek-r1-qwen", "f2llmv2", "kormo", "megrez"]),
    ("deepseek-v3", &["hy_v4", "joyai-llm"]),
    ("gpt-4o", &["kanana2", "talkie"]),
    ("glm4", &["glm5"]),
    ("bloom", &["gpt3-finnish", "poro-chat"]),
    ("starcoder", &["mellum2"]),
];

/// Names whose models begin a text with BOS unless the file says otherwise.
#[rustfmt::skip]
const ADD_BOS: &[&str] = &[
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
    "tekken", "chameleon",
];

pub(super) fn adds_bos(pre: &str) -> bool {
    ADD_BOS.contains(&pre)
}

pub(super) fn expressions(pre: &str) -> Option<&'static [&'static str]> {
    let twin = TWINS.iter().find(|(_, names)| names.contains(&pre)).map_or(pre, |t| t.0);
    let own = OWN.iter().find(|(name, _)| *name == twin).map(|o| o.1);
    own.or_else(|| pre_tokenizer_expressions(twin))
}

/// Expressions that are applied one after the other, each to the words of the one before; what none of them matches
/// is a word too.
#[derive(Debug)]
pub(super) struct Splitter {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    /// Without look-around.
    Linear(regex::Regex),
    /// Ended with `\s+(?!\S)`: the last white space before a word goes with the word, if it is not the only one.
    /// `newlines`: runs that end with a newline have an expression of their own and stay whole.
    Spaces { regex: regex::Regex, newlines: bool },
    /// Other look-around.
    Backtracking(Box<fancy_regex::Regex>),
}

/// Contractions as tokenizer.json writes them and as llama.cpp does: the same but for two letters outside ASCII that
/// fold to "s" and "k".
const FOLDED: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const SPELLED: &str = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";

/// Endings that are done by hand, and whether an alternative for newlines stands before them.
const ENDINGS: &[(&str, &str, bool)] = &[
    (r"|\s*[\r\n]+|\s+(?!\S)|\s+", r"|\s*[\r\n]+|\s+", true),
    (r"|\s*[\r\n]|\s+(?!\S)|\s+", r"|\s*[\r\n]|\s+", true),
    (r"[^\s\p{L}\p{N}]+|\s+(?!\S)", r"[^\s\p{L}\p{N}]+|\s+", false),
];

impl Splitter {
    /// # Errors
    /// If `pre` is not known or has no expressions.
    pub fn new(path: &Path, pre: &str) -> Result<Self> {
        let steps = expressions(pre).ok_or_else(|| {
            let mut known = known_pre_tokenizers();
            known.retain(|name| expressions(name).is_some());
            let what = format!("the pre-tokenizer {pre:?} is not supported; known: {}", known.join(", "));
            Fault::unsupported(what).of_key(path, PRE)
        })?;
        let compile = |step: &&str| {
            Step::new(step).map_err(|cause| {
                let what = format!("{}: the pre-tokenizer {pre:?} has a wrong expression in the table", path.display());
                Error::Bug { what, source: Some(cause) }
            })
        };
        Ok(Splitter { steps: steps.iter().map(compile).collect::<Result<_>>()? })
    }

    /// The words of `text`, in order; together they are the text.
    pub fn split<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut words = vec![text];
        for step in &self.steps {
            let mut next = Vec::with_capacity(words.len().max(text.len() / 4));
            for word in words {
                step.split(word, &mut next);
            }
            words = next;
        }
        words
    }
}

impl Step {
    fn new(expression: &str) -> std::result::Result<Step, Cause> {
        let expression = expression.replace(FOLDED, SPELLED);
        for (ending, plain, newlines) in ENDINGS {
            if let Some(start) = expression.strip_suffix(ending).filter(|start| !start.contains("(?=")) {
                let regex = regex::Regex::new(&format!("{start}{plain}"))?;
                return Ok(Step::Spaces { regex, newlines: *newlines });
            }
        }
        match regex::Regex::new(&expression) {
            Ok(regex) => Ok(Step::Linear(regex)),
            Err(_) => Ok(Step::Backtracking(Box::new(fancy_regex::Regex::new(&expression)?))),
        }
    }

    fn split<'t>(&self, text: &'t str, words: &mut Vec<&'t str>) {
        let mut at = 0;
        while at < text.len() {
            let Some((start, end)) = self.find(text, at) else { break };
            if start > at {
                words.push(&text[at..start]);
            }
            if end > start {
                words.push(&text[start..end]);
                at = end;
                continue;
            }
            // An empty match (a look-ahead) cuts, and the search goes on behind the next character.
            let next = start + text[start..].chars().next().map_or(1, char::len_utf8);
            let end = self.find(text, next).map_or(text.len(), |m| m.0).min(text.len());
            words.push(&text[start..end]);
            at = end;
        }
        if at < text.len() {
            words.push(&text[at..]);
        }
    }

    fn find(&self, text: &str, at: usize) -> Option<(usize, usize)> {
        if at > text.len() {
            return None;
        }
        match self {
            Step::Linear(regex) => regex.find_at(text, at).map(|m| (m.start(), m.end())),
            // A text on which backtracking gives up stays whole.
            Step::Backtracking(regex) => regex.find_from_pos(text, at).ok().flatten().map(|m| (m.start(), m.end())),
            Step::Spaces { regex, newlines } => {
                let found = regex.find_at(text, at)?;
                let length = trimmed(found.as_str(), &text[found.end()..], *newlines).unwrap_or(found.len());
                Some((found.start(), found.start() + length))
            }
        }
    }
}

/// How much of a run of white space is a word of its own when `rest` follows; `None`: all of it.
fn trimmed(run: &str, rest: &str, newlines: bool) -> Option<usize> {
    let last = run.chars().next_back()?;
    let kept = run.len() - last.len_utf8();
    let own = newlines && matches!(last, '\r' | '\n');
    (last.is_whitespace() && kept > 0 && !own && !rest.is_empty() && run.chars().all(char::is_whitespace))
        .then_some(kept)
}
