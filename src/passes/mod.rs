//! The methods. Each takes a block with the statistics of its inputs, and either prepares it for later passes or solves
//! it.
//!
//! A pass sees the weights and statistics of one block ([`BlockState`]) and knows nothing of files or the runtime. A
//! new one is a file here and a row of [`PASSES`].

pub(crate) mod awq;
mod block;
mod clip;
pub(crate) mod gptq;
pub(crate) mod hessian;
mod pass;
pub(crate) mod prune;
mod rtn;
#[cfg(test)]
mod toy;

pub use block::{BlockState, Probe, SiteState, Trial};
pub use pass::{Log, Needs, Pass, PassRow, RTN, StatsKind};
pub(crate) use rtn::{CODES, JOINT, REFERENCE, SCALES};

use crate::options::Options;
use crate::recipe::{PassSpec, Settings};
use crate::{Error, Result};

/// All passes.
pub static PASSES: &[PassRow] = &[
    rtn::ROW,
    gptq::ROW,
    awq::ROW,
    clip::ROW,
    prune::magnitude::ROW,
    prune::wanda::ROW,
    prune::ria::ROW,
    prune::sparsegpt::ROW,
    prune::admm::ROW,
    #[cfg(test)]
    toy::ROW,
];

/// The row of a pass.
///
/// # Errors
/// If there is none of that name; the error lists the known ones.
pub fn row(name: &str) -> Result<&'static PassRow> {
    PASSES.iter().find(|row| row.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
        let known: Vec<_> = PASSES.iter().map(|row| row.name).collect();
        Error::setting("method", name, format!("unknown; known: {} (joined by +)", known.join(", ")))
    })
}

/// The passes of a recipe, with all their options. Rounding to nearest always comes last, for what no other pass
/// solved.
///
/// # Errors
/// If a name is unknown or given twice, an option does not belong to its pass or has an invalid value, or the order
/// leaves a pass with nothing to do.
pub fn chain(specs: &[PassSpec]) -> Result<Vec<Box<dyn Pass>>> {
    let mut rows: Vec<(&PassRow, Options)> = Vec::new();
    let names = || specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join("+");
    for spec in specs {
        let row = row(&spec.name)?;
        if rows.iter().any(|(r, _)| r.name == row.name) {
            return Err(Error::setting("method", names(), format!("names {} twice", row.name)));
        }
        if let Some((before, _)) = rows.last().filter(|(before, _)| before.solves && !row.solves) {
            let what = format!("{} must come before {}, which chooses codes", row.name, before.name);
            return Err(Error::setting("method", names(), what));
        }
        if let Some((other, _)) = rows.iter().find(|(other, _)| other.prunes && row.prunes) {
            let what = format!("{} and {} both prune; name one of them", other.name, row.name);
            return Err(Error::setting("method", names(), what));
        }
        rows.push((row, Options::of(&format!("`method` {}", row.name), row.options, &spec.options)?));
    }
    if rows.last().is_none_or(|(row, _)| row.name != RTN) {
        if rows.iter().any(|(row, _)| row.name == RTN) {
            return Err(Error::setting("method", names(), format!("nothing is left to do after {RTN}")));
        }
        let options = Options::of("`method` rtn", rtn::ROW.options, &Settings::new()).expect("defaults are allowed");
        rows.push((&PASSES[0], options));
    }
    let all: Vec<&PassRow> = rows.iter().map(|(row, _)| *row).collect();
    Ok(rows.iter().enumerate().map(|(i, (row, options))| (row.make)(options, &all[i + 1..])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::OptKind;
    use crate::recipe::Setting;

    /// Every word of every option makes a pass, and so do the defaults.
    #[test]
    fn every_row_makes_its_pass() {
        for row in PASSES {
            (row.make)(&Options::of(&format!("`method` {}", row.name), row.options, &Settings::new()).unwrap(), &[]);
            for option in row.options {
                let OptKind::Word(words) = option.kind else { continue };
                for word in words {
                    let set = Settings::from([(option.name.to_owned(), Setting::Word((*word).to_owned()))]);
                    (row.make)(&Options::of(&format!("`method` {}", row.name), row.options, &set).unwrap(), &[]);
                }
            }
        }
    }

    /// A flag belongs to one pass, or to all passes of a kind, of which a method has one.
    #[test]
    fn options_of_one_name_are_one_option() {
        let all: Vec<_> = PASSES.iter().flat_map(|row| row.options.iter().map(move |option| (row, option))).collect();
        for (i, (row, option)) in all.iter().enumerate() {
            for (other, twin) in all[..i].iter().filter(|(_, twin)| twin.name == option.name) {
                assert!(row.prunes && other.prunes, "{} of {} and {}", option.name, row.name, other.name);
                assert_eq!(format!("{option:?}"), format!("{twin:?}"));
            }
        }
    }
}
