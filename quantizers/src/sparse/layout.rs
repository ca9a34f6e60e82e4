//! How a row is stored sparse, and how long parts are.

use super::SparseError;
use crate::Store;
use crate::store::check_lengths;

/// How a mask says which weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// A bit for each weight, the lowest of a byte first; it is set where a value is stored.
    Bitmask,
    /// Two of every four weights are stored. Four bits for each four, the first low: the place of the first of the two,
    /// plus four times the place of the second.
    TwoFour,
}

impl Packing {
    /// Its name: `bitmask`, `2:4`.
    pub fn name(self) -> &'static str {
        match self {
            Packing::Bitmask => "bitmask",
            Packing::TwoFour => "2:4",
        }
    }
}

/// How the values of a type are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    /// So many bytes each, the highest bit the sign: zero if all others are.
    Float(usize),
    /// A byte each, blocks of 32 with an F16 before them.
    Byte,
    /// Half a byte each, 8 is zero; blocks of 32 with an F16 before them.
    Nibble,
}

/// Weights that share a scale.
pub(super) const BLOCK: usize = 32;

/// The types that can be stored sparse.
const ELEMENTS: &[(&str, Element)] = &[
    ("f32", Element::Float(4)),
    ("f16", Element::Float(2)),
    ("bf16", Element::Float(2)),
    ("q8_0", Element::Byte),
    ("q4_0", Element::Nibble),
];

/// How the rows of a matrix are stored sparse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparseLayout {
    packing: Packing,
    store: &'static dyn Store,
    pub(super) element: Element,
    cols: usize,
}

/// The parts of a matrix or of some of its rows (see [`crate::sparse`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SparseParts<B> {
    /// Which weights are stored.
    pub mask: B,
    /// How many values are stored before each row and after the last; empty for 2:4.
    pub index: B,
    /// The values.
    pub values: B,
    /// The scales; empty for floats.
    pub scales: B,
}

impl SparseParts<Vec<u8>> {
    /// The parts, borrowed.
    pub fn as_slices(&self) -> SparseParts<&[u8]> {
        SparseParts { mask: &self.mask, index: &self.index, values: &self.values, scales: &self.scales }
    }
}

impl SparseLayout {
    /// Rows of `cols` weights, values as in `store`.
    ///
    /// # Errors
    /// If the type cannot be stored sparse, or blocks of weights do not divide a row.
    pub fn new(packing: Packing, store: &'static dyn Store, cols: usize) -> Result<SparseLayout, SparseError> {
        let values = store.spec().name;
        let row = ELEMENTS.iter().find(|(name, _)| *name == values);
        let (_, element) = row.ok_or(SparseError::Type { found: values })?;
        let quad = if packing == Packing::TwoFour { 4 } else { 1 };
        let multiple = quad.max(store.spec().block);
        if !cols.is_multiple_of(multiple) {
            return Err(SparseError::Columns { cols, packing: packing.name(), values, multiple });
        }
        Ok(SparseLayout { packing, store, element: *element, cols })
    }

    /// How masks are stored.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// What the rows are when dense.
    pub fn store(&self) -> &'static dyn Store {
        self.store
    }

    /// Weights of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of a row when dense.
    pub fn dense_row(&self) -> usize {
        let spec = self.store.spec();
        self.cols / spec.block * spec.bytes
    }

    /// Bytes of a row's mask.
    pub fn mask_row(&self) -> usize {
        self.cols.div_ceil(8)
    }

    /// Bytes of a row's scales: none for floats.
    pub fn scales_row(&self) -> usize {
        if matches!(self.element, Element::Float(_)) { 0 } else { self.cols / BLOCK * 2 }
    }

    /// Values of every row, where they all have the same number.
    pub fn fixed(&self) -> Option<usize> {
        (self.packing == Packing::TwoFour).then_some(self.cols / 2)
    }

    /// Bytes of so many values; of codes of four bits, of an even number.
    pub fn value_bytes(&self, values: u64) -> Option<u64> {
        match self.element {
            Element::Float(bytes) => values.checked_mul(bytes as u64),
            Element::Byte => Some(values),
            Element::Nibble => values.is_multiple_of(2).then_some(values / 2),
        }
    }

    /// Bytes of the parts of `rows` rows that store `values` values together; `None` if there are too many for a
    /// number, an odd number of codes of four bits, or another number than 2:4 has.
    pub fn sizes(&self, rows: u64, values: u64) -> Option<SparseParts<u64>> {
        let of = |row: usize| rows.checked_mul(row as u64);
        if let Some(fixed) = self.fixed()
            && of(fixed)? != values
        {
            return None;
        }
        let index = if self.fixed().is_some() { 0 } else { rows.checked_add(1)?.checked_mul(8)? };
        Some(SparseParts {
            mask: of(self.mask_row())?,
            index,
            values: self.value_bytes(values)?,
            scales: of(self.scales_row())?,
        })
    }

    /// How many values a row takes that stores so many weights: codes of four bits fill their last byte.
    pub(super) fn padded(&self, stored: u64) -> u64 {
        if self.element == Element::Nibble { stored.next_multiple_of(2) } else { stored }
    }

    /// Rows in so many dense bytes.
    ///
    /// # Panics
    /// If they are not whole rows.
    pub(super) fn dense_rows(&self, bytes: usize) -> usize {
        let rows = bytes / self.dense_row().max(1);
        check_lengths(self.store.spec(), rows * self.cols, bytes);
        rows
    }
}
