//! GGUF version 3: header, tensor table, then the tensors, each at a multiple of the alignment.

use std::path::{Path, PathBuf};

use super::{About, Assigned, Contents, Exporter, FileMap, Output, Prepared, Request, Sink, destination, metadata};
use crate::checkpoint::TensorSource;
use crate::gguf::{self, Metadata};
use crate::plan::Plan;
use crate::record::ImportanceRecord;
use crate::weights::Weights;
use crate::{Error, Result};

mod importance;
mod types;

/// The GGUF exporter.
pub struct Gguf;

static ABOUT: About = About {
    name: "gguf",
    title: "GGUF",
    summary: "a file for llama.cpp, Ollama, LM Studio and similar programs",
    settings: &["type", "pure", "tensor_types", "output_type", "embedding_type", "pre"],
};

impl Exporter for Gguf {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn assign(&self, request: &Request, source: &dyn TensorSource, weights: &Weights<'_>) -> Result<Assigned> {
        types::assign(request, source, weights)
    }

    fn prepare<'a>(&self, contents: Contents<'a>) -> Result<Box<dyn Prepared<'a> + 'a>> {
        let Contents { source, model, plan, request, .. } = contents;
        let (metadata, mut notes) = metadata::metadata(source, model, plan, request.pre.as_deref())?;
        if request.output_type.is_some() && model.hyper.tied {
            let what = "`output_type` has no effect: this model's output matrix is its embedding; use `embedding_type`";
            notes.push(what.to_owned());
        }
        let map = layout(plan, &metadata)?;
        Ok(Box::new(File { plan, metadata, notes, map }))
    }

    fn destination(&self, path: &Path, replace: bool) -> Result<PathBuf> {
        destination::file(path, replace)
    }
}

/// Where every byte of a GGUF file will be.
///
/// # Errors
/// If the header cannot be expressed in this format.
pub fn layout(plan: &Plan, metadata: &Metadata) -> Result<FileMap> {
    let alignment = metadata.alignment().unwrap_or(gguf::DEFAULT_ALIGNMENT);
    let mut size = 0;
    let mut table: Vec<gguf::TensorEntry> = Vec::with_capacity(plan.tensors.len());
    for t in &plan.tensors {
        let spec = t.spec();
        let id = spec
            .ggml_id
            .ok_or_else(|| Error::unsupported(format!("{}: GGUF has no type {}; choose another", t.name, spec.name)))?;
        table.push((&t.name, &t.shape, id, size));
        size = gguf::align(size + t.bytes, alignment);
    }
    let mut header = Vec::new();
    gguf::write_header(metadata, &table, &mut header)?;
    let start = header.len() as u64;
    let offsets = table.iter().map(|(.., offset)| start + offset).collect();
    Ok(FileMap { header, offsets, size: start + size })
}

/// A file that is laid out.
struct File<'a> {
    plan: &'a Plan,
    metadata: Metadata,
    notes: Vec<String>,
    map: FileMap,
}

impl<'a> Prepared<'a> for File<'a> {
    fn bytes(&self) -> u64 {
        self.map.size
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn weighed(&mut self, record: &ImportanceRecord) -> Result<()> {
        importance::keys(record, &mut self.metadata);
        self.map = layout(self.plan, &self.metadata)?;
        Ok(())
    }

    fn begin(self: Box<Self>, path: &Path, replace: bool) -> Result<Box<dyn Sink + 'a>> {
        Ok(Box::new(Output::begin(path, self.map, replace)?))
    }
}
