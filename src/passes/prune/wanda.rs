//! The weights with the smallest part of an output go, |w| |x| (Sun et al. 2023).

use aurora_quantizers::SiteStats;
use aurora_quantizers::prune::{Scope, select, wanda};

use super::shared::{Decide, Outcome, Pruner, norms};
use super::targets::{ALLOCATION, PRUNE, SCOPE, SPARSITY, Targets};
use super::{PassRow, StatsKind};
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
        Box::new(Pruner { name: NAME, stats: StatsKind::Diagonal, targets, prepare })
    },
};

const NAME: &str = "wanda";

const OPTIONS: &[Opt] = &[SPARSITY, SCOPE, ALLOCATION, PRUNE];

fn prepare(stats: &SiteStats, scope: Scope) -> Result<Decide, String> {
    let norms = norms(stats)?;
    Ok(Box::new(move |w, sparsity| {
        let scores: Vec<f32> = w.iter().zip(norms.iter().cycle()).map(|(w, norm)| wanda(*w, *norm)).collect();
        Ok(Outcome { mask: select(&scores, w.ncols(), sparsity, scope), values: None, losses: None })
    }))
}
