//! Writing the output: checked and laid out before any work, streamed, and complete or absent at the end.
//!
//! Each format is one file and one row of [`EXPORTERS`]. A conversion calls its exporter in this order:
//!
//! ```no_run
//! # use aurora_quant::export::{self, Contents, Request, by_name};
//! # use aurora_quant::{Result, checkpoint::TensorSource, model::Model, plan::Plan};
//! # use aurora_quant::{watch::Unwatched, weights::Weights};
//! # fn convert(source: &dyn TensorSource, model: &Model, weights: Weights, path: &std::path::Path) -> Result<()> {
//! let exporter = by_name("gguf")?;
//! let request = Request { file_type: Some("q4_0".to_owned()), ..Request::default() };
//! // Decide the type of each matrix, and with it the plan.
//! let types = export::assign(exporter, &request, source, &weights)?;
//! let weights = weights.edited(&types.edits)?;
//! let plan = Plan::keeping(model, &types.rules, &types.kept)?;
//! // Whatever can go wrong goes wrong here, before hours of calibration.
//! let path = exporter.destination(path, false)?;
//! let prepared = exporter.prepare(Contents { source, model, weights: &weights, plan: &plan, request: &request })?;
//! // The pipeline writes rows, in any order and from any thread.
//! let sink = prepared.begin(&path, false)?;
//! # let bytes = Vec::new();
//! sink.put(0, 0, &bytes)?;
//! let written = sink.finish(&Unwatched)?;
//! # let _ = written;
//! # Ok(())
//! # }
//! ```
//!
//! Knows nothing about methods: rows arrive with their final values.

mod atomic;
mod companions;
mod destination;
mod exporter;
mod file;
mod folder;
pub mod gguf;
pub mod metadata;
pub(crate) mod packed;
mod request;
pub(crate) mod safetensors;
mod shards;
#[cfg(test)]
mod toy;

pub use atomic::AtomicFile;
pub use destination::{file as file_destination, folder as folder_destination, usual as usual_output};
pub use exporter::{About, Assigned, Contents, Exporter, Prepared, Sink};
pub use file::{FileMap, Output};
pub use request::{Choosing, KEEP, Request};

use crate::checkpoint::TensorSource;
use crate::weights::Weights;
use crate::{Error, Result};

/// All exporters; the first is the default.
pub static EXPORTERS: &[&dyn Exporter] = &[
    &gguf::Gguf,
    &safetensors::Safetensors,
    &packed::PackedExporter(&packed::Gptq),
    &packed::PackedExporter(&packed::Awq),
    &packed::PackedExporter(&packed::CompressedTensors),
    #[cfg(test)]
    &toy::Toy,
];

/// The exporter of this name.
///
/// # Errors
/// If there is none; the error lists all exporters.
pub fn by_name(name: &str) -> Result<&'static dyn Exporter> {
    EXPORTERS.iter().copied().find(|e| e.about().name == name).ok_or_else(|| {
        let names: Vec<_> = EXPORTERS.iter().map(|e| e.about().name).collect();
        Error::setting(format!("unknown `format` {name}; known: {}", names.join(", ")))
    })
}

/// Decides the type of every matrix, after checking that the format takes all the settings.
///
/// # Errors
/// If the format does not take a setting, or those of [`Exporter::assign`].
pub fn assign(
    exporter: &dyn Exporter,
    request: &Request,
    source: &dyn TensorSource,
    weights: &Weights<'_>,
) -> Result<Assigned> {
    let format = exporter.about();
    let Some(foreign) = request.given().into_iter().find(|name| !format.settings.contains(name)) else {
        return exporter.assign(request, source, weights);
    };
    let takers = EXPORTERS.iter().map(|e| e.about()).filter(|about| about.settings.contains(&foreign));
    let takers: Vec<_> = takers.map(|about| about.title).collect();
    let own: Vec<_> = format.settings.iter().map(|name| format!("`{name}`")).collect();
    let (takers, own) = (takers.join(", "), own.join(", "));
    Err(Error::setting(format!("`{foreign}` is only for {takers}; `format` {} takes {own}", format.name)))
}
