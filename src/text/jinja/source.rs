//! A template's source, put into the words that the engine knows.
//!
//! In goes Jinja as transformers runs it, out comes Jinja that says the same: line ends are newlines, marks of what to
//! train on are scopes, escapes that the engine reads otherwise are spelled so that it cannot, loops refuse what Python
//! cannot go through, and `%` is a filter, since the engine's operator knows no texts. All else stays as it is.

use super::scan::{Kind, Region, Token, regions, tokens};

/// The name of the filter that `%` becomes.
pub(super) const PERCENT: &str = "_percent_";
/// The name of the filter that what a loop goes through gets.
pub(super) const EACH: &str = "_each_";

/// The source in the engine's words.
pub(in crate::text) fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut done = 0;
    for region in regions(&source) {
        let Region { start, end } = region;
        out.push_str(&source[done..start]);
        out.push_str(&rewritten(&source[start..end]));
        done = end;
    }
    out.push_str(&source[done..]);
    out
}

/// What stands between the marks of a block or an expression, without these.
fn rewritten(inner: &str) -> String {
    let name = inner.trim();
    for (from, to) in [("generation", "with"), ("endgeneration", "endwith")] {
        if name == from {
            return inner.replacen(from, to, 1);
        }
    }
    let mut text = looped(&escaped(inner));
    // Each turn takes one away.
    while let Some(next) = without_percent(&text) {
        text = next;
    }
    text
}

/// A `for` with a filter behind what it goes through, which refuses what Python cannot go through.
fn looped(text: &str) -> String {
    let tokens = tokens(text);
    if tokens.first().is_none_or(|t| t.text != "for") {
        return text.to_owned();
    }
    let mut depth = 0_usize;
    let outside: Vec<&Token> = tokens
        .iter()
        .filter(|t| {
            match t.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && t.kind == Kind::Name
        })
        .collect();
    let Some(start) = outside.iter().find(|t| t.text == "in").map(|t| t.end()) else { return text.to_owned() };
    let end = outside.iter().find(|t| t.start > start && matches!(t.text, "if" | "recursive"));
    let end = end.map_or(text.len(), |t| t.start);
    format!("{} ({}) | {EACH} {}", &text[..start], text[start..end].trim(), &text[end..])
}

/// The expression with Python's escapes in the engine's spelling.
fn escaped(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for token in tokens(text).iter().filter(|t| t.kind == Kind::Text && t.text.contains('\\')) {
        out.push_str(&text[done..token.start]);
        literal(token.text, &mut out);
        done = token.end();
    }
    out.push_str(&text[done..]);
    out
}

fn literal(text: &str, out: &mut String) {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('a') => out.push_str("\\x07"),
            Some('v') => out.push_str("\\x0b"),
            Some('\n') => {}
            Some('/') => out.push_str("\\\\/"),
            Some('U') => {
                let digits: String = chars.clone().take(8).collect();
                match u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).filter(|_| digits.len() == 8) {
                    Some(c) => {
                        chars.by_ref().nth(7);
                        out.push(c);
                    }
                    None => out.push_str("\\U"),
                }
            }
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
}

/// The expression with its first `%` as a filter; `None` if it has none.
fn without_percent(text: &str) -> Option<String> {
    let tokens = tokens(text);
    let at = tokens.iter().position(|t| t.text == "%" && t.kind == Kind::Operator)?;
    let (from, to) = (left(&tokens, at), right(&tokens, at + 1));
    if from >= at || to <= at + 1 {
        return None;
    }
    let (start, middle) = (tokens[from].start, tokens[at].start);
    let (rest, end) = (tokens[at].end(), tokens[to - 1].end());
    let (head, tail) = (&text[..start], &text[end..]);
    Some(format!("{head}({}) | {PERCENT}({}){tail}", text[start..middle].trim_end(), text[rest..end].trim_start()))
}

/// Words and signs that bind less than `%`.
const LOOSER: &[&str] = &[
    "+", "-", "~", "==", "!=", "<", ">", "<=", ">=", "=", ",", ":", "in", "not", "and", "or", "if", "else", "elif",
    "do",
];

/// The first token of the operand that ends before `at`.
fn left(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for i in (0..at).rev() {
        let t = &tokens[i];
        match t.kind {
            Kind::Close => depth += 1,
            Kind::Open if depth == 0 => return i + 1,
            Kind::Open => depth -= 1,
            Kind::Operator | Kind::Name if depth == 0 && LOOSER.contains(&t.text) && !is_prefix(tokens, i) => {
                return i + 1;
            }
            _ => {}
        }
    }
    0
}

/// Whether the sign at `i` belongs to the number behind it, or the name at `i` is an attribute.
fn is_prefix(tokens: &[Token], i: usize) -> bool {
    let before = i.checked_sub(1).map(|b| &tokens[b]);
    match tokens[i].kind {
        Kind::Name => before.is_some_and(|b| matches!(b.text, "." | "|")),
        _ => {
            matches!(tokens[i].text, "+" | "-")
                && before.is_none_or(|b| {
                    matches!(b.kind, Kind::Open | Kind::Operator) && b.text != "."
                        || b.kind == Kind::Name && LOOSER.contains(&b.text)
                })
        }
    }
}

