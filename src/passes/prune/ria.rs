//! Weights that are small in their row and in their column go (relative importance and activations, Zhang et al. 2024).

use aurora_quantizers::SiteStats;
use aurora_quantizers::prune::{Scope, ria};

use super::PassRow;
use super::shared::{Decide, Pruner, by_scores, needed};
use super::targets::{ALLOCATION, EXCHANGE, PRUNE, SCOPE, SPARSITY, Targets};
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
        let exchange = options.count(EXCHANGE.name);
        Box::new(Pruner { name: NAME, stats: needed(exchange), targets, prepare, exchange })
    },
};

const NAME: &str = "ria";

const OPTIONS: &[Opt] = &[SPARSITY, SCOPE, ALLOCATION, EXCHANGE, PRUNE];

/// The exponent of the input's size, the paper's.
const POWER: f32 = 0.5;

fn prepare(stats: &SiteStats, scope: Scope, pairs: usize) -> Result<Decide, String> {
    by_scores(stats, scope, pairs, |w, norms| ria(w.view(), norms, POWER))
}
