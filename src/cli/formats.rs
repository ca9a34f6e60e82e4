//! Flags of the output formats: those of every option in the table of exporters, so that a new option needs no line
//! here.

use clap::{ArgMatches, Command};

use super::options::{arguments, parser, typed};
use crate::export::{About, EXPORTERS};
use crate::options::{Opt, OptKind};
use crate::recipe::{Format, Setting};

/// What was typed of the formats' options: option, value.
#[derive(Debug, Clone, Default)]
pub struct FormatFlags(Vec<(&'static Opt, Setting)>);

impl FormatFlags {
    /// Sets them, whether or not they are this format's.
    pub fn apply(&self, format: &mut Format) {
        let set = self.0.iter().map(|(option, value)| (option.name.to_owned(), value.clone()));
        format.options.extend(set);
    }
}

/// An option of every name, in an order in which each format's options keep theirs.
fn all() -> Vec<&'static Opt> {
    let mut all: Vec<&Opt> = Vec::new();
    for exporter in EXPORTERS {
        let mut before = all.len();
        for option in exporter.about().options.iter().rev() {
            match all.iter().position(|known| known.name == option.name) {
                Some(at) => before = at,
                None => all.insert(before, option),
            }
        }
    }
    all
}

/// The formats that have an option of this name, and theirs.
fn takers(name: &str) -> Vec<(&'static About, &'static Opt)> {
    let options = EXPORTERS.iter().map(|e| e.about()).flat_map(|about| about.options.iter().map(move |o| (about, o)));
    options.filter(|(_, option)| option.name == name).collect()
}

/// "a, b and c".
fn listed(names: &[&str]) -> String {
    match names {
        [some @ .., last] if !some.is_empty() => format!("{} and {last}", some.join(", ")),
        _ => names.concat(),
    }
}

/// What an option is where it is not set: the default, with the formats that have it if others have another. `value`:
/// that of a flag that takes none.
fn default(name: &str, value: Option<bool>) -> String {
    let takers = takers(name);
    let of = |default: &str| {
        let some = takers.iter().filter(|(_, option)| option.default == default);
        listed(&some.map(|(about, _)| about.name).collect::<Vec<_>>())
    };
    let mut defaults: Vec<&str> = takers.iter().map(|(_, option)| option.default).collect();
    defaults.sort_unstable();
    defaults.dedup();
    match (value.map(|on| on.to_string()), &defaults[..]) {
        (Some(value), all) if all.contains(&value.as_str()) => format!(" [default of {}]", of(&value)),
        (Some(_), _) => String::new(),
        (None, [one]) => format!(" [default: {one}]"),
        (None, several) => {
            let each: Vec<_> = several.iter().map(|default| format!("{default} of {}", of(default))).collect();
            format!(" [default: {}]", each.join(", "))
        }
    }
}

impl clap::Args for FormatFlags {
    fn augment_args(command: Command) -> Command {
        let arguments = all().into_iter().flat_map(arguments).map(|(option, arg)| {
            let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let (arg, value) = match option.kind {
                OptKind::Flag { .. } => {
                    let on = arg.get_id() == option.name;
                    (arg, Some(on))
                }
                OptKind::Word(_) => (arg, None),
                // What one format cannot have another may.
                _ => (arg.value_parser(parser(takers(option.name).into_iter().map(|(_, o)| o).collect())), None),
            };
            arg.help(about + &default(option.name, value)).help_heading("Format")
        });
        command.args(arguments)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for FormatFlags {
    fn from_arg_matches(found: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(FormatFlags(all().into_iter().filter_map(|option| Some((option, typed(option, found)?))).collect()))
    }

    fn update_from_arg_matches(&mut self, found: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(found)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn read(words: &[&str]) -> Result<Format, String> {
        let command = FormatFlags::augment_args(Command::new("x").no_binary_name(true));
        let found = command.try_get_matches_from(words).map_err(|e| e.to_string())?;
        let mut format = Format::default();
        FormatFlags::from_arg_matches(&found).unwrap().apply(&mut format);
        Ok(format)
    }

    /// The toy exporter's option stands in its file and nowhere else.
    #[test]
    fn an_option_in_the_table_is_a_flag() {
        assert!(read(&[]).unwrap().options.is_empty());
        let words = ["--toy-gap", "8", "--asym", "--shard-size", "2MB", "--bits", "8"];
        let expected = [
            ("asym", None),
            ("toy_gap", Some(Setting::Count(8))),
            ("sym", Some(Setting::Flag(false))),
            ("shard_size", Some(Setting::Count(2_000_000))),
            ("bits", Some(Setting::Count(8))),
            ("group_size", None),
        ];
        let options = read(&words).unwrap().options;
        for (name, value) in expected {
            assert_eq!(options.get(name), value.as_ref(), "{name}");
        }
        for (words, needed) in [
            (["--toy-gap", "65"], "from 0 to 64"),
            (["--bits", "5"], "must be one of 4, 8"),
            (["--shard-size", "0"], "such as 5GB"),
            (["--sym", "--asym"], "cannot be used with"),
        ] {
            let error = read(&words).unwrap_err();
            assert!(error.contains(needed), "{error}");
        }
    }

    #[test]
    fn the_order_is_every_formats_own() {
        let all: Vec<&str> = all().into_iter().map(|option| option.name).collect();
        for exporter in EXPORTERS {
            let at = exporter.about().options.iter().map(|o| all.iter().position(|name| *name == o.name).unwrap());
            assert!(at.is_sorted(), "{}: {all:?}", exporter.about().name);
        }
        assert_eq!(all[..6], ["split_max_size", "sparse", "bits", "group_size", "sym", "shard_size"]);
    }
}
