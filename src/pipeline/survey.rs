//! What pruning must know of all matrices before the first is pruned: which size the lowest weights of a model have, or
//! how many outliers each block has.

use std::collections::BTreeMap;
use std::ops::Range;

use aurora_quantizers::prune::{Bins, wanda};
use aurora_quantizers::{NumError, matrix_mut, par, scan};
use rayon::prelude::*;

use super::statistics;
use crate::calibrate::Wanted;
use crate::calibrate::imatrix::Imatrix;
use crate::calibrate::observe::{Feed, feeds};
use crate::error::Quantity;
use crate::model::{Model, Reader};
use crate::passes::prune::{Answer, Question, Targets};
use crate::runtime::{BlockRunner, RuntimeOptions};
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Error, Result};

/// Where the sizes of inputs come from.
pub enum Inputs<'a> {
    /// These samples, run now.
    Samples(&'a [Vec<u32>]),
    /// A file of statistics.
    File(&'a Imatrix),
}

/// A score above so many times the mean of its block is an outlier; and how far the share of a block may be from that
/// of the model (Yin et al. 2023, "Outlier Weighed Layerwise Sparsity (OWL)", section 3: M and lambda).
const OUTLIER: f64 = 5.0;
const LEEWAY: f64 = 0.08;

/// Looks at all matrices that a pass prunes, if it must know something of them first. `inputs`: needed for outliers.
///
/// # Errors
/// If weights or activations are not finite, statistics are missing in the file, or the watch says to stop.
pub fn survey(
    targets: &Targets,
    model: &Model,
    weights: &Weights<'_>,
    inputs: Option<Inputs<'_>>,
    watch: &dyn Watch,
) -> Result<()> {
    let Some((what, share)) = targets.survey() else { return Ok(()) };
    let readers = targets.surveyed(&model.graph);
    let found = match what {
        Question::Sizes => sizes(weights, &readers, share, watch)?,
        Question::Outliers => {
            let inputs = inputs.ok_or_else(|| Error::bug("a survey of outliers without inputs"))?;
            let norms = norms(model, weights, inputs, watch)?;
            outliers(weights, &readers, &norms, share, watch)?
        }
    };
    targets.learn(found);
    Ok(())
}

/// The size that the lowest `share` of all weights ends at.
fn sizes(weights: &Weights<'_>, readers: &[Reader], share: f64, watch: &dyn Watch) -> Result<Answer> {
    let count = |mut bins: Bins, look: &str| -> Result<Bins> {
        for reader in readers {
            watch.stage(&format!("{look}: {}", weights.graph().param(reader.weight).name));
            watch.go_on()?;
            each(weights, *reader, &mut |values: &mut [f32]| {
                values.iter_mut().for_each(|x| *x = x.abs());
                bins = std::mem::replace(&mut bins, Bins::upper()).count(values);
            })?;
        }
        Ok(bins)
    };
    let upper = count(Bins::upper(), "sizes of weights")?;
    let all: usize = readers.iter().map(|reader| shape(weights, *reader)).map(|(rows, cols)| rows * cols).sum();
    let goes = (share * all as f64).round() as u64;
    if goes == 0 {
        return Ok(Answer::Size(0.0, BTreeMap::new()));
    }
    let (high, before) = upper.place(goes);
    let (low, below) = count(Bins::lower(high), "sizes of weights, again")?.place(goes - before);
    let size = f32::from_bits(high << 16 | low);
    // Of those that have just this size, the first go.
    let mut left = goes - before - below;
    let mut equal = BTreeMap::new();
    for reader in readers {
        if left == 0 {
            break;
        }
        watch.go_on()?;
        let mut here = 0;
        each(weights, *reader, &mut |values: &mut [f32]| {
            here += values.iter().filter(|x| x.abs() == size).count() as u64;
        })?;
        equal.insert(*reader, here.min(left) as usize);
        left -= here.min(left);
    }
    Ok(Answer::Size(size, equal))
}

/// The root mean square of every input channel of every matrix.
fn norms(
    model: &Model,
    weights: &Weights<'_>,
    inputs: Inputs<'_>,
    watch: &dyn Watch,
) -> Result<BTreeMap<Reader, Vec<f32>>> {
    let mut norms = BTreeMap::new();
    let mut put = |feed: &Feed, mean_sq: Vec<f32>| {
        for weight in &feed.readers {
            let roots = mean_sq.iter().map(|x| x.sqrt()).collect();
            norms.insert(Reader { weight: *weight, expert: feed.expert }, roots);
        }
    };
    match inputs {
        Inputs::Samples(samples) => {
            let longest = samples.iter().map(Vec::len).max().unwrap_or(0);
            let runner = BlockRunner::new(model, weights, RuntimeOptions::exact(longest))?;
            let mut sink = |feed: &Feed, stats: aurora_quantizers::SiteStats| {
                if stats.tokens() > 0 {
                    put(feed, stats.mean_sq());
                }
                Ok(())
            };
            statistics::collect(&runner, samples, Wanted::default(), &mut sink, watch)?;
        }
        Inputs::File(file) => {
            let sites = model.graph.sites();
            let blocks = (0..model.graph.blocks.len()).map(Some);
            let all: Vec<Feed> = blocks.flat_map(|block| feeds(&sites, block)).collect();
            file.complete(&model.graph, &all, false)?;
            for feed in &all {
                let stats = file.stats(&model.graph, feed)?.filter(|stats| stats.tokens() > 0);
                if let Some(stats) = stats {
                    put(feed, stats.mean_sq());
                }
            }
        }
    }
    Ok(norms)
}

/// The share that goes of each block: less where more of Wanda's scores are outliers.
fn outliers(
    weights: &Weights<'_>,
    readers: &[Reader],
    norms: &BTreeMap<Reader, Vec<f32>>,
    share: f64,
    watch: &dyn Watch,
) -> Result<Answer> {
    let graph = weights.graph();
    let mut ratios = Vec::with_capacity(graph.blocks.len());
    for block in 0..graph.blocks.len() {
        watch.stage(&format!("outliers of block {block}"));
        watch.go_on()?;
        let here = readers.iter().filter(|r| graph.param(r.weight).block == Some(block) && norms.contains_key(r));
        let scores = |f: &mut dyn FnMut(f64)| -> Result<()> {
            for reader in here.clone() {
                let norms = &norms[reader];
                each(weights, *reader, &mut |values: &mut [f32]| {
                    values.iter().zip(norms.iter().cycle()).for_each(|(w, norm)| f(f64::from(wanda(*w, *norm))));
                })?;
            }
            Ok(())
        };
        let (mut sum, mut count) = (0.0, 0_u64);
        scores(&mut |score| {
            sum += score;
            count += 1;
        })?;
        let (limit, mut over) = (OUTLIER * sum / count.max(1) as f64, 0_u64);
        scores(&mut |score| over += u64::from(score > limit))?;
        ratios.push(over as f64 / count.max(1) as f64);
    }
    Ok(Answer::Shares(shares(&ratios, share)))
}

/// Shares that differ by twice the leeway between the blocks with the most and the fewest outliers, and whose mean is
/// `share`.
fn shares(ratios: &[f64], share: f64) -> Vec<f64> {
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    // No block may lose all, or nothing.
    let leeway = LEEWAY.min(share / 2.0).min((1.0 - share) / 2.0);
    let spread = |ratio: f64| if most > least { (ratio - least) / (most - least) * 2.0 * leeway } else { 0.0 };
    let mean = ratios.iter().map(|r| spread(*r)).sum::<f64>() / ratios.len().max(1) as f64;
    ratios.iter().map(|r| share - (spread(*r) - mean)).collect()
}

/// Rows and columns of a matrix.
fn shape(weights: &Weights<'_>, reader: Reader) -> (usize, usize) {
    let param = weights.graph().param(reader.weight);
    (param.shape[param.shape.len() - 2], param.cols())
}

/// Calls `f` with the weights of a matrix, runs of whole rows in order; they are read by all threads.
fn each(weights: &Weights<'_>, reader: Reader, f: &mut dyn FnMut(&mut [f32])) -> Result<()> {
    let (rows, cols) = shape(weights, reader);
    let first = reader.expert.unwrap_or(0) * rows;
    let step = par::rows_for(par::CHUNK_WEIGHTS, cols);
    let at_once = if weights.in_order(reader.weight) { step * 4 * rayon::current_num_threads() } else { rows };
    let mut values = Vec::new();
    for from in (0..rows).step_by(at_once.max(1)) {
        let some: Range<usize> = first + from..first + (from + at_once).min(rows);
        values.resize(some.len() * cols, 0.0);
        if at_once == rows {
            weights.rows(reader.weight, some.clone(), matrix_mut(&mut values, cols));
        } else {
            values.par_chunks_mut(step * cols).enumerate().for_each(|(i, values)| {
                let from = some.start + i * step;
                weights.rows(reader.weight, from..from + values.len() / cols, matrix_mut(values, cols));
            });
        }
        let seen = scan(&values);
        if let Some(at) = seen.first {
            let e = NumError::NotFinite { nan: seen.nan, inf: seen.inf, first: at };
            let (path, name) = weights.place(reader.weight);
            return Err(Error::numbers(Some(path), &name, Quantity::Weights, "its weights are not finite", e));
        }
        f(&mut values);
        weights.release(reader.weight, some);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn shares_have_the_mean_and_the_leeway_that_are_asked_for() {
        let found = shares(&[0.01, 0.03, 0.02, 0.05], 0.6);
        assert!((found.iter().sum::<f64>() / 4.0 - 0.6).abs() < 1e-12);
        assert!((found[0] - found[3] - 0.16).abs() < 1e-12, "{found:?}");
        assert!(found[0] > found[2] && found[2] > found[1] && found[1] > found[3]);
        assert_eq!(shares(&[0.2; 3], 0.5), [0.5; 3]);
        assert!(shares(&[0.0, 1.0, 1.0, 1.0], 0.95).iter().all(|s| (0.0..1.0).contains(s) && *s > 0.0));
    }
}
