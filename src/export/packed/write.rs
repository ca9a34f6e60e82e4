//! The folder. It is laid out before the work, and packed from the pipeline's output when that is complete.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::super::folder::Folder;
use super::super::shards::{self, Entry};
use super::super::{Contents, FileMap, Output, Prepared, Sink, companions};
use super::layout::{Codes, PackedLayout};
use super::tensors::{self, Tensor};
use super::unpack::Intermediate;
use crate::checkpoint::config::HfConfig;
use crate::checkpoint::directory_of;
use crate::checkpoint::mmap::Map;
use crate::model::Role;
use crate::plan::Plan;
use crate::record::ImportanceRecord;
use crate::watch::Watch;
use crate::{Error, Result};

/// A folder that is laid out.
pub(super) struct Laid<'a> {
    contents: Contents<'a>,
    layout: &'static dyn PackedLayout,
    codes: Codes,
    config: &'a HfConfig,
    tensors: Vec<Tensor>,
    /// Of each tensor.
    entries: Vec<Vec<Entry>>,
    /// Tensors of each shard.
    shards: Vec<Range<usize>>,
}

impl<'a> Laid<'a> {
    pub fn new(contents: Contents<'a>, layout: &'static dyn PackedLayout, codes: Codes, config: &'a HfConfig) -> Self {
        let tensors = tensors::all(contents.plan, contents.weights);
        let entries: Vec<_> = tensors.iter().map(|t| t.entries(layout, codes)).collect();
        let sizes: Vec<u64> = entries.iter().map(|e| e.iter().map(Entry::bytes).sum()).collect();
        let shards = shards::split(&sizes, contents.request.shard_size.unwrap_or(shards::USUAL));
        Laid { contents, layout, codes, config, tensors, entries, shards }
    }

    fn shard(&self, path: &Path, range: Range<usize>, blocks: &Intermediate<'_>, watch: &dyn Watch) -> Result<()> {
        let fail = |e| Error::io(path, "write", e);
        let mut file = BufWriter::new(File::create(path).map_err(|e| Error::io(path, "create", e))?);
        let header = shards::header(self.entries[range.clone()].iter().flatten());
        file.write_all(&header).map_err(fail)?;
        for (tensor, entries) in self.tensors[range.clone()].iter().zip(&self.entries[range]) {
            watch.go_on()?;
            watch.stage(&tensor.name);
            let parts = match tensor.floats {
                Some(spec) => vec![blocks.floats(tensor, spec)],
                None => self.layout.pack(&blocks.matrix(tensor, self.codes), self.codes),
            };
            for (bytes, entry) in parts.iter().zip(entries) {
                assert_eq!(bytes.len() as u64, entry.bytes(), "{}: bytes of its shape", entry.name);
                file.write_all(bytes).map_err(fail)?;
            }
            blocks.release(tensor);
        }
        let file = file.into_inner().map_err(|e| fail(e.into_error()))?;
        file.sync_all().map_err(|e| Error::io(path, "flush to disk", e))
    }

    fn configuration(&self, folder: &Path) -> Result<()> {
        let (plan, graph) = (self.contents.plan, self.contents.weights.graph());
        let embedding = |t: &Tensor| {
            let mut roles = t.pieces.iter().map(|p| graph.param(plan.tensors[p.tensor].param).role);
            roles.any(|role| matches!(role, Role::Embedding | Role::Position))
        };
        let linear = |t: &&Tensor| t.floats.is_some() && t.shape.len() > 1 && !embedding(t);
        let names = self.tensors.iter().filter(linear).map(|t| t.name.trim_end_matches(".weight").to_owned());
        let (stated, file) = self.layout.config(self.codes, &names.collect::<Vec<_>>());
        let mut config = self.config.map.clone();
        config.shift_remove("compression_config");
        for key in ["torch_dtype", "dtype"] {
            if config.contains_key(key) {
                // Scales are in half precision; loading them as bfloat16 would round them again.
                config.insert(key.to_owned(), json!("float16"));
            }
        }
        config.insert("quantization_config".to_owned(), stated.clone());
        companions::write_json(&folder.join("config.json"), &Json::Object(config))?;
        file.map_or(Ok(()), |name| companions::write_json(&folder.join(name), &stated))
    }
}

impl<'a> Prepared<'a> for Laid<'a> {
    fn bytes(&self) -> u64 {
        self.entries.iter().flatten().map(Entry::bytes).sum()
    }

    fn notes(&self) -> &[String] {
        &[]
    }

    fn weighed(&mut self, _: &ImportanceRecord) -> Result<()> {
        Ok(())
    }

    fn begin(self: Box<Self>, path: &Path, _: bool) -> Result<Box<dyn Sink + 'a>> {
        let folder = Folder::begin(path)?;
        let layout = one_after_the_other(self.contents.plan);
        let offsets = layout.offsets.clone();
        let output = Output::begin(&folder.path().join(BLOCKS), layout, false)?;
        Ok(Box::new(Packing { laid: *self, folder, output, offsets }))
    }
}

/// The pipeline's output within the folder.
const BLOCKS: &str = "blocks";

fn one_after_the_other(plan: &Plan) -> FileMap {
    let mut size = 0;
    let mut offsets = Vec::with_capacity(plan.tensors.len());
    for t in &plan.tensors {
        offsets.push(size);
        size += t.bytes;
    }
    FileMap { header: Vec::new(), offsets, size }
}

/// A folder that is being written. The pipeline's output goes to a file of its own, because a matrix can be packed only
/// once all of it is there.
struct Packing<'a> {
    laid: Laid<'a>,
    folder: Folder,
    output: Output,
    offsets: Vec<u64>,
}

impl Sink for Packing<'_> {
    fn put(&self, tensor: usize, at: u64, bytes: &[u8]) -> Result<()> {
        self.output.put(tensor, at, bytes)
    }

    fn finish(self: Box<Self>, watch: &dyn Watch) -> Result<u64> {
        let Packing { laid, folder, output, offsets } = *self;
        output.finish(watch)?;
        let (to, file) = (folder.path(), folder.path().join(BLOCKS));
        let Contents { plan, weights, .. } = laid.contents;
        let blocks = Intermediate { map: Map::open(&file)?, offsets, plan, weights };
        for (i, range) in laid.shards.iter().enumerate() {
            laid.shard(&to.join(shards::name(i, laid.shards.len())), range.clone(), &blocks, watch)?;
        }
        let of = |range: &Range<usize>| laid.entries[range.clone()].iter().flatten().collect();
        shards::write_index(to, &laid.shards.iter().map(of).collect::<Vec<_>>())?;
        laid.configuration(to)?;
        companions::copy(directory_of(&laid.config.path), to)?;
        drop(blocks);
        fs::remove_file(&file).map_err(|e| Error::io(&file, "remove", e))?;
        folder.commit(watch)?;
        Ok(laid.bytes())
    }
}
