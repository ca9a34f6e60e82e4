//! A GGUF file of sparse matrices: the ordinary file goes to a temporary sibling, and is packed when it is complete.

use std::path::{Path, PathBuf};

use aurora_quantizers::sparse::Packing;

use super::count::{Decided, count};
use super::dense::DenseTensor;
use super::form::Form;
use super::{pack, possible};
use crate::Result;
use crate::checkpoint::mmap::Map;
use crate::checkpoint::sparse::keys;
use crate::export::{Contents, FileMap, Prepared, Sink};
use crate::files::AtomicFile;
use crate::gguf::{self, Metadata, TensorEntry, Value, ValueType};
use crate::watch::Watch;

/// A file that is laid out as far as it can be: its size depends on the zeros.
pub(crate) struct SparseFile {
    pub metadata: Metadata,
    pub packing: Packing,
    pub notes: Vec<String>,
    /// Size of the dense file.
    pub dense: u64,
}

impl Prepared for SparseFile {
    fn bytes(&self) -> u64 {
        self.dense
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn begin<'a>(&'a self, contents: Contents<'a>, path: &Path, replace: bool) -> Result<Box<dyn Sink + 'a>> {
        let map = FileMap::gapless(Vec::new(), contents.plan);
        let dense = AtomicFile::create(path, map.size, replace)?;
        Ok(Box::new(PackingFile { laid: self, contents, dense, map, path: path.to_owned(), replace }))
    }
}

/// A file that is being written.
struct PackingFile<'a> {
    laid: &'a SparseFile,
    contents: Contents<'a>,
    /// The rows as the pipeline hands them over. It never gets a name.
    dense: AtomicFile,
    map: FileMap,
    path: PathBuf,
    replace: bool,
}

impl PackingFile<'_> {
    /// All tensors of the dense file.
    fn tensors(&self) -> Vec<DenseTensor> {
        let Contents { plan, weights, .. } = self.contents;
        let tensor = |(t, offsets): (&crate::plan::TensorPlan, &Vec<u64>)| {
            let start = offsets[0] as usize;
            DenseTensor {
                name: t.name.clone(),
                shape: t.shape.clone(),
                store: t.store,
                file: 0,
                range: start..start + t.bytes() as usize,
                matrix: possible(weights.graph().param(t.param).role, t),
            }
        };
        plan.tensors.iter().zip(&self.map.offsets).map(tensor).collect()
    }
}

/// The keys of a file, with those that say which matrices are sparse, and how.
fn metadata(dense: &Metadata, packing: Packing, tensors: &[DenseTensor], decided: &[Decided]) -> Metadata {
    let mut out = dense.clone();
    if let Some(Value::String(name)) = dense.get(keys::ARCHITECTURE) {
        out.set(keys::ARCHITECTURE, gguf::string(format!("{}{name}", keys::PREFIX)));
    }
    let sparse = || tensors.iter().zip(decided).filter(|(_, d)| matches!(d, Decided::Sparse { .. })).map(|(t, _)| t);
    out.set(keys::VERSION_KEY, Value::U32(keys::VERSION));
    out.set(keys::TENSORS, gguf::string_array(sparse().map(|t| t.name.as_str())));
    out.set(keys::LAYOUTS, gguf::string_array(sparse().map(|_| packing.name())));
    out.set(keys::TYPES, gguf::string_array(sparse().map(|t| t.store.spec().name)));
    let dims = sparse().flat_map(|t| {
        let dims = t.shape.iter().rev().map(|n| *n as u64).chain(std::iter::repeat(0));
        dims.take(keys::DIMS).map(Value::U64)
    });
    out.set(keys::SHAPES, gguf::array(ValueType::U64, dims.collect()));
    out
}

impl Sink for PackingFile<'_> {
    fn put(&self, tensor: usize, field: usize, at: u64, bytes: &[u8]) -> Result<()> {
        self.dense.write_at(self.map.offsets[tensor][field] + at, bytes)
    }

    fn finish(self: Box<Self>, watch: &dyn Watch) -> Result<u64> {
        let (tensors, form) = (self.tensors(), Form::Gguf(self.laid.packing));
        let map = [Map::open(self.dense.temporary())?];
        let decided = count(&tensors, &map, form, watch)?;
        let metadata = metadata(&self.laid.metadata, self.laid.packing, &tensors, &decided);
        let alignment = metadata.alignment().unwrap_or(gguf::DEFAULT_ALIGNMENT);
        let (mut rows, mut size, mut places) = (Vec::new(), 0, Vec::new());
        for (t, decided) in tensors.iter().zip(&decided) {
            let parts: Vec<(String, Vec<usize>, u32, u64)> = match decided {
                Decided::Dense => {
                    let id = t.store.spec().ggml_id.expect("a type of GGUF, as was checked");
                    vec![(t.name.clone(), t.shape.clone(), id, t.range.len() as u64)]
                }
                Decided::Sparse { layout, before } => {
                    let parts = form.parts(&t.name, &t.shape, layout, before[before.len() - 1]);
                    parts.into_iter().map(|part| (part.name, part.shape, part.ggml_id, part.bytes)).collect()
                }
            };
            let mut offsets = Vec::new();
            for (name, shape, id, bytes) in parts {
                offsets.push(size);
                rows.push((name, shape, id, size));
                size = gguf::align(size + bytes, alignment);
            }
            places.push(offsets);
        }
        let table: Vec<TensorEntry> = rows.iter().map(|(name, shape, id, at)| (&**name, &**shape, *id, *at)).collect();
        let mut header = Vec::new();
        gguf::write_header(&metadata, &table, &mut header)?;
        let start = header.len() as u64;
        let file = AtomicFile::create(&self.path, start + size, self.replace)?;
        file.write_at(0, &header)?;
        for ((t, decided), offsets) in tensors.iter().zip(&decided).zip(&places) {
            let offsets: Vec<u64> = offsets.iter().map(|at| start + at).collect();
            pack::write(t, decided, (&map[0], form), (&file, &offsets), watch)?;
        }
        // The dense rows are not needed any more, and the disk may be.
        drop((map, self.dense));
        file.commit(watch)?;
        Ok(start + size)
    }
}
