//! Keys and names of sparse matrices in a GGUF file of our own, as `docs/sparse.md` has them.

use aurora_quantizers::sparse::Packing;

/// The key of the architecture.
pub(crate) const ARCHITECTURE: &str = "general.architecture";
/// What stands before the architecture's name.
pub(crate) const PREFIX: &str = "sparse-";
/// The prefix of all keys that say how matrices are stored; none of them belongs to the model.
pub(crate) const KEYS: &str = "sparse.";
/// The layout's version: [`VERSION`].
pub(crate) const VERSION_KEY: &str = "sparse.version";
/// Names of the matrices, in the order of the file.
pub(crate) const TENSORS: &str = "sparse.tensors";
/// How the places of each are stored: a [`Packing`]'s name.
pub(crate) const LAYOUTS: &str = "sparse.layouts";
/// The type that each has when dense.
pub(crate) const TYPES: &str = "sparse.types";
/// [`DIMS`] numbers for each.
pub(crate) const SHAPES: &str = "sparse.shapes";
/// The version that is read and written.
pub(crate) const VERSION: u32 = 1;
/// Dimensions that are stated of a matrix, innermost first, 0 for those that it does not have.
pub(crate) const DIMS: usize = 4;
/// All packings.
pub(crate) const PACKINGS: [Packing; 2] = [Packing::Bitmask, Packing::TwoFour];

/// The name of a matrix's part.
pub(crate) fn part(matrix: &str, part: &str) -> String {
    format!("{}.{part}", matrix.strip_suffix(".weight").unwrap_or(matrix))
}
