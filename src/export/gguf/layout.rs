//! Where every byte of a GGUF file will be.

use std::ops::Range;

use crate::error::Within;
use crate::export::FileMap;
use crate::gguf::{self, Metadata};
use crate::plan::Plan;
use crate::{Error, Result};

fn alignment(metadata: &Metadata) -> u64 {
    metadata.alignment().unwrap_or(gguf::DEFAULT_ALIGNMENT)
}

/// Bytes of every tensor with what fills it up to the alignment.
pub(super) fn sizes(plan: &Plan, metadata: &Metadata) -> Vec<u64> {
    let alignment = alignment(metadata);
    plan.tensors.iter().map(|t| t.fields.iter().map(|field| gguf::align(field.bytes, alignment)).sum()).collect()
}

/// Where every byte of a GGUF file will be.
///
/// # Errors
/// If the header cannot be expressed in this format.
pub fn layout(plan: &Plan, metadata: &Metadata) -> Result<FileMap> {
    layout_some(plan, 0..plan.tensors.len(), metadata)
}

/// The same of a file with some tensors of the plan.
pub(super) fn layout_some(plan: &Plan, tensors: Range<usize>, metadata: &Metadata) -> Result<FileMap> {
    let (tensors, alignment) = (&plan.tensors[tensors], alignment(metadata));
    let fields = tensors.iter().flat_map(|t| t.fields.iter().map(move |field| (t, field)));
    let fields: Vec<_> = fields.map(|(t, field)| (format!("{}{}", t.name, field.suffix), field)).collect();
    let mut size = 0;
    let mut table: Vec<gguf::TensorEntry> = Vec::with_capacity(fields.len());
    for (name, field) in &fields {
        let id = field.spec.ggml_id.ok_or_else(|| {
            let what = format!("GGUF has no type {}; choose another for it", field.spec.name);
            Error::unsupported(Within::Tensor(name.clone()), what)
        })?;
        table.push((name, &field.shape, id, size));
        size = gguf::align(size + field.bytes, alignment);
    }
    let mut header = Vec::new();
    gguf::write_header(metadata, &table, &mut header)?;
    let start = header.len() as u64;
    let mut places = table.iter().map(|(.., offset)| start + offset);
    let offsets = tensors.iter().map(|t| places.by_ref().take(t.fields.len()).collect()).collect();
    Ok(FileMap { header, offsets, size: start + size })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::plan::two_fields;

    #[test]
    fn every_field_is_a_tensor() {
        let map = layout(&two_fields::plan(), &Metadata::new()).unwrap();
        let mut bytes = map.header.clone();
        bytes.resize(map.size as usize, 0);
        let header = gguf::read_header(Path::new("x.gguf"), &bytes).unwrap();
        let found: Vec<_> =
            header.tensors.iter().map(|t| (t.name.as_str(), &t.dims[..], t.type_id, t.offset)).collect();
        let expected: [(_, &[u64], _, _); 4] = [
            ("a.values", &[8, 3], 1, 0),
            ("a.mask", &[2, 3], 24, 64),
            ("b.values", &[8, 3], 1, 96),
            ("b.mask", &[2, 3], 24, 160),
        ];
        assert_eq!(found, expected);
        let start = header.data_start;
        assert_eq!(map.offsets, [[start, start + 64], [start + 96, start + 160]]);
        assert_eq!(map.size, start + 192);
    }
}
