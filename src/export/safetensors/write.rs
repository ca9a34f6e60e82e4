//! The folder. Every tensor gets its place in a shard before the work, and rows go straight there.

use std::ops::Range;
use std::path::{Path, PathBuf};

use aurora_quantizers::scan::scan;
use aurora_quantizers::{Scales, Spec, formats};
use serde_json::Value as Json;

use super::super::folder::Folder;
use super::super::shards::{self, Entry};
use super::super::sparse;
use super::super::sparse::dense::DenseTensor;
use super::super::sparse::form::Form;
use super::super::{Contents, Prepared, Sink, companions};
use super::config;
use super::places::{Places, Target, stored_row};
use super::stored::{less_one, store};
use crate::checkpoint::mmap::Map;
use crate::checkpoint::{Config, TensorSource, directory_of};
use crate::error::{Error, Quantity, Result};
use crate::files::AtomicFile;
use crate::model::{Import, ParamId};
use crate::watch::Watch;

/// Maximum number of names in a note.
const NAMES: usize = 3;

/// A folder that is laid out.
pub(super) struct Laid {
    places: Places,
    /// Entries of each shard.
    shards: Vec<Range<usize>>,
    /// How matrices are stored sparse in the end, if they are; and the bytes of a shard then.
    sparse: Option<(Form, u64)>,
    /// Files besides the tensors that are newly made.
    files: config::Files,
    notes: Vec<String>,
}

impl Laid {
    /// `sparse`: how matrices are stored without zeros, if they are; `limit`: bytes of a shard.
    pub fn new(contents: Contents<'_>, sparse: Option<Form>, limit: u64) -> Result<Self> {
        let places = Places::of(contents)?;
        let sizes: Vec<u64> = places.entries.iter().map(Entry::bytes).collect();
        let shards = shards::split(&sizes, limit);
        let (files, notes) = match contents.source.config() {
            Config::Gguf(config) => config::of_gguf(config, contents, config::dtype(places.entries.iter()))?,
            Config::HuggingFace(config) => {
                let config = config::of_checkpoint(config, contents.model, changed(contents, &places.entries));
                (vec![("config.json", config)], left_out(contents.source, &places.entries).into_iter().collect())
            }
        };
        Ok(Laid { places, shards, sparse: sparse.map(|form| (form, limit)), files, notes })
    }

    /// Writes all that is not a tensor. `shards`: the tensors of each; `stated`: `quantization_config`, if there is
    /// one.
    fn beside(
        &self,
        source: &dyn TensorSource,
        folder: &Path,
        shards: &[Vec<&Entry>],
        stated: Option<&Json>,
    ) -> Result<()> {
        shards::write_index(folder, shards)?;
        for (name, json) in &self.files {
            let mut json = json.clone();
            if let (Some(stated), "config.json") = (stated, *name) {
                json["quantization_config"] = stated.clone();
            }
            companions::write_json(&folder.join(name), &json)?;
        }
        match source.config() {
            Config::HuggingFace(config) => companions::copy(directory_of(&config.path), folder),
            Config::Gguf(_) => Ok(()),
        }
    }
}

