//! A whole sparse matrix, its parts borrowed and checked.

use std::ops::Range;

use rayon::prelude::*;

use super::{SparseError, SparseLayout, SparseParts};
use crate::par;

/// A sparse matrix whose parts are where and as long as they should be, and whose masks agree with the index.
///
/// Checking it reads the masks and the index, not the values.
#[derive(Debug, Clone, Copy)]
pub struct SparseView<'a> {
    layout: SparseLayout,
    rows: usize,
    parts: SparseParts<&'a [u8]>,
}

impl<'a> SparseView<'a> {
    /// `parts`: those of all rows.
    ///
    /// # Errors
    /// If parts are not as long as the rows need, the index does not begin with 0 or is not in order, a mask has
    /// another number of weights than the index says, or names no columns.
    pub fn new(layout: SparseLayout, rows: usize, parts: SparseParts<&'a [u8]>) -> Result<SparseView<'a>, SparseError> {
        layout.check_sizes(rows, parts)?;
        if let Some(first) = parts.index.first_chunk().map(|first| i64::from_le_bytes(*first))
            && first != 0
        {
            return Err(SparseError::Order { row: 0, found: first, before: 0 });
        }
        let each = layout.mask_row();
        let least = par::rows_for(par::CHUNK_WEIGHTS, layout.cols());
        let check = |r: usize| layout.check_mask(r, &parts.mask[r * each..][..each], parts.index).map(drop);
        (0..rows).into_par_iter().with_min_len(least).try_for_each(check)?;
        Ok(SparseView { layout, rows, parts })
    }

    /// How rows are stored.
    pub fn layout(&self) -> SparseLayout {
        self.layout
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The parts of all rows.
    pub fn parts(&self) -> SparseParts<&'a [u8]> {
        self.parts
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> usize {
        let SparseParts { mask, index, values, scales } = self.parts;
        [mask, index, values, scales].iter().map(|part| part.len()).sum()
    }

    /// How many values are stored before row `row`; of all rows, if it is their number.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn before(&self, row: usize) -> u64 {
        assert!(row <= self.rows, "row {row} of {}", self.rows);
        match self.layout.fixed() {
            Some(fixed) => row as u64 * fixed as u64,
            None => {
                let number = |n: &[u8; 8]| u64::from_le_bytes(*n);
                let (index, _) = self.parts.index.as_chunks();
                number(&index[row]) - number(&index[0])
            }
        }
    }

    /// Bytes of the values before row `row`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn value_bytes(&self, row: usize) -> usize {
        self.layout.value_bytes(self.before(row)).expect("checked when it was made") as usize
    }

    /// Some rows as a matrix of their own.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn slice(&self, rows: Range<usize>) -> SparseView<'a> {
        SparseView { layout: self.layout, rows: rows.len(), parts: self.rows_of(rows) }
    }

    /// The parts of some rows, as [`SparseLayout::unpack`] takes them.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn rows_of(&self, rows: Range<usize>) -> SparseParts<&'a [u8]> {
        let of = |row: usize| rows.start * row..rows.end * row;
        SparseParts {
            mask: &self.parts.mask[of(self.layout.mask_row())],
            index: match self.layout.fixed() {
                Some(_) => &[],
                None => &self.parts.index[8 * rows.start..8 * (rows.end + 1)],
            },
            values: &self.parts.values[self.value_bytes(rows.start)..self.value_bytes(rows.end)],
            scales: &self.parts.scales[of(self.layout.scales_row())],
        }
    }

    /// Unpacks some rows into `out`, dense.
    ///
    /// # Errors
    /// If a filler is no zero.
    ///
    /// # Panics
    /// If there are no such rows, or `out` has another length.
    pub fn unpack(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SparseError> {
        assert_eq!(out.len(), rows.len() * self.layout.dense_row(), "bytes of {} dense rows", rows.len());
        self.layout.unpack(self.rows_of(rows), out)
    }
}
