//! The model as floats in the Hugging Face layout: whatever was dequantised, merged or edited returns to where it came
//! from.
//!
//! Every parameter goes back to its checkpoint's tensors, row order and conventions ([`Import`] undone), and straight
//! to its place in a shard. Unchanged parameters come back bit for bit.
//!
//! [`Import`]: crate::model::Import

use std::path::{Path, PathBuf};

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
    options: &[shards::SIZE],
};

impl Exporter for Safetensors {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn assign(&self, request: &Request, source: &dyn TensorSource, weights: &Weights<'_>) -> Result<Assigned> {
        assign::assign(request, source, weights)
    }

    fn prepare(&self, contents: Contents<'_>) -> Result<Box<dyn Prepared>> {
        let options = ABOUT.options_in(contents.request)?;
        Ok(Box::new(write::Laid::new(contents, options.bytes(shards::SIZE.name))?))
    }

    fn destination(&self, path: &Path, _: bool) -> Result<PathBuf> {
        destination::folder(path)
    }
}
