//! Matrices whose zeros a file leaves out: GGUF files of our own, compressed-tensors' sparse layouts, CSR.
//!
//! In come the tensors of the files; out comes the same list with the parts of every sparse matrix replaced by that
//! matrix, under the name, shape and type that it has when dense. All that could lead to wrong numbers is checked then,
//! once: masks and columns are read, values are not. From there on [`SparseMatrix::read`] gives dense rows.

use std::ops::Range;

use aurora_quantizers::sparse::{SparseParts, SparseView};

use super::source::{SparseIndex, SparseMatrix, SparsePlaces, TensorInfo, TensorSource};

pub(crate) mod compressed_tensors;
pub(crate) mod csr;
pub(super) mod gguf;
pub(super) mod hf;
pub(crate) mod keys;
mod parts;

impl SparseMatrix {
    /// Rows as they are when dense.
    ///
    /// # Panics
    /// If there are no such rows, or `out` has another length.
    pub fn read<S: TensorSource + ?Sized>(&self, source: &S, rows: Range<usize>, out: &mut [u8]) {
        assert!(rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        match &self.places {
            SparsePlaces::Columns { .. } => csr::read(self, source, rows, out),
            SparsePlaces::Mask { layout, .. } => {
                let parts = self.rows_of(source, rows.clone());
                assert_eq!(out.len(), rows.len() * layout.dense_row(), "bytes of {} dense rows", rows.len());
                if layout.unpack(parts, out).is_err() {
                    // Masks and index were checked, so it can only be what fills a row's last byte. It has no meaning.
                    for (row, out) in rows.zip(out.chunks_exact_mut(layout.dense_row())) {
                        let parts = self.rows_of(source, row..row + 1);
                        let mut values = parts.values.to_vec();
                        values.last_mut().into_iter().for_each(|last| *last = *last & 15 | 8 << 4);
                        let parts = SparseParts { values: &values[..], ..parts };
                        layout.unpack(parts, out).expect("parts that were checked");
                    }
                }
            }
        }
    }

    /// Bytes of all its tensors.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|t| t.range.len()).sum()
    }

    /// How many values are stored, those that are zero among them.
    pub fn stored(&self) -> usize {
        match self.values.spec.bytes {
            // Codes of four bits, two to a byte.
            1 if self.store.spec().name == "q4_0" => 2 * self.values.range.len(),
            bytes => self.values.range.len() / bytes,
        }
    }

    /// All rows as they are mapped, where there are masks: what a kernel multiplies with. Checks masks once more.
    pub fn view<'a>(&'a self, source: &'a dyn TensorSource) -> Option<SparseView<'a>> {
        let SparsePlaces::Mask { layout, .. } = &self.places else { return None };
        SparseView::new(*layout, self.rows, self.parts(source)?).ok()
    }

    /// The parts of all rows.
    pub(super) fn parts<'a, S: TensorSource + ?Sized>(&'a self, source: &'a S) -> Option<SparseParts<&'a [u8]>> {
        let SparsePlaces::Mask { mask, index, scales, .. } = &self.places else { return None };
        let whole = |t: &TensorInfo| source.bytes(t, 0..t.range.len());
        Some(SparseParts {
            mask: whole(mask),
            index: match index {
                SparseIndex::Fixed => &[],
                SparseIndex::Stored(tensor) => whole(tensor),
                SparseIndex::Made(bytes) => bytes,
            },
            values: whole(&self.values),
            scales: scales.as_ref().map_or(&[][..], whole),
        })
    }

    /// The parts of some rows.
    fn rows_of<'a, S: TensorSource + ?Sized>(&'a self, source: &'a S, rows: Range<usize>) -> SparseParts<&'a [u8]> {
        let (SparsePlaces::Mask { layout, .. }, Some(parts)) = (&self.places, self.parts(source)) else {
            unreachable!("{} has no masks", self.name)
        };
        let of = |row: usize| rows.start * row..rows.end * row;
        let index = match layout.fixed() {
            Some(_) => &[][..],
            None => &parts.index[8 * rows.start..8 * (rows.end + 1)],
        };
        SparseParts {
            mask: &parts.mask[of(layout.mask_row())],
            index,
            values: &parts.values[self.values_of(source, &rows)],
            scales: &parts.scales[of(layout.scales_row())],
        }
    }

    /// The bytes of some rows' values.
    fn values_of<S: TensorSource + ?Sized>(&self, source: &S, rows: &Range<usize>) -> Range<usize> {
        let before = |row: usize| match &self.places {
            SparsePlaces::Mask { layout, index, .. } => {
                let before = match index {
                    SparseIndex::Fixed => layout.fixed().unwrap_or(0) * row,
                    SparseIndex::Stored(tensor) => number(source.bytes(tensor, 8 * row..8 * (row + 1)), 0),
                    SparseIndex::Made(bytes) => number(bytes, row),
                };
                layout.value_bytes(before as u64).unwrap_or(0) as usize
            }
            SparsePlaces::Columns { before, .. } => before[row] * self.store.spec().bytes,
        };
        before(rows.start)..before(rows.end)
    }

    /// Tells the system that rows will not be read again soon.
    pub fn release(&self, source: &dyn TensorSource, rows: Range<usize>) {
        if rows == (0..self.rows) {
            return self.parts.iter().for_each(|part| source.release(part, 0..part.range.len()));
        }
        source.release(&self.values, self.values_of(source, &rows));
        if let SparsePlaces::Mask { layout, mask, .. } = &self.places {
            source.release(mask, rows.start * layout.mask_row()..rows.end * layout.mask_row());
        }
    }
}

/// The `at`th number of an index.
fn number(index: &[u8], at: usize) -> usize {
    index[8 * at..].first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes) as usize)
}
