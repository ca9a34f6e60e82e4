//! The weights with the smallest part of an output go, |w| |x| (Sun et al. 2023).

use aurora_quantizers::SiteStats;
use aurora_quantizers::prune::{Scope, wanda};

use super::PassRow;
use super::shared::{Decide, Pruner, by_scores, needed};
use super::targets::{ALLOCATION, EXCHANGE, PRUNE, SCOPE, SPARSITY, Targets};
use crate::options::Opt;

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: NAME,
    about: "prunes weights that matter least to the outputs, |w| times the size of its input",
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

const NAME: &str = "wanda";

const OPTIONS: &[Opt] = &[SPARSITY, SCOPE, ALLOCATION, EXCHANGE, PRUNE];

fn prepare(stats: &SiteStats, scope: Scope, pairs: usize) -> Result<Decide, String> {
    by_scores(stats, scope, pairs, |w, norms| {
        w.iter().zip(norms.iter().cycle()).map(|(w, norm)| wanda(*w, *norm)).collect()
    })
}
