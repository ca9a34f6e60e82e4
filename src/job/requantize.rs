//! Whether a checkpoint may be rounded at all.

use aurora_quantizers::spec::Kind;

use crate::checkpoint::{Config, TensorSource};
use crate::error::printable;
use crate::{Error, Result};

/// Refuses GGUF files that are already quantised, unless that is allowed.
pub(super) fn refuse(source: &dyn TensorSource, allowed: bool) -> Result<()> {
    let quantized = source.tensors().iter().find(|t| t.spec.kind == Kind::Block);
    match (source.config(), quantized) {
        (Config::Gguf(_), Some(t)) if !allowed => Err(Error::conflict(
            ["model", "allow_requantize"],
            format!(
                "{}: tensor {}: is already quantised ({}); convert the original checkpoint instead, or accept a \
                 second rounding with `allow_requantize`",
                source.file_of(t).display(),
                printable(&t.name),
                t.spec.name
            ),
        )),
        _ => Ok(()),
    }
}
