//! JSON as other programs write it: a byte order mark is skipped, and what Python writes for numbers that JSON does
//! not have is called by its name.

use serde::de::DeserializeOwned;

use crate::error::Fault;

const MARK: &[u8] = b"\xef\xbb\xbf";

/// `bytes` without a byte order mark.
pub(crate) fn unmarked(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// The value in `bytes`.
///
/// # Errors
/// If it is no JSON or no such value: what is wrong, with line and column.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    let bytes = unmarked(bytes);
    serde_json::from_slice(bytes).map_err(|e| match number(bytes, &e) {
        Some(name) => Fault::damaged(format!(
            "line {} column {}: {name} is a number in Python but not in JSON; write a number or null there",
            e.line(),
            e.column()
        )),
        None if e.is_data() => Fault::json("unexpected content", e),
        None => Fault::json("not valid JSON", e),
    })
}

/// The number without digits at which the parser stopped.
fn number(bytes: &[u8], error: &serde_json::Error) -> Option<&'static str> {
    let line = bytes.split(|&b| b == b'\n').nth(error.line().checked_sub(1)?)?;
    let end = error.column().min(line.len());
    let word = line[..end].iter().rposition(|b| !b.is_ascii_alphabetic() && *b != b'-').map_or(0, |at| at + 1);
    ["NaN", "Infinity", "-Infinity"].into_iter().find(|name| line[word..].starts_with(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn refusal<T: DeserializeOwned>(text: &str) -> String {
        parse::<T>(text.as_bytes()).err().map(|fault| fault.of("m".as_ref()).explain()).unwrap()
    }

    #[test]
    fn a_mark_is_skipped() {
        assert_eq!(parse::<Value>(b"\xef\xbb\xbf[1]").unwrap(), serde_json::json!([1]));
    }

    #[test]
    fn numbers_of_python_are_named() {
        for (text, name, place) in [
            ("{\"a\": NaN}", "NaN", "line 1 column 7"),
            ("{\"a\": 1,\n\"b\": [Infinity, 2]}", "Infinity", "line 2"),
            ("{\"a\":-Infinity}", "-Infinity", "line 1"),
            ("NaN", "NaN", "line 1 column 1"),
        ] {
            let error = refusal::<Value>(text);
            assert!(error.contains(&format!(": {name} is")) && error.contains(place), "{text}: {error}");
        }
        for text in ["{\"a\": N}", "{\"NaN\": }", "[nan]", ""] {
            let error = refusal::<Value>(text);
            assert!(error.contains("not valid JSON"), "{text}: {error}");
        }
        assert!(refusal::<Vec<u8>>("[\"x\"]").contains("unexpected content"));
    }
}
