//! Rows of parameters: decoded, put in GGUF's order, and edited.

use std::ops::Range;

use aurora_quantizers::sparse::SparseView;
use aurora_quantizers::{Store, elements_mut, matrix_mut};
use ndarray::{Array2, ArrayViewMut2};

use super::Weights;
use super::bind::{Bound, Numbers, Run};
use super::step::Places;
use crate::checkpoint::Packed;
use crate::model::{Import, Param, ParamId};

/// Stored rows of one tensor, as they lie in the mapped file.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// How the numbers are stored.
    pub store: &'static dyn Store,
    /// The bytes of these rows and of no others.
    pub bytes: &'a [u8],
    /// How many rows they are.
    pub rows: usize,
}

/// Rows of one packed tensor.
pub(super) struct Piece<'w, 'a> {
    pub(super) packed: &'a Packed,
    /// As the tensor counts them.
    pub(super) rows: Vec<usize>,
    run: &'w Run<'a>,
}

impl<'a> Weights<'a> {
    /// Reads canonical rows of a parameter, with all edits, into `out`, `[rows.len(), cols]`. Rows count over all outer
    /// dimensions, as in [`dim`](Weights::dim).
    ///
    /// # Panics
    /// If `rows` reaches past the parameter, or `out` has another shape or not its rows one after the other.
    pub fn rows(&self, id: ParamId, rows: Range<usize>, out: ArrayViewMut2<'_, f32>) {
        let ((all, cols), name) = (self.dim(id), &self.graph.param(id).name);
        assert!(rows.end <= all, "{name}: rows {rows:?} of {all}");
        assert_eq!(out.dim(), (rows.len(), cols), "{name}: shape of the output");
        let out = elements_mut(out);
        match &self.edited[id.0] {
            None => self.imported(id, rows, out),
            Some(edited) => edited.read(rows, out, &|places, out| self.unedited(id, places, out)),
        }
    }

    /// All rows of a parameter, with all edits: `[rows, cols]`, as [`dim`](Weights::dim) says.
    pub fn whole(&self, id: ParamId) -> Array2<f32> {
        let mut whole = Array2::zeros(self.dim(id));
        self.rows(id, 0..whole.nrows(), whole.view_mut());
        whole
    }

    /// Rows from anywhere in a parameter, as they were before any edit.
    fn unedited(&self, id: ParamId, places: &Places, out: &mut [f32]) {
        let rows = match places {
            Places::Run(rows) => return self.imported(id, rows.clone(), out),
            Places::List(rows) => rows,
        };
        let (cols, runs, mut rest) = (self.bound[id.0].param.cols(), &self.bound[id.0].runs, out);
        if !runs.is_empty() && runs.iter().all(|run| matches!(run.numbers, Numbers::Packed(_))) {
            for piece in self.gather(id, rows.iter().copied()) {
                let (now, later) = std::mem::take(&mut rest).split_at_mut(piece.rows.len() * cols);
                piece.packed.decode(self.source, &piece.rows, matrix_mut(now, cols));
                rest = later;
            }
            return;
        }
        for run in rows.chunk_by(|a, b| a + 1 == *b) {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(run.len() * cols);
            self.imported(id, run[0]..run[0] + run.len(), now);
            rest = later;
        }
    }

    /// The packed tensors behind unedited rows of a parameter that has no others, neighbours of one tensor together.
    pub(super) fn gather(&self, id: ParamId, rows: impl Iterator<Item = usize>) -> Vec<Piece<'_, 'a>> {
        let (param, bound) = (self.bound[id.0].param, &self.bound[id.0]);
        let mut pieces: Vec<Piece<'_, 'a>> = Vec::new();
        for row in rows {
            let mut start = 0;
            let run = bound.runs.iter().find(|run| {
                start += run.rows;
                row < start
            });
            let run = run.expect("a row of the parameter");
            let Numbers::Packed(packed) = run.numbers else { unreachable!("{}: not all is packed", param.name) };
            let stored = match bound.import {
                Import::RopePermute { heads } => halved(row, param.rows() / heads),
                _ => row - (start - run.rows),
            };
            let stored = run.first_row + stored;
            match pieces.last_mut() {
                Some(last) if std::ptr::eq(last.run, run) => last.rows.push(stored),
                _ => pieces.push(Piece { packed, rows: vec![stored], run }),
            }
        }
        pieces
    }

