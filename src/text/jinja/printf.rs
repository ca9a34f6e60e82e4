//! Texts with places for values, as Python's `%` fills them.

use minijinja::formatting::{self, FormatStyle};
use minijinja::{Error, Value};

use super::repr::{repr, text as plain};

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
            ('i' | 'u', _) => 'd',
            (other, _) => other,
        });
        next += usize::from(name == 0 && conversion != '%');
        rest = &place[name + flags + length + conversion.len_utf8()..];
    }
    out.push_str(rest);
    formatting::format(FormatStyle::Printf, &out, &values)
}
