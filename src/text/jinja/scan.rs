//! Where in a template expressions are, and of which tokens they consist: as much as rewriting them takes.

/// The inside of `{{ }}` or `{% %}`, without dashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub start: usize,
    pub end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Name,
    Operator,
    Open,
    Close,
}

/// A token of an expression.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'s> {
    pub kind: Kind,
    pub text: &'s str,
    pub start: usize,
}

impl Token<'_> {
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

/// All expressions and statements of a source, in order; comments and raw blocks have none.
pub(super) fn regions(source: &str) -> Vec<Region> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(found) = source[at..].find('{') {
        let start = at + found + 2;
        at = match source.as_bytes().get(start - 1) {
            Some(b'#') => source[start..].find("#}").map_or(source.len(), |n| start + n + 2),
            Some(b'{') => region(source, start, "}}", &mut all),
            Some(b'%') => match raw(source, start) {
                Some(end) => end,
                None => region(source, start, "%}", &mut all),
            },
            _ => start - 1,
        };
    }
    all
}

/// Behind the region that begins at `start`.
fn region(source: &str, start: usize, close: &str, all: &mut Vec<Region>) -> usize {
    let skipped = start + usize::from(source[start..].starts_with(['-', '+']));
    let Some(end) = end_of(source, skipped, close) else { return source.len() };
    let inner = &source[skipped..end];
    let dash = usize::from(inner.ends_with(['-', '+']));
    all.push(Region { start: skipped, end: end - dash });
    end + close.len()
}

/// Where `close` stands outside of texts and brackets.
fn end_of(source: &str, start: usize, close: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = start;
    while at < source.len() {
        let rest = &source[at..];
        if depth == 0 && rest.starts_with(close) {
            return Some(at);
        }
        let next = rest.chars().next()?;
        match next {
            '\'' | '"' => at += quoted(rest)?,
            '(' | '[' | '{' => {
                depth += 1;
                at += 1;
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            _ => at += next.len_utf8(),
        }
    }
    None
}

/// Length of the text literal that `rest` begins with.
fn quoted(rest: &str) -> Option<usize> {
    let quote = rest.chars().next()?;
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Behind a raw block whose statement begins at `start`.
fn raw(source: &str, start: usize) -> Option<usize> {
    let head = source[start..].strip_prefix(['-', '+']).unwrap_or(&source[start..]);
    let head = head.trim_start().strip_prefix("raw")?;
    let tail = head.trim_start();
    let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
    let inside = tail.strip_prefix("%}")?;
    let mut at = source.len() - inside.len();
    while let Some(found) = source[at..].find("{%") {
        let start = at + found + 2;
        let head = source[start..].strip_prefix(['-', '+']).unwrap_or(&source[start..]);
        if let Some(tail) = head.trim_start().strip_prefix("endraw") {
            return Some(source.len() - tail.len() + tail.find("%}").map_or(tail.len(), |n| n + 2));
        }
        at = start;
    }
    Some(source.len())
}

/// Signs of two characters; all others have one.
const PAIRS: &[&str] = &["**", "//", "==", "!=", "<=", ">="];

/// The tokens of an expression.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let word = |keep: fn(char) -> bool| rest.find(|c: char| !keep(c)).unwrap_or(rest.len());
        let (kind, length) = match c {
            _ if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '\'' | '"' => (Kind::Text, quoted(rest).unwrap_or(rest.len())),
            '0'..='9' => (Kind::Number, word(|c| c.is_alphanumeric() || c == '_')),
            _ if c.is_alphabetic() || c == '_' => (Kind::Name, word(|c| c.is_alphanumeric() || c == '_')),
            '(' | '[' | '{' => (Kind::Open, 1),
            ')' | ']' | '}' => (Kind::Close, 1),
            _ if PAIRS.iter().any(|p| rest.starts_with(p)) => (Kind::Operator, 2),
            _ => (Kind::Operator, c.len_utf8()),
        };
        all.push(Token { kind, text: &rest[..length], start: at });
        at += length;
    }
    all
}
