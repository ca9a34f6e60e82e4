//! Weights that are small in their row and in their column go (relative importance and activations, Zhang et al. 2024).

use aurora_quantizers::prune::{ria, select};

use super::shared::{Outcome, norms, prune};
use super::targets::{PRUNE, SCOPE, SPARSITY, Targets};
use super::{BlockState, Log, Needs, Pass, PassRow, StatsKind};
use crate::Result;

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: "ria",
    about: "prunes weights that are small beside those of their row and column, with the size of their input",
    options: &[SPARSITY, SCOPE, PRUNE],
    solves: false,
    for_codes: false,
    compensates: false,
    prunes: true,
    make: |options, _| Box::new(Ria(Targets::of(options, true))),
};

/// The exponent of the input's size, the paper's.
const POWER: f32 = 0.5;

struct Ria(Targets);

impl Pass for Ria {
    fn needs(&self) -> Needs {
        StatsKind::Diagonal.into()
    }

    fn prunes(&self) -> Option<&Targets> {
        Some(&self.0)
    }

    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()> {
        prune(block, &self.0, ROW.name, log, &mut |w, stats, sparsity| {
            let scores = ria(w.view(), &norms(stats)?, POWER);
            Ok(Outcome { mask: select(&scores, w.ncols(), sparsity, self.0.scope), values: None, losses: None })
        })
    }
}
