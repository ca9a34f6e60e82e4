//! Parts to dense rows, and what is checked about a row.

use super::layout::{BLOCK, Element};
use super::pack::ZERO;
use super::{Packing, SparseError, SparseLayout, SparseParts};

/// A bit for each nibble that names two of four columns in order.
const QUADS: u16 = 1 << 0b0100 | 1 << 0b1000 | 1 << 0b1100 | 1 << 0b1001 | 1 << 0b1101 | 1 << 0b1110;

impl SparseLayout {
    /// Unpacks some rows. `parts`: those of the rows, the values from the first row's on; the index has a number more
    /// than there are rows and need not begin with 0. `out`: the rows, dense. What is not stored is zero.
    ///
    /// # Errors
    /// If parts are not as long as the rows need, or contradict each other. Rows count from the first given.
    ///
    /// # Panics
    /// If `out` is not whole rows.
    pub fn unpack(&self, parts: SparseParts<&[u8]>, out: &mut [u8]) -> Result<(), SparseError> {
        let rows = self.dense_rows(out.len());
        self.check_sizes(rows, parts)?;
        let mut row = Unpacked::default();
        let mut from = 0;
        for r in 0..rows {
            let mask = &parts.mask[r * self.mask_row()..][..self.mask_row()];
            let values = self.check_mask(r, mask, parts.index)?;
            let bytes = self.value_bytes(values).unwrap_or(0) as usize;
            let values = parts.values.get(from..from + bytes).unwrap_or_default();
            from += bytes;
            row.places(self, mask);
            row.expand(self, r, values)?;
            let scales = &parts.scales[r * self.scales_row()..][..self.scales_row()];
            row.write(self.element, scales, &mut out[r * self.dense_row()..][..self.dense_row()]);
        }
        Ok(())
    }

    /// Whether parts are as long as `rows` rows need, and the index in order. Does not look at masks.
    pub(super) fn check_sizes(&self, rows: usize, parts: SparseParts<&[u8]>) -> Result<(), SparseError> {
        let length = |part, bytes: &[u8], needed: Option<u64>| {
            let needed = needed.unwrap_or(u64::MAX);
            if bytes.len() as u64 == needed {
                Ok(())
            } else {
                Err(SparseError::Length { part, found: bytes.len(), needed })
            }
        };
        let rows = rows as u64;
        let of = |row: usize| rows.checked_mul(row as u64);
        length("mask", parts.mask, of(self.mask_row()))?;
        length("scales", parts.scales, of(self.scales_row()))?;
        let values = match self.fixed() {
            Some(fixed) => {
                length("index", parts.index, Some(0))?;
                of(fixed)
            }
            None => {
                length("index", parts.index, rows.checked_add(1).and_then(|n| n.checked_mul(8)))?;
                Some(self.check_index(parts.index)?)
            }
        };
        length("values", parts.values, values.and_then(|values| self.value_bytes(values)))
    }

    /// The number of values, if the index is in order and no row begins within a byte.
    fn check_index(&self, index: &[u8]) -> Result<u64, SparseError> {
        let (numbers, _) = index.as_chunks();
        let first = numbers.first().map_or(0, |n| i64::from_le_bytes(*n));
        let mut before = first.max(0);
        for (row, found) in numbers.iter().map(|n| i64::from_le_bytes(*n)).enumerate() {
            let values = found.checked_sub(before).filter(|values| *values >= 0);
            if values.is_none_or(|values| self.value_bytes(values.cast_unsigned()).is_none()) {
                return Err(SparseError::Order { row, found, before });
            }
            before = found;
        }
        Ok((before - first).cast_unsigned())
    }

