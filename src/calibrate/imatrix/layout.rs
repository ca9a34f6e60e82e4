//! Names of the file's tensors and keys, and conversions of the numbers in it.

use aurora_quantizers::spec::{self, Spec};

use crate::model::{ModelGraph, ParamId};

pub(super) const SUM_SQ: &str = ".in_sum2";
pub(super) const COUNTS: &str = ".counts";
pub(super) const SUM_ABS: &str = ".in_abs";
pub(super) const GRAM: &str = ".in_gram";
/// For a shard's nodes: tokens, sums of x^2 and of |x|, and X^T X.
pub(super) const TREE: [&str; 4] = [".tree_counts", ".tree_sum2", ".tree_abs", ".tree_gram"];

pub(super) const DATASETS: &str = "imatrix.datasets";
pub(super) const CHUNK_COUNT: &str = "imatrix.chunk_count";
pub(super) const CHUNK_SIZE: &str = "imatrix.chunk_size";

/// How many numbers are written or added at a time.
pub(super) const AT_A_TIME: usize = 1 << 20;

/// The number of matrices in a parameter: its experts, or one.
pub(super) fn experts(graph: &ModelGraph, id: ParamId) -> usize {
    match graph.param(id).shape[..] {
        [experts, _, _] => experts,
        _ => 1,
    }
}

/// The number of elements in a lower triangle.
pub(super) fn triangle(cols: usize) -> usize {
    // One of the two factors is even; no file that exists overflows this.
    cols.saturating_mul(cols.saturating_add(1)) / 2
}

pub(super) fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))
}

pub(super) fn bytes_of(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

pub(super) fn f32_spec() -> &'static Spec {
    spec::by_ggml_id(0).expect("F32 is ggml's type 0")
}
