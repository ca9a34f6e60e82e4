//! The file of statistics: written and read as GGUF, in the layout of llama-imatrix, and read in its older one.
//!
//! Of every matrix `NAME` that was observed the file has two F32 tensors: `NAME.in_sum2`, the sums of x^2 over tokens,
//! `[experts, cols]` (one row if there are no experts), and `NAME.counts`, how many tokens, `[experts, 1]`. llama-quantize
//! reads these and no others. We add `NAME.in_abs`, the sums of |x|, shaped as the squares; and, where X^T X was asked
//! for, `NAME.in_gram`, `[experts, cols * (cols + 1) / 2]`: the lower triangle row by row, of the first matrix of those
//! that read one input, since it is the same for all of them.
//!
//! Keys: `general.type` ("imatrix"), `imatrix.datasets`, `imatrix.chunk_count`, `imatrix.chunk_size` (tokens).
//!
//! The file of a shard ([`Part`]) has the sums of its samples under these names, too, but for `in_gram`; and of each of the nodes of the
//! tree that it makes up ([`Shard::nodes`](super::shard::Shard::nodes)) `NAME.tree_counts`, `NAME.tree_sum2` and `NAME.tree_abs`, F64,
//! `[experts * nodes, 1 or cols]`, and `NAME.tree_gram`, F32, `[experts * nodes, cols * (cols + 1) / 2]`.
//!
//! | file | what it answers |
//! |---|---|
//! | `read`, `write` | the file's layout |
//! | `part` | which part of which run a file says that it holds |
//! | `merge`, `join` | sums of whole files; shards put together |
//! | `stored` | statistics of sites, from a file |

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use aurora_quantizers::SiteStats;
use aurora_quantizers::spec::{self, Spec};
use aurora_quantizers::stats::Gram;
use aurora_quantizers::tree::Place;

mod join;
mod merge;
mod part;
mod read;
mod stored;
mod write;

pub use merge::merge;
pub use part::{Part, Run};
pub use write::{Shape, Writer, shapes};

use super::dataset::Dataset;
use super::observe::Feed;
use crate::checkpoint::TensorInfo;
use crate::checkpoint::mmap::Map;
use crate::error::printable;
use crate::gguf::MAGIC;
use crate::model::{ModelGraph, ParamId};
use crate::watch::Watch;
use crate::{Error, Result};

const SUM_SQ: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const SUM_ABS: &str = ".in_abs";
const GRAM: &str = ".in_gram";
/// Of a shard's nodes: tokens, sums of x^2, of |x|, and X^T X.
const TREE: [&str; 4] = [".tree_counts", ".tree_sum2", ".tree_abs", ".tree_gram"];

const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";

/// Numbers that are written or added at a time.
const AT_A_TIME: usize = 1 << 20;

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
    /// Of the first `samples` samples of a text, or as many of them.
    pub fn of(data: &Dataset, samples: usize) -> Origin {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Origin { datasets: data.names.clone(), chunks: number(samples), chunk_size: number(data.context) }
    }
}

/// Sums over tokens of one matrix's inputs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Entry {
    /// Numbers in a row of the input.
    pub cols: usize,
    /// Sums of x^2, `[experts, cols]`.
    pub sum_sq: Vec<f32>,
    /// Tokens, `[experts]`.
    pub counts: Vec<f32>,
    /// Sums of |x|, `[experts, cols]`; empty if the file has none.
    pub sum_abs: Vec<f32>,
}

/// Importances per matrix, ready for encoding, and what should be known about them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Importances {
    /// E[x^2] of every column, `[experts, cols]`.
    pub values: BTreeMap<ParamId, Vec<f32>>,
    /// Experts that saw no token, whose importances are all one: matrix and expert.
    pub idle: Vec<(ParamId, usize)>,
    /// Columns in all whose input was always zero.
    pub dead_columns: usize,
}