    /// Before any edit.
    fn imported(&self, id: ParamId, rows: Range<usize>, out: &mut [f32]) {
        let param = self.bound[id.0].param;
        let cols = param.cols();
        let bound = &self.bound[id.0];
        match bound.import {
            Import::Computed(values) => {
                out.copy_from_slice(&values[rows.start * cols..rows.end * cols]);
            }
            Import::RopePermute { heads } => self.permuted(bound, *heads, param, rows, out),
            Import::Transpose => self.transposed(&bound.runs[0], rows, out),
            Import::AsIs => self.consecutive(bound, cols, rows, out),
            Import::AddOne => {
                self.consecutive(bound, cols, rows, out);
                out.iter_mut().for_each(|v| *v += 1.0);
            }
        }
    }

    /// Which row of its tensors, counted on from run to run, the canonical row at a place of a matrix (or element of a
    /// bias) is written back to. Edits have no say: what they moved is written where it is now.
    pub fn stored_row(&self, id: ParamId, row: usize) -> usize {
        let param = self.bound[id.0].param;
        let total = if param.shape.len() == 1 { param.len() } else { param.rows() };
        match self.bound[id.0].import {
            Import::RopePermute { heads } => halved(row, total / heads),
            _ => row,
        }
    }

    /// The runs of stored rows that a parameter consists of, to be used in place: canonical row `r` is row
    /// [`order`](Weights::order)`[r]` of them, counted on from run to run. `None` if the numbers themselves are changed
    /// or rearranged on the way in, or come from several tensors; then only [`rows`](Weights::rows) has them.
    pub fn storage(&self, id: ParamId) -> Option<Vec<Stored<'a>>> {
        let bound = &self.bound[id.0];
        if !matches!(bound.import, Import::AsIs | Import::RopePermute { .. }) || self.is_edited(id) {
            return None;
        }
        let cols = self.bound[id.0].param.cols();
        let stored = |run: &Run<'a>| {
            let Numbers::Stored(store) = run.numbers else { return None };
            let bytes = |rows: usize| store.spec().bytes_for(rows * cols).expect("whole blocks");
            let range = bytes(run.first_row)..bytes(run.first_row + run.rows);
            Some(Stored { store, bytes: self.source.bytes(run.tensor, range), rows: run.rows })
        };
        bound.runs.iter().map(stored).collect()
    }

    /// The store of all rows of a parameter whose numbers are used as they are stored: [in place](Weights::storage), or
    /// [copied](Weights::copy) where zeros are left out.
    pub(crate) fn store(&self, id: ParamId) -> Option<&'static dyn Store> {
        let bound = &self.bound[id.0];
        if !matches!(bound.import, Import::AsIs | Import::RopePermute { .. }) || self.is_edited(id) {
            return None;
        }
        let mut stores = bound.runs.iter().map(|run| match run.numbers {
            Numbers::Stored(store) => Some(store),
            Numbers::Sparse(sparse) => Some(sparse.store),
            Numbers::Packed(_) => None,
        });
        let first = stores.next()??;
        stores.all(|store| store.is_some_and(|store| *store == *first)).then_some(first)
    }

    /// The parts of a matrix whose zeros the file leaves out, as they are mapped, if a parameter is one as it is:
    /// nothing moved or changed on the way in. Rows count over all outer dimensions, as in [`dim`](Weights::dim).
    pub(crate) fn sparse(&self, id: ParamId) -> Option<SparseView<'a>> {
        let bound = &self.bound[id.0];
        let ([run], Import::AsIs) = (&bound.runs[..], bound.import) else { return None };
        match run.numbers {
            Numbers::Sparse(sparse) if run.rows == sparse.rows && !self.is_edited(id) => sparse.view(self.source),
            _ => None,
        }
    }

    /// Which row of its [`storage`](Weights::storage) each canonical row of a matrix is; `None` if they are in order.
    pub fn order(&self, id: ParamId) -> Option<Vec<u32>> {
        if self.is_packed(id) || self.is_edited(id) {
            return None;
        }
        let Import::RopePermute { heads } = self.bound[id.0].import else { return None };
        let rows = self.bound[id.0].param.rows();
        Some((0..rows).map(|row| halved(row, rows / heads) as u32).collect())
    }

    /// Whether canonical rows are read in the order in which they are stored.
    pub fn in_order(&self, id: ParamId) -> bool {
        let moved = self.edited[id.0].as_ref().is_some_and(|edited| edited.moves_rows());
        !matches!(self.bound[id.0].import, Import::RopePermute { .. } | Import::Transpose)
            && !self.is_packed(id)
            && !moved
    }

    /// Tells the system that rows `rows` will not be read again soon. Of a parameter that is not
    /// [in order](Weights::in_order), all rows at once.
    pub fn release(&self, id: ParamId, rows: Range<usize>) {
        let bound = &self.bound[id.0];
        if !self.in_order(id) {
            return bound.runs.iter().for_each(|run| match run.numbers {
                Numbers::Stored(_) => self.source.release(run.tensor, 0..run.tensor.range.len()),
                Numbers::Packed(packed) => {
                    packed.parts.iter().for_each(|part| self.source.release(part, 0..part.range.len()));
                }
                Numbers::Sparse(sparse) => sparse.release(self.source, 0..sparse.rows),
            });
        }
        let cols = self.bound[id.0].param.cols();
        bound.for_each(rows, |run, first, n| {
            let store = match run.numbers {
                Numbers::Stored(store) => store,
                Numbers::Sparse(sparse) => return sparse.release(self.source, first..first + n),
                Numbers::Packed(_) => unreachable!("packed rows are not in order"),
            };
            let bytes = |rows: usize| store.spec().bytes_for(rows * cols).expect("whole blocks");
            self.source.release(run.tensor, bytes(first)..bytes(first + n));
        });
    }

    fn decode(&self, run: &Run, first_row: usize, cols: usize, out: &mut [f32]) {
        let store = match run.numbers {
            Numbers::Stored(store) => store,
            Numbers::Packed(packed) => {
                let rows: Vec<usize> = (first_row..first_row + out.len() / cols).collect();
                return packed.decode(self.source, &rows, matrix_mut(out, cols));
            }
            Numbers::Sparse(sparse) => {
                let rows = first_row..first_row + out.len() / cols;
                let mut dense = vec![0; sparse.store.spec().bytes_for(out.len()).expect("whole blocks")];
                sparse.read(self.source, rows, &mut dense);
                return sparse.store.decode(&dense, out);
            }
        };
        let spec = store.spec();
        let at = spec.bytes_for(first_row * cols).expect("whole blocks");
        let len = spec.bytes_for(out.len()).expect("whole blocks");
        store.decode(self.source.bytes(run.tensor, at..at + len), out);
    }

    fn consecutive(&self, bound: &Bound, cols: usize, rows: Range<usize>, out: &mut [f32]) {
        let mut rest = out;
        bound.for_each(rows, |run, first, n| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(n * cols);
            self.decode(run, first, cols, now);
            rest = later;
        });
    }

    fn permuted(&self, bound: &Bound, heads: usize, param: &Param, rows: Range<usize>, out: &mut [f32]) {
        let run = &bound.runs[0];
        // A bias: the elements move as the rows of its matrix do.
        let vector = param.shape.len() == 1;
        let (total, cols) = if vector { (param.len(), 1) } else { (param.rows(), param.cols()) };
        let rows = if vector { 0..total } else { rows };
        let dim = total / heads;
        if let Numbers::Packed(packed) = run.numbers {
            let rows: Vec<usize> = rows.map(|row| run.first_row + halved(row, dim)).collect();
            return packed.decode(self.source, &rows, matrix_mut(out, cols));
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
            self.decode(run, run.first_row + halved(row, dim), cols, out);
        }
    }

    /// The tensor is stored `[in, out]`: each canonical row is a stored column.
    fn transposed(&self, run: &Run, rows: Range<usize>, out: &mut [f32]) {
        let (inputs, outputs) = (run.tensor.shape[0], run.tensor.shape[1]);
        let store = match run.numbers {
            Numbers::Stored(store) => store,
            Numbers::Sparse(sparse) => sparse.store,
            Numbers::Packed(_) => unreachable!("packed matrices are bound as they are"),
        };
        if let Numbers::Sparse(sparse) = run.numbers {
            let mut whole = vec![0; store.spec().bytes * outputs];
            let mut row = vec![0.0; outputs];
            for i in 0..inputs {
                sparse.read(self.source, i..i + 1, &mut whole);
                store.decode(&whole, &mut row);
                rows.clone().enumerate().for_each(|(r, col)| out[r * inputs + i] = row[col]);
            }
            return;
        }
        let spec = store.spec();
        let mut segment = vec![0.0; rows.len()];
        for i in 0..inputs {
            let at = spec.bytes_for(i * outputs + rows.start).expect("floats have blocks of one");
            let len = spec.bytes_for(rows.len()).expect("floats have blocks of one");
            store.decode(self.source.bytes(run.tensor, at..at + len), &mut segment);
            for (row, v) in segment.iter().enumerate() {
                out[row * inputs + i] = *v;
            }
        }
    }
}

/// Canonical row 2j of a head of `dim` rows is stored row j, row 2j + 1 is stored row dim/2 + j.
pub(super) fn halved(row: usize, dim: usize) -> usize {
    let (head, i) = (row / dim, row % dim);
    head * dim + i / 2 + if i % 2 == 0 { 0 } else { dim / 2 }
}
