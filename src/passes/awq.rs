//! AWQ (Lin et al. 2023): scales input channels by factors that their producers absorb, chosen by what rounding then
//! does to the output of the attention or MLP. The formulas are in [`aurora_quantizers::awq`].
//!
//! Candidates are tried in the frame of the checkpoint: weights are scaled, rounded as planned (with a scale search
//! that uses the scaled importances), decoded, and divided by the factors again. So nothing else in the block changes
//! for a trial, sites do not depend on each other, and factors are applied only once all are found.

use std::collections::BTreeSet;
use std::time::Instant;

use aurora_quantizers::awq::{self, WeightMagnitude};
use aurora_quantizers::spec::Kind;
use aurora_quantizers::{Scales, SiteStats, matrix_mut, par};
use ndarray::Array2;
use rayon::prelude::*;

use super::{BlockState, Log, Needs, Pass, PassRow, SiteState, StatsKind, Trial};
use crate::Result;
use crate::model::{Producer, Reader, Site};
use crate::options::{Opt, OptKind};
use crate::record::PassRecord;

/// Starting points of the search: exponents of activations and of weights. It continues from the best of them.
const BEGIN: [[f32; 2]; 3] = [[0.5, 0.0], [0.0, 0.5], [0.5, 0.5]];
/// The first step from there, in four directions. It is then halved, down to one step of the grid.
const STEP: f32 = 0.25;

/// Before a pass whose codes compensate for each other's errors, scales must lower the loss of plain rounding to this
/// share. Where they gain less, GPTQ alone was as good or better (bookworm-8m: at 0.96 on average, 0 to 3 % better
/// without). Where channels differ a lot, they gain far more.
const WORTH: f64 = 0.75;

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: "awq",
    about: "scales input channels so that rounding hurts them less; earlier weights absorb the scales",
    options: &[GRID, DUO],
    solves: false,
    for_codes: true,
    compensates: false,
    prunes: false,
    make: |options, after| {
        let worth = if after.iter().any(|pass| pass.compensates) { WORTH } else { 1.0 };
        Box::new(Awq { grid: options.count(GRID.name), duo: options.word(DUO.name, &DUOS), worth })
    },
};

const GRID: Opt = Opt {
    name: "grid",
    about: "AWQ: steps between 0 and 1 for the exponents of the scales; the search tries only some of them",
    kind: OptKind::Count(1, 1000),
    default: "20",
};

const DUO: Opt = Opt {
    name: "duo",
    about: "AWQ: whether the weights' own magnitudes affect the scales (on, off), or whichever is better (both)",
    kind: OptKind::Word(&["on", "off", "both"]),
    default: "both",
};

const DUOS: [(&str, Duo); 3] = [("on", Duo::On), ("off", Duo::Off), ("both", Duo::Both)];

/// Which forms of scales are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duo {
    /// Of activations and weights.
    On,
    /// Of activations alone.
    Off,
    /// Both.
    Both,
}

/// Fact: how the losses are measured, if not at the block's outputs.
pub const JUDGED_BY: &str = "judged_by";

/// Fact: the exponents of activations and weights. Absent if no scales were better than none.
pub const EXPONENTS: &str = "exponents";

/// The pass.
struct Awq {
    grid: usize,
    duo: Duo,
    /// Scales must lower the loss to less than this share.
    worth: f64,
}

/// A candidate for the factors: the exponents of activations and weights, in steps of the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    activations: usize,
    weights: usize,
}

/// A site being searched.
struct Channels<'s> {
    index: usize,
    state: &'s SiteState,
    producer: &'s Producer,
    activations: Vec<f32>,
    weights: Vec<f32>,
}

/// Factors for some sites, and the loss with them.
struct Scaled {
    factors: Vec<Vec<f32>>,
    loss: f64,
}

impl Pass for Awq {
    fn needs(&self) -> Needs {
        Needs { stats: StatsKind::Diagonal, probe: true }
    }

    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()> {
        let mut found = Vec::new();
        for unit in units(block) {
            let started = Instant::now();
            let site = &block.sites()[unit[0]].site;
            let mut record = begin(block, &unit);
            let refused =
                match (block.probe(), unit.iter().find_map(|&i| block.sites()[i].site.producer.as_ref().err())) {
                    (None, _) => Some("scales are searched only within transformer blocks"),
                    (_, Some(why)) => Some(why.as_str()),
                    _ => None,
                };
            if let Some(why) = refused {
                record.note = Some(why.to_owned());
                log.done(record);
                continue;
            }
            let probe = block.probe().expect("looked at above");
            if let Some(how) = probe.judges() {
                record.fact(JUDGED_BY, how);
            }
            let trial = probe.stop_at(site, block.sites())?;
            let chosen = self.search(block, &unit, &*trial, &mut record, log)?;
            record.seconds = started.elapsed().as_secs_f64();
            log.done(record);
            found.extend(chosen);
        }
        found.iter().try_for_each(|(index, factors)| block.scale_site(*index, factors))
    }
}

