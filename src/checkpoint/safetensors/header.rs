//! The header of a safetensors file, believed only as far as it is checked.
//!
//! In come a file's bytes, out come its tensors. The format's own rules are held to the letter (offsets tile the data
//! with no hole, no overlap and nothing behind), so whatever is accepted here the safetensors crate accepts too; a
//! test holds that. Its reader is not used as such because its errors leave out the tensor's name, the numbers, or
//! that a name came twice. Names of types are the crate's.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::super::source::TensorInfo;
use super::dtype;
use crate::error::{Fault, Result, printable};

/// Bytes of the length field in front of the header.
const LENGTH: usize = 8;
/// The safetensors crate's own cap; headers of the largest models have a few MB.
const MAX_HEADER: u64 = 100_000_000;
/// Longest description of one tensor: type, shape and offsets of a sane tensor take about 100 bytes.
const MAX_INFO: usize = 4096;
/// The one key that is not a tensor.
const METADATA: &str = "__metadata__";

/// Checks the safetensors file whose bytes are `bytes`; `path` is only named in errors. Tensors come in the order of
/// their bytes, with [`TensorInfo::file`] 0.
///
/// # Errors
/// If the file is truncated, or its header breaks any rule of the format: which tensor, what was found.
pub fn parse_header(path: &Path, bytes: &[u8]) -> Result<Vec<TensorInfo>> {
    let text = header_text(path, bytes)?;
    let Raw { entries, metadata } = read_json(path, text)?;
    if let Some(metadata) = metadata {
        serde_json::from_str::<Option<HashMap<String, String>>>(metadata.get())
            .map_err(|e| Fault::json(format!("{METADATA} must map strings to strings"), e).of(path))?;
    }
    let mut names = HashSet::with_capacity(entries.len());
    for (name, _) in &entries {
        if !names.insert(name.as_str()) {
            return Err(Fault::damaged("duplicate tensor name in the header").of_tensor(path, name));
        }
    }
    let mut tensors = entries
        .iter()
        .map(|(name, info)| read_info(info).map(|i| (name, i)).map_err(|fault| fault.of_tensor(path, name)))
        .collect::<Result<Vec<_>>>()?;
    tensors.sort_by_key(|(_, info)| (info.begin, info.end));
    let data_start = LENGTH + text.len();
    check_tiling(path, &tensors, (bytes.len() - data_start) as u64)?;
    tensors.into_iter().map(|(name, info)| info.place(path, name, data_start)).collect()
}

/// The JSON text between the length field and the data.
fn header_text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str> {
    let fail = |fault: Fault| Err(fault.of(path));
    if bytes.is_empty() {
        return fail(Fault::truncated("the file is empty, not a safetensors file; download or copy it again"));
    }
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        let what = format!("too short for a safetensors header: {} bytes, needed {LENGTH}", bytes.len());
        return fail(Fault::truncated(what));
    };
    let length = u64::from_le_bytes(*length);
    // Only where the length is impossible too: 640 is a fine length and starts like a pickle.
    if length > rest.len() as u64 && (bytes.starts_with(b"PK") || bytes.starts_with(b"\x80\x02")) {
        return fail(Fault::unsupported(
            "not a safetensors file: it is a PyTorch pickle or zip; save the model again with \
             save_pretrained(..., safe_serialization=True)",
        ));
    }
    if length > rest.len() as u64 {
        return fail(Fault::truncated(format!(
            "header length {length} is larger than the file of {} bytes: it is truncated (download or copy it again) \
             or not a safetensors file",
            bytes.len()
        )));
    }
    if length > MAX_HEADER {
        return fail(format!("header length {length} is absurd, at most {MAX_HEADER} bytes are allowed").into());
    }
    std::str::from_utf8(&rest[..length as usize])
        .or_else(|e| fail(Fault::damaged(format!("the header is not UTF-8 (it begins at byte {LENGTH})")).because(e)))
}

/// Header entries as text, so that nothing in them can take more memory than it has bytes.
struct Raw<'a> {
    entries: Vec<(String, &'a RawValue)>,
    metadata: Option<&'a RawValue>,
}

fn read_json<'a>(path: &Path, text: &'a str) -> Result<Raw<'a>> {
    let start = text.trim_start();
    if !start.is_empty() && !start.starts_with('{') {
        let found: String = start.chars().take(20).collect();
        let what = format!("the header must be a JSON object, found {}", printable(&found));
        return Err(Fault::damaged(what).of(path));
    }
    serde_json::from_str(text).map_err(|e| Fault::damaged("the header is not valid JSON").because(e).of(path))
}