/// A file of statistics, or the same in memory.
#[derive(Default)]
pub struct Imatrix {
    path: PathBuf,
    /// Where it comes from.
    pub origin: Origin,
    /// Per matrix, by name.
    pub entries: BTreeMap<String, Entry>,
    /// What part of a run it holds, if not all.
    pub part: Option<Part>,
    grams: BTreeMap<String, TensorInfo>,
    /// Sums of nodes, by the tensor's name.
    trees: BTreeMap<String, TensorInfo>,
    map: Option<Map>,
}

impl Imatrix {
    /// Nothing yet; statistics are added as they come.
    pub fn new(origin: Origin) -> Self {
        Imatrix { origin, ..Default::default() }
    }

    /// Adds the statistics of some linears.
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

    /// The same of some nodes, all together.
    pub fn put_nodes(&mut self, graph: &ModelGraph, feed: &Feed, nodes: &[(Place, SiteStats)]) {
        let mut all = SiteStats::new(feed.width, false);
        nodes.iter().for_each(|(_, stats)| all.merge(stats));
        self.put(graph, feed, &all);
    }

    /// Reads a file of ours or of llama-imatrix, GGUF or the older `.dat`.
    ///
    /// # Errors
    /// If it is neither, or damaged: which tensor, what was found, what was needed.
    pub fn open(path: &Path) -> Result<Self> {
        let map = Map::open(path)?;
        if map.bytes().starts_with(&MAGIC) { read::gguf(path, map) } else { read::dat(path, map.bytes()) }
    }

    /// X^T X of a matrix's inputs, if the file has it under this matrix's name.
    ///
    /// # Errors
    /// If its length is not that of a triangle of the entry's columns.
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
    /// If an entry belongs to no matrix of the model or has another length, or a number in it is negative or not finite.
    pub fn importances(&self, graph: &ModelGraph) -> Result<Importances> {
        let mut found = Importances::default();
        for (name, entry) in &self.entries {
            let fault = |what: String| Err(Error::tensor(&self.path, printable(name), what));
            let matrix = graph.params.iter().position(|p| p.name == *name && p.shape.len() > 1).map(ParamId);
            let Some(id) = matrix else {
                return fault(format!(
                    "the model has no matrix of this name; was the importance matrix made with another model? Names look \
                     like {}",
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
                // As llama-quantize: of what was never seen all columns count alike.
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

    /// Writes sums and counts, all at once.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path, replace: bool, watch: &dyn Watch) -> Result<()> {
        let shapes = self.entries.iter().map(|(name, e)| (name.clone(), e.cols, e.counts.len(), false));
        let writer = Writer::begin(path, &self.origin, None, shapes.collect(), replace)?;
        writer.finish(self, watch)
    }
}

/// How many matrices a parameter is: its experts, or one.
fn experts(graph: &ModelGraph, id: ParamId) -> usize {
    match graph.param(id).shape[..] {
        [experts, _, _] => experts,
        _ => 1,
    }
}

/// Numbers of a lower triangle.
fn triangle(cols: usize) -> usize {
    // One of the two factors is even; no file that exists overflows this.
    cols.saturating_mul(cols.saturating_add(1)) / 2
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))
}

fn bytes_of(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn f32_spec() -> &'static Spec {
    spec::by_ggml_id(0).expect("F32 is ggml's type 0")
}

impl Imatrix {
    /// Where the triangles of an entry are, if the file has them.
    fn gram_bytes(&self, name: &str, entry: &Entry) -> Result<Option<Range<usize>>> {
        let Some(info) = self.grams.get(name) else { return Ok(None) };
        let needed = triangle(entry.cols).checked_mul(entry.counts.len());
        if info.elements() != needed {
            let what = format!("shape {:?}, needed triangles of {} columns", info.shape, entry.cols);
            return Err(Error::tensor(&self.path, printable(&info.name), what));
        }
        Ok(Some(info.range.clone()))
    }
}
