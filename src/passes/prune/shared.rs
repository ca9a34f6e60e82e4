//! What all methods of pruning share: the loop over a block, and what they look at.

use std::time::Instant;

use aurora_quantizers::gptq::{self, Hessian};
use aurora_quantizers::prune::{Scope, Sparsity, below, exchange, select};
use aurora_quantizers::{BitMask, NumError, Scales, SiteStats, elements, par, scan};
use ndarray::Array2;
use rayon::prelude::*;

use super::targets::{Amount, Targets};
use super::{BlockState, Log, Needs, Pass, StatsKind};
use crate::model::Reader;
use crate::passes::hessian::{NO_TOKENS, products};
use crate::record::PassRecord;

/// Fact: weights that are zero now.
pub const ZEROS: &str = "zeros";
/// Fact: all weights.
pub const WEIGHTS: &str = "weights";

/// Fact: weights that were exchanged for others.
pub const EXCHANGED: &str = "exchanged";

/// What a method finds for a matrix.
pub struct Outcome {
    /// What stays.
    pub mask: BitMask,
    /// What it becomes, if what stays changes.
    pub values: Option<Array2<f32>>,
    /// Loss on the calibration inputs, e H e^T over all rows: of the mask alone and with new values; or before and after
    /// weights were exchanged.
    pub losses: Option<(f64, f64)>,
    /// Weights that were exchanged for others, without new values for the rest.
    pub exchanged: usize,
}

/// What becomes of a matrix as it stands; or why it stays whole.
pub type Decide = Box<dyn Fn(&Array2<f32>, Sparsity) -> Result<Outcome, String>>;

/// A method: what it looks at, and how it decides.
pub struct Pruner {
    /// Its name.
    pub name: &'static str,
    /// The statistics that it needs.
    pub stats: StatsKind,
    /// What it prunes.
    pub targets: Targets,
    /// Prepares for all matrices that read the same inputs; or says why these stay whole.
    pub prepare: fn(&SiteStats, Scope, usize) -> Result<Decide, String>,
    /// Pairs of a row that are exchanged, if it chooses by scores; else 0.
    pub exchange: usize,
}

impl Pass for Pruner {
    fn needs(&self) -> Needs {
        self.stats.into()
    }

    fn prunes(&self) -> Option<&Targets> {
        Some(&self.targets)
    }

    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> crate::Result<()> {
        for site in 0..block.sites().len() {
            let experts: Vec<Option<usize>> = block.sites()[site].stats.iter().map(|(e, _)| *e).collect();
            for expert in experts {
                let state = &block.sites()[site];
                let readers = state.site.readers.iter().copied().filter(|r| r.expert == expert);
                let about = |reader: Reader| Some((reader, self.targets.amount(block.graph(), reader)?));
                let readers: Vec<(Reader, Amount)> = readers.filter_map(about).collect();
                if readers.is_empty() {
                    continue;
                }
                let stats = state.seen_by(expert);
                let (tokens, decide) = (stats.tokens(), (self.prepare)(stats, self.targets.scope, self.exchange));
                for (reader, amount) in readers {
                    self.matrix(block, reader, amount, tokens, decide.as_ref(), log)?;
                }
            }
        }
        settle(block);
        Ok(())
    }
}

impl Pruner {
    fn matrix(
        &self,
        block: &mut BlockState<'_>,
        reader: Reader,
        amount: Amount,
        tokens: u64,
        decide: Result<&Decide, &String>,
        log: &mut dyn Log,
    ) -> crate::Result<()> {
        let started = Instant::now();
        let param = block.graph().param(reader.weight);
        log.begin(&param.name)?;
        let mut record = PassRecord {
            expert: reader.expert,
            tokens,
            ..PassRecord::new(self.name, param.block, vec![param.name.clone()])
        };
        let w = block.weights(reader);
        let seen = scan(elements(w.view()));
        if let Some(first) = seen.first {
            let e = NumError::NotFinite { nan: seen.nan, inf: seen.inf, first };
            return Err(block.error(reader, &e));
        }
        let found = match amount {
            Amount::Share(sparsity) => decide.map_err(Clone::clone).and_then(|decide| decide(&w, sparsity)),
            // Sizes are the same for all methods that have them.
            Amount::Below(size, equal) => Ok(Outcome {
                mask: below(elements(w.view()), w.ncols(), size, equal),
                values: None,
                losses: None,
                exchanged: 0,
            }),
        };
        match found {
            Ok(found) => {
                (record.before, record.after) = found.losses.unzip();
                match amount {
                    Amount::Share(sparsity) => record.fact("sparsity", sparsity.to_string()),
                    Amount::Below(size, _) => record.fact("below", size),
                }
                record.fact(ZEROS, w.len() - found.mask.count());
                record.fact(WEIGHTS, w.len());
                if found.exchanged > 0 {
                    record.fact(EXCHANGED, found.exchanged);
                }
                block.prune(reader, found.mask, found.values)?;
            }
            Err(why) => record.note = Some(format!("not pruned: {why}")),
        }
        record.seconds = started.elapsed().as_secs_f64();
        log.done(record);
        Ok(())
    }
}

