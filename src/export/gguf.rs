//! GGUF version 3: header, tensor table, then the tensors, each at a multiple of the alignment.

use super::{Exporter, Layout};
use crate::gguf::{self, Metadata};
use crate::plan::Plan;
use crate::{Error, Result};

/// The GGUF exporter.
pub struct Gguf;

impl Exporter for Gguf {
    fn name(&self) -> &'static str {
        "gguf"
    }

    fn layout(&self, plan: &Plan, metadata: &Metadata) -> Result<Layout> {
        let alignment = metadata.alignment().unwrap_or(gguf::DEFAULT_ALIGNMENT);
        let mut size = 0;
        let mut table: Vec<gguf::TensorEntry> = Vec::with_capacity(plan.tensors.len());
        for t in &plan.tensors {
            let spec = t.spec();
            let id = spec.ggml_id.ok_or_else(|| {
                Error::unsupported(format!("{}: GGUF has no type {}; choose another for it", t.name, spec.name))
            })?;
            table.push((&t.name, &t.shape, id, size));
            size = gguf::align(size + t.bytes, alignment);
        }
        let mut header = Vec::new();
        gguf::write_header(metadata, &table, &mut header)?;
        let start = header.len() as u64;
        let offsets = table.iter().map(|(.., offset)| start + offset).collect();
        Ok(Layout { header, offsets, size: start + size })
    }
}
