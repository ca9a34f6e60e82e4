//! GGUF version 3: header, tensor table, then the tensors, each at a multiple of the alignment.

use std::path::{Path, PathBuf};

use super::sparse::{self, SPARSE};
use super::{About, Assigned, Contents, Exporter, Prepared, Request, Sink, destination, metadata};
use crate::Result;
use crate::checkpoint::TensorSource;
use crate::weights::Weights;

mod importance;
mod layout;
mod parts;
mod types;

pub use layout::layout;
use parts::Part;

/// The GGUF exporter.
pub struct Gguf;

static ABOUT: About = About {
    name: "gguf",
    title: "GGUF",
    summary: "a file for llama.cpp, Ollama, LM Studio and similar programs",
    settings: &["type", "pure", "tensor_types", "output_type", "embedding_type", "pre", "remove"],
    options: &[parts::SPLIT, SPARSE],
};

impl Exporter for Gguf {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn assign(&self, request: &Request, source: &dyn TensorSource, weights: &Weights<'_>) -> Result<Assigned> {
        let options = ABOUT.options_in(request)?;
        let sparse = sparse::asked(&options).map(|places| sparse::packing(places, ABOUT.name)).transpose()?;
        if sparse.is_some() {
            sparse::refuse(request, &[parts::SPLIT.name], "a sparse file is read by aurora-quant alone, as one file")?;
        }
        let mut assigned = types::assign(request, source, weights, sparse.is_some())?;
        if sparse.is_some() {
            assigned.ending = format!("{}{}.gguf", assigned.ending.trim_end_matches(".gguf"), destination::SPARSE);
        }
        Ok(assigned)
    }

    fn prepare(&self, contents: Contents<'_>) -> Result<Box<dyn Prepared>> {
        let Contents { source, model, plan, request, .. } = contents;
        let (mut metadata, mut notes) = metadata::metadata(source, model, plan, request.pre.as_deref())?;
        if request.output_type.is_some() && model.hyper.tied {
            let what = "`output_type` has no effect: this model's output matrix is its embedding; use `embedding_type`";
            notes.push(what.to_owned());
        }
        contents.importance.into_iter().for_each(|record| importance::keys(record, &mut metadata));
        let options = ABOUT.options_in(request)?;
        if let Some(places) = sparse::asked(&options) {
            sparse::check(plan, |t| model.graph.param(t.param).role)?;
            notes.push(sparse::ALONE.to_owned());
            let (packing, dense) = (sparse::packing(places, ABOUT.name)?, layout(plan, &metadata)?.size);
            return Ok(Box::new(sparse::gguf::SparseFile { metadata, packing, notes, dense }));
        }
        let limit = options.bytes(parts::SPLIT.name);
        Ok(Box::new(Files { notes, parts: parts::cut(plan, &metadata, limit)? }))
    }

    fn destination(&self, path: &Path, replace: bool) -> Result<PathBuf> {
        destination::file(path, replace)
    }
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
