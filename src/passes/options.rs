//! Options of a pass. A row of [`PASSES`](super::PASSES) lists its options; help, flags, recipes and their checks
//! follow from the list.

use std::collections::BTreeMap;

use crate::recipe::{Setting, Settings};

/// One option of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// Name as spelled in recipes; the flag has dashes instead of underscores.
    pub name: &'static str,
    /// Help text.
    pub about: &'static str,
    /// The values it can have.
    pub kind: OptKind,
    /// The default value.
    pub default: &'static str,
}

/// The values that an option can have.
#[derive(Debug, Clone, Copy)]
pub enum OptKind {
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number within these bounds, inclusive.
    Count(u64, u64),
    /// A number above the first bound and at most the second.
    Number(f64, f64),
}

impl Opt {
    /// Parses a value.
    ///
    /// # Errors
    /// What the value must be.
    pub fn parse(&self, text: &str) -> Result<Setting, String> {
        let value = match self.kind {
            OptKind::Word(_) => Some(Setting::Word(text.to_owned())),
            OptKind::Count(..) => text.parse().ok().map(Setting::Count),
            OptKind::Number(..) => text.parse().ok().map(Setting::Number),
        };
        self.check(&value.unwrap_or(Setting::Word(text.to_owned())))
    }

    /// Checks a value and converts it to the option's kind.
    ///
    /// # Errors
    /// What the value must be.
    pub fn check(&self, value: &Setting) -> Result<Setting, String> {
        let found = match (self.kind, value) {
            (OptKind::Word(words), Setting::Word(word)) if words.contains(&word.as_str()) => Some(value.clone()),
            (OptKind::Count(least, most), Setting::Count(n)) if (least..=most).contains(n) => Some(value.clone()),
            (OptKind::Number(..), Setting::Count(n)) => self.number(*n as f64),
            (OptKind::Number(..), Setting::Number(x)) => self.number(*x),
            _ => None,
        };
        found.ok_or_else(|| self.needed())
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
            OptKind::Number(above, most) => format!("must be above {above} and at most {most}"),
        }
    }
}

/// All options of a pass, with defaults for those that were not set.
#[derive(Debug, Clone, PartialEq)]
pub struct Options(BTreeMap<&'static str, Setting>);

impl Options {
    /// Checks the options that were set and fills in the others.
    ///
    /// # Errors
    /// If an option is not in the list or has an invalid value; the error says which, and what it must be.
    pub fn of(list: &'static [Opt], set: &Settings) -> Result<Options, String> {
        if let Some(name) = set.keys().find(|name| !list.iter().any(|o| o.name == name.as_str())) {
            let names: Vec<_> = list.iter().map(|o| o.name).collect();
            let has = if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
            return Err(format!("has no option {name:?}; {has}"));
        }
        let each = list.iter().map(|option| {
            let value = match set.get(option.name) {
                Some(value) => option.check(value),
                None => option.parse(option.default),
            };
            value.map(|value| (option.name, value)).map_err(|needed| format!("{}: {needed}", option.name))
        });
        each.collect::<Result<_, _>>().map(Options)
    }

    /// A whole number.
    ///
    /// # Panics
    /// If the pass has no such option.
    pub fn count(&self, name: &str) -> usize {
        match self.0[name] {
            Setting::Count(n) => usize::try_from(n).unwrap_or(usize::MAX),
            _ => panic!("{name} is no count"),
        }
    }

    /// A number.
    ///
    /// # Panics
    /// If the pass has no such option.
    pub fn number(&self, name: &str) -> f64 {
        match self.0[name] {
            Setting::Number(x) => x,
            _ => panic!("{name} is no number"),
        }
    }

    /// The meaning of an option's word.
    ///
    /// # Panics
    /// If the pass has no such option, or `meanings` lacks one of its words.
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
    ];

    fn set(name: &str, value: Setting) -> Result<Options, String> {
        Options::of(LIST, &Settings::from([(name.to_owned(), value)]))
    }

    #[test]
    fn what_is_set_counts_and_the_rest_has_its_default() {
        let options = set("damp", Setting::Count(1)).unwrap();
        assert_eq!((options.number("damp"), options.count("rounds"), options.count("grid")), (1.0, 3, 20));
        assert!(options.word("which", &[("on", true), ("off", false)]));
        assert!(!set("which", Setting::Word("off".to_owned())).unwrap().word("which", &[("on", true), ("off", false)]));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_was_needed() {
        for (name, value, words) in [
            ("damp", Setting::Number(0.0), "damp: must be above 0 and at most 1"),
            ("damp", Setting::Word("x".to_owned()), "at most 1"),
            ("damp", Setting::Number(f64::NAN), "at most 1"),
            ("grid", Setting::Count(1001), "from 1 to 1000"),
            ("rounds", Setting::Number(0.5), "at least 0"),
            ("which", Setting::Word("maybe".to_owned()), "on, off"),
            ("dmap", Setting::Number(0.1), "it has damp, rounds, grid, which"),
        ] {
            let error = set(name, value).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(LIST[1].parse("-1").is_err() && LIST[0].parse("0.5").is_ok());
    }
}
