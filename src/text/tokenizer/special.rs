//! Cuts special tokens out of a text before anything is merged, as llama.cpp does: the longest spelling first, over
//! the whole text, then the next.

use aho_corasick::AhoCorasick;

use super::vocab::Vocab;
use crate::checkpoint::tokenizer::TokenType;

/// A piece of the text between special tokens, or one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

/// A special token.
#[derive(Debug)]
struct Mark {
    id: u32,
    text: String,
    /// Cut out only when the spelling of control tokens is parsed.
    control: bool,
    /// White space behind it goes with it.
    strips_right: bool,
}

/// Special tokens, longest spelling first.
#[derive(Debug)]
pub(super) struct Cutter {
    marks: Vec<Mark>,
    /// Finds which of `marks` occur at all: a vocabulary may have thousands, a text has a few.
    finder: Option<AhoCorasick>,
}

/// Tokens that keep the white space behind them where all others of Phi-3 swallow it.
pub(super) const PHI3_KEEPING: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

impl Cutter {
    /// `phi3`: its special tokens swallow the white space behind them, which GGUF has no key for.
    pub fn new(vocab: &Vocab, phi3: bool) -> Self {
        let special = |kind| matches!(kind, TokenType::Control | TokenType::UserDefined | TokenType::Unknown);
        let mut marks: Vec<Mark> = vocab
            .tokens()
            .filter(|(_, t)| special(t.kind))
            .map(|(id, t)| Mark {
                id,
                text: t.text.clone(),
                control: t.kind != TokenType::UserDefined,
                strips_right: phi3 && !PHI3_KEEPING.contains(&t.text.as_str()),
            })
            .collect();
        marks.sort_by(|a, b| b.text.len().cmp(&a.text.len()).then(a.id.cmp(&b.id)));
        // Building it fails only for more states than ids can count; then every mark is looked for.
        let finder = AhoCorasick::new(marks.iter().map(|m| m.text.as_bytes())).ok();
        Cutter { marks, finder }
    }

    /// The fragments of `text`, in order; none is an empty text.
    pub fn cut<'t>(&self, text: &'t str, parse: bool) -> Vec<Fragment<'t>> {
        let mut occurs = vec![self.finder.is_none(); self.marks.len()];
        for found in self.finder.iter().flat_map(|f| f.find_overlapping_iter(text)) {
            occurs[found.pattern().as_usize()] = true;
        }
        let mut fragments = vec![Fragment::Text(text)];
        for (mark, _) in self.marks.iter().zip(&occurs).filter(|(m, occurs)| **occurs && (parse || !m.control)) {
            let mut next = Vec::with_capacity(fragments.len() + 2);
            for fragment in fragments {
                match fragment {
                    Fragment::Token(_) => next.push(fragment),
                    Fragment::Text(text) => mark.cut(text, &mut next),
                }
            }
            fragments = next;
        }
        fragments.retain(|f| *f != Fragment::Text(""));
        fragments
    }
}

impl Mark {
    fn cut<'t>(&self, mut text: &'t str, out: &mut Vec<Fragment<'t>>) {
        while let Some((before, after)) = text.split_once(self.text.as_str()) {
            out.extend([Fragment::Text(before), Fragment::Token(self.id)]);
            // C's isspace.
            let space = |c: char| matches!(c, ' ' | '\t'..='\r');
            text = if self.strips_right { after.trim_start_matches(space) } else { after };
        }
        out.push(Fragment::Text(text));
    }
}
