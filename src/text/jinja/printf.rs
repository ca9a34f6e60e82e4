//! Texts with places for values, as Python's `%` and `str.format` fill them.

use minijinja::formatting::{self, FormatStyle};
use minijinja::{Error, Value};

use super::args::fault;
use super::repr::{repr, text as plain};

/// The widest place, which the engine fills without a limit of its own.
const WIDEST: i64 = 9999;

/// Fills the places of `text` with `values`. Conversions that the engine does not have are spelled as ones it has.
pub(super) fn format(text: &str, values: &[Value]) -> Result<String, Error> {
    let mut values = values.to_vec();
    let mut out = String::with_capacity(text.len());
    let mut next = 0;
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let place = &rest[at + 1..];
        let name = place.starts_with('(').then(|| place.find(')')).flatten().map_or(0, |end| end + 1);
        let flags = place[name..].find(|c: char| !"#0- +.123456789".contains(c)).unwrap_or(place.len() - name);
        let length = place[name + flags..].find(|c| !"hlL".contains(c)).unwrap_or(0);
        within(&place[name..name + flags])?;
        let Some(conversion) = place[name + flags + length..].chars().next() else { break };
        out.push_str(&rest[..=at]);
        out.push_str(&place[..name + flags]);
        let value = values.get_mut(next).filter(|_| name == 0 && conversion != '%');
        out.push(match (conversion, value) {
            ('r' | 'a', Some(value)) => {
                *value = Value::from(repr(value));
                's'
            }
            ('s', Some(value)) => {
                *value = Value::from(plain(value));
                's'
            }
            // A width or precision from among the values.
            ('*', Some(value)) if value.as_i64().is_some_and(|width| width.abs() > WIDEST) => return Err(wide()),
            ('i' | 'u', _) => 'd',
            (other, _) => other,
        });
        next += usize::from(name == 0 && conversion != '%');
        rest = &place[name + flags + length + conversion.len_utf8()..];
    }
    out.push_str(rest);
    formatting::format(FormatStyle::Printf, &out, &values)
}

/// Fills the places of `text` as `str.format` does.
pub(super) fn braces(text: &str, values: &[Value]) -> Result<String, Error> {
    for place in text.split('{').skip(1) {
        let Some((_, spec)) = place.split_once(':') else { continue };
        // Whatever fills a place may be a brace too.
        let end = spec.char_indices().find(|&(at, c)| c == '}' && !spec[at + 1..].starts_with(['<', '>', '^', '=']));
        within(&spec[..end.map_or(spec.len(), |(at, _)| at)])?;
    }
    formatting::format(FormatStyle::StrFormat, text, values)
}

/// An error if a number in `spec` is larger than [`WIDEST`].
fn within(spec: &str) -> Result<(), Error> {
    let large = |digits: &str| !digits.is_empty() && digits.parse().map_or(true, |n: i64| n > WIDEST);
    if spec.split(|c: char| !c.is_ascii_digit()).any(large) { Err(wide()) } else { Ok(()) }
}

fn wide() -> Error {
    fault(format!("a place wider than {WIDEST} is too large"))
}
