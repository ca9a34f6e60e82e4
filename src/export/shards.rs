//! safetensors shards: how tensors are split over them, their names, headers and index.

use std::ops::Range;
use std::path::Path;

use aurora_quantizers::{Field, Spec};
use serde_json::{Map as JsonMap, Value as Json, json};

use super::companions::write_json;
use crate::Result;
use crate::options::{Opt, OptKind};

/// Bytes of a shard, at most, unless one tensor is larger. The default is what the Hugging Face libraries write.
pub(super) const SIZE: Opt = Opt {
    name: "shard_size",
    about: "Size of a file of safetensors, at most, such as 5GB or 500MB",
    kind: OptKind::Size,
    default: "5GB",
};

/// One tensor of the output.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub name: String,
    /// Type, as spelled in safetensors.
    pub dtype: &'static str,
    pub shape: Vec<usize>,
}

impl Entry {
    /// A field of the tensor of this name.
    pub fn of(name: &str, field: &Field) -> Entry {
        let name = format!("{name}{}", field.suffix);
        Entry { name, dtype: dtype(field.spec), shape: field.shape.clone() }
    }

    pub fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * width(self.dtype)
    }
}

/// How safetensors spells a type of single numbers.
fn dtype(spec: &Spec) -> &'static str {
    match spec.name {
        "bf16" => "BF16",
        "f16" => "F16",
        "i8" => "I8",
        "i16" => "I16",
        "i32" => "I32",
        "i64" => "I64",
        _ => "F32",
    }
}

fn width(dtype: &str) -> u64 {
    match dtype {
        "I8" | "U8" => 1,
        "BF16" | "F16" | "I16" => 2,
        "I64" => 8,
        _ => 4,
    }
}

/// Splits into consecutive runs whose sizes add up to at most `limit`, or that hold a single item.
pub(super) fn split(sizes: &[u64], limit: u64) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (i, size) in sizes.iter().enumerate() {
        if i > start && sum + size > limit {
            runs.push(start..i);
            (start, sum) = (i, 0);
        }
        sum += size;
    }
    runs.push(start..sizes.len());
    runs
}

/// The file name of shard `index` of `count`.
pub(super) fn name(index: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".to_owned(),
        n => format!("model-{:05}-of-{n:05}.safetensors", index + 1),
    }
}

/// Everything before the tensors' bytes, which follow in this order without gaps.
pub(super) fn header<'e>(entries: impl Iterator<Item = &'e Entry>) -> Vec<u8> {
    let mut header = JsonMap::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for entry in entries {
        let end = at + entry.bytes();
        header
            .insert(entry.name.clone(), json!({"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = Json::Object(header).to_string().into_bytes();
    // Readers that map the file need aligned data.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut all = (header.len() as u64).to_le_bytes().to_vec();
    all.extend(header);
    all
}

/// Writes the index of which shard holds each tensor, if there are several. `shards`: the entries of each.
pub(super) fn write_index(folder: &Path, shards: &[Vec<&Entry>]) -> Result<()> {
    if shards.len() == 1 {
        return Ok(());
    }
    let mut map = JsonMap::new();
    for (i, entries) in shards.iter().enumerate() {
        map.extend(entries.iter().map(|entry| (entry.name.clone(), json!(name(i, shards.len())))));
    }
    let total: u64 = shards.iter().flatten().map(|entry| entry.bytes()).sum();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    write_json(&folder.join("model.safetensors.index.json"), &index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::two_fields;

    #[test]
    fn every_field_is_a_tensor_of_its_size() {
        for t in two_fields::plan().tensors {
            let entries: Vec<Entry> = t.fields.iter().map(|field| Entry::of(&t.name, field)).collect();
            let found: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.dtype, &e.shape[..], e.bytes())).collect();
            let [values, mask] = ["values", "mask"].map(|end| format!("{}.{end}", t.name));
            assert_eq!(found, [(values.as_str(), "F16", &[3, 8][..], 48), (mask.as_str(), "I8", &[3, 2], 6)]);
        }
    }

    #[test]
    fn shards_hold_what_fits_and_never_nothing() {
        let runs = |sizes: &[u64]| split(sizes, 6).into_iter().map(|r| (r.start, r.end)).collect::<Vec<_>>();
        assert_eq!(runs(&[3, 3, 3, 9, 1]), [(0, 2), (2, 3), (3, 4), (4, 5)]);
        assert_eq!(runs(&[9]), [(0, 1)]);
        assert_eq!(runs(&[1, 2, 3]), [(0, 3)]);
    }
}
