//! Masks and weights found together by alternating directions (Boža 2024), then least squares on what stays.

use aurora_quantizers::gptq;

use super::shared::{Outcome, hessian, masked, prune};
use super::targets::{PRUNE, SPARSITY, Targets};
use super::{BlockState, Log, Needs, Pass, PassRow, StatsKind};
use crate::Result;

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: "admm",
    about: "prunes by alternating between weights that fit the inputs and weights that are sparse; the best, and slow",
    options: &[SPARSITY, PRUNE],
    solves: false,
    for_codes: false,
    compensates: false,
    prunes: true,
    make: |options, _| Box::new(Admm(Targets::of(options, false))),
};

/// Rounds of the alternation, and of conjugate gradients after it.
const ROUNDS: (usize, usize) = (24, 8);

struct Admm(Targets);

impl Pass for Admm {
    fn needs(&self) -> Needs {
        StatsKind::Gram.into()
    }

    fn prunes(&self) -> Option<&Targets> {
        Some(&self.0)
    }

    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()> {
        prune(block, &self.0, ROW.name, log, &mut |w, stats, sparsity| {
            let (h, hessian) = hessian(stats)?;
            let (mask, mut values) = gptq::admm(w.view(), h.view(), sparsity, ROUNDS.0).map_err(|e| e.to_string())?;
            let after = gptq::refit(w.view(), &mask, &hessian, ROUNDS.1, values.view_mut()).after;
            let mut plain = masked(w, &mask);
            let before = gptq::refit(w.view(), &mask, &hessian, 0, plain.view_mut()).before;
            let losses = (before.iter().sum(), after.iter().sum());
            Ok(Outcome { mask, values: Some(values), losses: Some(losses) })
        })
    }
}