/// Behind the last token of the operand that begins at `at`.
fn right(tokens: &[Token], mut at: usize) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |t| t.text);
    while matches!(text(at), "-" | "+") {
        at += 1;
    }
    at = primary(tokens, at);
    loop {
        at = match text(at) {
            "." => at + 2,
            "|" => at + 2,
            "[" | "(" => closed(tokens, at),
            "**" => return right(tokens, at + 1),
            "is" => {
                let name = at + 1 + usize::from(text(at + 1) == "not");
                let next = name + 1;
                let operand = tokens.get(next).is_some_and(|t| match t.kind {
                    Kind::Name => !["else", "or", "and", "if", "is", "in", "not"].contains(&t.text),
                    Kind::Text | Kind::Number => true,
                    Kind::Open => t.text != "(",
                    _ => false,
                });
                if operand { primary(tokens, next) } else { next }
            }
            _ => return at.min(tokens.len()),
        };
    }
}

fn primary(tokens: &[Token], at: usize) -> usize {
    match tokens.get(at).map(|t| t.kind) {
        Some(Kind::Open) => closed(tokens, at),
        // Texts that stand side by side are one.
        Some(Kind::Text) => at + tokens[at..].iter().take_while(|t| t.kind == Kind::Text).count(),
        Some(Kind::Name | Kind::Number) => at + 1,
        _ => at,
    }
}

/// Behind the bracket that closes the one at `at`.
fn closed(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (i, t) in tokens.iter().enumerate().skip(at) {
        match t.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_becomes_a_filter() {
        for (source, wanted) in [
            ("{{ '%s' % x }}", "{{ ('%s') | _percent_(x) }}"),
            ("{{ a + '%s' % f(x, 1)[0].b ~ 'c' }}", "{{ a + ('%s') | _percent_(f(x, 1)[0].b) ~ 'c' }}"),
            ("{% if i % 2 == 0 %}%}", "{% if (i) | _percent_(2) == 0 %}%}"),
            ("{{ -7 % 3 % 2 }}", "{{ ((-7) | _percent_(3)) | _percent_(2) }}"),
            ("{{ [1 % 2, {'a': 3 % 4}] }}", "{{ [(1) | _percent_(2), {'a': (3) | _percent_(4)}] }}"),
            ("{{ a * b % -c ** 2 }}", "{{ (a * b) | _percent_(-c ** 2) }}"),
            ("{% set x = (a - 1) % n | int %}", "{% set x = ((a - 1)) | _percent_(n | int) %}"),
            ("{% if not x % 2 and y %}", "{% if not (x) | _percent_(2) and y %}"),
            (
                "{{ '%' }}{# % #}{% raw %}{{ a % b }}{% endraw %} % {{ 'a' '%s' % 'b' 'c' }}",
                "{{ '%' }}{# % #}{% raw %}{{ a % b }}{% endraw %} % {{ ('a' '%s') | _percent_('b' 'c') }}",
            ),
            ("{{ x if a % 2 else y }}", "{{ x if (a) | _percent_(2) else y }}"),
        ] {
            assert_eq!(prepare(source), wanted);
        }
    }

    #[test]
    fn loops_get_a_filter() {
        for (source, wanted) in [
            ("{% for a in b %}", "{% for a in (b) | _each_ %}"),
            ("{%- for a, b in c.d() if a in b -%}", "{%- for a, b in (c.d()) | _each_ if a in b -%}"),
            ("{% for x in [a if b else c] recursive %}", "{% for x in ([a if b else c]) | _each_ recursive %}"),
            ("{% for x in 1, 2 %}", "{% for x in (1, 2) | _each_ %}"),
            ("{% if x in for_ %}", "{% if x in for_ %}"),
        ] {
            assert_eq!(prepare(source), wanted);
        }
    }

    #[test]
    fn escapes_are_those_of_python() {
        for (source, wanted) in [
            (r"{{ 'a\/b\n\q' }}\/", r"{{ 'a\\/b\n\q' }}\/"),
            (r#"{{ "\a\v\\a" }}"#, r#"{{ "\x07\x0b\\a" }}"#),
            (r"{{ '\U0001f600\U123' }}", r"{{ '😀\U123' }}"),
            ("{{ 'a\\\nb' }}", "{{ 'ab' }}"),
        ] {
            assert_eq!(prepare(source), wanted);
        }
    }

    #[test]
    fn marks_keep_their_dashes() {
        assert_eq!(prepare("{%- generation -%} a\r\n{% endgeneration %}\r"), "{%- with -%} a\n{% endwith %}\n");
        let same = "{# {% generation %} #}{{ '{% generation %}' }}{% raw %}{% generation %}{% endraw %}";
        assert_eq!(prepare(same), same);
    }

    /// Whatever the source is, there is an answer.
    #[test]
    fn broken_sources_pass() {
        for source in [
            "{{",
            "{%",
            "{#",
            "{{ '",
            "{{ % }}",
            "{{ a % }}",
            "{% % %}",
            "{{ ( % ) }}",
            "{% raw %}",
            "{{ a % ( }}",
            "{{ ] % [ }}",
        ] {
            let _ = prepare(source);
        }
    }
}
