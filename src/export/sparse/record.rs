//! What an output turned out to be, read back from the file itself.

use std::path::Path;

use crate::Result;
use crate::checkpoint::{self, TensorInfo};
use crate::record::{RunRecord, SparseRecord};

/// Puts into a record what is stored sparse in an output, and how many bits that makes of a weight.
///
/// # Errors
/// If it cannot be opened.
pub(crate) fn look(path: &Path, record: &mut RunRecord) -> Result<()> {
    let source = checkpoint::open(path)?;
    let matrices = source.tensors().iter().filter(|t| t.shape.len() > 1);
    let (sparse, dense): (Vec<&TensorInfo>, Vec<_>) = matrices.partition(|t| t.sparse.is_some());
    let mut found = SparseRecord {
        layout: String::new(),
        matrices: sparse.len(),
        weights: 0,
        stored: 0,
        bytes: 0,
        dense_bytes: 0,
        dense: dense.into_iter().map(|t| t.name.clone()).collect(),
    };
    for (t, matrix) in sparse.iter().filter_map(|t| Some((t, t.sparse.as_ref()?))) {
        matrix.name.clone_into(&mut found.layout);
        found.weights += t.elements().unwrap_or(0) as u64;
        found.stored += matrix.stored() as u64;
        found.bytes += matrix.bytes() as u64;
        found.dense_bytes += t.expected_bytes().unwrap_or(0) as u64;
    }
    let bytes: usize = source.tensors().iter().map(TensorInfo::stored_bytes).sum();
    record.bits_per_weight = bytes as f64 * 8.0 / record.weights as f64;
    record.sparse = Some(found);
    Ok(())
}
