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
use crate::checkpoint::mmap::Map;
use crate::checkpoint::{Config, directory_of};
use crate::model::Role;
use crate::options::Options;
use crate::watch::Watch;
use crate::{Error, Result};

/// A folder that is laid out.
pub(super) struct Laid {
    layout: &'static dyn PackedLayout,
    codes: Codes,
    tensors: Vec<Tensor>,
    /// Of each tensor.
    entries: Vec<Vec<Entry>>,
    /// Tensors of each shard.
    shards: Vec<Range<usize>>,
}

impl Laid {
    pub fn new(contents: Contents<'_>, layout: &'static dyn PackedLayout, options: &Options) -> Self {
        let codes = Codes::of(options);
        let tensors = tensors::all(contents.plan, contents.weights);
        let entries: Vec<_> = tensors.iter().map(|t| t.entries(layout, codes)).collect();
        let sizes: Vec<u64> = entries.iter().map(|e| e.iter().map(Entry::bytes).sum()).collect();
        let shards = shards::split(&sizes, options.bytes(shards::SIZE.name));
        Laid { layout, codes, tensors, entries, shards }
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

    fn configuration(&self, contents: Contents<'_>, config: &HfConfig, folder: &Path) -> Result<()> {
        let (plan, graph) = (contents.plan, contents.weights.graph());
        let embedding = |t: &Tensor| {
            let mut roles = t.pieces.iter().map(|p| graph.param(plan.tensors[p.tensor].param).role);
            roles.any(|role| matches!(role, Role::Embedding | Role::Position))
        };
        let linear = |t: &&Tensor| t.floats.is_some() && t.shape.len() > 1 && !embedding(t);
        let names = self.tensors.iter().filter(linear).map(|t| t.name.trim_end_matches(".weight").to_owned());
        let (stated, file) = self.layout.config(self.codes, &names.collect::<Vec<_>>());
        let mut config = contents.model.config_of(config);
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

impl Prepared for Laid {
    fn bytes(&self) -> u64 {
        self.entries.iter().flatten().map(Entry::bytes).sum()
    }

    fn notes(&self) -> &[String] {
        &[]
    }

    fn begin<'a>(&'a self, contents: Contents<'a>, path: &Path, _: bool) -> Result<Box<dyn Sink + 'a>> {
        let folder = Folder::begin(path)?;
        let layout = FileMap::gapless(Vec::new(), contents.plan);
        let offsets = layout.offsets.clone();
        let output = Output::begin(&folder.path().join(BLOCKS), layout, false)?;
        Ok(Box::new(Packing { laid: self, contents, folder, output, offsets }))
    }
}

/// The pipeline's output within the folder.
const BLOCKS: &str = "blocks";

/// A folder that is being written. The pipeline's blocks go to a file of their own: a matrix can be packed only when
/// all of it is there.
struct Packing<'a> {
    laid: &'a Laid,
    contents: Contents<'a>,
    folder: Folder,
    output: Output,
    offsets: Vec<Vec<u64>>,
}

impl Sink for Packing<'_> {
    fn put(&self, tensor: usize, field: usize, at: u64, bytes: &[u8]) -> Result<()> {
        self.output.put(tensor, field, at, bytes)
    }

    fn finish(self: Box<Self>, watch: &dyn Watch) -> Result<u64> {
        let Packing { laid, contents, folder, output, offsets } = *self;
        output.finish(watch)?;
        let (to, file) = (folder.path(), folder.path().join(BLOCKS));
        let Contents { source, plan, weights, .. } = contents;
        let Config::HuggingFace(config) = source.config() else { unreachable!("refused before") };
        let blocks = Intermediate { map: Map::open(&file)?, offsets, plan, weights };
        for (i, range) in laid.shards.iter().enumerate() {
            laid.shard(&to.join(shards::name(i, laid.shards.len())), range.clone(), &blocks, watch)?;
        }
        let of = |range: &Range<usize>| laid.entries[range.clone()].iter().flatten().collect();
        shards::write_index(to, &laid.shards.iter().map(of).collect::<Vec<_>>())?;
        laid.configuration(contents, config, to)?;
        companions::copy(directory_of(&config.path), to)?;
        drop(blocks);
        fs::remove_file(&file).map_err(|e| Error::io(&file, "remove", e))?;
        folder.commit(watch)?;
        Ok(laid.bytes())
    }
}
