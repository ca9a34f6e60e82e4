//! The methods: each takes a block with the statistics of its inputs and leaves it better prepared, or solved.
//!
//! A pass sees weights and statistics of one block ([`BlockState`]) and knows no files and no runtime. A new one is a
//! file here and a row of [`PASSES`].

mod awq;
mod block;
mod clip;
mod gptq;
mod rtn;

pub use block::{BlockState, Probe, SiteState, Trial};

use crate::record::{LinearRecord, ScaleRecord};
use crate::{Error, Result};

/// How much a pass wants to know of the inputs of linears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatsKind {
    /// Nothing.
    None,
    /// Mean square and mean magnitude of each channel.
    Diagonal,
    /// The means of all products of channels.
    Gram,
}

/// What the user may set; every pass takes what concerns it.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// RTN: whether every weight gets the nearest level, instead of codes that make up for each other's errors.
    pub nearest: bool,
    /// GPTQ: share of the mean diagonal that is added to the Hessian's.
    pub damp: f64,
    /// GPTQ: whether columns are visited by descending diagonal, all scales fixed before (static act order).
    pub act_order: bool,
    /// GPTQ: most sweeps of coordinate descent over the codes after solving.
    pub refine: usize,
    /// AWQ: into how many steps the exponents from 0 to 1 are divided.
    pub grid: usize,
    /// AWQ: whether the weights' magnitudes have a say in the scales.
    pub duo: Duo,
}

/// Which of AWQ's two forms of scales are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duo {
    /// Of activations and weights.
    On,
    /// Of activations alone.
    Off,
    /// Both.
    Both,
}

/// Receives what a pass does, linear by linear.
pub trait Log {
    /// A linear is done.
    fn linear(&mut self, record: LinearRecord);

    /// The scales of a site are found.
    fn scaled(&mut self, record: ScaleRecord);

    /// Work on this tensor begins.
    ///
    /// # Errors
    /// If the user wants to stop.
    fn begin(&mut self, tensor: &str) -> Result<()>;
}

/// One step of a method chain.
pub trait Pass: Send + Sync {
    /// What it needs to have been observed.
    fn needs(&self) -> StatsKind;

    /// Whether it tries weights out ([`BlockState::probe`]).
    fn probes(&self) -> bool {
        false
    }

    /// Works on one block.
    ///
    /// # Errors
    /// If numbers are not finite, or the user wants to stop.
    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()>;
}

/// A row of [`PASSES`].
pub struct PassRow {
    /// Name as `--method` takes it.
    pub name: &'static str,
    /// One line for help.
    pub about: &'static str,
    /// Whether it chooses codes; what only prepares weights comes before.
    pub solves: bool,
    /// Whether its codes make up for each other's errors on the calibration text.
    pub compensates: bool,
    /// Makes the pass; told which passes come after it.
    pub make: fn(&Settings, &[&PassRow]) -> Box<dyn Pass>,
}

/// All passes.
pub static PASSES: &[PassRow] = &[
    PassRow {
        name: "rtn",
        about: "rounds each weight to the nearest, with searched scales",
        solves: true,
        compensates: false,
        make: |s, _| Box::new(rtn::Rtn { nearest: s.nearest }),
    },
    PassRow {
        name: "gptq",
        about: "chooses codes so that errors of neighbours cancel (Hessian of the inputs)",
        solves: true,
        compensates: true,
        make: |s, _| Box::new(gptq::Gptq::new(s)),
    },
    PassRow {
        name: "awq",
        about: "scales input channels so that rounding hurts them less, folded into the weights before",
        solves: false,
        compensates: false,
        make: |s, after| Box::new(awq::Awq::new(s, after.iter().any(|pass| pass.compensates))),
    },
    PassRow {
        name: "clip",
        about: "rounds to nearest, with ranges of groups cut where that lowers the error of the outputs",
        solves: true,
        compensates: false,
        make: |_, _| Box::new(clip::Clip),
    },
];

/// The passes of a chain such as `awq+gptq`. Rounding to nearest always comes last, for what no other pass solved.
///
/// # Errors
/// If a name is not known or stands twice; the error lists those that there are.
pub fn chain(names: &str, settings: &Settings) -> Result<Vec<Box<dyn Pass>>> {
    let mut rows: Vec<&PassRow> = Vec::new();
    for name in names.split('+') {
        let row = PASSES.iter().find(|row| row.name.eq_ignore_ascii_case(name.trim()));
        let row = row.ok_or_else(|| {
            let known: Vec<_> = PASSES.iter().map(|row| row.name).collect();
            Error::unsupported(format!("method {name:?} is not known; known: {} (joined by +)", known.join(", ")))
        })?;
        if rows.iter().any(|r| r.name == row.name) {
            return Err(Error::unsupported(format!("method {names:?} names {} twice", row.name)));
        }
        if let Some(before) = rows.last().filter(|before| before.solves && !row.solves) {
            let what = format!("method {names:?}: {} comes before {}, which chooses codes", row.name, before.name);
            return Err(Error::unsupported(what));
        }
        rows.push(row);
    }
    if rows.last().is_none_or(|row| row.name != "rtn") {
        if rows.iter().any(|row| row.name == "rtn") {
            return Err(Error::unsupported(format!("method {names:?}: nothing is left to do after rtn")));
        }
        rows.push(&PASSES[0]);
    }
    Ok(rows.iter().enumerate().map(|(i, row)| (row.make)(settings, &rows[i + 1..])).collect())
}
