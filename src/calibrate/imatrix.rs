//! The file of statistics: written and read as GGUF, in the layout of llama-imatrix, and read in its older one.
//!
//! Of every matrix `NAME` that was observed the file has two F32 tensors: `NAME.in_sum2`, the sums of x^2 over tokens,
//! `[experts, cols]` (one row if there are no experts), and `NAME.counts`, how many tokens, `[experts, 1]`. llama-quantize
//! reads these and no others. We add `NAME.in_abs`, the sums of |x|, shaped as the squares; and, where X^T X was asked
//! for, `NAME.in_gram`, `[experts, cols * (cols + 1) / 2]`: the lower triangle row by row, of the first matrix of those
//! that read one input, since it is the same for all of them.
//!
//! Keys: `general.type` ("imatrix"), `imatrix.datasets`, `imatrix.chunk_count`, `imatrix.chunk_size` (tokens).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use aurora_quantizers::SiteStats;
use aurora_quantizers::stats::Gram;

use super::dataset::Dataset;
use super::observe::Feed;
use crate::checkpoint::TensorInfo;
use crate::checkpoint::gguf;
use crate::checkpoint::mmap::Map;
use crate::error::printable;
use crate::export::{Layout, Output};
use crate::gguf::{MAGIC, Metadata, TensorEntry, Value, align, string, string_array, write_header};
use crate::model::{ModelGraph, ParamId};
use crate::watch::Watch;
use crate::{Error, Result};

const SUM_SQ: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const SUM_ABS: &str = ".in_abs";
const GRAM: &str = ".in_gram";

const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";

/// ggml's number for F32.
const F32_ID: u32 = 0;

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

