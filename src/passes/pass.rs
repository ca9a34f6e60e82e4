//! What a pass is: what it needs, what it does to a block, and the row of the table that creates one.

use super::block::BlockState;
use super::prune::Targets;
use crate::Result;
use crate::options::{Opt, Options};
use crate::record::PassRecord;

/// The pass that ends every chain.
pub const RTN: &str = "rtn";

/// The statistics of linear layers' inputs that a pass needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatsKind {
    /// Nothing.
    None,
    /// Mean square and mean magnitude of each channel.
    Diagonal,
    /// The means of all products of channels.
    Gram,
}

/// What a pass needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Statistics of the inputs of linear layers.
    pub stats: StatsKind,
    /// Trials of other weights ([`BlockState::probe`]).
    pub probe: bool,
}

impl From<StatsKind> for Needs {
    fn from(stats: StatsKind) -> Needs {
        Needs { stats, probe: false }
    }
}

/// Receives reports of what a pass does, place by place.
pub trait Log {
    /// The work in one place is done.
    fn done(&mut self, record: PassRecord);

    /// Work on this tensor begins.
    ///
    /// # Errors
    /// If the user wants to stop.
    fn begin(&mut self, tensor: &str) -> Result<()>;
}

/// One step of a method chain.
pub trait Pass: Send + Sync {
    /// What must have been observed. If no pass needs anything, the model is not run.
    fn needs(&self) -> Needs;

    /// What it prunes, if it makes weights zero.
    fn prunes(&self) -> Option<&Targets> {
        None
    }

    /// Works on one block.
    ///
    /// # Errors
    /// If numbers are not finite, or the user wants to stop.
    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()>;
}

/// A row of [`PASSES`](super::PASSES).
#[derive(Debug)]
pub struct PassRow {
    /// Name as `--method` takes it.
    pub name: &'static str,
    /// One line for help.
    pub about: &'static str,
    /// Its options.
    pub options: &'static [Opt],
    /// Whether it chooses codes. Passes that only prepare weights come before it.
    pub solves: bool,
    /// Whether it is about codes: it chooses them, or prepares weights for them. Where all linears stay floats it would do
    /// nothing, and asking for it is an error.
    pub for_codes: bool,
    /// Whether its codes make up for each other's errors on the calibration text.
    pub compensates: bool,
    /// Whether it makes weights zero.
    pub prunes: bool,
    /// Creates the pass, given the passes that come after it.
    pub make: fn(&Options, &[&PassRow]) -> Box<dyn Pass>,
}
