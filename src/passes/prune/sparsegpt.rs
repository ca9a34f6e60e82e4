//! Columns are pruned in order, and those behind make up for it (SparseGPT, Frantar & Alistarh 2023).

use aurora_quantizers::SiteStats;
use aurora_quantizers::gptq::{self, Order};
use aurora_quantizers::prune::Scope;

use super::shared::{DAMP, Decide, Pruner, solved};
use super::targets::{ALLOCATION, PRUNE, SPARSITY, Targets};
use super::{PassRow, StatsKind};
use crate::options::Opt;
use crate::passes::hessian::{factored, products};

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: NAME,
    about: "prunes column by column, by the Hessian of the inputs; the weights that stay make up for it",
    options: OPTIONS,
    solves: false,
    for_codes: false,
    compensates: false,
    prunes: true,
    make: |options, _| {
        let targets = Targets::of(options, OPTIONS);
        Box::new(Pruner { name: NAME, stats: StatsKind::Gram, targets, prepare, exchange: 0 })
    },
};

const NAME: &str = "sparsegpt";

const OPTIONS: &[Opt] = &[SPARSITY, ALLOCATION, PRUNE];

fn prepare(stats: &SiteStats, _: Scope, _: usize) -> Result<Decide, String> {
    let hessian = factored(&products(stats)?.0, DAMP, Order::Natural)?;
    Ok(Box::new(move |w, sparsity| {
        let found = gptq::prune(w.view(), &hessian, sparsity);
        Ok(solved(w, found.mask, found.weights, &found.losses, &hessian))
    }))
}