impl From<&Dataset> for Origin {
    fn from(data: &Dataset) -> Origin {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Origin { datasets: data.names.clone(), chunks: number(data.samples.len()), chunk_size: number(data.context) }
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
    grams: BTreeMap<String, TensorInfo>,
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

    /// Reads a file of ours or of llama-imatrix, GGUF or the older `.dat`.
    ///
    /// # Errors
    /// If it is neither, or damaged: which tensor, what was found, what was needed.
    pub fn open(path: &Path) -> Result<Self> {
        let map = Map::open(path)?;
        if map.bytes().starts_with(&MAGIC) { read_gguf(path, map) } else { read_dat(path, map.bytes()) }
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
        let gram = Gram::from_lower(entry.cols, floats(bytes).map(f64::from));
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
        let writer = Writer::begin(path, &self.origin, shapes.collect(), replace)?;
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

/// Name, columns, experts, and whether X^T X is kept under this name.
pub type Shape = (String, usize, usize, bool);

/// What the file of a calibration will have.
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

/// A file that is being written: X^T X as it comes, everything else at the end.
pub struct Writer {
    output: Output,
    /// The tensors' names in file order.
    names: BTreeMap<String, usize>,
}

impl Writer {
    /// Lays the file out. `shapes`: sorted by name.
    ///
    /// # Errors
    /// If the directory cannot be written or has no room for the file.
    pub fn begin(path: &Path, origin: &Origin, shapes: Vec<Shape>, replace: bool) -> Result<Writer> {
        let mut metadata = Metadata::new();
        metadata.set("general.type", string("imatrix"));
        metadata.set(DATASETS, string_array(origin.datasets.iter().map(String::as_str)));
        metadata.set(CHUNK_COUNT, Value::U32(origin.chunks));
        metadata.set(CHUNK_SIZE, Value::U32(origin.chunk_size));
        let mut tensors: Vec<(String, [usize; 2])> = Vec::new();
        for (name, cols, experts, _) in &shapes {
            tensors.push((format!("{name}{SUM_SQ}"), [*experts, *cols]));
            tensors.push((format!("{name}{COUNTS}"), [*experts, 1]));
        }
        // Behind the two that other programs know.
        for (name, cols, experts, _) in &shapes {
            tensors.push((format!("{name}{SUM_ABS}"), [*experts, *cols]));
        }
        for (name, cols, experts, gram) in &shapes {
            if *gram {
                tensors.push((format!("{name}{GRAM}"), [*experts, triangle(*cols)]));
            }
        }
        let alignment = crate::gguf::DEFAULT_ALIGNMENT;
        let mut size = 0;
        let mut table: Vec<TensorEntry> = Vec::with_capacity(tensors.len());
        for (name, shape) in &tensors {
            table.push((name, shape, F32_ID, size));
            size = align(size + 4 * (shape[0] * shape[1]) as u64, alignment);
        }
        let mut header = Vec::new();
        write_header(&metadata, &table, &mut header)?;
        let start = header.len() as u64;
        let offsets = table.iter().map(|(.., offset)| start + offset).collect();
        let names = tensors.into_iter().enumerate().map(|(i, (name, _))| (name, i)).collect();
        let output = Output::begin(path, Layout { header, offsets, size: start + size }, replace)?;
        Ok(Writer { output, names })
    }

    /// Writes X^T X of a feed, if it was planned.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn gram(&self, graph: &ModelGraph, feed: &Feed, stats: &SiteStats) -> Result<()> {
        let name = format!("{}{GRAM}", graph.param(feed.readers[0]).name);
        let (Some(gram), Some(&tensor)) = (stats.gram(), self.names.get(&name)) else { return Ok(()) };
        let mut at = (4 * feed.expert.unwrap_or(0) * triangle(gram.width())) as u64;
        let mut run = Vec::new();
        for i in 0..gram.width() {
            gram.lower_row(i, &mut run);
            if run.len() >= AT_A_TIME || i + 1 == gram.width() {
                let bytes = bytes_of(run.drain(..));
                self.output.put(tensor, at, &bytes)?;
                at += bytes.len() as u64;
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
            for (suffix, values) in [(SUM_SQ, &entry.sum_sq), (COUNTS, &entry.counts), (SUM_ABS, &entry.sum_abs)] {
                if let Some(x) = values.iter().find(|x| !x.is_finite()) {
                    let what = format!("a sum over tokens is {x}; activations are too large to square");
                    return Err(Error::numbers(name, what));
                }
                let tensor = self.names[&format!("{name}{suffix}")];
                self.output.put(tensor, 0, &bytes_of(values.iter().copied()))?;
            }
        }
        self.output.finish(watch)
    }
}

/// Adds files of statistics up.
///
/// # Errors
/// If one cannot be read or is in the older format, if a matrix has another length in another file, or if writing
/// fails.
pub fn merge(paths: &[PathBuf], output: &Path, replace: bool, watch: &dyn Watch) -> Result<Imatrix> {
    let files = paths.iter().map(|p| Imatrix::open(p)).collect::<Result<Vec<_>>>()?;
    let mut sum = Imatrix::default();
    for file in &files {
        if file.map.is_none() {
            let what = "the older format keeps no counts of tokens; make it again as GGUF to merge it";
            return Err(Error::malformed(&file.path, what));
        }
        sum.origin.datasets.extend(file.origin.datasets.iter().cloned());
        if sum.origin.chunk_size == 0 {
            sum.origin.chunk_size = file.origin.chunk_size;
        }
        // Chunks of another length count by their tokens.
        let tokens = u64::from(file.origin.chunks) * u64::from(file.origin.chunk_size);
        let chunks = tokens.checked_div(u64::from(sum.origin.chunk_size)).unwrap_or(0);
        sum.origin.chunks = sum.origin.chunks.saturating_add(u32::try_from(chunks).unwrap_or(u32::MAX));
        for (name, entry) in &file.entries {
            let Some(to) = sum.entries.get_mut(name) else {
                sum.entries.insert(name.clone(), entry.clone());
                continue;
            };
            if (to.cols, to.counts.len()) != (entry.cols, entry.counts.len()) {
                let what = format!(
                    "{} columns and {} counts, in another file {} and {}; they are of different models",
                    entry.cols,
                    entry.counts.len(),
                    to.cols,
                    to.counts.len()
                );
                return Err(Error::tensor(&file.path, printable(name), what));
            }
            add(&mut to.sum_sq, &entry.sum_sq);
            add(&mut to.counts, &entry.counts);
            // Half of the sums of |x| are none.
            let abs = to.sum_abs.len().min(entry.sum_abs.len());
            to.sum_abs.truncate(abs);
            add(&mut to.sum_abs, &entry.sum_abs);
        }
    }
    for entry in sum.entries.values_mut() {
        entry.sum_abs.resize(entry.sum_sq.len(), 0.0);
    }
    let whole = |name: &String, entry: &Entry| -> Result<bool> {
        for file in &files {
            if !file.grams.contains_key(name) || file.gram_bytes(name, entry)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let mut shapes = Vec::new();
    for (name, entry) in &sum.entries {
        shapes.push((name.clone(), entry.cols, entry.counts.len(), whole(name, entry)?));
    }
    let writer = Writer::begin(output, &sum.origin, shapes.clone(), replace)?;
    for (name, ..) in shapes.iter().filter(|(.., gram)| *gram) {
        let tensor = writer.names[&format!("{name}{GRAM}")];
        let ranges: Vec<(&Map, Range<usize>)> =
            files.iter().filter_map(|f| Some((f.map.as_ref()?, f.grams[name].range.clone()))).collect();
        let len = ranges[0].1.len();
        for from in (0..len).step_by(4 * AT_A_TIME) {
            let some = from..(from + 4 * AT_A_TIME).min(len);
            let mut sums = vec![0.0_f64; some.len() / 4];
            for (map, range) in &ranges {
                let part = range.start + some.start..range.start + some.end;
                sums.iter_mut().zip(floats(&map.bytes()[part.clone()])).for_each(|(s, x)| *s += f64::from(x));
                map.release(part);
            }
            writer.output.put(tensor, from as u64, &bytes_of(sums.into_iter().map(|x| x as f32)))?;
        }
    }
    writer.finish(&sum, watch)?;
    Ok(sum)
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(a, b)| *a = (f64::from(*a) + f64::from(*b)) as f32);
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

fn read_gguf(path: &Path, map: Map) -> Result<Imatrix> {
    let (metadata, tensors) = gguf::parse(path, map.bytes())?;
    let mut found = Imatrix { path: path.to_owned(), ..Default::default() };
    let number = |key: &str| metadata.get(key).and_then(Value::as_u64).map_or(0, |n| n.min(u64::from(u32::MAX)) as u32);
    (found.origin.chunks, found.origin.chunk_size) = (number(CHUNK_COUNT), number(CHUNK_SIZE));
    if let Some(Value::Array(list)) = metadata.get(DATASETS) {
        found.origin.datasets = list.values.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    }
    let mut places: BTreeMap<&str, &TensorInfo> = BTreeMap::new();
    tensors.iter().for_each(|t| {
        places.insert(&t.name, t);
    });
    let read = |info: &TensorInfo| -> Result<Vec<f32>> {
        if info.spec.ggml_id != Some(F32_ID) {
            let what = format!("type {}, needed F32", info.spec.name);
            return Err(Error::tensor(path, printable(&info.name), what));
        }
        Ok(floats(&map.bytes()[info.range.clone()]).collect())
    };
    for info in &tensors {
        if let Some(name) = info.name.strip_suffix(GRAM) {
            if info.spec.ggml_id != Some(F32_ID) {
                let what = format!("type {}, needed F32", info.spec.name);
                return Err(Error::tensor(path, printable(&info.name), what));
            }
            found.grams.insert(name.to_owned(), info.clone());
        }
        if let Some(name) = info.name.strip_suffix(COUNTS)
            && !places.contains_key(&*format!("{name}{SUM_SQ}"))
        {
            return Err(Error::tensor(path, printable(&info.name), format!("there is no {SUM_SQ} tensor beside it")));
        }
        let Some(name) = info.name.strip_suffix(SUM_SQ) else { continue };
        let Some(counts) = places.get(&*format!("{name}{COUNTS}")) else {
            return Err(Error::tensor(path, printable(&info.name), format!("there is no {COUNTS} tensor beside it")));
        };
        let (sum_sq, counts) = (read(info)?, read(counts)?);
        if !sum_sq.len().is_multiple_of(counts.len()) {
            let what = format!("{} sums cannot be shared by {} counts", sum_sq.len(), counts.len());
            return Err(Error::tensor(path, printable(&info.name), what));
        }
        let mut entry = Entry { cols: sum_sq.len() / counts.len(), sum_sq, counts, sum_abs: Vec::new() };
        if let Some(abs) = places.get(&*format!("{name}{SUM_ABS}")) {
            entry.sum_abs = read(abs)?;
            if entry.sum_abs.len() != entry.sum_sq.len() {
                let what = format!("{} sums, needed {} as in {SUM_SQ}", entry.sum_abs.len(), entry.sum_sq.len());
                return Err(Error::tensor(path, printable(&abs.name), what));
            }
        }
        found.entries.insert(name.to_owned(), entry);
    }
    if found.entries.is_empty() {
        return Err(Error::malformed(path, format!("no importance matrix: no tensor ends in {SUM_SQ}")));
    }
    found.map = Some(map);
    Ok(found)
}

/// The older format, little-endian 32-bit numbers: how many entries; for each the length of its name, the name, calls,
/// how many values, the values (means over tokens, times calls); then chunks, and length and name of the text.
fn read_dat(path: &Path, bytes: &[u8]) -> Result<Imatrix> {
    let mut at = 0;
    let left = |at: usize| bytes.len() - at;
    let fault = |at: usize, what: String| {
        Err(Error::malformed(path, format!("{what} at byte {at}; not an importance matrix, or damaged")))
    };
    let number = |at: &mut usize| -> Option<i32> {
        let word = bytes[*at..].first_chunk::<4>()?;
        *at += 4;
        Some(i32::from_le_bytes(*word))
    };
    // The smallest entry: a name and a value of four bytes, three numbers.
    const SMALLEST: usize = 3 * 4 + 4 + 1;
    let count = number(&mut at).unwrap_or(0);
    if count < 1 || count as usize > left(at) / SMALLEST {
        return fault(0, format!("{count} entries in a file of {} bytes", bytes.len()));
    }
    let mut found = Imatrix { path: path.to_owned(), ..Default::default() };
    for _ in 0..count {
        let start = at;
        let length = number(&mut at).and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0 && n <= left(at));
        let Some(length) = length else { return fault(start, "a name's length that cannot be".to_owned()) };
        let Ok(name) = std::str::from_utf8(&bytes[at..at + length]) else {
            return fault(at, "a name that is not UTF-8".to_owned());
        };
        at += length;
        let (calls, values) = (number(&mut at), number(&mut at));
        let values = values.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0 && n <= left(at) / 4);
        let (Some(calls), Some(values)) = (calls, values) else {
            return fault(at, format!("{}: a number of values that cannot be", printable(name)));
        };
        let sum_sq: Vec<f32> = floats(&bytes[at..at + 4 * values]).collect();
        at += 4 * values;
        let entry = Entry { cols: values, sum_sq, counts: vec![calls.max(1) as f32], sum_abs: Vec::new() };
        if found.entries.insert(name.to_owned(), entry).is_some() {
            return fault(start, format!("a second entry {}", printable(name)));
        }
    }
    found.origin.chunks = number(&mut at).map_or(0, |n| u32::try_from(n).unwrap_or(0));
    let length = number(&mut at).and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= left(at));
    if let Some(length) = length {
        found.origin.datasets.push(String::from_utf8_lossy(&bytes[at..at + length]).into_owned());
    }
    Ok(found)
}
