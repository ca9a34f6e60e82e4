//! The smallest weights go (Han et al. 2015). Needs no text.

use aurora_quantizers::prune::{magnitude, select};

use super::shared::{Outcome, prune};
use super::targets::{PRUNE, SCOPE, SPARSITY, Targets};
use super::{BlockState, Log, Needs, Pass, PassRow, StatsKind};
use crate::Result;

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: "magnitude",
    about: "prunes the smallest weights; needs no text",
    options: &[SPARSITY, SCOPE, PRUNE],
    solves: false,
    for_codes: false,
    compensates: false,
    prunes: true,
    make: |options, _| Box::new(Magnitude(Targets::of(options, true))),
};

struct Magnitude(Targets);

impl Pass for Magnitude {
    fn needs(&self) -> Needs {
        StatsKind::None.into()
    }

    fn prunes(&self) -> Option<&Targets> {
        Some(&self.0)
    }

    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()> {
        prune(block, &self.0, ROW.name, log, &mut |w, _, sparsity| {
            let scores: Vec<f32> = w.iter().map(|w| magnitude(*w)).collect();
            Ok(Outcome { mask: select(&scores, w.ncols(), sparsity, self.0.scope), values: None, losses: None })
        })
    }
}
