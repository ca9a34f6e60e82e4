//! Python's methods of strings.

use std::sync::LazyLock;

use minijinja::value::Tuple;
use minijinja::{Error, ErrorKind, Value};
use regex::Regex;

use super::args::{Args, fault};
use super::printf;

/// White space as `str.isspace` has it.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Ends of lines as `str.splitlines` has them.
fn ends_line(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Most characters that a call may add for nothing.
const WIDEST: usize = 1 << 16;

/// Calls `method` of `text`.
pub(super) fn call(text: &str, method: &str, given: &[Value]) -> Result<Value, Error> {
    let bind = |names: &[&str]| Args::bind(method, names, given);
    let none = || bind(&[]).map(|_| ());
    let all = |test: fn(char) -> bool| none().map(|()| Value::from(!text.is_empty() && text.chars().all(test)));
    Ok(match method {
        "upper" => none().map(|()| Value::from(text.to_uppercase()))?,
        "lower" => none().map(|()| Value::from(text.to_lowercase()))?,
        "casefold" => none().map(|()| Value::from(text.to_lowercase().replace('ß', "ss")))?,
        "swapcase" => none().map(|()| Value::from(text.chars().flat_map(swapped).collect::<String>()))?,
        "title" => none().map(|()| Value::from(titled(text)))?,
        "capitalize" => none().map(|()| Value::from(capitalized(text)))?,
        "strip" | "lstrip" | "rstrip" => {
            let args = bind(&["chars"])?;
            let chars = args.maybe_text(0)?;
            let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
            let text = if method == "rstrip" { text } else { text.trim_start_matches(strips) };
            Value::from(if method == "lstrip" { text } else { text.trim_end_matches(strips) })
        }
        "removeprefix" | "removesuffix" => {
            let args = bind(&["affix"])?;
            let affix = args.text(0)?;
            let rest = if method == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            Value::from(rest.unwrap_or(text))
        }
        "startswith" | "endswith" => {
            let args = bind(&["affix", "start", "end"])?;
            let Some((_, part)) = part(text, &args, 1)? else { return Ok(Value::from(false)) };
            let has =
                |affix: &str| if method == "startswith" { part.starts_with(affix) } else { part.ends_with(affix) };
            Value::from(affixes(args.need(0)?)?.iter().any(|affix| has(affix)))
        }
        "split" | "rsplit" => {
            let args = bind(&["sep", "maxsplit"])?;
            let most = args.number(1)?.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            let parts = match args.maybe_text(0)? {
                Some("") => return Err(fault("empty separator")),
                Some(separator) if method == "split" => {
                    text.splitn(most.saturating_add(1), separator).map(Value::from).collect()
                }
                Some(separator) => reversed(text.rsplitn(most.saturating_add(1), separator)),
                None if method == "split" => words(text, most),
                None => reversed(last_words(text, most).into_iter()),
            };
            Value::from(parts)
        }
        "splitlines" => Value::from(lines(text, bind(&["keepends"])?.flag(0))),
        "partition" | "rpartition" => {
            let args = bind(&["sep"])?;
            let separator = args.text(0)?;
            let first = method == "partition";
            let found = if first { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match found {
                _ if separator.is_empty() => return Err(fault("empty separator")),
                Some((before, after)) => [before, separator, after],
                None if first => [text, "", ""],
                None => ["", "", text],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "replace" => {
            let args = bind(&["old", "new", "count"])?;
            let (old, new) = (args.text(0)?, args.text(1)?);
            let count = args.number(2)?.and_then(|n| usize::try_from(n).ok());
            let most = (text.len() / old.len().max(1) + 1).min(count.unwrap_or(usize::MAX));
            if most.saturating_mul(new.len()) > (1 << 24) {
                return Err(fault("the text would be too large"));
            }
            Value::from(text.replacen(old, new, count.unwrap_or(usize::MAX)))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => found(text, method, &bind(&["sub", "start", "end"])?)?,
        "join" => {
            let args = bind(&["iterable"])?;
            let mut out = String::new();
            for (i, item) in args.need(0)?.try_iter()?.enumerate() {
                let item = item
                    .as_str()
                    .ok_or_else(|| fault(format!("sequence item {i}: expected a string, found {}", item.kind())))?
                    .to_owned();
                if i > 0 {
                    out.push_str(text);
                }
                out.push_str(&item);
                if out.len() > (1 << 24) {
                    return Err(fault("the text would be too large"));
                }
            }
            Value::from(out)
        }
        "ljust" | "rjust" | "center" => {
            let args = bind(&["width", "fillchar"])?;
            let fill = args.maybe_text(1)?.unwrap_or(" ");
            padded(text, method, args.number(0)?.ok_or_else(|| Error::from(ErrorKind::MissingArgument))?, fill)?
        }
        "zfill" => {
            let width = bind(&["width"])?.number(0)?.ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
            let missing = missing(text, width)?;
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing)))
        }
        "expandtabs" => Value::from(expanded(text, bind(&["tabsize"])?.number(0)?.unwrap_or(8))?),
        "encode" => match bind(&["encoding", "errors"])?.maybe_text(0)?.map(str::to_lowercase).as_deref() {
            None | Some("utf-8" | "utf8") => Value::from_bytes(text.as_bytes().to_vec()),
            Some(other) => return Err(fault(format!("the encoding {other} is not known here"))),
        },
        "format" => Value::from(printf::braces(text, given)?),
        "isspace" => all(is_space)?,
        "isalpha" => all(char::is_alphabetic)?,
        "isdecimal" => none().map(|()| Value::from(DECIMAL.is_match(text)))?,
        "isdigit" => none().map(|()| Value::from(DIGIT.is_match(text)))?,
        "isnumeric" => all(char::is_numeric)?,
        "isalnum" => all(|c| c.is_alphabetic() || c.is_numeric())?,
        "isascii" => none().map(|()| Value::from(text.is_ascii()))?,
        "islower" => none().map(|()| Value::from(cased(text, char::is_lowercase)))?,
        "isupper" => none().map(|()| Value::from(cased(text, char::is_uppercase)))?,
        "istitle" => none().map(|()| Value::from(text.chars().any(is_cased) && titled(text) == text))?,
        "isidentifier" => none().map(|()| {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            Value::from(!text.is_empty() && text.chars().all(word) && !text.starts_with(char::is_numeric))
        })?,
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

static DECIMAL: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\p{Nd}+$").expect("a valid pattern"));
/// With digits above and below the line.
static DIGIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^[\p{Nd}²³¹⁰⁴-⁹₀-₉]+$").expect("a valid pattern"));

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

fn cased(text: &str, test: fn(char) -> bool) -> bool {
    text.chars().any(is_cased) && text.chars().filter(|&c| is_cased(c)).all(test)
}

fn swapped(c: char) -> Vec<char> {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

pub(super) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect())
}

fn titled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = is_cased(c);
    }
    out
}

fn affixes(value: &Value) -> Result<Vec<String>, Error> {
    if let Some(affix) = value.as_str() {
        return Ok(vec![affix.to_owned()]);
    }
    if !value.is_tuple() {
        return Err(fault(format!("must be a string or a tuple of strings, found {}", value.kind())));
    }
    let text = |v: Value| v.as_str().map(str::to_owned).ok_or_else(|| fault("a tuple of something else than strings"));
    value.try_iter()?.map(text).collect()
}

/// `text[start:end]` with the bounds at `at` and behind, and what byte it begins at; `None` if that is behind the end.
fn part<'t>(text: &'t str, args: &Args, at: usize) -> Result<Option<(usize, &'t str)>, Error> {
    let (start, end) = (args.number(at)?, args.number(at + 1)?);
    if start.is_none() && end.is_none() {
        return Ok(Some((0, text)));
    }
    let count = text.chars().count() as i64;
    let bound = |n: i64| if n < 0 { (n + count).max(0) } else { n };
    let (start, end) = (start.map_or(0, bound), end.map_or(count, bound).min(count));
    if start > count || start > end {
        return Ok(None);
    }
    let byte = |n: i64| text.char_indices().nth(n as usize).map_or(text.len(), |(at, _)| at);
    Ok(Some((byte(start), &text[byte(start)..byte(end)])))
}

fn found(text: &str, method: &str, args: &Args) -> Result<Value, Error> {
    let sub = args.text(0)?;
    let part = part(text, args, 1)?;
    if method == "count" {
        let count =
            part.map_or(0, |(_, p)| if sub.is_empty() { p.chars().count() + 1 } else { p.matches(sub).count() });
        return Ok(Value::from(count));
    }
    let at =
        part.and_then(|(start, p)| Some(start + if method.starts_with('r') { p.rfind(sub)? } else { p.find(sub)? }));
    match at {
        Some(at) => Ok(Value::from(text[..at].chars().count())),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(fault("substring not found")),
    }
}

/// Runs of characters that are no white space, after `most` splits the rest.
fn words(text: &str, most: usize) -> Vec<Value> {
    let mut out = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if out.len() == most {
            out.push(Value::from(rest));
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        out.push(Value::from(&rest[..end]));
        rest = rest[end..].trim_start_matches(is_space);
    }
    out
}

fn last_words(text: &str, most: usize) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if out.len() == most {
            out.push(rest);
            break;
        }
        let space = rest.char_indices().rev().find(|(_, c)| is_space(*c));
        let start = space.map_or(0, |(at, c)| at + c.len_utf8());
        out.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    out
}

