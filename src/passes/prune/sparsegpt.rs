//! Columns are pruned in order, and those behind make up for it (SparseGPT, Frantar & Alistarh 2023).

use aurora_quantizers::gptq;

use super::shared::{Outcome, hessian, masked, prune};
use super::targets::{PRUNE, SPARSITY, Targets};
use super::{BlockState, Log, Needs, Pass, PassRow, StatsKind};
use crate::Result;

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: "sparsegpt",
    about: "prunes column by column, by the Hessian of the inputs; the weights that stay make up for it",
    options: &[SPARSITY, PRUNE],
    solves: false,
    for_codes: false,
    compensates: false,
    prunes: true,
    make: |options, _| Box::new(SparseGpt(Targets::of(options, false))),
};

struct SparseGpt(Targets);

impl Pass for SparseGpt {
    fn needs(&self) -> Needs {
        StatsKind::Gram.into()
    }

    fn prunes(&self) -> Option<&Targets> {
        Some(&self.0)
    }

    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()> {
        prune(block, &self.0, ROW.name, log, &mut |w, stats, sparsity| {
            let (_, hessian) = hessian(stats)?;
            let found = gptq::prune(w.view(), &hessian, sparsity);
            let mut plain = masked(w, &found.mask);
            let before = gptq::refit(w.view(), &found.mask, &hessian, 0, plain.view_mut()).before;
            let losses = (before.iter().sum(), found.losses.iter().sum());
            Ok(Outcome { mask: found.mask, values: Some(found.weights), losses: Some(losses) })
        })
    }
}
