//! The tensors that a sparse matrix is made of: found by name, held against each other, and replaced by the matrix.

use std::collections::BTreeSet;
use std::sync::Arc;

use aurora_quantizers::sparse::{SparseError, SparseView};

use crate::checkpoint::mapped::Mapped;
use crate::checkpoint::source::{SparseIndex, SparseMatrix, SparsePlaces, TensorInfo, TensorSource};
use crate::error::{Fault, Misfit, printable};
use crate::{Error, Result};

/// What to do about a matrix that contradicts itself.
pub(super) const AGAIN: &str = "the file is damaged: download or convert it again";

/// The tensors of one matrix, found by name.
pub(super) struct Parts<'a> {
    pub(super) source: &'a Mapped,
    /// The matrix.
    name: &'a str,
    /// How it is stored, for errors.
    layout: &'static str,
    pub(super) taken: Vec<TensorInfo>,
}

impl<'a> Parts<'a> {
    pub(super) fn new(source: &'a Mapped, name: &'a str, layout: &'static str) -> Self {
        Parts { source, name, layout, taken: Vec::new() }
    }

    pub(super) fn source(&self) -> &'a dyn TensorSource {
        self.source
    }

    /// A part by its name. `spec`: how its numbers must be stored; `shape`: `None` for any number of them in a row.
    pub(super) fn need(&mut self, name: &str, specs: &[&str], shape: Option<&[usize]>) -> Result<TensorInfo> {
        let matrix = printable(self.name);
        let Some(tensor) = self.source().find(name) else {
            let what =
                format!("missing; {matrix} is stored as {}, and cannot be read without it; {AGAIN}", self.layout);
            return Err(Error::misfit(self.source().path(), name, Misfit::Missing, what));
        };
        let path = self.source().file_of(tensor);
        if !specs.contains(&tensor.spec.name) {
            let what = format!("holds {} numbers, needed {} for {matrix}", tensor.spec.name, specs.join(" or "));
            let misfit = Misfit::Type { found: tensor.spec.name.to_owned() };
            return Err(Error::misfit(path, &tensor.name, misfit, format!("{what}; {AGAIN}")));
        }
        let fits = match shape {
            Some(shape) => tensor.shape == shape,
            None => tensor.shape.len() == 1,
        };
        if !fits {
            let needed = shape.map_or("one dimension".to_owned(), |shape| format!("{shape:?}"));
            let what = format!("shape {:?}, needed {needed} for {matrix}; {AGAIN}", tensor.shape);
            let needed = shape.unwrap_or_default().to_vec();
            return Err(Error::misfit(path, &tensor.name, Misfit::Shape { found: tensor.shape.clone(), needed }, what));
        }
        self.taken.push(tensor.clone());
        Ok(tensor.clone())
    }

    /// An error about one of them.
    pub(super) fn fail(&self, tensor: &TensorInfo, what: impl Into<Fault>) -> Error {
        what.into().of_tensor(self.source().file_of(tensor), &tensor.name)
    }
}

/// Whether masks, index and values belong together.
pub(super) fn check_masks(matrix: &SparseMatrix, parts: &Parts<'_>) -> Result<()> {
    let SparsePlaces::Mask { layout, mask, index, scales } = &matrix.places else { return Ok(()) };
    let found = matrix.parts(parts.source).expect("a matrix with masks");
    let first = found.index.first_chunk().map_or(0, |n| i64::from_le_bytes(*n));
    if let (SparseIndex::Stored(tensor), true) = (index, first != 0) {
        let what = format!("{first} values are stored before row 0, needed 0; {AGAIN}");
        return Err(parts.fail(tensor, Fault::damaged(what)));
    }
    let checked = SparseView::new(*layout, matrix.rows, found).map(drop);
    let source = parts.source();
    source.release(mask, 0..mask.range.len());
    checked.map_err(|e| {
        let of_index = match index {
            SparseIndex::Stored(tensor) => tensor,
            _ => mask,
        };
        let tensor = match &e {
            SparseError::Order { .. } | SparseError::Length { part: "index", .. } => of_index,
            SparseError::Length { part: "values", .. } => &matrix.values,
            SparseError::Length { part: "scales", .. } => scales.as_ref().unwrap_or(mask),
            _ => mask,
        };
        parts.fail(tensor, Fault::damaged(format!("{e}; {AGAIN}")))
    })
}

/// Replaces parts by the matrices that they make up.
pub(super) fn replace(source: Mapped, matrices: Vec<TensorInfo>) -> Result<Mapped> {
    let parts = |t: &TensorInfo| t.sparse.as_ref().map_or(Vec::new(), |sparse| sparse.parts.clone());
    let taken: BTreeSet<String> = matrices.iter().flat_map(parts).map(|part| part.name).collect();
    for t in &matrices {
        if let Some(plain) = (&source as &dyn TensorSource).find(&t.name).filter(|plain| !taken.contains(&plain.name)) {
            let what = format!("is there twice: as it is, and stored sparse; {AGAIN}");
            return Err(Fault::damaged(what).of_tensor((&source as &dyn TensorSource).file_of(plain), &plain.name));
        }
    }
    let rest = source.tensors().iter().filter(|t| !taken.contains(&t.name)).cloned();
    let tensors = rest.chain(matrices).collect();
    Ok(source.with_tensors(tensors))
}

/// The matrix as a tensor of the list.
pub(super) fn tensor(name: &str, shape: Vec<usize>, matrix: SparseMatrix) -> TensorInfo {
    let (spec, values) = (matrix.store.spec(), matrix.values.clone());
    TensorInfo { name: name.to_owned(), shape, spec, packed: None, sparse: Some(Arc::new(matrix)), ..values }
}
