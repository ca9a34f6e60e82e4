//! Flags of options, as the tables of passes and of formats list them.

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

use crate::options::{Opt, OptKind};
use crate::recipe::Setting;

/// A setting as the command line spells it, without its dashes in front.
pub(super) fn flag(name: &str) -> String {
    name.replace('_', "-")
}

/// The arguments of an option: one, or two where it is on or off. What they take is looked up with [`typed`].
pub(super) fn arguments(option: &'static Opt) -> Vec<(&'static Opt, Arg)> {
    let new = |name: &'static str, about: &'static str| Arg::new(name).long(flag(name)).help(about);
    let arg = new(option.name, option.about);
    let arg = match option.kind {
        OptKind::Flag { off, about } => {
            let on = arg.action(ArgAction::SetTrue).conflicts_with(off);
            return vec![(option, on), (option, new(off, about).action(ArgAction::SetTrue))];
        }
        OptKind::Word(words) => {
            let words = PossibleValuesParser::new(words).map(Setting::Word);
            arg.value_name("HOW").value_parser(ValueParser::from(words))
        }
        OptKind::Count(..) | OptKind::OneOf(_) => arg.value_name("N").value_parser(parser(vec![option])),
        OptKind::Number(..) => arg.value_name("X").value_parser(parser(vec![option])),
        OptKind::Text { name, .. } => arg.value_name(name).value_parser(parser(vec![option])),
        OptKind::List { name, .. } => arg.value_name(name).value_parser(parser(vec![option])).action(ArgAction::Append),
        OptKind::Size => arg.value_name("SIZE").value_parser(parser(vec![option])),
    };
    vec![(option, arg)]
}

/// Takes what one of these options can be; the first of them says what was needed.
pub(super) fn parser(options: Vec<&'static Opt>) -> ValueParser {
    ValueParser::new(move |text: &str| {
        let found = options.iter().find_map(|option| option.parse(text).ok());
        found.map_or_else(|| options[0].parse(text), Ok)
    })
}

/// What was typed of an option.
pub(super) fn typed(option: &Opt, found: &ArgMatches) -> Option<Setting> {
    let there = |name: &str| found.value_source(name) == Some(ValueSource::CommandLine);
    match option.kind {
        OptKind::Flag { off, .. } => {
            let on = there(option.name).then_some(true);
            on.or(there(off).then_some(false)).map(Setting::Flag)
        }
        OptKind::List { .. } if there(option.name) => {
            let all = found.get_many::<Setting>(option.name).into_iter().flatten();
            let texts = all.flat_map(|each| match each {
                Setting::List(texts) => texts.clone(),
                other => vec![other.to_string()],
            });
            Some(Setting::List(texts.collect()))
        }
        _ if there(option.name) => found.get_one::<Setting>(option.name).cloned(),
        _ => None,
    }
}
