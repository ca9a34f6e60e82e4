//! Sparse matrices in a Hugging Face folder: the ordinary folder is made first, and packed into another.

use std::ops::Range;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::count::{Decided, count};
use super::dense::DenseTensor;
use super::form::Form;
use super::pack;
use crate::Result;
use crate::checkpoint::mmap::Map;
use crate::checkpoint::sparse::compressed_tensors as ct;
use crate::export::shards::{self, Entry};
use crate::files::AtomicFile;
use crate::watch::Watch;

/// What a packed folder holds.
pub(crate) struct PackedFolder {
    /// The tensors of each shard.
    pub shards: Vec<Vec<Entry>>,
    /// `quantization_config`, for formats that have one.
    pub config: Option<Json>,
}

impl PackedFolder {
    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().flatten().map(Entry::bytes).sum()
    }
}

/// Packs tensors into shards of at most `limit` bytes in the folder `to`. `entries`: what each is when dense.
///
/// # Errors
/// If no matrix can be stored sparse, the disk is full or fails, or the watch says to stop.
pub(crate) fn pack(
    (tensors, entries): (&[DenseTensor], &[Entry]),
    maps: &[Map],
    form: Form,
    (to, limit): (&Path, u64),
    watch: &dyn Watch,
) -> Result<PackedFolder> {
    let decided = count(tensors, maps, form, watch)?;
    let parts = |(i, decided): (usize, &Decided)| match decided {
        Decided::Dense => vec![entries[i].clone()],
        Decided::Sparse { layout, before } => {
            let t = &tensors[i];
            let parts = form.parts(&t.name, &t.shape, layout, before[before.len() - 1]).into_iter();
            parts.map(|part| Entry { name: part.name, dtype: part.dtype, shape: part.shape }).collect()
        }
    };
    let parts: Vec<Vec<Entry>> = decided.iter().enumerate().map(parts).collect();
    let sizes: Vec<u64> = parts.iter().map(|parts| parts.iter().map(Entry::bytes).sum()).collect();
    let runs: Vec<Range<usize>> = shards::split(&sizes, limit);
    for (no, run) in runs.iter().enumerate() {
        let header = shards::header(parts[run.clone()].iter().flatten());
        let mut end = header.len() as u64;
        let size = end + sizes[run.clone()].iter().sum::<u64>();
        let file = AtomicFile::create(&to.join(shards::name(no, runs.len())), size, false)?;
        file.write_at(0, &header)?;
        for i in run.clone() {
            let place = |part: &Entry| {
                let start = end;
                end += part.bytes();
                start
            };
            let offsets: Vec<u64> = parts[i].iter().map(place).collect();
            let t = &tensors[i];
            pack::write(t, &decided[i], (&maps[t.file], form), (&file, &offsets), watch)?;
        }
        file.commit(watch)?;
    }
    let config = match form {
        Form::CompressedTensors(_) => Some(configuration(form, tensors, &decided)),
        _ => None,
    };
    Ok(PackedFolder { shards: runs.into_iter().map(|run| parts[run].concat()).collect(), config })
}

/// What config.json says of it to compressed-tensors.
fn configuration(form: Form, tensors: &[DenseTensor], decided: &[Decided]) -> Json {
    let (mut weights, mut stored, mut ignored) = (0, 0, Vec::new());
    for (t, decided) in tensors.iter().zip(decided).filter(|(t, _)| t.matrix) {
        let (rows, cols) = t.dim();
        match decided {
            Decided::Dense => ignored.push(t.name.trim_end_matches(".weight").to_owned()),
            Decided::Sparse { before, .. } => {
                weights += rows as u64 * cols as u64;
                stored += before[rows];
            }
        }
    }
    let (format, packing) =
        ct::FORMATS.into_iter().find(|(_, packing)| *packing == form.packing()).expect("a layout for each packing");
    let structure = if packing == aurora_quantizers::sparse::Packing::TwoFour { "2:4" } else { "unstructured" };
    json!({
        "quant_method": "compressed-tensors",
        "sparsity_config": {
            "format": format,
            "global_sparsity": 1.0 - stored as f64 / weights as f64,
            "ignore": ignored,
            "sparsity_structure": structure,
            "targets": ["Linear"],
        },
    })
}