/// Groups sites that are searched together: each on its own, except that the experts of one linear layer share
/// exponents. Sites without a quantised matrix are left out, since they have nothing to gain.
fn units(block: &BlockState<'_>) -> Vec<Vec<usize>> {
    let mut units: Vec<Vec<usize>> = Vec::new();
    for (i, state) in block.sites().iter().enumerate() {
        if !state.site.readers.iter().any(|r| on_grid(block, *r)) {
            continue;
        }
        match units.last_mut().filter(|unit| block.sites()[unit[0]].site.reach == state.site.reach) {
            Some(unit) => unit.push(i),
            None => units.push(vec![i]),
        }
    }
    units
}

fn on_grid(block: &BlockState<'_>, reader: Reader) -> bool {
    block.store(reader.weight).spec().kind == Kind::Block
}

fn begin(block: &BlockState<'_>, unit: &[usize]) -> PassRecord {
    let name = |id| block.graph().param(id).name.clone();
    let site: &Site = &block.sites()[unit[0]].site;
    let mut readers: Vec<String> = site.readers.iter().map(|r| name(r.weight)).collect();
    readers.dedup();
    let into = site.producer.as_ref().ok().map(|producer| match producer {
        Producer::Norm { weight, .. } | Producer::Rows { weight, .. } => name(*weight),
    });
    let mut record = PassRecord::new(ROW.name, site.block, readers);
    record.tokens = tokens(&block.sites()[unit[0]]);
    record.fact("into", into);
    record
}

/// Tokens that reached any reader of a site.
fn tokens(state: &SiteState) -> u64 {
    let all = state.stats.iter().find(|(expert, _)| expert.is_none());
    all.map_or_else(|| state.stats.iter().map(|(_, s)| s.tokens()).sum(), |(_, s)| s.tokens())
}

/// Mean magnitudes over what all readers of a site saw.
fn magnitudes(state: &SiteState) -> Vec<f32> {
    let all = state.stats.iter().find(|(expert, _)| expert.is_none());
    match all {
        Some((_, stats)) => stats.mean_abs(),
        None => {
            let tokens = tokens(state);
            let sum = |c: usize| state.stats.iter().map(|(_, s)| s.sum_abs()[c]).sum::<f64>();
            (0..state.site.width).map(|c| (sum(c) / tokens.max(1) as f64) as f32).collect()
        }
    }
}

impl Awq {
    /// The best factors for a unit's sites, if any are better than none.
    fn search(
        &self,
        block: &BlockState<'_>,
        unit: &[usize],
        trial: &dyn Trial,
        record: &mut PassRecord,
        log: &mut dyn Log,
    ) -> Result<Vec<(usize, Vec<f32>)>> {
        let channels = |&index: &usize| {
            let state = &block.sites()[index];
            let producer = state.site.producer.as_ref().expect("looked at before");
            let seen = state.stats.iter().any(|(_, s)| s.tokens() > 0);
            seen.then(|| Channels {
                index,
                state,
                producer,
                activations: magnitudes(state),
                weights: weight_magnitudes(block, state),
            })
        };
        let sites: Vec<Channels<'_>> = unit.iter().filter_map(channels).collect();
        if sites.is_empty() {
            record.note = Some("saw no tokens".to_owned());
            return Ok(Vec::new());
        }
        let name = record.tensors[0].clone();
        let mut run = |factors: Vec<Vec<f32>>| -> Result<Scaled> {
            log.begin(&name)?;
            let mut weights = Vec::new();
            for (site, factors) in sites.iter().zip(&factors) {
                for reader in site.state.site.readers.iter().filter(|r| on_grid(block, **r)) {
                    let stats = site.state.seen_by(reader.expert);
                    if stats.tokens() > 0 {
                        weights.push((*reader, rounded(block, *reader, factors, stats)));
                    }
                }
            }
            Ok(Scaled { loss: trial.change(&weights)?, factors })
        };
        let plain = run(sites.iter().map(|s| vec![1.0; s.state.site.width]).collect())?;
        let (chosen, mut best) = self.best(&mut |candidate| run(self.factors(&sites, candidate)))?;
        record.before = Some(plain.loss);
        // Factors must be better, not just different.
        if best.loss >= plain.loss * self.worth {
            record.after = Some(plain.loss);
            return Ok(Vec::new());
        }
        record.after = Some(best.loss);
        let exact = run(best.factors.iter().map(|s| awq::powers_of_two(s)).collect())?;
        if exact.loss <= best.loss {
            best = exact;
            record.after = Some(best.loss);
            record.fact("powers_of_two", true);
        }
        record.fact(EXPONENTS, [chosen.activations, chosen.weights].map(|step| step as f64 / self.grid as f64));
        let range: Option<(f32, f32)> = best.factors.iter().flatten().fold(None, |range, &s| {
            let (low, high) = range.unwrap_or((s, s));
            Some((s.min(low), s.max(high)))
        });
        record.fact("range", range);
        Ok(sites.iter().map(|s| s.index).zip(best.factors).collect())
    }

