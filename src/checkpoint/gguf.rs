//! GGUF files as a source of tensors.
//!
//! In comes a path, out comes a [`TensorSource`] whose every tensor lies inside the file, aligned, with the size its
//! shape and type call for, overlapping no other. The header itself is read by [`crate::gguf`].

use std::io::Read;
use std::path::Path;

use aurora_quantizers::spec;

use super::config::{Config, GgufConfig};
use super::mapped::Mapped;
use super::mmap::Map;
use super::source::{SourceKind, TensorInfo, TensorSource, has_extension};
use crate::error::{Fault, Result, printable};
use crate::gguf::{Header, MAGIC, Metadata, RawTensor, read_header};

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
    // A vocabulary takes megabytes of header, read once and now copied.
    let data_start = tensors.iter().map(|t| t.range.start).min().unwrap_or(map.bytes().len());
    map.release(0..data_start);
    let config = Config::Gguf(GgufConfig { path: path.to_owned(), metadata });
    Ok(Box::new(Mapped::new(path, config, vec![path.to_owned()], vec![map], tensors)))
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
    let mut info = TensorInfo { name: raw.name.clone(), shape, spec, file: 0, range: 0..0, packed: None };
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
