//! Masks and weights found together by alternating directions (Boža 2024), then least squares on what stays, and exchange
//! of what stays for what went.

use aurora_quantizers::SiteStats;
use aurora_quantizers::gptq::{self, Admm, Order};
use aurora_quantizers::prune::Scope;

use super::shared::{DAMP, Decide, Pruner, solved};
use super::targets::{ALLOCATION, PRUNE, SPARSITY, Targets};
use super::{PassRow, StatsKind};
use crate::options::Opt;
use crate::passes::hessian::{factored, products};

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: NAME,
    about: "prunes by alternating between weights that fit the inputs and weights that are sparse; the best, and slow",
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

const NAME: &str = "admm";

const OPTIONS: &[Opt] = &[SPARSITY, ALLOCATION, PRUNE];

/// Rounds of the alternation, of conjugate gradients after it, and of exchange in the end.
const ROUNDS: (usize, usize, usize) = (24, 8, 8);

fn prepare(stats: &SiteStats, _: Scope, _: usize) -> Result<Decide, String> {
    let (h, _) = products(stats)?;
    let hessian = factored(&h, DAMP, Order::Natural)?;
    let admm = Admm::prepare(h.view()).map_err(|e| e.to_string())?;
    Ok(Box::new(move |w, sparsity| {
        let (mut mask, mut values) = admm.prune(w.view(), sparsity, ROUNDS.0);
        gptq::refit(w.view(), &mask, &hessian, ROUNDS.1, values.view_mut());
        let after = gptq::exchange(w.view(), sparsity, &hessian, ROUNDS.2, &mut mask, values.view_mut()).after;
        Ok(solved(w, mask, values, &after, &hessian))
    }))
}
