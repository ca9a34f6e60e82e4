//! What all methods of pruning share: which matrices, how much of each, and the loop over a block.

use std::time::Instant;

use aurora_quantizers::gptq::{self, Hessian, Order};
use aurora_quantizers::prune::{Scope, Sparsity};
use aurora_quantizers::{BitMask, NumError, Scales, SiteStats, elements, scan};
use ndarray::Array2;
use regex::Regex;

use super::{BlockState, Log};
use crate::model::{ModelGraph, ParamId, Reader, Role};
use crate::options::{Opt, OptKind, Options};
use crate::record::PassRecord;
use crate::{Error, Result};

/// How much goes.
pub const SPARSITY: Opt = Opt {
    name: "sparsity",
    about: "Pruning: how many weights of each matrix become zero: 50%, 0.5, or 2:4 to keep 2 of every 4",
    kind: OptKind::Text { name: "SPARSITY", check: is_sparsity },
    default: "50%",
};

/// Among which weights.
pub const SCOPE: Opt = Opt {
    name: "scope",
    about: "Pruning: among which weights the share is counted. row: each output's own; matrix: all of a matrix",
    kind: OptKind::Word(&["row", "matrix"]),
    default: "row",
};

/// Exceptions.
pub const PRUNE: Opt = Opt {
    name: "prune",
    about: "Pruning: another sparsity for matrices whose name matches a regular expression, 0 to leave them whole; may \
            be repeated, the first match wins. A matrix of experts, a router or the output matrix is pruned only if it \
            is named here",
    kind: OptKind::List { name: "PATTERN=SPARSITY", check: is_rule },
    default: "",
};

const SCOPES: [(&str, Scope); 2] = [("row", Scope::Row), ("matrix", Scope::Matrix)];

/// Fact: weights that are zero now, and all of them.
pub const ZEROS: &str = "zeros";
/// Fact: all weights.
pub const WEIGHTS: &str = "weights";

fn is_sparsity(text: &str) -> std::result::Result<(), String> {
    text.parse::<Sparsity>().map(|_| ()).map_err(|e| e.to_string())
}

fn is_rule(text: &str) -> std::result::Result<(), String> {
    Rule::of(text).map(|_| ())
}

/// A sparsity for some matrices.
#[derive(Debug, Clone)]
struct Rule {
    text: String,
    pattern: Regex,
    /// Whole, if there is none.
    sparsity: Option<Sparsity>,
}

impl Rule {
    fn of(text: &str) -> std::result::Result<Rule, String> {
        let needed = "needed is PATTERN=SPARSITY, such as ffn_down=60%";
        let (pattern, sparsity) = text.rsplit_once('=').ok_or_else(|| needed.to_owned())?;
        let pattern = Regex::new(pattern).map_err(|e| format!("not a regular expression: {e}; {needed}"))?;
        let sparsity = match sparsity.trim() {
            "0" | "0%" => None,
            other => Some(other.parse::<Sparsity>().map_err(|e| e.to_string())?),
        };
        Ok(Rule { text: text.to_owned(), pattern, sparsity })
    }
}

/// Which matrices are pruned, and how much of each.
#[derive(Debug, Clone)]
pub struct Choice {
    sparsity: Sparsity,
    /// Among which weights of a matrix a share is counted.
    pub scope: Scope,
    rules: Vec<Rule>,
}

impl Choice {
    /// From the options of a pass; every option was checked when it was set.
    pub fn of(options: &Options, has_scope: bool) -> Choice {
        Choice {
            sparsity: options.text(SPARSITY.name).parse().expect("a sparsity"),
            scope: if has_scope { options.word(SCOPE.name, &SCOPES) } else { Scope::Row },
            rules: options.list(PRUNE.name).iter().map(|text| Rule::of(text).expect("a rule")).collect(),
        }
    }

    /// What goes of a matrix; `None` if it stays whole.
    pub fn about(&self, graph: &ModelGraph, id: ParamId) -> Option<Sparsity> {
        let param = graph.param(id);
        match self.rules.iter().find(|rule| rule.pattern.is_match(&param.name)) {
            Some(rule) => rule.sparsity,
            None if matches!(param.role, Role::Output | Role::Embedding | Role::Router) => None,
            None => Some(self.sparsity),
        }
    }

    /// Whether all that is asked for can be done.
    ///
    /// # Errors
    /// If a pattern matches no matrix, or a sparsity N:M does not divide a matrix's rows.
    pub fn check(&self, graph: &ModelGraph) -> Result<()> {
        let readers: Vec<Reader> = graph.sites().into_iter().flat_map(|site| site.readers).collect();
        for rule in &self.rules {
            if !readers.iter().any(|r| rule.pattern.is_match(&graph.param(r.weight).name)) {
                let what = "matches no matrix that inputs are multiplied with; names are those of GGUF, such as \
                            blk.0.ffn_down.weight";
                return Err(Error::setting(PRUNE.name, &rule.text, what));
            }
        }
        for reader in readers {
            let param = graph.param(reader.weight);
            if let Some(sparsity) = self.about(graph, reader.weight).filter(|s| !s.divides(param.cols())) {
                let what = format!(
                    "{}: rows of {} weights are no multiple of it; leave it whole with `{}` {}=0, or choose a share",
                    param.name,
                    param.cols(),
                    PRUNE.name,
                    param.name
                );
                return Err(Error::setting(SPARSITY.name, sparsity, what));
            }
        }
        Ok(())
    }
}

/// What a method finds for a matrix.
pub struct Found {
    /// What stays.
    pub mask: BitMask,
    /// What it becomes, if what stays changes.
    pub values: Option<Array2<f32>>,
    /// Loss on the calibration inputs, e H e^T over all rows: of the mask alone, and with new values.
    pub losses: Option<(f64, f64)>,
}

/// Prunes all matrices of a block. `find`: for a matrix as it stands, with the statistics of its inputs.
///
/// # Errors
/// If a weight is not finite, or the user wants to stop.
pub fn prune(
    block: &mut BlockState<'_>,
    choice: &Choice,
    name: &'static str,
    log: &mut dyn Log,
    find: &mut dyn FnMut(&Array2<f32>, &SiteStats, Sparsity) -> std::result::Result<Found, String>,
) -> Result<()> {
    for site in 0..block.sites().len() {
        for reader in block.sites()[site].site.readers.clone() {
            let Some(sparsity) = choice.about(block.graph(), reader.weight) else { continue };
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
    for site in 0..block.sites().len() {
        let readers = block.sites()[site].site.readers.clone();
        for reader in &readers {
            let store = block.store(reader.weight);
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
