//! Reads statistics files: ours and llama-imatrix's in GGUF, and llama-imatrix's older format.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::Array2;

use super::layout::{CHUNK_COUNT, CHUNK_SIZE, COUNTS, DATASETS, GRAM, SUM_ABS, SUM_SQ, TREE, f32_spec, floats};
use super::{Entry, Imatrix, ShardLabel};
use crate::checkpoint::{TensorInfo, mmap::Map};
use crate::error::{Fault, Misfit, printable};
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
            return Err(other_type(path, info, "F32"));
        }
        Ok(floats(&map.bytes()[info.range.clone()]).collect())
    };
    for info in &tensors {
        if let Some(at) = TREE.iter().position(|end| info.name.ends_with(end)) {
            let needed = if at < 3 { "f64" } else { "f32" };
            if info.spec.name != needed {
                return Err(other_type(path, info, needed));
            }
            found.trees.insert(info.name.clone(), info.clone());
        }
        if let Some(name) = info.name.strip_suffix(GRAM) {
            if info.spec.ggml_id != f32_spec().ggml_id {
                return Err(other_type(path, info, "F32"));
            }
            found.grams.insert(name.to_owned(), info.clone());
        }
        if let Some(name) = info.name.strip_suffix(COUNTS)
            && !places.contains_key(&*format!("{name}{SUM_SQ}"))
        {
            return Err(alone(path, info, SUM_SQ));
        }
        let Some(name) = info.name.strip_suffix(SUM_SQ) else { continue };
        let Some(counts) = places.get(&*format!("{name}{COUNTS}")) else {
            return Err(alone(path, info, COUNTS));
        };
        let (sum_sq, counts) = (read(info)?, read(counts)?);
        let (found_sums, experts) = (sum_sq.len(), counts.len());
        let dim = (experts, found_sums.checked_div(experts).unwrap_or(0));
        let Ok(sum_sq) = Array2::from_shape_vec(dim, sum_sq) else {
            let what = format!("{found_sums} sums cannot be shared by {experts} counts");
            return Err(Fault::damaged(what).of_tensor(path, &info.name));
        };
        let mut entry = Entry { sum_sq, counts, sum_abs: None };
        if let Some(abs) = places.get(&*format!("{name}{SUM_ABS}")) {
            let sums = read(abs)?;
            let found = sums.len();
            let Ok(sums) = Array2::from_shape_vec(dim, sums) else {
                let what = format!("{found} sums, needed {found_sums} as in {SUM_SQ}");
                return Err(Fault::damaged(what).of_tensor(path, &abs.name));
            };
            entry.sum_abs = Some(sums);
        }
        found.entries.insert(name.to_owned(), entry);
    }
    if found.entries.is_empty() {
        return Err(Fault::unsupported(format!("not an importance matrix: no tensor name ends in {SUM_SQ}")).of(path));
    }
    found.map = Some(map);
    Ok(found)
}

fn other_type(path: &Path, info: &TensorInfo, needed: &str) -> Error {
    let found = info.spec.name;
    let what = format!("type {found}, needed {needed}");
    Error::misfit(path, &info.name, Misfit::Type { found: found.to_owned() }, what)
}

/// A tensor without the one that belongs to it.
fn alone(path: &Path, info: &TensorInfo, other: &str) -> Error {
    Error::misfit(path, &info.name, Misfit::Missing, format!("there is no {other} tensor beside it"))
}

/// The older format, little-endian 32-bit numbers: how many entries; for each the length of its name, the name, calls,
/// how many values, the values (means over tokens, times calls); then chunks, and length and name of the text.
pub(super) fn dat(path: &Path, bytes: &[u8]) -> Result<Imatrix> {
    let mut at = 0;
    let left = |at: usize| bytes.len() - at;
    let fault = |at: usize, what: String| {
        Err(Fault::damaged(format!("{what} at byte {at}; not an importance matrix, or damaged")).of(path))
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
        let sum_sq = floats(&bytes[at..at + 4 * values]).collect();
        let sum_sq = Array2::from_shape_vec((1, values), sum_sq).expect("so many values");
        at += 4 * values;
        let entry = Entry { sum_sq, counts: vec![calls.max(1) as f32], sum_abs: None };
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
