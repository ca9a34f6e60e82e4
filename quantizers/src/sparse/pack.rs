//! Dense rows to parts.

use super::layout::{BLOCK, Element};
use super::{Packing, SparseError, SparseLayout, SparseParts};

/// The value of a code of four bits that is zero.
pub(super) const ZERO: u8 = 8;

impl SparseLayout {
    /// How many values each of some dense rows stores, appended to `counts`. Zeros are left out, -0.0 among them.
    ///
    /// # Errors
    /// If 2:4 cannot hold a row.
    ///
    /// # Panics
    /// If `dense` is not whole rows.
    pub fn count(&self, dense: &[u8], counts: &mut Vec<u64>) -> Result<(), SparseError> {
        let mut row = Row::default();
        for r in 0..self.dense_rows(dense.len()) {
            row.read(self, self.row_of(dense, r));
            let stored = match self.fixed() {
                Some(fixed) => row.quads(r).try_for_each(|quad| quad.map(drop)).map(|()| fixed as u64)?,
                None => self.padded(row.stays.iter().filter(|stays| **stays).count() as u64),
            };
            counts.push(stored);
        }
        Ok(())
    }

    /// Appends some dense rows to parts. An index that is empty begins with 0; one that is not goes on from its last
    /// number, so that threads can pack parts of a matrix: each begins with what is stored before its first row.
    ///
    /// Where fewer than two of four weights are not zero, 2:4 stores the first zeros too, as +0.0.
    ///
    /// # Errors
    /// If 2:4 cannot hold a row. The rows before it have been appended.
    ///
    /// # Panics
    /// If `dense` is not whole rows, or the index is not of whole numbers.
    pub fn pack(&self, dense: &[u8], out: &mut SparseParts<Vec<u8>>) -> Result<(), SparseError> {
        let indexed = self.fixed().is_none();
        if indexed && out.index.is_empty() {
            out.index.extend_from_slice(&0_u64.to_le_bytes());
        }
        let mut row = Row::default();
        for r in 0..self.dense_rows(dense.len()) {
            row.read(self, self.row_of(dense, r));
            if !indexed {
                row.quads(r).try_for_each(|quad| quad.map(drop))?;
            }
            match self.packing() {
                Packing::Bitmask => out.mask.extend(row.stays.chunks(8).map(byte)),
                Packing::TwoFour => {
                    let nibbles: Vec<u8> = row.quads(r).map(|quad| quad.unwrap_or_default()).collect();
                    out.mask.extend(nibbles.chunks(2).map(|two| two[0] | two.get(1).unwrap_or(&0) << 4));
                    row.choose(&nibbles);
                }
            }
            let stored = row.append(self.element, &mut out.values);
            out.scales.extend_from_slice(&row.scales);
            if indexed {
                let last = out.index.last_chunk().expect("whole numbers");
                let next = u64::from_le_bytes(*last) + self.padded(stored);
                out.index.extend_from_slice(&next.to_le_bytes());
            }
        }
        Ok(())
    }

    fn row_of<'a>(&self, dense: &'a [u8], row: usize) -> &'a [u8] {
        &dense[row * self.dense_row()..][..self.dense_row()]
    }
}

fn byte(stays: &[bool]) -> u8 {
    stays.iter().rev().fold(0, |byte, stays| byte << 1 | u8::from(*stays))
}

/// A dense row taken apart.
#[derive(Default)]
struct Row {
    /// The weights in order: floats as they are, codes a byte each.
    weights: Vec<u8>,
    /// F16 each.
    scales: Vec<u8>,
    /// Whether each weight is stored.
    stays: Vec<bool>,
}

impl Row {
    fn read(&mut self, layout: &SparseLayout, dense: &[u8]) {
        self.weights.clear();
        self.scales.clear();
        self.stays.clear();
        match layout.element {
            Element::Float(bytes) => {
                self.weights.extend_from_slice(dense);
                let magnitude = |w: &[u8]| w[..bytes - 1].iter().any(|b| *b != 0) || w[bytes - 1] & 0x7f != 0;
                self.stays.extend(dense.chunks_exact(bytes).map(magnitude));
            }
            Element::Byte => {
                for block in dense.chunks_exact(2 + BLOCK) {
                    self.scales.extend_from_slice(&block[..2]);
                    self.weights.extend_from_slice(&block[2..]);
                }
                self.stays.extend(self.weights.iter().map(|code| *code != 0));
            }
            Element::Nibble => {
                for block in dense.chunks_exact(2 + BLOCK / 2) {
                    self.scales.extend_from_slice(&block[..2]);
                    self.weights.extend(block[2..].iter().map(|two| two & 15));
                    self.weights.extend(block[2..].iter().map(|two| two >> 4));
                }
                self.stays.extend(self.weights.iter().map(|code| *code != ZERO));
            }
        }
    }

    /// The nibble of each quad.
    fn quads(&self, row: usize) -> impl Iterator<Item = Result<u8, SparseError>> {
        self.stays.chunks_exact(4).enumerate().map(move |(q, stays)| {
            let stored = stays.iter().filter(|stays| **stays).count();
            if stored > 2 {
                return Err(SparseError::Dense { row, col: 4 * q, stored: stored as u32 });
            }
            let mut fillers = 2 - stored;
            let mut chosen = (0..4_u8).filter(|i| {
                let filler = !stays[usize::from(*i)] && fillers > 0;
                fillers -= usize::from(filler);
                stays[usize::from(*i)] || filler
            });
            let (first, second) = (chosen.next().unwrap_or(0), chosen.next().unwrap_or(1));
            Ok(first | second << 2)
        })
    }

    /// Stores what the quads' nibbles name.
    fn choose(&mut self, nibbles: &[u8]) {
        for (stays, nibble) in self.stays.chunks_exact_mut(4).zip(nibbles) {
            stays[usize::from(nibble & 3)] = true;
            stays[usize::from(nibble >> 2)] = true;
        }
    }

    /// Appends what is stored and returns how many weights that are.
    fn append(&self, element: Element, values: &mut Vec<u8>) -> u64 {
        let width = if let Element::Float(bytes) = element { bytes } else { 1 };
        let stored = self.weights.chunks_exact(width).zip(&self.stays).filter_map(|(w, stays)| stays.then_some(w));
        match element {
            Element::Float(_) => {
                // A zero that 2:4 stores has no sign.
                let zero = |w: &[u8]| w[..width - 1].iter().all(|b| *b == 0) && w[width - 1] & 0x7f == 0;
                let before = values.len();
                for w in stored {
                    let start = values.len();
                    values.extend_from_slice(w);
                    if zero(w) {
                        values[start..].fill(0);
                    }
                }
                ((values.len() - before) / width) as u64
            }
            Element::Byte => {
                let before = values.len();
                values.extend(stored.flatten());
                (values.len() - before) as u64
            }
            Element::Nibble => {
                let codes: Vec<u8> = stored.flatten().copied().collect();
                values.extend(codes.chunks(2).map(|two| two[0] | two.get(1).unwrap_or(&ZERO) << 4));
                codes.len() as u64
            }
        }
    }
}