/// Matrices of floats get their bytes now: no later pass is about them, and new values would fill memory until the end.
fn settle(block: &mut BlockState<'_>) {
    let readers: Vec<Reader> = block.sites().iter().flat_map(|state| state.site.readers.clone()).collect();
    for reader in &readers {
        let store = block.store(reader.weight);
        // A parameter of several experts is written whole.
        let pruned = readers.iter().any(|r| r.weight == reader.weight && block.mask(*r).is_some());
        if store.blocks().is_some() || !pruned || block.codes(*reader).is_some() {
            continue;
        }
        let w = block.weights(*reader);
        let row = store.spec().bytes_for(w.ncols()).expect("floats divide rows");
        let (mut bytes, step) = (vec![0; row * w.nrows()], par::rows_for(par::CHUNK_WEIGHTS, w.ncols()));
        let each = bytes.par_chunks_mut(step * row).zip(elements(w.view()).par_chunks(step * w.ncols()));
        each.for_each(|(bytes, w)| store.encode(w, Scales::Search(None), bytes));
        block.set_codes(*reader, bytes);
    }
}

/// What a method that chooses by scores needs: the sizes of inputs, or all products where weights are exchanged.
pub fn needed(exchange: usize) -> StatsKind {
    if exchange > 0 { StatsKind::Gram } else { StatsKind::Diagonal }
}

/// Decides by scores, then exchanges up to so many weights of each row.
pub fn by_scores(
    stats: &SiteStats,
    scope: Scope,
    pairs: usize,
    scores: impl Fn(&Array2<f32>, &[f32]) -> Vec<f32> + 'static,
) -> Result<Decide, String> {
    let norms = norms(stats)?;
    let h = if pairs > 0 { Some(products(stats)?.0) } else { None };
    Ok(Box::new(move |w, sparsity| {
        let mut mask = select(&scores(w, &norms), w.ncols(), sparsity, scope);
        let losses = h.as_ref().map(|h| {
            let found = exchange(w.view(), h.view(), sparsity, pairs, &mut mask);
            ((found.before.iter().sum(), found.after.iter().sum()), found.pairs)
        });
        let (losses, exchanged) = losses.unzip();
        Ok(Outcome { mask, values: None, losses, exchanged: exchanged.unwrap_or(0) })
    }))
}

/// The root mean square of every input channel.
///
/// # Errors
/// If no token reached the matrix.
fn norms(stats: &SiteStats) -> Result<Vec<f32>, String> {
    match stats.tokens() {
        0 => Err(NO_TOKENS.to_owned()),
        _ => Ok(stats.mean_sq().iter().map(|x| x.sqrt()).collect()),
    }
}

/// Damping, as a share of H's mean diagonal: SparseGPT's.
pub const DAMP: f64 = 0.01;

/// A mask with new values, and what both do to the outputs. `losses`: of the values, row by row.
pub fn solved(w: &Array2<f32>, mask: BitMask, values: Array2<f32>, losses: &[f64], hessian: &Hessian) -> Outcome {
    let mut plain = w.clone();
    for (i, mut row) in plain.rows_mut().into_iter().enumerate() {
        mask.apply(i, row.as_slice_mut().expect("rows in order"));
    }
    let before = gptq::losses(w.view(), plain.view(), hessian);
    let losses = (before.iter().sum(), losses.iter().sum());
    Outcome { mask, values: Some(values), losses: Some(losses), exchanged: 0 }
}
