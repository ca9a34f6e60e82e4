//! What can be set of a pass or of a format. A row of either table lists its options; help, the command line's flags,
//! recipes and their checks follow from the list.

use std::collections::BTreeMap;

use crate::Error;
use crate::recipe::{Setting, Settings};

/// One option of a pass or of a format.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// Name as a recipe spells it; the flag has dashes for underscores.
    pub name: &'static str,
    /// Help.
    pub about: &'static str,
    /// What it can be.
    pub kind: OptKind,
    /// What it is unless it is set.
    pub default: &'static str,
}

/// What an option can be.
#[derive(Debug, Clone, Copy)]
pub enum OptKind {
    /// One of some words.
    Word(&'static [&'static str]),
    /// A whole number within bounds, both allowed.
    Count(u64, u64),
    /// One of some whole numbers.
    OneOf(&'static [u64]),
    /// A number above the first bound, and at most the second.
    Number(f64, f64),
    /// Bytes, at least one: a whole number, or a text such as "500MB".
    Size,
    /// A text of a kind of its own. A number counts as its digits.
    Text {
        /// What stands for it in help: "SPARSITY".
        name: &'static str,
        /// Says what was needed of a text that is none.
        check: fn(&str) -> Result<(), String>,
    },
    /// Any number of such texts.
    List {
        /// What stands for one of them in help.
        name: &'static str,
        /// Says what was needed of a text that is none.
        check: fn(&str) -> Result<(), String>,
    },
    /// On or off. The command line has a flag for each.
    Flag {
        /// Name of the flag that turns it off.
        off: &'static str,
        /// Help of that flag.
        about: &'static str,
    },
}

impl Opt {
    /// The value that a text stands for.
    ///
    /// # Errors
    /// What was needed.
    pub fn parse(&self, text: &str) -> Result<Setting, String> {
        let value = match self.kind {
            OptKind::Word(_) | OptKind::Size | OptKind::Text { .. } => None,
            OptKind::List { .. } if text.is_empty() => Some(Setting::List(Vec::new())),
            OptKind::List { .. } => Some(Setting::List(vec![text.to_owned()])),
            OptKind::Count(..) | OptKind::OneOf(_) => text.parse().ok().map(Setting::Count),
            OptKind::Number(..) => text.parse().ok().map(Setting::Number),
            OptKind::Flag { .. } => text.parse().ok().map(Setting::Flag),
        };
        self.check(&value.unwrap_or(Setting::Word(text.to_owned())))
    }

    /// The value, in the form that the option has.
    ///
    /// # Errors
    /// What was needed.
    pub fn check(&self, value: &Setting) -> Result<Setting, String> {
        let found = match (self.kind, value) {
            (OptKind::Text { .. }, Setting::Word(text)) if text.is_empty() && self.default.is_empty() => {
                Some(value.clone())
            }
            (OptKind::Text { check, .. }, Setting::Word(_) | Setting::Count(_) | Setting::Number(_)) => {
                let text = value.to_string();
                check(&text)?;
                Some(Setting::Word(text))
            }
            (OptKind::List { check, .. }, Setting::List(texts)) => {
                texts.iter().try_for_each(|text| check(text).map_err(|e| format!("{text}: {e}")))?;
                Some(value.clone())
            }
            (OptKind::Word(words), Setting::Word(word)) if words.contains(&word.as_str()) => Some(value.clone()),
            (OptKind::Count(least, most), Setting::Count(n)) if (least..=most).contains(n) => Some(value.clone()),
            (OptKind::OneOf(numbers), Setting::Count(n)) if numbers.contains(n) => Some(value.clone()),
            (OptKind::Number(..), Setting::Count(n)) => self.number(*n as f64),
            (OptKind::Number(..), Setting::Number(x)) => self.number(*x),
            (OptKind::Size, Setting::Count(1..)) | (OptKind::Flag { .. }, Setting::Flag(_)) => Some(value.clone()),
            (OptKind::Size, Setting::Word(text)) => bytes(text).map(Setting::Count),
            _ => None,
        };
        found.ok_or_else(|| self.needed())
    }