impl<'de> Deserialize<'de> for Raw<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Raw<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            // A list, not a map: a map would keep only the last of two entries of one name.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw<'de>, A::Error> {
                let mut raw = Raw { entries: Vec::new(), metadata: None };
                while let Some(name) = map.next_key::<String>()? {
                    if name != METADATA {
                        raw.entries.push((name, map.next_value()?));
                    } else if raw.metadata.replace(map.next_value()?).is_some() {
                        return Err(serde::de::Error::custom("duplicate __metadata__"));
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// One tensor's description with its numbers known to be unsigned integers; offsets count from the data's start.
struct Info {
    dtype: String,
    shape: Vec<usize>,
    begin: u64,
    end: u64,
}

fn read_info(raw: &RawValue) -> Result<Info, Fault> {
    #[derive(Deserialize)]
    struct Fields {
        dtype: String,
        shape: Vec<Json>,
        data_offsets: Vec<Json>,
    }
    if raw.get().len() > MAX_INFO {
        let found = raw.get().len();
        return Err(format!("described by {found} bytes of JSON, at most {MAX_INFO} are allowed").into());
    }
    let Fields { dtype, shape, data_offsets } =
        serde_json::from_str(raw.get()).map_err(|e| Fault::damaged("cannot be read").because(e))?;
    let shape = shape
        .iter()
        .map(|dim| dim.as_u64().and_then(|dim| usize::try_from(dim).ok()))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| format!("shape must be non-negative integers, found {}", Json::from(shape)))?;
    let offsets: Option<Vec<u64>> = data_offsets.iter().map(Json::as_u64).collect();
    match offsets.as_deref() {
        Some(&[begin, end]) if begin <= end => Ok(Info { dtype, shape, begin, end }),
        Some([begin, end]) => Err(format!("begin offset {begin} is larger than end offset {end}").into()),
        _ => {
            let found = Json::from(data_offsets);
            Err(format!("data_offsets must be two non-negative integers, found {found}").into())
        }
    }
}

/// The sorted ranges must cover the data exactly.
fn check_tiling(path: &Path, tensors: &[(&String, Info)], data_len: u64) -> Result<()> {
    let described = tensors.iter().map(|(_, info)| info.end).max().unwrap_or(0);
    let mut end = 0;
    let mut previous: Option<&str> = None;
    for (name, info) in tensors {
        let fail = |fault: Fault| Err(fault.of_tensor(path, name));
        if info.end > data_len {
            return fail(Fault::truncated(format!(
                "tensor data out of range of the file: it ends at byte {} of the data; the header describes {described} \
                 bytes of data, the file has {data_len}: it is truncated (download or copy it again) or damaged",
                info.end
            )));
        }
        if info.begin < end {
            let other = printable(previous.unwrap_or_default());
            let what = format!("starts at byte {} of the data and overlaps {other}, which ends at {end}", info.begin);
            return fail(what.into());
        }
        if info.begin > end {
            let what = format!("bytes {end} to {} of the data, before it, are not covered by any tensor", info.begin);
            return fail(what.into());
        }
        end = info.end;
        previous = Some(name);
    }
    if end < data_len {
        let more = data_len - end;
        return Err(Fault::damaged(format!("the file is {more} bytes longer than its header says")).of(path));
    }
    Ok(())
}

impl Info {
    /// The tensor as bytes of the file, if its range has the size that type and shape call for.
    fn place(self, path: &Path, name: &str, data_start: usize) -> Result<TensorInfo> {
        let fail = |fault: Fault| Err(fault.of_tensor(path, name));
        let Info { dtype, shape, begin, end } = self;
        let Some(spec) = dtype::spec_of(&dtype) else {
            return fail(Fault::unsupported(format!(
                "unknown dtype {}; save the model as F32, F16 or BF16",
                printable(&dtype)
            )));
        };
        // Tiling was checked: both offsets are inside the file, whose bytes are addressable.
        let range: Range<usize> = data_start + begin as usize..data_start + end as usize;
        let tensor = TensorInfo { name: name.to_owned(), shape, spec, file: 0, range, packed: None, sparse: None };
        let found = tensor.range.len();
        if tensor.elements().and_then(|n| n.checked_mul(spec.bytes)).is_none() {
            return fail(format!("shape {:?} is too large: the byte count overflows", tensor.shape).into());
        }
        match tensor.expected_bytes() {
            Some(needed) if needed == found => Ok(tensor),
            Some(needed) => {
                let shape = &tensor.shape;
                fail(format!("shape {shape:?} and dtype {dtype} need {needed} bytes, the range has {found}").into())
            }
            None => {
                let (shape, block) = (&tensor.shape, spec.block);
                fail(format!("shape {shape:?}: {dtype} needs rows of a multiple of {block}").into())
            }
        }
    }
}
