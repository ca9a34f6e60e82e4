//! Reads statistics files: ours and llama-imatrix's in GGUF, and llama-imatrix's older format.

use std::collections::BTreeMap;
use std::path::Path;

use super::layout::{CHUNK_COUNT, CHUNK_SIZE, COUNTS, DATASETS, GRAM, SUM_ABS, SUM_SQ, TREE, f32_spec, floats};
use super::{Entry, Imatrix, ShardLabel};
use crate::checkpoint::{TensorInfo, mmap::Map};
use crate::error::printable;
use crate::gguf::Value;
use crate::{Error, Result, checkpoint};

/// Reads a GGUF file.
///
/// # Errors
/// If it is damaged or holds no statistics.
pub(super) fn gguf(path: &Path, map: Map) -> Result<Imatrix> {
    let (metadata, tensors) = checkpoint::gguf::parse(path, map.bytes())?;
    let mut found = Imatrix { path: path.to_owned(), ..Default::default() };
    let number = |key: &str| metadata.get(key).and_then(Value::as_u64).map_or(0, |n| n.min(u64::from(u32::MAX)) as u32);
    (found.origin.chunks, found.origin.chunk_size) = (number(CHUNK_COUNT), number(CHUNK_SIZE));
    if let Some(Value::Array(list)) = metadata.get(DATASETS) {
        found.origin.datasets = list.values.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    }
    found.label = ShardLabel::read(&metadata, path)?;
    let mut places: BTreeMap<&str, &TensorInfo> = BTreeMap::new();
    tensors.iter().for_each(|t| {
        places.insert(&t.name, t);
    });
    let read = |info: &TensorInfo| -> Result<Vec<f32>> {
        if info.spec.ggml_id != f32_spec().ggml_id {
            let what = format!("type {}, needed F32", info.spec.name);
            return Err(Error::tensor(path, printable(&info.name), what));
        }
        Ok(floats(&map.bytes()[info.range.clone()]).collect())
    };
    for info in &tensors {
        if let Some(at) = TREE.iter().position(|end| info.name.ends_with(end)) {
            let needed = if at < 3 { "f64" } else { "f32" };
            if info.spec.name != needed {
                let what = format!("type {}, needed {needed}", info.spec.name);
                return Err(Error::tensor(path, printable(&info.name), what));
            }
            found.trees.insert(info.name.clone(), info.clone());
        }
        if let Some(name) = info.name.strip_suffix(GRAM) {
            if info.spec.ggml_id != f32_spec().ggml_id {
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
        return Err(Error::malformed(path, format!("not an importance matrix: no tensor name ends in {SUM_SQ}")));
    }
    found.map = Some(map);
    Ok(found)
}

/// Reads the older format, in little-endian 32-bit numbers: the number of entries; for each entry the length of its
/// name, the name, calls, number of values, and the values (means over tokens, times calls); then the number of chunks,
/// and the length and name of the text.
pub(super) fn dat(path: &Path, bytes: &[u8]) -> Result<Imatrix> {
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
        let Some(length) = length else { return fault(start, "an impossible name length".to_owned()) };
        let Ok(name) = std::str::from_utf8(&bytes[at..at + length]) else {
            return fault(at, "a name that is not UTF-8".to_owned());
        };
        at += length;
        let (calls, values) = (number(&mut at), number(&mut at));
        let values = values.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0 && n <= left(at) / 4);
        let (Some(calls), Some(values)) = (calls, values) else {
            return fault(at, format!("{}: an impossible number of values", printable(name)));
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