    /// The number of values of row `r`, if its mask is sound. The index must have been checked.
    pub(super) fn check_mask(&self, row: usize, mask: &[u8], index: &[u8]) -> Result<u64, SparseError> {
        let used = self.cols() % 8;
        if used > 0 && mask.last().is_some_and(|last| last >> used != 0) {
            return Err(SparseError::Filler { row, part: "mask" });
        }
        let Some(fixed) = self.fixed() else {
            let number = |at: usize| index[8 * at..].first_chunk().map_or(0, |n| u64::from_le_bytes(*n));
            let (mask, index) = (self.padded(ones(mask)), number(row + 1) - number(row));
            return if mask == index { Ok(index) } else { Err(SparseError::Count { row, mask, index }) };
        };
        for q in 0..self.cols() / 4 {
            let nibble = mask[q / 2] >> (q % 2 * 4) & 15;
            if QUADS >> nibble & 1 == 0 {
                return Err(SparseError::Quad { row, col: 4 * q, nibble });
            }
        }
        Ok(fixed as u64)
    }
}

/// How many bits of a mask are set.
fn ones(mask: &[u8]) -> u64 {
    let (words, rest) = mask.as_chunks();
    let words: u32 = words.iter().map(|word| u64::from_le_bytes(*word).count_ones()).sum();
    u64::from(words + rest.iter().map(|byte| byte.count_ones()).sum::<u32>())
}

/// A row being put together.
#[derive(Default)]
struct Unpacked {
    /// The columns that are stored.
    places: Vec<usize>,
    /// The weights in order: floats as they are, codes a byte each.
    weights: Vec<u8>,
}

impl Unpacked {
    fn places(&mut self, layout: &SparseLayout, mask: &[u8]) {
        self.places.clear();
        match layout.packing() {
            Packing::Bitmask => {
                for (i, byte) in mask.iter().enumerate() {
                    let mut byte = *byte;
                    while byte != 0 {
                        self.places.push(8 * i + byte.trailing_zeros() as usize);
                        byte &= byte - 1;
                    }
                }
            }
            Packing::TwoFour => {
                for q in 0..layout.cols() / 4 {
                    let nibble = usize::from(mask[q / 2] >> (q % 2 * 4) & 15);
                    self.places.extend([4 * q + nibble % 4, 4 * q + nibble / 4]);
                }
            }
        }
    }

    fn expand(&mut self, layout: &SparseLayout, row: usize, values: &[u8]) -> Result<(), SparseError> {
        self.weights.clear();
        let (width, zero) = match layout.element {
            Element::Float(bytes) => (bytes, 0),
            Element::Byte => (1, 0),
            Element::Nibble => (1, ZERO),
        };
        self.weights.resize(layout.cols() * width, zero);
        if layout.element == Element::Nibble {
            let mut codes = values.iter().flat_map(|two| [two & 15, two >> 4]);
            for (place, code) in self.places.iter().zip(&mut codes) {
                self.weights[*place] = code;
            }
            return match codes.all(|filler| filler == ZERO) {
                true => Ok(()),
                false => Err(SparseError::Filler { row, part: "values" }),
            };
        }
        for (place, value) in self.places.iter().zip(values.chunks_exact(width)) {
            self.weights[place * width..][..width].copy_from_slice(value);
        }
        Ok(())
    }

    fn write(&self, element: Element, scales: &[u8], dense: &mut [u8]) {
        match element {
            Element::Float(_) => dense.copy_from_slice(&self.weights),
            Element::Byte => {
                let parts = scales.chunks_exact(2).zip(self.weights.chunks_exact(BLOCK));
                for (block, (scale, codes)) in dense.chunks_exact_mut(2 + BLOCK).zip(parts) {
                    block[..2].copy_from_slice(scale);
                    block[2..].copy_from_slice(codes);
                }
            }
            Element::Nibble => {
                let parts = scales.chunks_exact(2).zip(self.weights.chunks_exact(BLOCK));
                for (block, (scale, codes)) in dense.chunks_exact_mut(2 + BLOCK / 2).zip(parts) {
                    block[..2].copy_from_slice(scale);
                    let (low, high) = codes.split_at(BLOCK / 2);
                    for (two, (low, high)) in block[2..].iter_mut().zip(low.iter().zip(high)) {
                        *two = low | high << 4;
                    }
                }
            }
        }
    }
}
