//! Quantised checkpoints as other programs load them: safetensors shards whose matrices are codes, scales and zeros, with
//! config.json, tokenizer and generation files beside them.
//!
//! The pipeline writes blocks row by row, as for any output. Here they are taken apart again: what was moved or fused on the way
//! in goes back to the checkpoint's own tensors, and each layout (one file and one row of [`LAYOUTS`]) packs a matrix its way.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use aurora_quantizers::grid::Levels;
use aurora_quantizers::spec::Kind;
use aurora_quantizers::{Scales, Spec, Store, formats};
use half::f16;
use rayon::prelude::*;
use serde_json::{Map as JsonMap, Value as Json, json};

use super::Layout;
use crate::checkpoint::config::HfConfig;
use crate::checkpoint::directory_of;
use crate::checkpoint::mmap::Map;
use crate::model::{Import, ParamId, Role};
use crate::plan::{Plan, TensorPlan};
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Error, Result};

mod awq;
mod bits;
mod compressed_tensors;
mod gptq;

/// What the codes of all matrices are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bits of a code: 4 or 8.
    pub bits: u32,
    /// Columns that share a scale.
    pub group: usize,
    /// Whether zeros are in the middle of the codes.
    pub symmetric: bool,
}

/// One matrix, `[rows, cols]` = `[out, in]`, as integers: `weight = scale * (code - zero)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Codes from 0, row by row.
    pub codes: Vec<u8>,
    /// F16 bits, `[rows, cols / group]`.
    pub scales: Vec<u16>,
    /// Zeros from 0, `[rows, cols / group]`.
    pub zeros: Vec<u8>,
}

/// One tensor of a packed matrix: the end of its name, safetensors' name of its type, its shape.
pub type Part = (&'static str, &'static str, Vec<usize>);

/// How a program wants its matrices.
pub trait PackedLayout: Send + Sync {
    /// Name as `--format` takes it, and `quant_method`.
    fn name(&self) -> &'static str;

    /// Whether zeros are in the middle of the codes unless it is asked otherwise.
    fn usually_symmetric(&self) -> bool {
        true
    }

    /// What is wrong with these settings, if anything.
    fn objection(&self, _: Settings) -> Option<&'static str> {
        None
    }

    /// The tensors of a matrix of this shape.
    fn parts(&self, rows: usize, cols: usize, settings: Settings) -> Vec<Part>;

    /// Their bytes, in the same order.
    fn pack(&self, matrix: &Matrix, settings: Settings) -> Vec<Vec<u8>>;

    /// `quantization_config`. `skipped`: names of the linears that stay floats.
    fn config(&self, settings: Settings, skipped: &[String]) -> Json;

    /// A file that gets `quantization_config` too.
    fn file(&self) -> Option<&'static str> {
        None
    }
}

/// All layouts.
pub static LAYOUTS: &[&dyn PackedLayout] = &[&gptq::Gptq, &awq::Awq, &compressed_tensors::CompressedTensors];

/// Sizes of groups that can be asked for.
pub const GROUPS: [usize; 3] = [32, 64, 128];

/// Bytes of a shard, at most (unless one matrix is larger): what the Hugging Face libraries write.
const SHARD: u64 = 5_000_000_000;

/// What else of a checkpoint's folder is copied: files whose names begin so.
const COPIED: [&str; 12] = [
    "tokenizer",
    "vocab",
    "merges",
    "special_tokens_map",
    "added_tokens",
    "generation_config",
    "chat_template",
    "spiece",
    "sentencepiece",
    "LICENSE",
    "NOTICE",
    "USE_POLICY",
];

/// Whether a model's matrices can be packed at all.
///
/// # Errors
/// If one is stored `[in, out]`: layers of that kind are not what quantised checkpoints are loaded into.
pub fn check(weights: &Weights<'_>) -> Result<()> {
    let turned = |id: &ParamId| *weights.import(*id) == Import::Transpose;
    match (0..weights.graph().params.len()).map(ParamId).find(turned) {
        Some(id) => Err(weights.error(id, "is stored [in, out]; such models can be written as GGUF only")),
        None => Ok(()),
    }
}

/// Whether a matrix of this role is meant to stay floats.
pub fn stays(role: Role) -> bool {
    matches!(role, Role::Embedding | Role::Output)
}

/// The format in which the pipeline writes a matrix that is to be packed so; `Err`: why it stays as floats.
pub fn format(
    weights: &Weights<'_>,
    id: ParamId,
    settings: Settings,
) -> std::result::Result<&'static dyn Store, String> {
    let param = weights.graph().param(id);
    if stays(param.role) {
        return Err("embeddings and output matrix stay floats".to_owned());
    }
    if !param.cols().is_multiple_of(settings.group) {
        return Err(format!("{} inputs do not divide into groups of {}", param.cols(), settings.group));
    }
    for (tensor, ..) in weights.pieces(id) {
        let [rows, _] = tensor.shape[..] else {
            return Err(format!("{} holds several matrices", tensor.name));
        };
        if !(rows * settings.bits as usize).is_multiple_of(32) {
            return Err(format!("{rows} outputs fill no whole number of words"));
        }
    }
    let format = formats::grouped(settings.bits, settings.group, settings.symmetric);
    Ok(format.expect("settings that were checked"))
}

