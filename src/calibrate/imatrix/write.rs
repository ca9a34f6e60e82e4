//! Writes statistics files.

use std::collections::BTreeMap;
use std::path::Path;

use aurora_quantizers::SiteStats;
use aurora_quantizers::spec::{self, Spec};
use aurora_quantizers::stats::Gram;
use aurora_quantizers::tree::Place;

use super::layout::{
    AT_A_TIME, CHUNK_COUNT, CHUNK_SIZE, COUNTS, DATASETS, GRAM, SUM_ABS, SUM_SQ, TREE, bytes_of, experts, f32_spec,
    triangle,
};
use super::{Imatrix, Origin, ShardLabel};
use crate::calibrate::observe::Feed;
use crate::error::Quantity;
use crate::export::{FileMap, Output};
use crate::gguf::{Metadata, TensorEntry, Value, align, string, string_array, write_header};
use crate::model::ModelGraph;
use crate::watch::Watch;
use crate::{Error, Result};

/// Name, columns, experts, and whether X^T X is kept under this name.
pub type Shape = (String, usize, usize, bool);

/// What a calibration's file will contain.
pub fn shapes(graph: &ModelGraph, feeds: &[Feed], gram: bool) -> Vec<Shape> {
    let mut all: BTreeMap<String, (usize, usize, bool)> = BTreeMap::new();
    for feed in feeds {
        for (i, &id) in feed.readers.iter().enumerate() {
            let param = graph.param(id);
            let shape = all.entry(param.name.clone()).or_insert((param.cols(), experts(graph, id), false));
            shape.2 |= gram && i == 0;
        }
    }
    all.into_iter().map(|(name, (cols, experts, gram))| (name, cols, experts, gram)).collect()
}

/// A file that is being written: X^T X and node sums as they come, everything else at the end.
pub struct Writer {
    pub(super) output: Output,
    /// Each tensor's index in file order, by name.
    pub(super) names: BTreeMap<String, usize>,
}

impl Writer {
    /// Lays out the file. `label`: the part of a run that the file holds, if not all samples. `shapes`: sorted by name.
    ///
    /// # Errors
    /// If the directory cannot be written or has no room for the file.
    pub fn begin(
        path: &Path,
        origin: &Origin,
        label: Option<&ShardLabel>,
        shapes: Vec<Shape>,
        replace: bool,
    ) -> Result<Writer> {
        let mut metadata = Metadata::new();
        metadata.set("general.type", string("imatrix"));
        metadata.set(DATASETS, string_array(origin.datasets.iter().map(String::as_str)));
        metadata.set(CHUNK_COUNT, Value::U32(origin.chunks));
        metadata.set(CHUNK_SIZE, Value::U32(origin.chunk_size));
        if let Some(label) = label {
            label.keys(&mut metadata);
        }
        let f32_of = |name: &str, suffix: &str, shape| (format!("{name}{suffix}"), shape, f32_spec());
        let mut tensors: Vec<(String, [usize; 2], &'static Spec)> = Vec::new();
        for (name, cols, experts, _) in &shapes {
            tensors.push(f32_of(name, SUM_SQ, [*experts, *cols]));
            tensors.push(f32_of(name, COUNTS, [*experts, 1]));
        }
        // After the two that other programs know.
        for (name, cols, experts, _) in &shapes {
            tensors.push(f32_of(name, SUM_ABS, [*experts, *cols]));
        }
        match label.map(|label| label.shard.nodes().len()) {
            None => {
                for (name, cols, experts, _) in shapes.iter().filter(|(.., gram)| *gram) {
                    tensors.push(f32_of(name, GRAM, [*experts, triangle(*cols)]));
                }
            }
            Some(nodes) => {
                for (name, cols, experts, gram) in &shapes {
                    for (suffix, width) in TREE.into_iter().zip([1, *cols, *cols]) {
                        tensors.push((format!("{name}{suffix}"), [experts * nodes, width], f64_spec()));
                    }
                    if *gram {
                        tensors.push(f32_of(name, TREE[3], [experts * nodes, triangle(*cols)]));
                    }
                }
            }
        }
        let alignment = crate::gguf::DEFAULT_ALIGNMENT;
        let mut size = 0;
        let mut table: Vec<TensorEntry> = Vec::with_capacity(tensors.len());
        for (name, shape, spec) in &tensors {
            let id = spec.ggml_id.expect("F32 and F64 are types of ggml");
            table.push((name, shape, id, size));
            size = align(size + (spec.bytes * shape[0] * shape[1]) as u64, alignment);
        }
        let mut header = Vec::new();
        write_header(&metadata, &table, &mut header)?;
        let start = header.len() as u64;
        let offsets = table.iter().map(|(.., offset)| vec![start + offset]).collect();
        let names = tensors.into_iter().enumerate().map(|(i, (name, ..))| (name, i)).collect();
        let output = Output::begin(path, FileMap { header, offsets, size: start + size }, replace)?;
        Ok(Writer { output, names })
    }

    /// Writes X^T X of a feed, if the file has a place for it.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn gram(&self, graph: &ModelGraph, feed: &Feed, stats: &SiteStats) -> Result<()> {
        let name = format!("{}{GRAM}", graph.param(feed.readers[0]).name);
        let (Some(gram), Some(&tensor)) = (stats.gram(), self.names.get(&name)) else { return Ok(()) };
        self.triangle(tensor, feed.expert.unwrap_or(0), gram)
    }

