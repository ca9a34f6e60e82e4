//! Statistics per matrix, in memory or from a file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use aurora_quantizers::SiteStats;
use aurora_quantizers::stats::Gram;
use aurora_quantizers::tree::Place;

use super::super::dataset::Dataset;
use super::super::observe::Feed;
use super::label::ShardLabel;
use super::layout::{experts, floats, triangle};
use crate::checkpoint::TensorInfo;
use crate::checkpoint::mmap::Map;
use crate::error::printable;
use crate::model::{ModelGraph, ParamId};
use crate::{Error, Result};

/// Where statistics come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// Names of the texts.
    pub datasets: Vec<String>,
    /// Samples.
    pub chunks: u32,
    /// Tokens in a sample.
    pub chunk_size: u32,
}

impl Origin {
    /// The origin of statistics over `samples` samples of a text.
    pub fn of(data: &Dataset, samples: usize) -> Origin {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Origin { datasets: data.names.clone(), chunks: number(samples), chunk_size: number(data.context) }
    }
}

/// Sums over the tokens of one matrix's inputs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Entry {
    /// Width of the input.
    pub cols: usize,
    /// Sums of x^2, `[experts, cols]`.
    pub sum_sq: Vec<f32>,
    /// Token counts, `[experts]`.
    pub counts: Vec<f32>,
    /// Sums of |x|, `[experts, cols]`; empty if the file has none.
    pub sum_abs: Vec<f32>,
}

/// Importances per matrix, ready for encoding, and their gaps.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Importances {
    /// E[x^2] of every column, `[experts, cols]`.
    pub values: BTreeMap<ParamId, Vec<f32>>,
    /// Experts that saw no tokens, whose importances are all one: matrix and expert.
    pub idle: Vec<(ParamId, usize)>,
    /// Total number of columns whose input was always zero.
    pub dead_columns: usize,
}

/// Statistics in a file or in memory.
#[derive(Default)]
pub struct Imatrix {
    pub(super) path: PathBuf,
    /// Where they come from.
    pub origin: Origin,
    /// Statistics of each matrix, by name.
    pub entries: BTreeMap<String, Entry>,
    /// Which part of a run this is, if not all of it.
    pub label: Option<ShardLabel>,
    pub(super) grams: BTreeMap<String, TensorInfo>,
    /// Node sums, by tensor name.
    pub(super) trees: BTreeMap<String, TensorInfo>,
    pub(super) map: Option<Map>,
}

impl Imatrix {
    /// Starts empty; statistics are added as they come.
    pub fn new(origin: Origin) -> Self {
        Imatrix { origin, ..Default::default() }
    }

    /// Adds the statistics of a feed.
    pub fn put(&mut self, graph: &ModelGraph, feed: &Feed, stats: &SiteStats) {
        for &id in &feed.readers {
            let param = graph.param(id);
            let (cols, experts) = (param.cols(), experts(graph, id));
            let entry = self.entries.entry(param.name.clone()).or_insert_with(|| Entry {
                cols,
                sum_sq: vec![0.0; experts * cols],
                counts: vec![0.0; experts],
                sum_abs: vec![0.0; experts * cols],
            });
            let at = feed.expert.unwrap_or(0);
            let narrow = |from: &[f64], to: &mut [f32]| {
                to[at * cols..(at + 1) * cols].iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
            };
            narrow(stats.sum_sq(), &mut entry.sum_sq);
            narrow(stats.sum_abs(), &mut entry.sum_abs);
            entry.counts[at] = stats.tokens() as f32;
        }
    }

    /// Adds the statistics of a feed, given as nodes that are summed up.
    pub fn put_nodes(&mut self, graph: &ModelGraph, feed: &Feed, nodes: &[(Place, SiteStats)]) {
        let mut all = SiteStats::new(feed.width, false);
        nodes.iter().for_each(|(_, stats)| all.merge(stats));
        self.put(graph, feed, &all);
    }