/// Where the pipeline puts the blocks: one tensor after the other.
pub fn layout(plan: &Plan) -> Layout {
    let mut size = 0;
    let mut offsets = Vec::with_capacity(plan.tensors.len());
    for t in &plan.tensors {
        offsets.push(size);
        size += t.bytes;
    }
    Layout { header: Vec::new(), offsets, size }
}

/// A run of rows of one tensor of the output: the rows of a planned tensor that they are.
struct Piece {
    tensor: usize,
    /// Row of the planned tensor.
    from: usize,
    /// Row of the output's tensor.
    to: usize,
    rows: usize,
}

/// One tensor of the checkpoint, as it will be again.
struct Entry {
    name: String,
    shape: Vec<usize>,
    /// Type of floats; `None` for a matrix of codes.
    floats: Option<&'static dyn Store>,
    pieces: Vec<Piece>,
}

/// What the pipeline wrote, and where each planned tensor begins in it.
struct Blocks {
    map: Map,
    offsets: Vec<u64>,
}

/// A written folder's worth.
pub struct Packer<'a> {
    /// What is packed.
    pub weights: &'a Weights<'a>,
    /// Types of its tensors.
    pub plan: &'a Plan,
    /// What the codes are like.
    pub settings: Settings,
    /// Who is to load it.
    pub layout: &'static dyn PackedLayout,
    /// The checkpoint's configuration.
    pub config: &'a HfConfig,
}

