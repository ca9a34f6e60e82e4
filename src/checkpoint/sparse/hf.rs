//! Sparse matrices of a Hugging Face checkpoint: those that config.json speaks of, and those in CSR.

use aurora_quantizers::sparse::Packing;

use super::parts::replace;
use super::{compressed_tensors, csr};
use crate::Result;
use crate::checkpoint::config::Config;
use crate::checkpoint::mapped::Mapped;
use crate::checkpoint::quantized::Stated;
use crate::checkpoint::source::TensorSource;

/// Replaces parts by matrices, if the checkpoint has any.
///
/// # Errors
/// If tensors do not fit together: which one.
pub(crate) fn adopt(source: Mapped) -> Result<Mapped> {
    let Config::HuggingFace(config) = source.config() else { return Ok(source) };
    // What cannot be understood is refused later, by who needs it.
    let stated = Stated::of(config).ok().flatten();
    let mut matrices = csr::find(&source)?;
    if let Some(format) = stated.and_then(|stated| layout(&stated).ok().flatten()) {
        matrices.extend(compressed_tensors::find(&source, format)?);
    }
    if matrices.is_empty() { Ok(source) } else { replace(source, matrices) }
}

/// The layout of a checkpoint of compressed-tensors whose matrices are sparse and no codes.
///
/// # Errors
/// If what is stated is malformed.
pub(crate) fn layout(stated: &Stated) -> Result<Option<(&'static str, Packing)>> {
    if stated.method()? != Some("compressed-tensors") || stated.object("config_groups")?.is_some_and(|g| !g.is_empty())
    {
        return Ok(None);
    }
    let Some(config) = stated.object("sparsity_config")? else { return Ok(None) };
    let inner = stated.inner("sparsity_config", &serde_json::Value::Object(config.clone()))?;
    let format = inner.text("format")?;
    Ok(compressed_tensors::FORMATS.into_iter().find(|(name, _)| Some(*name) == format))
}
