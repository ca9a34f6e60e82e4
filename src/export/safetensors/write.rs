//! The folder. Every tensor gets its place in a shard before the work, and rows go straight there.

use std::ops::Range;
use std::path::Path;

use aurora_quantizers::scan::scan;
use aurora_quantizers::{Scales, Spec};

use super::super::folder::Folder;
use super::super::shards::{self, Entry};
use super::super::{AtomicFile, Contents, Prepared, Sink, companions};
use super::config;
use super::places::{Places, Target, stored_row};
use super::stored::{less_one, store};
use crate::Result;
use crate::checkpoint::{Config, TensorSource, directory_of};
use crate::model::{Import, ParamId};
use crate::record::ImportanceRecord;
use crate::watch::Watch;

/// Maximum number of names in a note.
const NAMES: usize = 3;

/// A folder that is laid out.
pub(super) struct Laid<'a> {
    contents: Contents<'a>,
    places: Places,
    /// Entries of each shard.
    shards: Vec<Range<usize>>,
    /// Files besides the tensors that are newly made.
    files: config::Files,
    notes: Vec<String>,
}

impl<'a> Laid<'a> {
    pub fn new(contents: Contents<'a>) -> Result<Self> {
        let places = Places::of(contents)?;
        let sizes: Vec<u64> = places.entries.iter().map(Entry::bytes).collect();
        let shards = shards::split(&sizes, contents.request.shard_size.unwrap_or(shards::USUAL));
        let (files, notes) = match contents.source.config() {
            Config::Gguf(config) => config::of_gguf(config, contents, config::dtype(places.entries.iter()))?,
            Config::HuggingFace(config) => {
                let config = config::of_checkpoint(config, changed(contents, &places.entries));
                (vec![("config.json", config)], left_out(contents.source, &places.entries).into_iter().collect())
            }
        };
        Ok(Laid { contents, places, shards, files, notes })
    }

    /// Writes everything but the tensors.
    fn beside(&self, folder: &Path) -> Result<()> {
        let of = |range: &Range<usize>| self.places.entries[range.clone()].iter().collect();
        shards::write_index(folder, &self.shards.iter().map(of).collect::<Vec<_>>())?;
        for (name, json) in &self.files {
            companions::write_json(&folder.join(name), json)?;
        }
        match self.contents.source.config() {
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

impl<'a> Prepared<'a> for Laid<'a> {
    fn bytes(&self) -> u64 {
        self.places.entries.iter().map(Entry::bytes).sum()
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn weighed(&mut self, _: &ImportanceRecord) -> Result<()> {
        Ok(())
    }

    fn begin(self: Box<Self>, path: &Path, _: bool) -> Result<Box<dyn Sink + 'a>> {
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
        Ok(Box::new(Writing { laid: *self, folder, files, starts }))
    }
}

/// A folder that is being written.
struct Writing<'a> {
    laid: Laid<'a>,
    folder: Folder,
    /// One for each shard.
    files: Vec<AtomicFile>,
    /// For each entry, its shard and where it begins there.
    starts: Vec<(usize, u64)>,
}

impl Writing<'_> {
    /// Writes elements of an entry. `at`: how many elements precede them.
    fn write(&self, target: &Target, at: usize, bytes: &[u8]) -> Result<()> {
        let (shard, start) = self.starts[target.entry];
        self.files[shard].write_at(start + (at * target.spec.bytes) as u64, bytes)
    }

    /// Writes rows that are stored `[in, out]`: each is a column there.
    fn transposed(&self, target: &Target, rows: Range<usize>, cols: usize, bytes: &[u8]) -> Result<()> {
        let (width, outputs) = (target.spec.bytes, self.laid.places.entries[target.entry].shape[1]);
        let mut segment = Vec::with_capacity(rows.len() * width);
        for col in 0..cols {
            segment.clear();
            segment.extend(bytes.chunks_exact(cols * width).flat_map(|row| &row[col * width..(col + 1) * width]));
            self.write(target, col * outputs + rows.start, &segment)?;
        }
        Ok(())
    }

    /// Writes rows `rows` of a planned tensor, all in one entry. `bytes`: in the entry's type.
    fn rows(&self, tensor: usize, target: &Target, rows: Range<usize>, bytes: &[u8]) -> Result<()> {
        let t = &self.laid.contents.plan.tensors[tensor];
        let import = &self.laid.contents.weights.graph().param(t.param).import;
        let (cols, width) = (t.cols(), target.spec.bytes);
        let local = rows.start - target.rows.start..rows.end - target.rows.start;
        match import {
            Import::Transpose => self.transposed(target, local, cols, bytes),
            Import::RopePermute { .. } if t.shape.len() == 1 => {
                let mut moved = vec![0; bytes.len()];
                for (i, number) in bytes.chunks_exact(width).enumerate() {
                    let to = stored_row(import, i, cols) * width;
                    moved[to..to + width].copy_from_slice(number);
                }
                self.write(target, 0, &moved)
            }
            Import::RopePermute { .. } => {
                let place = |row| (target.to + stored_row(import, row, target.rows.len())) * cols;
                let mut rows = local.zip(bytes.chunks_exact(cols * width));
                rows.try_for_each(|(row, bytes)| self.write(target, place(row), bytes))
            }
            Import::AsIs | Import::AddOne | Import::Computed(_) => {
                self.write(target, (target.to + local.start) * cols, bytes)
            }
        }
    }

    /// Converts a planned tensor to the stored type and convention.
    fn converted(&self, tensor: usize, target: &Target, bytes: &[u8]) -> Result<Vec<u8>> {
        let t = &self.laid.contents.plan.tensors[tensor];
        let Contents { source, weights, .. } = self.laid.contents;
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
        scan(&values).check(target.spec).map_err(|e| weights.error(t.param, format!("{e}; use another `type`")))?;
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
    let mut unchanged = vec![0.0; stored.len()];
    weights.rows(id, 0..1, &mut unchanged);
    stored.into_iter().zip(unchanged).collect()
}

fn decoded(spec: &Spec, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / spec.bytes];
    store(spec).decode(bytes, &mut values);
    values
}

impl Sink for Writing<'_> {
    fn put(&self, tensor: usize, at: u64, bytes: &[u8]) -> Result<()> {
        let t = &self.laid.contents.plan.tensors[tensor];
        let row_bytes = t.cols() * t.spec().bytes;
        let first = at as usize / row_bytes;
        let given = first..first + bytes.len() / row_bytes;
        for target in &self.laid.places.targets[tensor] {
            let rows = given.start.max(target.rows.start)..given.end.min(target.rows.end);
            if rows.is_empty() {
                continue;
            }
            let bytes = &bytes[(rows.start - first) * row_bytes..(rows.end - first) * row_bytes];
            let import = &self.laid.contents.weights.graph().param(t.param).import;
            match t.spec() == target.spec && *import != Import::AddOne {
                true => self.rows(tensor, target, rows, bytes)?,
                false => self.rows(tensor, target, rows, &self.converted(tensor, target, bytes)?)?,
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>, watch: &dyn Watch) -> Result<u64> {
        let Writing { laid, folder, files, .. } = *self;
        files.into_iter().try_for_each(|file| file.commit(watch))?;
        laid.beside(folder.path())?;
        folder.commit(watch)?;
        Ok(laid.bytes())
    }
}
