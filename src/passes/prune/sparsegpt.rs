//! Columns are pruned in order, and those behind make up for it (SparseGPT, Frantar & Alistarh 2023).

use aurora_quantizers::gptq;

use super::shared::{Choice, Found, PRUNE, SPARSITY, hessian, masked, prune};
use super::{BlockState, Log, Needs, Pass, PassRow, StatsKind};
use crate::Result;

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: "sparsegpt",
    about: "prunes column by column, by the Hessian of the inputs; the weights that stay make up for it",
    options: &[SPARSITY, PRUNE],
    solves: false,
    for_codes: false,
    compensates: true,
    prunes: true,
    make: |options, _| Box::new(SparseGpt(Choice::of(options, false))),
};

struct SparseGpt(Choice);

impl Pass for SparseGpt {
    fn needs(&self) -> Needs {
        StatsKind::Gram.into()
    }

    fn prunes(&self) -> Option<&Choice> {
        Some(&self.0)
    }

    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()> {
        prune(block, &self.0, ROW.name, log, &mut |w, stats, sparsity| {
            let (_, hessian) = hessian(stats)?;
            let found = gptq::prune(w.view(), &hessian, sparsity);
            let mut plain = masked(w, &found.mask);
            let before = gptq::refit(w.view(), &found.mask, &hessian, 0, plain.view_mut()).before;
            let losses = (before.iter().sum(), found.losses.iter().sum());
            Ok(Found { mask: found.mask, values: Some(found.weights), losses: Some(losses) })
        })
    }
}