    /// What this value of it is called where people read it: an option that is off has a name of its own.
    pub fn called(&self, value: &Setting) -> &'static str {
        match (self.kind, value) {
            (OptKind::Flag { off, .. }, Setting::Flag(false)) => off,
            _ => self.name,
        }
    }

    /// All that it is called.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let off = match self.kind {
            OptKind::Flag { off, .. } => Some(off),
            _ => None,
        };
        std::iter::once(self.name).chain(off)
    }

    fn number(&self, x: f64) -> Option<Setting> {
        let OptKind::Number(above, most) = self.kind else { return None };
        (above < x && x <= most).then_some(Setting::Number(x))
    }

    fn needed(&self) -> String {
        match self.kind {
            OptKind::Word(words) => format!("must be one of {}", words.join(", ")),
            OptKind::Count(least, u64::MAX) => format!("must be a whole number of at least {least}"),
            OptKind::Count(least, most) => format!("must be a whole number from {least} to {most}"),
            OptKind::OneOf([one]) => format!("must be {one}"),
            OptKind::OneOf(numbers) => {
                let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
                format!("must be one of {}", numbers.join(", "))
            }
            OptKind::Number(above, most) => format!("must be above {above} and at most {most}"),
            OptKind::Text { name, .. } => format!("must be a text ({name})"),
            OptKind::List { name, .. } => format!("must be a list of texts ({name})"),
            OptKind::Size => "must be a number and KB, MB or GB, such as 5GB".to_owned(),
            OptKind::Flag { .. } => "must be true or false".to_owned(),
        }
    }
}

/// The size that nothing reaches.
pub(crate) const UNLIMITED: &str = "unlimited";

/// "500MB": decimal, as the Hugging Face libraries count; or binary, "500MiB".
fn bytes(text: &str) -> Option<u64> {
    if text == UNLIMITED {
        return Some(u64::MAX);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        _ => return None,
    };
    number.parse().ok().and_then(|n: u64| n.checked_mul(unit)).filter(|n| *n > 0)
}

/// All options of a row, those that were not set with their defaults; and the names of those that were.
#[derive(Debug, Clone, PartialEq)]
pub struct Options(BTreeMap<&'static str, Setting>, Vec<&'static str>);

impl Options {
    /// Fills in what was not set.
    ///
    /// # Errors
    /// [`Error::Setting`] if an option is not in the list, or has a value that it cannot have: what was needed.
    /// `owner`: whose options they are, "method gptq".
    pub fn of(owner: &str, list: &'static [Opt], set: &Settings) -> Result<Options, Error> {
        if let Some((name, value)) = set.iter().find(|(name, _)| !list.iter().any(|o| o.name == name.as_str())) {
            let names: Vec<_> = list.iter().map(|o| o.name).collect();
            let has = if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
            return Err(Error::setting(name, value, format!("{owner} has no such option; {has}")));
        }
        let each = list.iter().map(|option| {
            let value = match set.get(option.name) {
                Some(value) => option
                    .check(value)
                    .map_err(|needed| Error::setting(option.name, value, format!("{needed} ({owner})"))),
                None => Ok(option.parse(option.default).expect("a default that is allowed")),
            };
            value.map(|value| (option.name, value))
        });
        let given = list.iter().map(|option| option.name).filter(|name| set.contains_key(*name)).collect();
        each.collect::<Result<_, _>>().map(|all| Options(all, given))
    }

    /// Whether it was set, and has not just its default.
    pub fn is_set(&self, name: &str) -> bool {
        self.1.contains(&name)
    }

    /// A whole number.
    ///
    /// # Panics
    /// If there is no such option.
    pub fn count(&self, name: &str) -> usize {
        usize::try_from(self.bytes(name)).unwrap_or(usize::MAX)
    }

    /// A size in bytes.
    ///
    /// # Panics
    /// If there is no such option.
    pub fn bytes(&self, name: &str) -> u64 {
        match self.0[name] {
            Setting::Count(n) => n,
            _ => panic!("{name} is no count"),
        }
    }

    /// Whether it is on.
    ///
    /// # Panics
    /// If there is no such option.
    pub fn flag(&self, name: &str) -> bool {
        match self.0[name] {
            Setting::Flag(on) => on,
            _ => panic!("{name} is no flag"),
        }
    }

    /// A text; empty if its default is.
    ///
    /// # Panics
    /// If there is no such option.
    pub fn text(&self, name: &str) -> &str {
        match &self.0[name] {
            Setting::Word(text) => text,
            _ => panic!("{name} is no text"),
        }
    }

    /// Texts.
    ///
    /// # Panics
    /// If there is no such option.
    pub fn list(&self, name: &str) -> &[String] {
        match &self.0[name] {
            Setting::List(texts) => texts,
            _ => panic!("{name} is no list"),
        }
    }

