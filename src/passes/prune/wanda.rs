//! The weights with the smallest part of an output go, |w| |x| (Sun et al. 2023).

use aurora_quantizers::prune::{select, wanda};

use super::shared::{Outcome, norms, prune};
use super::targets::{PRUNE, SCOPE, SPARSITY, Targets};
use super::{BlockState, Log, Needs, Pass, PassRow, StatsKind};
use crate::Result;

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: "wanda",
    about: "prunes weights that matter least to the outputs, |w| times the size of its input",
    options: &[SPARSITY, SCOPE, PRUNE],
    solves: false,
    for_codes: false,
    compensates: false,
    prunes: true,
    make: |options, _| Box::new(Wanda(Targets::of(options, true))),
};

struct Wanda(Targets);

impl Pass for Wanda {
    fn needs(&self) -> Needs {
        StatsKind::Diagonal.into()
    }

    fn prunes(&self) -> Option<&Targets> {
        Some(&self.0)
    }

    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()> {
        prune(block, &self.0, ROW.name, log, &mut |w, stats, sparsity| {
            let norms = norms(stats)?;
            let scores: Vec<f32> = w
                .rows()
                .into_iter()
                .flat_map(|row| row.to_vec())
                .zip(norms.iter().cycle())
                .map(|(w, norm)| wanda(w, *norm))
                .collect();
            Ok(Outcome { mask: select(&scores, w.ncols(), sparsity, self.0.scope), values: None, losses: None })
        })
    }
}
