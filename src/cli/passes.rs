//! Flags of the passes: one for every option in the table of passes, so that a new option needs no line here.

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use crate::passes::{Opt, OptKind, PASSES, PassRow};
use crate::recipe::{PassSpec, Setting};
use crate::{Error, Result};

/// The pass options on the command line: pass, option, value.
#[derive(Debug, Clone, Default)]
pub struct PassFlags(Vec<(&'static PassRow, &'static Opt, Setting)>);

impl PassFlags {
    /// Sets them in the passes that they belong to.
    ///
    /// # Errors
    /// If the method does not include such a pass.
    pub fn apply(&self, passes: &mut Vec<PassSpec>) -> Result<()> {
        for (row, option, value) in &self.0 {
            let found = passes.iter().position(|spec| spec.name.eq_ignore_ascii_case(row.name));
            let at = match found {
                Some(at) => at,
                // It ends every chain, whether it is named or not.
                None if row.name == crate::passes::RTN => {
                    passes.push(PassSpec::new(row.name));
                    passes.len() - 1
                }
                None => {
                    let names: Vec<_> = passes.iter().map(|spec| spec.name.as_str()).collect();
                    let method = if names.is_empty() { crate::passes::RTN.to_owned() } else { names.join("+") };
                    let what =
                        format!("--{} is an option of {}; --method {method} does not use it", flag(option), row.name);
                    return Err(Error::setting(what));
                }
            };
            passes[at].options.insert(option.name.to_owned(), value.clone());
        }
        Ok(())
    }
}

fn flag(option: &Opt) -> String {
    option.name.replace('_', "-")
}

fn argument(option: &'static Opt) -> Arg {
    let parser: ValueParser = match option.kind {
        OptKind::Word(words) => PossibleValuesParser::new(words).map(Setting::Word).into(),
        _ => ValueParser::new(|text: &str| option.parse(text)),
    };
    let name = match option.kind {
        OptKind::Word(_) => "HOW",
        OptKind::Count(..) => "N",
        OptKind::Number(..) => "X",
    };
    let arg = Arg::new(option.name).long(flag(option)).value_name(name).value_parser(parser);
    arg.help(option.about).default_value(option.default).help_heading("Methods")
}

impl clap::Args for PassFlags {
    fn augment_args(command: Command) -> Command {
        command.args(PASSES.iter().flat_map(|row| row.options).map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for PassFlags {
    fn from_arg_matches(found: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let all = PASSES.iter().flat_map(|row| row.options.iter().map(move |option| (row, option)));
        let typed = all.filter(|(_, option)| found.value_source(option.name) == Some(ValueSource::CommandLine));
        let value = |option: &Opt| found.get_one::<Setting>(option.name).expect("it was typed").clone();
        Ok(PassFlags(typed.map(|(row, option)| (row, option, value(option))).collect()))
    }

    fn update_from_arg_matches(&mut self, found: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(found)?;
        Ok(())
    }
}