impl Packer<'_> {
    /// Writes everything into `folder`. `blocks`: the file that the pipeline wrote. Returns the bytes of all shards.
    ///
    /// # Errors
    /// If a file cannot be read or written, or the watch says to stop.
    pub fn write(&self, blocks: &Path, folder: &Path, watch: &dyn Watch) -> Result<u64> {
        let entries = self.entries();
        let blocks = Blocks { map: Map::open(blocks)?, offsets: layout(self.plan).offsets };
        let sizes: Vec<u64> = entries.iter().map(|e| self.parts(e).iter().map(|p| p.1.3).sum()).collect();
        let shards = split(&sizes, SHARD);
        let mut index = JsonMap::new();
        for (i, range) in shards.iter().enumerate() {
            let name = match shards.len() {
                1 => "model.safetensors".to_owned(),
                n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
            };
            let entries = &entries[range.clone()];
            self.shard(&folder.join(&name), entries, &blocks, watch)?;
            for entry in entries {
                index.extend(self.parts(entry).into_iter().map(|(part, _)| (part, json!(name))));
            }
        }
        let total = sizes.iter().sum();
        if shards.len() > 1 {
            let index = json!({"metadata": {"total_size": total}, "weight_map": index});
            write_json(&folder.join("model.safetensors.index.json"), &index)?;
        }
        self.configuration(folder, &entries)?;
        self.copy_others(folder)?;
        Ok(total)
    }

    /// The checkpoint's tensors, in the order of their names.
    fn entries(&self) -> Vec<Entry> {
        let mut found: BTreeMap<&str, Entry> = BTreeMap::new();
        for (tensor, t) in self.plan.tensors.iter().enumerate() {
            let mut from = 0;
            for (info, to, rows) in self.weights.pieces(t.param) {
                let own: &dyn Store = match info.spec.name {
                    _ if info.packed.is_some() => &formats::F16,
                    "f64" => &formats::F32,
                    name => formats::by_name(name).expect("a type that was read"),
                };
                let floats = (t.spec().kind == Kind::Float).then_some(own);
                let (name, shape) = (info.name.clone(), info.shape.clone());
                let entry =
                    found.entry(&info.name).or_insert_with(|| Entry { name, shape, floats, pieces: Vec::new() });
                entry.pieces.push(Piece { tensor, from, to, rows });
                from += rows;
            }
        }
        found.into_values().collect()
    }

    /// Names of a tensor's parts, with suffix, type, shape and bytes.
    #[allow(clippy::type_complexity)] // One list, used here only.
    fn parts(&self, entry: &Entry) -> Vec<(String, (&'static str, &'static str, Vec<usize>, u64))> {
        let sized = |(suffix, ty, shape): Part| {
            let width = safetensors_width(ty);
            let bytes = shape.iter().product::<usize>() as u64 * width;
            (suffix, ty, shape, bytes)
        };
        match entry.floats {
            Some(store) => vec![(entry.name.clone(), sized(("", safetensors_name(store.spec()), entry.shape.clone())))],
            None => {
                let stem = entry.name.strip_suffix(".weight").unwrap_or(&entry.name);
                let parts = self.layout.parts(entry.shape[0], entry.shape[1], self.settings);
                parts.into_iter().map(|part| (format!("{stem}{}", part.0), sized(part))).collect()
            }
        }
    }

    fn shard(&self, path: &Path, entries: &[Entry], blocks: &Blocks, watch: &dyn Watch) -> Result<()> {
        let mut header = JsonMap::new();
        header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
        let mut at = 0;
        for (name, (_, ty, shape, bytes)) in entries.iter().flat_map(|e| self.parts(e)) {
            header.insert(name, json!({"dtype": ty, "shape": shape, "data_offsets": [at, at + bytes]}));
            at += bytes;
        }
        let mut header = Json::Object(header).to_string().into_bytes();
        // Readers that map the file want the data aligned.
        header.resize(header.len().next_multiple_of(8), b' ');
        let fail = |e| Error::io(path, "write", e);
        let mut file = BufWriter::new(File::create(path).map_err(|e| Error::io(path, "create", e))?);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(fail)?;
        file.write_all(&header).map_err(fail)?;
        for entry in entries {
            watch.go_on()?;
            watch.stage(&entry.name);
            let parts = match entry.floats {
                Some(store) => vec![self.floats(entry, store, blocks)],
                None => self.layout.pack(&self.matrix(entry, blocks), self.settings),
            };
            for (bytes, (name, (.., size))) in parts.iter().zip(self.parts(entry)) {
                assert_eq!(bytes.len() as u64, size, "{name}: bytes of its shape");
                file.write_all(bytes).map_err(fail)?;
            }
            for piece in &entry.pieces {
                blocks.map.release(self.rows(blocks, piece.tensor, piece.from..piece.from + piece.rows));
            }
        }
        let file = file.into_inner().map_err(|e| fail(e.into_error()))?;
        file.sync_all().map_err(|e| Error::io(path, "flush to the disk", e))
    }

    /// Bytes of a row of a planned tensor.
    fn row<'b>(&self, blocks: &'b Blocks, tensor: usize, row: usize) -> &'b [u8] {
        &blocks.map.bytes()[self.rows(blocks, tensor, row..row + 1)]
    }

    /// Where the bytes of some rows of a planned tensor are.
    fn rows(&self, blocks: &Blocks, tensor: usize, rows: Range<usize>) -> Range<usize> {
        let t = &self.plan.tensors[tensor];
        let width = (t.bytes / t.rows() as u64) as usize;
        let start = blocks.offsets[tensor] as usize;
        start + rows.start * width..start + rows.end * width
    }

    /// Which row of the checkpoint's tensor a canonical row is.
    fn stored_row(&self, t: &TensorPlan, piece: &Piece, i: usize) -> usize {
        piece.to + self.weights.stored_row(t.param, piece.from + i) - piece.from
    }

    /// The integers of a matrix, back in the checkpoint's order of rows.
    fn matrix(&self, entry: &Entry, blocks: &Blocks) -> Matrix {
        let (rows, cols, group) = (entry.shape[0], entry.shape[1], self.settings.group);
        let mut origin = vec![(0, 0); rows];
        for piece in &entry.pieces {
            let t = &self.plan.tensors[piece.tensor];
            for i in 0..piece.rows {
                origin[self.stored_row(t, piece, i)] = (piece.tensor, piece.from + i);
            }
        }
        let mut matrix = Matrix {
            rows,
            cols,
            codes: vec![0; rows * cols],
            scales: vec![0; rows * (cols / group)],
            zeros: vec![0; rows * (cols / group)],
        };
        let format = formats::grouped(self.settings.bits, group, self.settings.symmetric);
        let format = format.and_then(|f| f.blocks()).expect("settings that were checked");
        let rows = matrix.codes.par_chunks_mut(cols).zip(matrix.scales.par_chunks_mut(cols / group));
        rows.zip(matrix.zeros.par_chunks_mut(cols / group)).zip(&origin).for_each(
            |(((codes, scales), zeros), &(tensor, row))| {
                let bytes = self.row(blocks, tensor, row);
                let mut levels = vec![0; group];
                for (g, block) in bytes.chunks_exact(format.spec().bytes).enumerate() {
                    let grid = format.unpack(block, &mut levels);
                    let Levels::Linear { min, .. } = grid.levels else { unreachable!("groups hold integers") };
                    let (scale, offset) = (grid.scale[0], grid.offset[0]);
                    scales[g] = f16::from_f32(scale).to_bits();
                    // Where all weights are zero, any zero will do; not all layouts can store the smallest.
                    zeros[g] = match scale == 0.0 {
                        true => 1 << (self.settings.bits - 1),
                        false => ((-offset / scale).round_ties_even() as i32 - i32::from(min)) as u8,
                    };
                    let to = &mut codes[g * group..][..group];
                    to.iter_mut().zip(&levels).for_each(|(to, level)| *to = (i16::from(*level) - i16::from(min)) as u8);
                }
            },
        );
        matrix
    }

    /// The numbers of a tensor, back in the checkpoint's order, type and convention.
    fn floats(&self, entry: &Entry, store: &dyn Store, blocks: &Blocks) -> Vec<u8> {
        let cols = entry.shape.last().copied().unwrap_or(1);
        let mut values = vec![0.0; entry.shape.iter().product()];
        for piece in &entry.pieces {
            let t = &self.plan.tensors[piece.tensor];
            let mut row = vec![0.0; t.cols()];
            for i in 0..piece.rows {
                t.store.decode(self.row(blocks, piece.tensor, piece.from + i), &mut row);
                if *self.weights.import(t.param) == Import::AddOne {
                    row.iter_mut().for_each(|v| *v -= 1.0);
                }
                if t.shape.len() == 1 {
                    // The elements of a bias are in the order of its matrix's rows.
                    row.iter().enumerate().for_each(|(i, v)| values[self.weights.stored_row(t.param, i)] = *v);
                } else {
                    let to = self.stored_row(t, piece, i);
                    values[to * cols..(to + 1) * cols].copy_from_slice(&row);
                }
            }
        }
        let mut bytes = vec![0; values.len() * store.spec().bytes];
        store.encode(&values, Scales::Reference, &mut bytes);
        bytes
    }

    fn configuration(&self, folder: &Path, entries: &[Entry]) -> Result<()> {
        let embedding = |e: &Entry| {
            let role = |p: &Piece| self.weights.graph().param(self.plan.tensors[p.tensor].param).role;
            e.pieces.iter().any(|p| matches!(role(p), Role::Embedding | Role::Position))
        };
        let linear = |e: &&Entry| e.floats.is_some() && e.shape.len() > 1 && !embedding(e);
        let skipped: Vec<String> =
            entries.iter().filter(linear).map(|e| e.name.trim_end_matches(".weight").to_owned()).collect();
        let stated = self.layout.config(self.settings, &skipped);
        let mut config = self.config.map.clone();
        config.shift_remove("compression_config");
        for key in ["torch_dtype", "dtype"] {
            if config.contains_key(key) {
                // Scales are in half precision; loaded as bfloat16 they would be rounded again.
                config.insert(key.to_owned(), json!("float16"));
            }
        }
        config.insert("quantization_config".to_owned(), stated.clone());
        write_json(&folder.join("config.json"), &Json::Object(config))?;
        self.layout.file().map_or(Ok(()), |name| write_json(&folder.join(name), &stated))
    }

    fn copy_others(&self, folder: &Path) -> Result<()> {
        let from = directory_of(&self.config.path);
        let entries = fs::read_dir(from).map_err(|e| Error::io(from, "list", e))?;
        let mut names: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        names.sort();
        for path in names.iter().filter(|p| p.is_file()) {
            let name = path.file_name().unwrap_or_default();
            if COPIED.iter().any(|start| name.to_string_lossy().starts_with(start)) {
                fs::copy(path, folder.join(name)).map_err(|e| Error::io(path, "copy", e))?;
            }
        }
        Ok(())
    }
}