    /// The best candidate that the search finds.
    fn best(&self, run: &mut dyn FnMut(Candidate) -> Result<Scaled>) -> Result<(Candidate, Scaled)> {
        let mut tried = BTreeSet::new();
        let mut best: Option<(Candidate, Scaled)> = None;
        let mut look = |candidate: Candidate, best: &mut Option<(Candidate, Scaled)>| -> Result<()> {
            let scales = candidate.activations > 0 || candidate.weights > 0;
            let allowed = candidate.activations <= self.grid
                && match self.duo {
                    Duo::Off => candidate.weights == 0,
                    Duo::On => candidate.weights + candidate.activations == self.grid,
                    Duo::Both => candidate.weights <= self.grid,
                };
            if !scales || !allowed || !tried.insert(candidate) {
                return Ok(());
            }
            let scaled = run(candidate)?;
            if best.as_ref().is_none_or(|(_, best)| scaled.loss < best.loss) {
                *best = Some((candidate, scaled));
            }
            Ok(())
        };
        let steps = |share: f32| (share * self.grid as f32).round() as usize;
        for [activations, weights] in BEGIN.map(|exponents| exponents.map(steps)) {
            look(Candidate { activations, weights }, &mut best)?;
        }
        if best.is_none() {
            // The grid is too coarse for the starting points.
            look(Candidate { activations: self.grid, weights: 0 }, &mut best)?;
        }
        let mut step = steps(STEP).max(1);
        loop {
            let Candidate { activations: a, weights: w } = best.as_ref().expect("at least one was tried").0;
            let around = match self.duo {
                Duo::On => vec![(a.checked_sub(step), Some(w + step)), (Some(a + step), w.checked_sub(step))],
                _ => vec![
                    (a.checked_sub(step), Some(w)),
                    (Some(a + step), Some(w)),
                    (Some(a), w.checked_sub(step)),
                    (Some(a), Some(w + step)),
                ],
            };
            for (activations, weights) in around {
                if let (Some(activations), Some(weights)) = (activations, weights) {
                    look(Candidate { activations, weights }, &mut best)?;
                }
            }
            if step == 1 {
                return Ok(best.expect("at least one was tried"));
            }
            step = (step / 2).max(1);
        }
    }

    /// A candidate's factors for each site, equal for tied channels.
    fn factors(&self, sites: &[Channels<'_>], candidate: Candidate) -> Vec<Vec<f32>> {
        let [p, q] = [candidate.activations, candidate.weights].map(|step| step as f32 / self.grid as f32);
        let of_site = |site: &Channels<'_>| {
            let mut s = awq::factors(&site.activations, &site.weights, p, q);
            let groups = site.producer.groups(s.len());
            if groups.iter().any(|group| group.len() > 1) {
                let mut producer = vec![0; s.len()];
                groups.iter().enumerate().for_each(|(p, group)| group.iter().for_each(|&c| producer[c] = p));
                let tied = awq::tie(&s, &producer, groups.len());
                s = producer.into_iter().map(|p| tied[p]).collect();
            }
            s
        };
        sites.iter().map(of_site).collect()
    }
}

fn weight_magnitudes(block: &BlockState<'_>, state: &SiteState) -> Vec<f32> {
    let mut magnitude = WeightMagnitude::new(state.site.width);
    for reader in state.site.readers.iter().filter(|r| on_grid(block, **r)) {
        let group = block.store(reader.weight).blocks().map_or(1, |blocks| {
            let zeros = vec![0.0; blocks.spec().block];
            blocks.fit(&zeros, &zeros).group_len
        });
        magnitude.add(block.weights(*reader).view(), group);
    }
    magnitude.mean()
}

/// The matrix times `factors`, rounded to nearest as the plan says, and divided by them again: `[rows, cols]`.
fn rounded(block: &BlockState<'_>, reader: Reader, factors: &[f32], stats: &SiteStats) -> Array2<f32> {
    let (rows, cols) = block.shape(reader);
    let store = block.store(reader.weight);
    let row_bytes = store.spec().bytes_for(cols).expect("the plan chose a format that divides the row");
    let importance: Vec<f32> = stats.mean_sq().iter().zip(factors).map(|(e, s)| e / (s * s)).collect();
    let step = par::rows_for(par::CHUNK_WEIGHTS / 4, cols);
    let mut out = vec![0.0; rows * cols];
    out.par_chunks_mut(step * cols).enumerate().for_each_init(Vec::new, |bytes, (i, values)| {
        let some = i * step..i * step + values.len() / cols;
        bytes.resize(some.len() * row_bytes, 0);
        block.rows(reader, some, matrix_mut(values, cols));
        let scale = |values: &mut [f32], by: &dyn Fn(f32, f32) -> f32| {
            values
                .chunks_exact_mut(cols)
                .for_each(|row| row.iter_mut().zip(factors).for_each(|(w, s)| *w = by(*w, *s)));
        };
        scale(values, &|w, s| w * s);
        store.encode(values, Scales::Search(Some(&importance)), bytes);
        store.decode(bytes, values);
        scale(values, &|w, s| w / s);
    });
    Array2::from_shape_vec((rows, cols), out).expect("whole rows")
}
