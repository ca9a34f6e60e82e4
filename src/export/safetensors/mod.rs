//! The model as floats in the Hugging Face layout: whatever was dequantised, merged or edited returns to where it came
//! from.
//!
//! Every parameter goes back to its checkpoint's tensors, row order and conventions ([`Import`] undone), and straight
//! to its place in a shard. Unchanged parameters come back bit for bit.
//!
//! [`Import`]: crate::model::Import

use std::path::{Path, PathBuf};

use super::sparse::form::Form;
use super::sparse::{self, Places, SPARSE};
use super::{About, Assigned, Contents, Exporter, Prepared, Request, destination, shards};
use crate::Result;
use crate::checkpoint::TensorSource;
use crate::weights::Weights;

mod assign;
mod config;
mod places;
mod stored;
mod write;

/// The exporter.
pub struct Safetensors;

static ABOUT: About = About {
    name: "safetensors",
    title: "safetensors",
    summary: "a folder of floats in the Hugging Face layout, with the checkpoint's names and types",
    settings: &["type", "remove"],
    options: &[SPARSE, shards::SIZE],
};

impl Exporter for Safetensors {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn assign(&self, request: &Request, source: &dyn TensorSource, weights: &Weights<'_>) -> Result<Assigned> {
        let mut assigned = assign::assign(request, source, weights)?;
        if form(request)?.is_some() {
            assigned.ending += "-csr";
        }
        Ok(assigned)
    }

    fn prepare(&self, contents: Contents<'_>) -> Result<Box<dyn Prepared>> {
        prepared(contents, form(contents.request)?, ABOUT.options_in(contents.request)?.bytes(shards::SIZE.name))
    }

    fn destination(&self, path: &Path, _: bool) -> Result<PathBuf> {
        destination::folder(path)
    }
}

/// How matrices are stored sparse, if they are.
fn form(request: &Request) -> Result<Option<Form>> {
    match sparse::asked(&ABOUT.options_in(request)?) {
        None => Ok(None),
        Some(Places::Columns) => Ok(Some(Form::Csr)),
        Some(Places::Masks(packing)) => {
            let what = "is for `format` gguf or compressed-tensors, which have a layout for it; safetensors takes csr";
            Err(crate::Error::setting(SPARSE.name, packing.name(), what))
        }
    }
}

/// Types of a folder of floats, for formats that are one but for how zeros are stored.
pub(super) fn types(request: &Request, source: &dyn TensorSource, weights: &Weights<'_>) -> Result<Assigned> {
    assign::assign(request, source, weights)
}

/// A folder of floats that is laid out. `limit`: bytes of a shard.
pub(super) fn prepared(contents: Contents<'_>, form: Option<Form>, limit: u64) -> Result<Box<dyn Prepared>> {
    if form.is_some() {
        let Contents { plan, model, .. } = contents;
        sparse::check(plan, |t| model.graph.param(t.param).role)?;
    }
    Ok(Box::new(write::Laid::new(contents, form, limit)?))
}
