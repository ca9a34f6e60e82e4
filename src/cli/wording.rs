//! Rewrites the library's messages for the command line: settings, spelled as in recipes, become flags.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Settings whose flag is not simply the last part of their name with dashes.
const OTHERS: [(&str, &str); 6] = [
    ("importance.file", "--imatrix"),
    ("importance.calibrate", "--calibrate"),
    ("text.files", "--text"),
    ("tensor_types", "--tensor-type"),
    ("replace", "--force"),
    ("output", "-o"),
];

/// A name in backticks.
static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new("`([a-z_-]+(?:\\.[a-z_]+)?)`").expect("a valid pattern"));

/// The message with every setting as its flag.
pub fn flags(message: &str) -> Cow<'_, str> {
    NAME.replace_all(message, |found: &Captures<'_>| {
        let setting = &found[1];
        match OTHERS.iter().find(|(name, _)| *name == setting) {
            Some((_, flag)) => (*flag).to_owned(),
            None => format!("--{}", setting.rsplit('.').next().unwrap_or(setting).replace('_', "-")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_flags_and_other_text_stays() {
        assert_eq!(flags("`text.context` 1: use `output_type`"), "--context 1: use --output-type");
        assert_eq!(flags("leave out `importance.file`, a `B c`"), "leave out --imatrix, a `B c`");
    }
}