fn safetensors_name(spec: &Spec) -> &'static str {
    match spec.name {
        "bf16" => "BF16",
        "f16" => "F16",
        _ => "F32",
    }
}

fn safetensors_width(name: &str) -> u64 {
    match name {
        "BF16" | "F16" => 2,
        "I64" => 8,
        _ => 4,
    }
}

fn write_json(path: &Path, json: &Json) -> Result<()> {
    let text = serde_json::to_string_pretty(json).expect("JSON of JSON");
    fs::write(path, text + "\n").map_err(|e| Error::io(path, "write", e))
}

/// Consecutive runs whose sizes add up to `limit` at most, or are a single one.
fn split(sizes: &[u64], limit: u64) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (i, size) in sizes.iter().enumerate() {
        if i > start && sum + size > limit {
            runs.push(start..i);
            (start, sum) = (i, 0);
        }
        sum += size;
    }
    runs.push(start..sizes.len());
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_hold_what_fits_and_never_nothing() {
        let runs = |sizes: &[u64]| split(sizes, 6).into_iter().map(|r| (r.start, r.end)).collect::<Vec<_>>();
        assert_eq!(runs(&[3, 3, 3, 9, 1]), [(0, 2), (2, 3), (3, 4), (4, 5)]);
        assert_eq!(runs(&[9]), [(0, 1)]);
        assert_eq!(runs(&[1, 2, 3]), [(0, 3)]);
    }
}
