//! Flags of the passes: those of every option in the table of passes, so that a new option needs no line here.

use clap::{ArgMatches, Command};

use super::options::{arguments, typed};
use crate::options::Opt;
use crate::passes::{PASSES, PassRow};
use crate::recipe::{PassSpec, Setting};
use crate::{Error, Result};

/// The pass options on the command line: pass, option, value.
///
/// Passes of one kind may share an option: the flag is then that of whichever the method includes.
#[derive(Debug, Clone, Default)]
pub struct PassFlags(Vec<(&'static Opt, Setting)>);

impl PassFlags {
    /// Sets them in the passes that they belong to.
    ///
    /// # Errors
    /// If the method does not include such a pass.
    pub fn apply(&self, passes: &mut Vec<PassSpec>) -> Result<()> {
        for (option, value) in &self.0 {
            let owners: Vec<&PassRow> =
                PASSES.iter().filter(|row| row.options.iter().any(|o| o.name == option.name)).collect();
            let owns = |spec: &PassSpec| owners.iter().any(|row| spec.name.eq_ignore_ascii_case(row.name));
            let at = match passes.iter().position(owns) {
                Some(at) => at,
                // It ends every chain, whether it is named or not.
                None if owners[0].name == crate::passes::RTN => {
                    passes.push(PassSpec::new(owners[0].name));
                    passes.len() - 1
                }
                None => {
                    let names: Vec<_> = passes.iter().map(|spec| spec.name.as_str()).collect();
                    let method = if names.is_empty() { crate::passes::RTN.to_owned() } else { names.join("+") };
                    let owner = owners.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
                    let option = option.called(value);
                    let what = format!("`{option}` is an option of {owner}; `method` {method} does not use it");
                    return Err(Error::conflict([option, "method"], what));
                }
            };
            passes[at].options.insert(option.name.to_owned(), value.clone());
        }
        Ok(())
    }
}

impl clap::Args for PassFlags {
    fn augment_args(command: Command) -> Command {
        let all = options().flat_map(arguments);
        // A flag that takes no value has no default to show.
        let shown = all.map(|(option, arg)| match arg.get_action().takes_values() && !option.default.is_empty() {
            true => arg.default_value(option.default),
            false => arg,
        });
        command.args(shown.map(|arg| arg.help_heading("Methods")))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for PassFlags {
    fn from_arg_matches(found: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let set = options().filter_map(|option| Some((option, typed(option, found)?)));
        Ok(PassFlags(set.collect()))
    }

    fn update_from_arg_matches(&mut self, found: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(found)?;
        Ok(())
    }
}

/// All options of passes, each once.
fn options() -> impl Iterator<Item = &'static Opt> {
    let all = PASSES.iter().flat_map(|row| row.options).enumerate();
    all.filter(|(i, option)| PASSES.iter().flat_map(|row| row.options).take(*i).all(|other| other.name != option.name))
        .map(|(_, option)| option)
}
