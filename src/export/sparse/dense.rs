//! A tensor as the conversion wrote it, in a file that is packed afterwards.

use std::ops::Range;

use aurora_quantizers::Store;

/// A tensor in a mapped file.
#[derive(Debug, Clone)]
pub(crate) struct DenseTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub store: &'static dyn Store,
    /// Which of the files it is in, and where.
    pub file: usize,
    pub range: Range<usize>,
    /// Whether it is a matrix that may be stored sparse.
    pub matrix: bool,
}

impl DenseTensor {
    /// Rows over all outer dimensions, and columns.
    pub fn dim(&self) -> (usize, usize) {
        let (cols, outer) = self.shape.split_last().expect("no tensor is a single number");
        (outer.iter().product(), *cols)
    }
}