fn reversed<'t>(parts: impl Iterator<Item = &'t str>) -> Vec<Value> {
    let mut parts: Vec<Value> = parts.map(Value::from).collect();
    parts.reverse();
    parts
}

fn lines(text: &str, keep: bool) -> Vec<Value> {
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(ends_line);
        let (line, whole) = match end {
            None => (rest.len(), rest.len()),
            Some(at) if rest[at..].starts_with("\r\n") => (at, at + 2),
            Some(at) => (at, at + rest[at..].chars().next().map_or(1, char::len_utf8)),
        };
        out.push(Value::from(&rest[..if keep { whole } else { line }]));
        rest = &rest[whole..];
    }
    out
}

/// Characters to be added for a width.
fn missing(text: &str, width: i64) -> Result<usize, Error> {
    match usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count()) {
        n if n > WIDEST => Err(fault(format!("a width of {width} is too large"))),
        n => Ok(n),
    }
}

fn padded(text: &str, method: &str, width: i64, fill: &str) -> Result<Value, Error> {
    if fill.chars().count() != 1 {
        return Err(fault("the fill character must be exactly one character long"));
    }
    let missing = missing(text, width)?;
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // Python leans to the left or right by whether the width is odd.
        _ => missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1),
    };
    Ok(Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))))
}

fn expanded(text: &str, size: i64) -> Result<String, Error> {
    let size = usize::try_from(size).unwrap_or(0);
    if size > WIDEST {
        return Err(fault(format!("a tab of {size} is too large")));
    }
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            '\t' => {}
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}
