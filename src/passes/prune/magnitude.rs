//! The smallest weights go (Han et al. 2015). Needs no text.

use aurora_quantizers::prune::{Scope, magnitude, select};
use aurora_quantizers::{SiteStats, elements};
use rayon::prelude::*;

use super::shared::{Decide, Outcome, Pruner};
use super::targets::{PRUNE, SCOPE, SPARSITY, THRESHOLD, Targets};
use super::{PassRow, StatsKind};
use crate::options::Opt;

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: NAME,
    about: "prunes the smallest weights; needs no text",
    options: OPTIONS,
    solves: false,
    for_codes: false,
    compensates: false,
    prunes: true,
    make: |options, _| {
        let targets = Targets::of(options, OPTIONS);
        Box::new(Pruner { name: NAME, stats: StatsKind::None, targets, prepare, exchange: 0 })
    },
};

const NAME: &str = "magnitude";

const OPTIONS: &[Opt] = &[SPARSITY, THRESHOLD, SCOPE, PRUNE];

fn prepare(_: &SiteStats, scope: Scope, _: usize) -> Result<Decide, String> {
    Ok(Box::new(move |w, sparsity| {
        let scores: Vec<f32> = elements(w.view()).par_iter().map(|w| magnitude(*w)).collect();
        Ok(Outcome { mask: select(&scores, w.ncols(), sparsity, scope), values: None, losses: None, exchanged: 0 })
    }))
}
