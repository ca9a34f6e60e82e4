//! The header keys that llama-quantize writes about importance matrices.

use std::path::Path;

use crate::gguf::{Metadata, Value, string};
use crate::record::ImportanceRecord;

/// llama-quantize cuts its texts after this many bytes, so we do too.
const LONGEST: usize = 127;

/// Adds the keys.
pub(super) fn keys(record: &ImportanceRecord, metadata: &mut Metadata) {
    // Only the file's name, so that the bytes do not depend on its location.
    let text = |s: &str| {
        let name = Path::new(s).file_name().map_or(s.into(), |name| name.to_string_lossy());
        let end = (0..=name.len().min(LONGEST)).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
        string(&name[..end])
    };
    let number = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    if let Some(file) = &record.file {
        metadata.set("quantize.imatrix.file", text(file));
    }
    if let Some(dataset) = record.datasets.first() {
        metadata.set("quantize.imatrix.dataset", text(dataset));
    }
    metadata.set("quantize.imatrix.entries_count", number(record.entries));
    if record.chunks > 0 {
        metadata.set("quantize.imatrix.chunks_count", Value::U32(record.chunks));
    }
}
