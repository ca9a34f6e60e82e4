//! Matrices of small integers as quantisers pack them: into 32-bit words along either axis, or one or two to a byte.

use super::super::source::{IntLayout, Ints, TensorSource};

/// Which nibble of a word holds each of eight neighbours (AutoAWQ's GEMM layout).
const NIBBLE_OF: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Ints {
    /// Shape of the tensor that holds them, for layouts of words.
    pub fn word_shape(rows: usize, cols: usize, bits: u32, layout: IntLayout) -> [usize; 2] {
        let words = |n: usize, dense: bool| match dense {
            true => (n * bits as usize).div_ceil(32),
            false => n.div_ceil(32 / bits as usize),
        };
        match layout {
            IntLayout::Words { down: true, dense } => [words(rows, dense), cols],
            IntLayout::Words { down: false, dense } => [rows, words(cols, dense)],
            IntLayout::Interleaved => [rows, cols.div_ceil(8)],
            IntLayout::Bytes { .. } | IntLayout::HighFirst => [rows, cols],
        }
    }

    /// All bytes of the tensor.
    pub fn bytes<'s>(&self, source: &'s dyn TensorSource) -> &'s [u8] {
        source.bytes(&self.tensor, 0..self.tensor.range.len())
    }

    /// The number at a place. `bytes`: those of [`Ints::bytes`].
    ///
    /// # Panics
    /// If there is no such place.
    #[inline]
    pub fn at(&self, bytes: &[u8], row: usize, col: usize) -> i16 {
        let bits = self.bits as usize;
        let field = match self.layout {
            IntLayout::Bytes { signed: true } => return i16::from(bytes[row * self.cols + col] as i8) - self.bias,
            IntLayout::Bytes { signed: false } => u32::from(bytes[row * self.cols + col]),
            IntLayout::HighFirst => {
                let i = row * self.cols + col;
                u32::from(bytes[i / 2]) >> (4 * (1 - i % 2)) & 15
            }
            IntLayout::Interleaved => {
                self.word(bytes, row * self.cols.div_ceil(8) + col / 8) >> (4 * NIBBLE_OF[col % 8])
            }
            IntLayout::Words { down, dense } => {
                let i = if down { row } else { col };
                let (number, shift) = match dense {
                    true => (i * bits / 32, i * bits % 32),
                    false => (i / (32 / bits), i % (32 / bits) * bits),
                };
                let (index, next) = match down {
                    true => (number * self.cols + col, self.cols),
                    false => {
                        let [_, width] = Self::word_shape(1, self.cols, self.bits, self.layout);
                        (row * width + number, 1)
                    }
                };
                let low = self.word(bytes, index) >> shift;
                match shift + bits > 32 {
                    true => low | self.word(bytes, index + next) << (32 - shift),
                    false => low,
                }
            }
        };
        let alone = u32::from(self.less_one && !self.whole_fields());
        (field.wrapping_add(alone) & ((1 << bits) - 1)) as i16 - self.bias
    }

    /// Whether no field begins in one word and ends in the next.
    fn whole_fields(&self) -> bool {
        32 % self.bits == 0
    }

    /// Word `index` of the tensor.
    #[inline]
    fn word(&self, bytes: &[u8], index: usize) -> u32 {
        let at = index * 4;
        let word = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        match self.less_one && self.whole_fields() {
            // All bits set, divided by a field of them: a one in every field.
            true => word.wrapping_add(u32::MAX / ((1 << self.bits) - 1)),
            false => word,
        }
    }
}
