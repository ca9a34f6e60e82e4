//! GGUF version 3: header, tensor table, then the tensors, each at a multiple of the alignment.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{About, Assigned, Contents, Exporter, FileMap, Prepared, Request, Sink, destination, metadata};
use crate::checkpoint::TensorSource;
use crate::gguf::{self, Metadata};
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Error, Result};

mod importance;
mod parts;
mod types;

use parts::Part;

/// The GGUF exporter.
pub struct Gguf;

static ABOUT: About = About {
    name: "gguf",
    title: "GGUF",
    summary: "a file for llama.cpp, Ollama, LM Studio and their like",
    settings: &["type", "pure", "tensor_types", "output_type", "embedding_type", "pre"],
    options: &[parts::SPLIT],
};

impl Exporter for Gguf {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn assign(&self, request: &Request, source: &dyn TensorSource, weights: &Weights<'_>) -> Result<Assigned> {
        types::assign(request, source, weights)
    }

    fn prepare(&self, contents: Contents<'_>) -> Result<Box<dyn Prepared>> {
        let Contents { source, model, plan, request, .. } = contents;
        let (mut metadata, mut notes) = metadata::metadata(source, model, plan, request.pre.as_deref())?;
        if request.output_type.is_some() && model.hyper.tied {
            let what = "`output_type` has no effect: this model's output matrix is its embedding (`embedding_type`)";
            notes.push(what.to_owned());
        }
        contents.importance.into_iter().for_each(|record| importance::keys(record, &mut metadata));
        let limit = ABOUT.options_in(request)?.bytes(parts::SPLIT.name);
        Ok(Box::new(Files { notes, parts: parts::cut(plan, &metadata, limit)? }))
    }

    fn destination(&self, path: &Path, replace: bool) -> Result<PathBuf> {
        destination::file(path, replace)
    }
}

fn alignment(metadata: &Metadata) -> u64 {
    metadata.alignment().unwrap_or(gguf::DEFAULT_ALIGNMENT)
}

/// Bytes of every tensor with what fills it up to the alignment.
fn sizes(plan: &Plan, metadata: &Metadata) -> Vec<u64> {
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
fn layout_some(plan: &Plan, tensors: Range<usize>, metadata: &Metadata) -> Result<FileMap> {
    let (tensors, alignment) = (&plan.tensors[tensors], alignment(metadata));
    let fields = tensors.iter().flat_map(|t| t.fields.iter().map(move |field| (t, field)));
    let fields: Vec<_> = fields.map(|(t, field)| (format!("{}{}", t.name, field.suffix), field)).collect();
    let mut size = 0;
    let mut table: Vec<gguf::TensorEntry> = Vec::with_capacity(fields.len());
    for (name, field) in &fields {
        let id = field.spec.ggml_id.ok_or_else(|| {
            Error::unsupported(format!("{name}: GGUF has no type {}; choose another for it", field.spec.name))
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

/// Files that are laid out: mostly one.
struct Files {
    notes: Vec<String>,
    parts: Vec<Part>,
}

impl Prepared for Files {
    fn bytes(&self) -> u64 {
        self.parts.iter().map(Part::bytes).sum()
    }

    fn files(&self, path: &Path) -> Vec<PathBuf> {
        parts::names(path, self.parts.len())
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn begin<'a>(&'a self, _: Contents<'a>, path: &Path, replace: bool) -> Result<Box<dyn Sink + 'a>> {
        parts::begin(&self.parts, path, replace)
    }
}

#[cfg(test)]
mod tests {
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
