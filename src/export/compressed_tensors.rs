//! The compressed-tensors format: codes, which are packed as for other programs, or floats without zeros, which are a
//! folder of floats but for how these are stored.

use std::path::{Path, PathBuf};

use super::packed::{self, PackedExporter, PackedLayout};
use super::sparse;
use super::sparse::form::Form;
use super::{About, Assigned, Contents, Exporter, Prepared, Request, safetensors, shards};
use crate::checkpoint::TensorSource;
use crate::checkpoint::sparse::compressed_tensors::FORMATS;
use crate::weights::Weights;
use crate::{Error, Result};

/// The exporter.
pub(crate) struct CompressedTensorsFolder;

const CODES: PackedExporter = PackedExporter(&packed::CompressedTensors);

/// How matrices are stored sparse, if they are.
fn form(request: &Request) -> Result<Option<Form>> {
    let about = packed::CompressedTensors.about();
    let Some(places) = sparse::asked(&about.options_in(request)?) else { return Ok(None) };
    let codes = ["bits", "group_size", "sym"];
    sparse::refuse(request, &codes, "this layout has floats without zeros, and no codes")?;
    sparse::packing(places, about.name).map(|packing| Some(Form::CompressedTensors(packing)))
}

impl Exporter for CompressedTensorsFolder {
    fn about(&self) -> &'static About {
        packed::CompressedTensors.about()
    }

    fn assign(&self, request: &Request, source: &dyn TensorSource, weights: &Weights<'_>) -> Result<Assigned> {
        let Some(form) = form(request)? else {
            if request.file_type.is_some() {
                let what = "`type` of `format` compressed-tensors is for `sparse`, and names a type of floats; for \
                            codes there are `bits`, `group_size`, `sym`, `asym`";
                return Err(Error::conflict(["type", "format"], what));
            }
            return CODES.assign(request, source, weights);
        };
        let layout = FORMATS.into_iter().find(|(_, packing)| *packing == form.packing());
        let name = format!("compressed-tensors-{}", layout.expect("a layout for each packing").0);
        Ok(Assigned { ending: name.clone(), name, ..safetensors::types(request, source, weights)? })
    }

    fn prepare(&self, contents: Contents<'_>) -> Result<Box<dyn Prepared>> {
        match form(contents.request)? {
            None => CODES.prepare(contents),
            form => {
                let options = self.about().options_in(contents.request)?;
                safetensors::prepared(contents, form, options.bytes(shards::SIZE.name))
            }
        }
    }

    fn destination(&self, path: &Path, replace: bool) -> Result<PathBuf> {
        CODES.destination(path, replace)
    }
}
