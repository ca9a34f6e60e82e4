//! GGUF files, one or several, as a source of tensors.
//!
//! In comes a path, out comes a [`TensorSource`] whose every tensor lies inside the file, aligned, with the size its
//! shape and type call for, overlapping no other. The header itself is read by [`crate::gguf`].

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use aurora_quantizers::spec;

use super::config::{Config, GgufConfig};
use super::mapped::Mapped;
use super::mmap::Map;
use super::source::{SourceKind, TensorInfo, TensorSource, has_extension};
use super::sparse;
use crate::Error;
use crate::error::{Fault, Result, printable};
use crate::gguf::{Header, MAGIC, Metadata, RawTensor, read_header};

pub(crate) mod split;

use split::Split;

/// The row of [`super::SOURCES`].
pub const FILE: SourceKind = SourceKind { name: "GGUF file", matches, open };

fn matches(path: &Path) -> bool {
    // Only a regular file is opened: a fifo would block.
    !path.is_dir() && (has_extension(path, "gguf") || path.is_file() && starts_with_magic(path))
}

fn starts_with_magic(path: &Path) -> bool {
    let mut magic = [0; 4];
    std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_ok() && magic == MAGIC
}

fn open(path: &Path) -> Result<Box<dyn TensorSource>> {
    let map = Map::open(path)?;
    let (metadata, tensors) = parse(path, map.bytes())?;
    release_header(&map, &tensors);
    match Split::of(path, &metadata)? {
        None => {
            let config = config(path, metadata);
            let source = Mapped::new(path, config, vec![path.to_owned()], vec![map], tensors);
            Ok(Box::new(sparse::gguf::adopt(source)?))
        }
        Some(split) => {
            drop((map, metadata, tensors));
            parts(path, split)
        }
    }
}

/// The model's keys, without those of the files.
fn config(path: &Path, mut metadata: Metadata) -> Config {
    metadata.retain(|key| !key.starts_with(split::KEYS));
    Config::Gguf(GgufConfig { path: path.to_owned(), metadata })
}

/// A vocabulary takes megabytes of header, read once and now copied.
fn release_header(map: &Map, tensors: &[TensorInfo]) {
    let data_start = tensors.iter().map(|t| t.range.start).min().unwrap_or(map.bytes().len());
    map.release(0..data_start);
}

/// All files of a model. `path`: the one that was named; `split`: what it says.
fn parts(path: &Path, split: Split) -> Result<Box<dyn TensorSource>> {
    let files = split.files(path)?;
    let (mut maps, mut tensors, mut found) = (Vec::new(), Vec::<TensorInfo>::new(), None);
    let mut places: HashMap<String, usize> = HashMap::new();
    for (at, file) in files.iter().enumerate() {
        let which = format!("part {} of {}", at + 1, split.count);
        if !file.exists() {
            let what = format!("{which} of the model is missing; all parts belong in one folder");
            return Err(Error::missing(file, vec![file.clone()], what));
        }
        let map = Map::open(file)?;
        let (metadata, mut here) = parse(file, map.bytes())?;
        let expected = Split { no: at as u64, ..split };
        let says = Split::of(file, &metadata)?;
        if says != Some(expected) {
            let what = match says {
                None => format!("is a model of its own, needed {which} that {} belongs to", path.display()),
                Some(other) => format!(
                    "says that it is part {} of {} with {} tensors, needed {which} with {}",
                    other.no + 1,
                    other.count,
                    other.tensors.map_or("?".to_owned(), |n| n.to_string()),
                    split.tensors.map_or("?".to_owned(), |n| n.to_string()),
                ),
            };
            return Err(Fault::damaged(format!("{what}; download the parts of one model again")).of(file));
        }
        release_header(&map, &here);
        for tensor in &mut here {
            tensor.file = at;
            if let Some(other) = places.insert(tensor.name.clone(), at) {
                let what = format!("is in {} too", files[other].display());
                return Err(Fault::damaged(what).of_tensor(file, &tensor.name));
            }
        }
        tensors.append(&mut here);
        maps.push(map);
        // The first part has the keys.
        found.get_or_insert_with(|| config(file, metadata));
    }
    if let Some(all) = split.tensors.filter(|n| *n != tensors.len() as u64) {
        let what = format!("{} says {all} tensors, the {} files have {}", split::TENSORS, split.count, tensors.len());
        return Err(Fault::damaged(format!("{what}; download them again")).of(&files[0]));
    }
    let config = found.expect("at least two files");
    Ok(Box::new(sparse::gguf::adopt(Mapped::new(path, config, files, maps, tensors))?))
}

/// Checks the GGUF file whose bytes are `bytes`; `path` is only named in errors. Tensors come in file order.
///
/// # Errors
/// Those of [`read_header`], and any tensor of a type or shape that is not known, or whose bytes are not aligned, not
/// inside the file or shared with another tensor.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<(Metadata, Vec<TensorInfo>)> {
    let header = read_header(path, bytes)?;
    let tensors = header.tensors.iter().map(|t| place(path, &header, t, bytes.len())).collect::<Result<Vec<_>>>()?;
    refuse_overlaps(path, &tensors)?;
    Ok((header.metadata, tensors))
}

/// One row of the tensor table as bytes of the file.
fn place(path: &Path, header: &Header, raw: &RawTensor, file_len: usize) -> Result<TensorInfo> {
    let fail = |fault: Fault| Err(fault.of_tensor(path, &raw.name));
    let Some(spec) = spec::by_ggml_id(raw.type_id) else {
        return fail(Fault::unsupported(format!(
            "tensor type {} is unknown or was removed from ggml; convert the model again from its source",
            raw.type_id
        )));
    };
    if let Some(axis) = raw.dims.iter().position(|&dim| dim == 0) {
        return fail(format!("empty tensor: dimension {axis} of {:?} (innermost first) is 0", raw.dims).into());
    }
    let Some(shape) = raw.dims.iter().rev().map(|&dim| usize::try_from(dim).ok()).collect::<Option<Vec<_>>>() else {
        return fail(format!("too large: dimensions {:?} overflow", raw.dims).into());
    };
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(spec.block) {
        return fail(format!("rows of {row} columns, {} needs a multiple of {}", spec.name, spec.block).into());
    }
    let mut info = TensorInfo { name: raw.name.clone(), shape, spec, file: 0, range: 0..0, packed: None, sparse: None };
    let Some(size) = info.elements().and(info.expected_bytes()) else {
        return fail(format!("too large: the byte count of dimensions {:?} overflows", raw.dims).into());
    };
    if !raw.offset.is_multiple_of(header.alignment) {
        return fail(format!("offset {} is not aligned to {}", raw.offset, header.alignment).into());
    }
    let start = header.data_start.checked_add(raw.offset);
    let end = start.and_then(|start| start.checked_add(size as u64));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_len as u64 => {
            info.range = start as usize..end as usize;
            Ok(info)
        }
        _ => fail(Fault::truncated(format!(
            "tensor data out of range of the file: {size} bytes at offset {} of the data that starts at byte {}, the \
             file has {file_len} bytes; it is truncated (download or copy it again) or damaged",
            raw.offset, header.data_start
        ))),
    }
}

fn refuse_overlaps(path: &Path, tensors: &[TensorInfo]) -> Result<()> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| t.range.start);
    for pair in order.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let (a, b) = (pair[0], pair[1]);
            let other = printable(&a.name);
            let what = format!("overlaps tensor {other}: bytes {:?} and {:?} of the file", b.range, a.range);
            return Err(Fault::damaged(what).of_tensor(path, &b.name));
        }
    }
    Ok(())
}