/// The type in which the checkpoint should be loaded, if it differs from before. If matrices were quantised, it is
/// theirs: loaded in the type of the other tensors, they would be rounded again.
fn changed(contents: Contents<'_>, entries: &[Entry]) -> Option<&'static str> {
    let source = contents.source;
    let packed: Vec<&Entry> =
        entries.iter().filter(|e| source.find(&e.name).is_some_and(|t| t.packed.is_some())).collect();
    if !packed.is_empty() {
        return Some(config::dtype(packed.into_iter()));
    }
    let other = contents.request.file_type.is_some() || source.tensors().iter().any(|t| t.spec.name == "f64");
    other.then(|| config::dtype(entries.iter()))
}

/// A note on the tensors that are left out because the model does not use them.
fn left_out(source: &dyn TensorSource, entries: &[Entry]) -> Option<String> {
    let used = |name: &str| entries.binary_search_by(|e| e.name.as_str().cmp(name)).is_ok();
    let idle: Vec<&str> = source.tensors().iter().map(|t| t.name.as_str()).filter(|name| !used(name)).collect();
    let some = idle[..idle.len().min(NAMES)].join(", ");
    let more = if idle.len() > NAMES { ", ..." } else { "" };
    (!idle.is_empty()).then(|| format!("left out {} tensors that the model does not use: {some}{more}", idle.len()))
}

impl Prepared for Laid {
    fn bytes(&self) -> u64 {
        self.places.entries.iter().map(Entry::bytes).sum()
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn begin<'a>(&'a self, contents: Contents<'a>, path: &Path, _: bool) -> Result<Box<dyn Sink + 'a>> {
        let folder = Folder::begin(path)?;
        let (mut files, mut starts) = (Vec::new(), Vec::new());
        for (i, range) in self.shards.iter().enumerate() {
            let entries = &self.places.entries[range.clone()];
            let header = shards::header(entries.iter());
            let mut end = header.len() as u64;
            for entry in entries {
                starts.push((i, end));
                end += entry.bytes();
            }
            let file = AtomicFile::create(&folder.path().join(shards::name(i, self.shards.len())), end, false)?;
            file.write_at(0, &header)?;
            files.push(file);
        }
        Ok(Box::new(Writing { laid: self, contents, folder, files, starts, path: path.to_owned() }))
    }
}

/// A folder that is being written.
struct Writing<'a> {
    laid: &'a Laid,
    contents: Contents<'a>,
    folder: Folder,
    /// One for each shard.
    files: Vec<AtomicFile>,
    /// For each entry, its shard and where it begins there.
    starts: Vec<(usize, u64)>,
    /// What the folder is to be called.
    path: PathBuf,
}

impl Writing<'_> {
    /// Writes bytes of an entry. `at`: how many precede them.
    fn write(&self, entry: usize, at: usize, bytes: &[u8]) -> Result<()> {
        let (shard, start) = self.starts[entry];
        self.files[shard].write_at(start + at as u64, bytes)
    }

    /// All tensors of the dense folder.
    fn tensors(&self) -> Vec<DenseTensor> {
        let Contents { plan, weights, .. } = self.contents;
        let mut matrices = vec![false; self.laid.places.entries.len()];
        for (t, targets) in plan.tensors.iter().zip(&self.laid.places.targets) {
            let matrix = weights.graph().param(t.param).role.quantizable() && t.shape.len() > 1;
            targets.iter().flat_map(|target| &target.entries).for_each(|i| matrices[*i] |= matrix);
        }
        let tensor = |((entry, (file, start)), matrix): ((&Entry, &(usize, u64)), bool)| DenseTensor {
            name: entry.name.clone(),
            // A single number is a row of one.
            shape: if entry.shape.is_empty() { vec![1] } else { entry.shape.clone() },
            store: formats::by_name(entry.dtype).expect("a type of floats"),
            file: *file,
            range: *start as usize..(start + entry.bytes()) as usize,
            matrix,
        };
        self.laid.places.entries.iter().zip(&self.starts).zip(matrices).map(tensor).collect()
    }

    /// Rows that are stored `[in, out]`: each is a column there. `width`: bytes of a number.
    fn transposed(&self, entry: usize, rows: Range<usize>, width: usize, bytes: &[u8]) -> Result<()> {
        let (row_bytes, outputs) = (bytes.len() / rows.len(), self.laid.places.entries[entry].shape[1]);
        let mut segment = Vec::with_capacity(rows.len() * width);
        for col in 0..row_bytes / width {
            segment.clear();
            segment.extend(bytes.chunks_exact(row_bytes).flat_map(|row| &row[col * width..(col + 1) * width]));
            self.write(entry, (col * outputs + rows.start) * width, &segment)?;
        }
        Ok(())
    }

    /// Rows `rows` of a planned tensor, all in one target. `bytes`: of a field, in its type.
    fn rows(&self, tensor: usize, target: &Target, field: usize, rows: Range<usize>, bytes: &[u8]) -> Result<()> {
        let t = &self.contents.plan.tensors[tensor];
        let import = &self.contents.weights.graph().param(t.param).import;
        let (entry, row_bytes) = (target.entries[field], bytes.len() / rows.len());
        let local = rows.start - target.rows.start..rows.end - target.rows.start;
        match import {
            Import::Transpose => self.transposed(entry, local, row_bytes / t.cols(), bytes),
            Import::RopePermute { .. } if t.shape.len() == 1 => {
                let width = row_bytes / t.cols();
                let mut moved = vec![0; bytes.len()];
                for (i, number) in bytes.chunks_exact(width).enumerate() {
                    let to = stored_row(import, i, t.cols()) * width;
                    moved[to..to + width].copy_from_slice(number);
                }
                self.write(entry, 0, &moved)
            }
            Import::RopePermute { .. } => {
                let place = |row| (target.to + stored_row(import, row, target.rows.len())) * row_bytes;
                let mut rows = local.zip(bytes.chunks_exact(row_bytes));
                rows.try_for_each(|(row, bytes)| self.write(entry, place(row), bytes))
            }
            Import::AsIs | Import::AddOne | Import::Computed(_) => {
                self.write(entry, (target.to + local.start) * row_bytes, bytes)
            }
        }
    }

    /// Converts a planned tensor to the stored type and convention.
    fn converted(&self, tensor: usize, target: &Target, bytes: &[u8]) -> Result<Vec<u8>> {
        let t = &self.contents.plan.tensors[tensor];
        let Contents { source, weights, .. } = self.contents;
        let param = weights.graph().param(t.param);
        let mut values = decoded(t.spec(), bytes);
        if param.import == Import::AddOne {
            let canonical = values.clone();
            less_one(param, &mut values);
            let before = before(source, weights, t.param);
            for ((value, canonical), (stored, unchanged)) in values.iter_mut().zip(canonical).zip(before) {
                // Adding one and subtracting it again changes numbers that were small.
                if canonical.to_bits() == unchanged.to_bits() {
                    *value = stored;
                }
            }
        }
        scan(&values).check(target.spec).map_err(|e| {
            let (path, name) = weights.place(t.param);
            Error::numbers(Some(path), &name, Quantity::Weights, "needs another `type`", e)
        })?;
        let mut bytes = vec![0; values.len() * target.spec.bytes];
        store(target.spec).encode(&values, Scales::Reference, &mut bytes);
        Ok(bytes)
    }
}