    /// Writes a triangle that comes after `before` others.
    fn triangle(&self, tensor: usize, before: usize, gram: &Gram) -> Result<()> {
        let mut at = (4 * before * triangle(gram.width())) as u64;
        let mut run = Vec::new();
        for i in 0..gram.width() {
            gram.lower_row(i, &mut run);
            if run.len() >= AT_A_TIME || i + 1 == gram.width() {
                let bytes = bytes_of(run.drain(..));
                self.output.put(tensor, 0, at, &bytes)?;
                at += bytes.len() as u64;
            }
        }
        Ok(())
    }

    /// Writes the sums of a shard's nodes under the names of all matrices of the feed, and X^T X under the name of the
    /// first.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn nodes(&self, graph: &ModelGraph, feed: &Feed, nodes: &[(Place, SiteStats)]) -> Result<()> {
        let first = feed.expert.unwrap_or(0) * nodes.len();
        for (reader, id) in feed.readers.iter().enumerate() {
            let name = &graph.param(*id).name;
            let tensor = |suffix: &str| self.names.get(&format!("{name}{suffix}")).copied();
            for (node, (_, stats)) in nodes.iter().enumerate() {
                let tokens = [stats.tokens() as f64];
                for (suffix, values) in TREE.into_iter().zip([&tokens, stats.sum_sq(), stats.sum_abs()]) {
                    let Some(tensor) = tensor(suffix) else { continue };
                    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                    self.output.put(tensor, 0, ((first + node) * bytes.len()) as u64, &bytes)?;
                }
                if let (0, Some(gram), Some(tensor)) = (reader, stats.gram(), tensor(TREE[3])) {
                    self.triangle(tensor, first + node, gram)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the sums of `all` and gives the file its name.
    ///
    /// # Errors
    /// If the disk fails, a sum is beyond f32, or `watch` says to stop.
    pub fn finish(self, all: &Imatrix, watch: &dyn Watch) -> Result<()> {
        for (name, entry) in &all.entries {
            self.sums(name, SUM_SQ, entry.sum_sq.iter())?;
            self.sums(name, COUNTS, entry.counts.iter())?;
            entry.sum_abs.iter().try_for_each(|sums| self.sums(name, SUM_ABS, sums.iter()))?;
        }
        self.output.finish(watch)
    }

    /// Writes all sums of a kind.
    fn sums<'v>(&self, name: &str, suffix: &str, values: impl Iterator<Item = &'v f32> + Clone) -> Result<()> {
        if let Some(x) = values.clone().find(|x| !x.is_finite()) {
            let what = format!("a sum over tokens is {x}; activations are too large to square");
            let (path, tensor, of) = (None, name.to_owned(), Quantity::Statistics);
            return Err(Error::NotFinite { path, tensor, of, what, source: None });
        }
        self.output.put(self.names[&format!("{name}{suffix}")], 0, 0, &bytes_of(values.copied()))
    }
}

fn f64_spec() -> &'static Spec {
    spec::by_ggml_id(28).expect("F64 is ggml's type 28")
}
