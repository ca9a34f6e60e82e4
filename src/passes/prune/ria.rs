//! Weights that are small in their row and in their column go (relative importance and activations, Zhang et al. 2024).

use aurora_quantizers::SiteStats;
use aurora_quantizers::prune::{Scope, ria, select};

use super::shared::{Decide, Outcome, Pruner, norms};
use super::targets::{ALLOCATION, PRUNE, SCOPE, SPARSITY, Targets};
use super::{PassRow, StatsKind};
use crate::options::Opt;

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: NAME,
    about: "prunes weights that are small beside those of their row and column, with the size of their input",
    options: OPTIONS,
    solves: false,
    for_codes: false,
    compensates: false,
    prunes: true,
    make: |options, _| {
        let targets = Targets::of(options, OPTIONS);
        Box::new(Pruner { name: NAME, stats: StatsKind::Diagonal, targets, prepare })
    },
};

const NAME: &str = "ria";

const OPTIONS: &[Opt] = &[SPARSITY, SCOPE, ALLOCATION, PRUNE];

/// The exponent of the input's size, the paper's.
const POWER: f32 = 0.5;

fn prepare(stats: &SiteStats, scope: Scope) -> Result<Decide, String> {
    let norms = norms(stats)?;
    Ok(Box::new(move |w, sparsity| {
        let scores = ria(w.view(), &norms, POWER);
        Ok(Outcome { mask: select(&scores, w.ncols(), sparsity, scope), values: None, losses: None })
    }))
}
