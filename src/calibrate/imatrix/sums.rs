//! Statistics per matrix, in memory or from a file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use aurora_quantizers::SiteStats;
use aurora_quantizers::stats::Gram;
use aurora_quantizers::tree::Place;
use ndarray::{Array2, ArrayViewMut1, Axis};

use super::super::dataset::Dataset;
use super::super::observe::Feed;
use super::label::ShardLabel;
use super::layout::{experts, floats, triangle};
use crate::checkpoint::TensorInfo;
use crate::checkpoint::mmap::Map;
use crate::error::{Fault, Misfit, Quantity, printable};
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
    /// Sums of x^2, `[experts, cols]`; of a matrix without experts one row.
    pub sum_sq: Array2<f32>,
    /// Tokens, `[experts]`.
    pub counts: Vec<f32>,
    /// Sums of |x|, `[experts, cols]`, if the file has them.
    pub sum_abs: Option<Array2<f32>>,
}

impl Entry {
    /// No sums yet.
    pub(super) fn zeros(experts: usize, cols: usize) -> Entry {
        let sums = Array2::zeros((experts, cols));
        Entry { sum_sq: sums.clone(), counts: vec![0.0; experts], sum_abs: Some(sums) }
    }

    /// Experts, and numbers in a row of the input.
    pub fn dim(&self) -> (usize, usize) {
        self.sum_sq.dim()
    }
}

/// Importances per matrix, ready for encoding, and their gaps.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Importances {
    /// E[x^2] of every column, `[experts, cols]`.
    pub values: BTreeMap<ParamId, Array2<f32>>,
    /// Experts that saw no token, whose importances are all one: matrix and expert.
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
            let entry = self.entries.entry(param.name.clone()).or_insert_with(|| Entry::zeros(experts, cols));
            let at = feed.expert.unwrap_or(0);
            let narrow = |from: &[f64], to: ArrayViewMut1<'_, f32>| {
                to.into_iter().zip(from).for_each(|(to, from)| *to = *from as f32);
            };
            narrow(stats.sum_sq(), entry.sum_sq.row_mut(at));
            entry.sum_abs.iter_mut().for_each(|sums| narrow(stats.sum_abs(), sums.row_mut(at)));
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
        let (experts, cols) = entry.dim();
        let triangle = triangle(cols);
        if expert >= experts || info.elements() != triangle.checked_mul(experts) {
            let what = format!("shape {:?}, needed {experts} triangles of {triangle}", info.shape);
            return Err(self.other_shape(info, vec![experts, triangle], what));
        }
        let bytes = &map.bytes()[info.range.clone()][expert * triangle * 4..(expert + 1) * triangle * 4];
        let gram = Gram::from_lower(cols, floats(bytes));
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
            let matrix = graph.params.iter().position(|p| p.name == *name && p.shape.len() > 1).map(ParamId);
            let Some(id) = matrix else {
                let what = format!(
                    "the model has no matrix of this name; was the importance matrix made with another model? Names look \
                     like {}",
                    graph.params.iter().find(|p| p.role.quantizable() && p.block.is_some()).map_or("", |p| &p.name)
                );
                return Err(Error::misfit(&self.path, name, Misfit::Unexpected, what));
            };
            let (cols, experts) = (graph.param(id).cols(), experts(graph, id));
            if entry.sum_sq.len() != experts * cols {
                let what = format!(
                    "{} importances, needed {cols} columns{}; was the importance matrix made with another model?",
                    entry.sum_sq.len(),
                    if experts > 1 { format!(" of each of {experts} experts") } else { String::new() }
                );
                let shape = Misfit::Shape { found: vec![entry.sum_sq.len()], needed: vec![experts * cols] };
                return Err(Error::misfit(&self.path, name, shape, what));
            }
            if let Some((at, x)) = entry.sum_sq.iter().enumerate().find(|(_, x)| !x.is_finite() || **x < 0.0) {
                let what = format!("sum of squares {x} at {at}; needed a finite number of at least 0");
                return Err(self.bad_number(name, *x, what));
            }
            if let Some(at) = entry.counts.iter().position(|x| !x.is_finite() || *x < 0.0) {
                let x = entry.counts[at];
                let what = format!("count {x} at {at}; needed a finite number of at least 0");
                return Err(self.bad_number(name, x, what));
            }
            let mut values = entry.sum_sq.clone();
            for (expert, (mut sums, &count)) in values.axis_iter_mut(Axis(0)).zip(&entry.counts).enumerate() {
                // As llama-quantize: of what was never seen all columns count alike.
                if count == 0.0 {
                    found.idle.push((id, expert));
                    sums.fill(1.0);
                } else {
                    found.dead_columns += sums.iter().filter(|&&s| s == 0.0).count();
                    sums /= count;
                }
            }
            // The older format has one row for all experts.
            let values = values.into_shape_with_order((experts, cols)).expect("as many numbers");
            found.values.insert(id, values);
        }
        Ok(found)
    }
}

impl Imatrix {
    /// The byte range of an entry's triangles, if the file has them.
    pub(super) fn gram_bytes(&self, name: &str, entry: &Entry) -> Result<Option<Range<usize>>> {
        let Some(info) = self.grams.get(name) else { return Ok(None) };
        let (experts, cols) = entry.dim();
        if info.elements() != triangle(cols).checked_mul(experts) {
            let what = format!("shape {:?}, needed triangles of {cols} columns", info.shape);
            return Err(self.other_shape(info, vec![experts, triangle(cols)], what));
        }
        Ok(Some(info.range.clone()))
    }

    /// A sum that is negative or not finite.
    pub(super) fn bad_number(&self, name: &str, x: f32, what: String) -> Error {
        if x.is_finite() {
            return Fault::damaged(what).of_tensor(&self.path, name);
        }
        let (path, tensor) = (Some(self.path.clone()), printable(name));
        Error::NotFinite { path, tensor, of: Quantity::Statistics, what, source: None }
    }

    fn other_shape(&self, info: &TensorInfo, needed: Vec<usize>, what: String) -> Error {
        Error::misfit(&self.path, &info.name, Misfit::Shape { found: info.shape.clone(), needed }, what)
    }
}