/// The elements of a norm as the checkpoint stores them, and after one was added; empty for a GGUF file.
fn before(source: &dyn TensorSource, weights: &crate::weights::Weights<'_>, id: ParamId) -> Vec<(f32, f32)> {
    let Some(info) = weights.tensors(id).next().filter(|_| matches!(source.config(), Config::HuggingFace(_))) else {
        return Vec::new();
    };
    let stored = decoded(info.spec, source.bytes(info, 0..info.range.len()));
    stored.into_iter().zip(weights.whole(id)).collect()
}

fn decoded(spec: &Spec, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / spec.bytes];
    store(spec).decode(bytes, &mut values);
    values
}

impl Sink for Writing<'_> {
    fn put(&self, tensor: usize, field: usize, at: u64, bytes: &[u8]) -> Result<()> {
        let t = &self.contents.plan.tensors[tensor];
        let row_bytes = (t.fields[field].bytes / t.rows() as u64) as usize;
        let first = at as usize / row_bytes;
        let given = first..first + bytes.len() / row_bytes;
        for target in &self.laid.places.targets[tensor] {
            let rows = given.start.max(target.rows.start)..given.end.min(target.rows.end);
            if rows.is_empty() {
                continue;
            }
            let bytes = &bytes[(rows.start - first) * row_bytes..(rows.end - first) * row_bytes];
            let import = &self.contents.weights.graph().param(t.param).import;
            match t.spec() == target.spec && *import != Import::AddOne {
                true => self.rows(tensor, target, field, rows, bytes)?,
                false => self.rows(tensor, target, field, rows, &self.converted(tensor, target, bytes)?)?,
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>, watch: &dyn Watch) -> Result<u64> {
        let tensors = self.laid.sparse.map(|_| self.tensors());
        let Writing { laid, contents, folder, files, path, .. } = *self;
        files.into_iter().try_for_each(|file| file.commit(watch))?;
        let entries = &laid.places.entries;
        let (Some((form, limit)), Some(tensors)) = (laid.sparse, tensors) else {
            let of = |range: &Range<usize>| entries[range.clone()].iter().collect();
            laid.beside(contents.source, folder.path(), &laid.shards.iter().map(of).collect::<Vec<_>>(), None)?;
            folder.commit(watch)?;
            return Ok(laid.bytes());
        };
        let name = |i| folder.path().join(shards::name(i, laid.shards.len()));
        let maps = (0..laid.shards.len()).map(|i| Map::open(&name(i))).collect::<Result<Vec<_>>>()?;
        let to = Folder::begin(&path)?;
        let packed = sparse::folder::pack((&tensors, entries), &maps, form, (to.path(), limit), watch)?;
        let shards: Vec<Vec<&Entry>> = packed.shards.iter().map(|entries| entries.iter().collect()).collect();
        laid.beside(contents.source, to.path(), &shards, packed.config.as_ref())?;
        drop((maps, folder));
        to.commit(watch)?;
        Ok(packed.bytes())
    }
}
