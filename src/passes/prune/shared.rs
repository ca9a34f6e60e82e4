//! What all methods of pruning share: the loop over a block, and what they look at.

use std::time::Instant;

use aurora_quantizers::gptq::{self, Hessian, Order};
use aurora_quantizers::prune::Sparsity;
use aurora_quantizers::{BitMask, NumError, Scales, SiteStats, elements, scan};
use ndarray::Array2;

use super::targets::Targets;
use super::{BlockState, Log};
use crate::Result;
use crate::model::Reader;
use crate::record::PassRecord;

/// Fact: weights that are zero now, and all of them.
pub const ZEROS: &str = "zeros";
/// Fact: all weights.
pub const WEIGHTS: &str = "weights";

/// What a method finds for a matrix.
pub struct Outcome {
    /// What stays.
    pub mask: BitMask,
    /// What it becomes, if what stays changes.
    pub values: Option<Array2<f32>>,
    /// Loss on the calibration inputs, e H e^T over all rows: of the mask alone, and with new values.
    pub losses: Option<(f64, f64)>,
}

/// Finds what becomes of a matrix as it stands, with the statistics of its inputs; or says why it stays whole.
pub type Find<'f> = &'f mut dyn FnMut(&Array2<f32>, &SiteStats, Sparsity) -> std::result::Result<Outcome, String>;

/// Prunes all matrices of a block.
///
/// # Errors
/// If a weight is not finite, or the user wants to stop.
pub fn prune(
    block: &mut BlockState<'_>,
    targets: &Targets,
    name: &'static str,
    log: &mut dyn Log,
    find: Find<'_>,
) -> Result<()> {
    for site in 0..block.sites().len() {
        for reader in block.sites()[site].site.readers.clone() {
            let Some(sparsity) = targets.about(block.graph(), reader.weight) else { continue };
            let started = Instant::now();
            let param = block.graph().param(reader.weight);
            log.begin(&param.name)?;
            let stats = block.sites()[site].seen_by(reader.expert);
            let mut record = PassRecord {
                expert: reader.expert,
                tokens: stats.tokens(),
                ..PassRecord::new(name, param.block, vec![param.name.clone()])
            };
            let w = block.weights(reader);
            let seen = scan(elements(w.view()));
            if let Some(first) = seen.first {
                let e = NumError::NotFinite { nan: seen.nan, inf: seen.inf, first };
                return Err(block.error(reader, &e));
            }
            match find(&w, stats, sparsity) {
                Ok(found) => {
                    (record.before, record.after) = found.losses.unzip();
                    record.fact("sparsity", sparsity.to_string());
                    record.fact(ZEROS, w.len() - found.mask.count());
                    record.fact(WEIGHTS, w.len());
                    block.prune(reader, found.mask, found.values)?;
                }
                Err(why) => record.note = Some(format!("not pruned: {why}")),
            }
            record.seconds = started.elapsed().as_secs_f64();
            log.done(record);
        }
    }
    settle(block);
    Ok(())
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
        let mut bytes = vec![0; store.spec().bytes_for(w.ncols()).expect("floats divide rows") * w.nrows()];
        store.encode(elements(w.view()), Scales::Search(None), &mut bytes);
        block.set_codes(*reader, bytes);
    }
}

/// The root mean square of every input channel.
///
/// # Errors
/// If no token reached the matrix.
pub fn norms(stats: &SiteStats) -> std::result::Result<Vec<f32>, String> {
    match stats.tokens() {
        0 => Err("no calibration token reached it".to_owned()),
        _ => Ok(stats.mean_sq().iter().map(|x| x.sqrt()).collect()),
    }
}

/// H, and its factor with columns in their natural order.
///
/// # Errors
/// If no token reached the matrix, or H cannot be factored.
pub fn hessian(stats: &SiteStats) -> std::result::Result<(Array2<f32>, Hessian), String> {
    let gram = stats.gram().filter(|_| stats.tokens() > 0).ok_or("no calibration token reached it")?;
    let mut h = gram.to_square(1.0 / stats.tokens() as f64);
    if gptq::shrink(h.view_mut(), stats.tokens()) == 1.0 {
        return Err(format!("{} tokens are too few for {} input channels", stats.tokens(), stats.width()));
    }
    let prepared = Hessian::prepare(h.view(), DAMP, Order::Natural).map_err(|e| e.to_string())?;
    Ok((h, prepared))
}

/// Damping, as a share of H's mean diagonal: SparseGPT's.
const DAMP: f64 = 0.01;

/// Zeros where a mask says so.
pub fn masked(w: &Array2<f32>, mask: &BitMask) -> Array2<f32> {
    let mut out = w.clone();
    for (i, mut row) in out.rows_mut().into_iter().enumerate() {
        mask.apply(i, row.as_slice_mut().expect("rows in order"));
    }
    out
}