    /// X^T X of a matrix's inputs, if the file has it under this matrix's name.
    ///
    /// # Errors
    /// If its length does not match the entry's number of columns.
    pub fn gram(&self, name: &str, expert: usize) -> Result<Option<Gram>> {
        let (Some(info), Some(entry), Some(map)) = (self.grams.get(name), self.entries.get(name), &self.map) else {
            return Ok(None);
        };
        let triangle = triangle(entry.cols);
        if expert >= entry.counts.len() || info.elements() != triangle.checked_mul(entry.counts.len()) {
            let what = format!("shape {:?}, needed {} triangles of {triangle}", info.shape, entry.counts.len());
            return Err(Error::tensor(&self.path, printable(&info.name), what));
        }
        let bytes = &map.bytes()[info.range.clone()][expert * triangle * 4..(expert + 1) * triangle * 4];
        let gram = Gram::from_lower(entry.cols, floats(bytes));
        map.release(info.range.clone());
        Ok(Some(gram))
    }

    /// Importances of a model's matrices.
    ///
    /// # Errors
    /// If an entry belongs to no matrix of the model or has the wrong length, or if a number in it is negative or not
    /// finite.
    pub fn importances(&self, graph: &ModelGraph) -> Result<Importances> {
        let mut found = Importances::default();
        for (name, entry) in &self.entries {
            let fault = |what: String| Err(Error::tensor(&self.path, printable(name), what));
            let matrix = graph.params.iter().position(|p| p.name == *name && p.shape.len() > 1).map(ParamId);
            let Some(id) = matrix else {
                return fault(format!(
                    "the model has no matrix of this name; was the importance matrix made with another model? Names \
                     look like {}",
                    graph.params.iter().find(|p| p.role.quantizable() && p.block.is_some()).map_or("", |p| &p.name)
                ));
            };
            let (cols, experts) = (graph.param(id).cols(), experts(graph, id));
            if entry.sum_sq.len() != experts * cols {
                return fault(format!(
                    "{} importances, needed {cols} columns{}; was the importance matrix made with another model?",
                    entry.sum_sq.len(),
                    if experts > 1 { format!(" of each of {experts} experts") } else { String::new() }
                ));
            }
            if let Some(at) = entry.sum_sq.iter().position(|x| !x.is_finite() || *x < 0.0) {
                let x = entry.sum_sq[at];
                return fault(format!("sum of squares {x} at {at}; needed a finite number of at least 0"));
            }
            if let Some(at) = entry.counts.iter().position(|x| !x.is_finite() || *x < 0.0) {
                let x = entry.counts[at];
                return fault(format!("count {x} at {at}; needed a finite number of at least 0"));
            }
            let each = entry.sum_sq.len() / entry.counts.len();
            let mut values = Vec::with_capacity(entry.sum_sq.len());
            for (expert, (sums, &count)) in entry.sum_sq.chunks_exact(each).zip(&entry.counts).enumerate() {
                // As in llama-quantize: if an expert was never seen, all columns weigh the same.
                if count == 0.0 {
                    found.idle.push((id, expert));
                    values.extend(sums.iter().map(|_| 1.0));
                } else {
                    found.dead_columns += sums.iter().filter(|&&s| s == 0.0).count();
                    values.extend(sums.iter().map(|s| s / count));
                }
            }
            found.values.insert(id, values);
        }
        Ok(found)
    }
}

impl Imatrix {
    /// The byte range of an entry's triangles, if the file has them.
    pub(super) fn gram_bytes(&self, name: &str, entry: &Entry) -> Result<Option<Range<usize>>> {
        let Some(info) = self.grams.get(name) else { return Ok(None) };
        let needed = triangle(entry.cols).checked_mul(entry.counts.len());
        if info.elements() != needed {
            let what = format!("shape {:?}, needed triangles of {} columns", info.shape, entry.cols);
            return Err(Error::tensor(&self.path, printable(&info.name), what));
        }
        Ok(Some(info.range.clone()))
    }
}