    /// A number.
    ///
    /// # Panics
    /// If there is no such option.
    pub fn number(&self, name: &str) -> f64 {
        match self.0[name] {
            Setting::Number(x) => x,
            _ => panic!("{name} is no number"),
        }
    }

    /// What the word of an option stands for.
    ///
    /// # Panics
    /// If there is no such option, or `meanings` lacks one of its words.
    pub fn word<T: Copy>(&self, name: &str, meanings: &[(&str, T)]) -> T {
        match &self.0[name] {
            Setting::Word(word) => meanings.iter().find(|(w, _)| w == word).expect("every word has a meaning").1,
            _ => panic!("{name} is no word"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static LIST: &[Opt] = &[
        Opt { name: "damp", about: "", kind: OptKind::Number(0.0, 1.0), default: "0.01" },
        Opt { name: "rounds", about: "", kind: OptKind::Count(0, u64::MAX), default: "3" },
        Opt { name: "grid", about: "", kind: OptKind::Count(1, 1000), default: "20" },
        Opt { name: "which", about: "", kind: OptKind::Word(&["on", "off"]), default: "on" },
        Opt { name: "bits", about: "", kind: OptKind::OneOf(&[4, 8]), default: "4" },
        Opt { name: "size", about: "", kind: OptKind::Size, default: "5GB" },
        Opt { name: "even", about: "", kind: OptKind::Flag { off: "odd", about: "" }, default: "true" },
    ];

    fn set(name: &str, value: Setting) -> Result<Options, Error> {
        Options::of("`method` gptq", LIST, &Settings::from([(name.to_owned(), value)]))
    }

    #[test]
    fn what_is_set_counts_and_the_rest_has_its_default() {
        let options = set("damp", Setting::Count(1)).unwrap();
        assert_eq!((options.number("damp"), options.count("rounds"), options.count("grid")), (1.0, 3, 20));
        assert!(options.word("which", &[("on", true), ("off", false)]));
        assert_eq!((options.count("bits"), options.bytes("size"), options.flag("even")), (4, 5_000_000_000, true));
        assert!(!set("which", Setting::Word("off".to_owned())).unwrap().word("which", &[("on", true), ("off", false)]));
        assert_eq!(set("bits", Setting::Count(8)).unwrap().count("bits"), 8);
        assert!(!set("even", Setting::Flag(false)).unwrap().flag("even"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_was_needed() {
        for (name, value, words) in [
            ("damp", Setting::Number(0.0), "`damp` 0: must be above 0 and at most 1"),
            ("damp", Setting::Word("x".to_owned()), "`damp` x: must be above 0 and at most 1"),
            ("damp", Setting::Number(f64::NAN), "at most 1"),
            ("grid", Setting::Count(1001), "1001: must be a whole number from 1 to 1000"),
            ("rounds", Setting::Number(0.5), "at least 0"),
            ("which", Setting::Word("maybe".to_owned()), "on, off"),
            ("bits", Setting::Count(3), "`bits` 3: must be one of 4, 8"),
            ("size", Setting::Count(0), "5GB"),
            ("even", Setting::Word("yes".to_owned()), "true or false"),
            ("dmap", Setting::Number(0.1), "it has damp, rounds, grid, which"),
        ] {
            let error = set(name, value).unwrap_err();
            assert!(matches!(&error, Error::Setting { setting, .. } if setting == name), "{error:?}");
            let error = error.to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(LIST[1].parse("-1").is_err() && LIST[0].parse("0.5").is_ok());
    }

    #[test]
    fn sizes_have_units_and_flags_two_names() {
        let size = |text: &str| LIST[5].parse(text).ok();
        for (text, bytes) in [
            ("7", 7),
            ("200KB", 200_000),
            ("500M", 500_000_000),
            ("2G", 2_000_000_000),
            ("5 gb", 5_000_000_000),
            ("2MiB", 2 << 20),
        ] {
            assert_eq!(size(text), Some(Setting::Count(bytes)), "{text}");
        }
        for text in ["", "0", "0MB", "5TB", "-1", "1.5GB", "99999999999999999999", "18446744073709551615KB"] {
            assert_eq!(size(text), None, "{text}");
        }
        let even = &LIST[6];
        assert_eq!([true, false].map(|on| even.called(&Setting::Flag(on))), ["even", "odd"]);
        assert!(even.names().eq(["even", "odd"]) && LIST[4].names().eq(["bits"]));
    }
}
