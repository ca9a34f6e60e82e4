//! Which weights of a matrix stay: one bit each.
//!
//! Every row begins with a word of its own, so that rows can be looked at apart.

use rayon::prelude::*;

/// Weights to a word.
const WORD: usize = 64;

/// One bit for each weight of a matrix `[rows, cols]`: whether it stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitMask {
    rows: usize,
    cols: usize,
    /// `[rows, cols.div_ceil(64)]`; bits past the last column are zero.
    words: Vec<u64>,
}

impl BitMask {
    /// A mask of which nothing stays.
    pub fn none(rows: usize, cols: usize) -> BitMask {
        BitMask { rows, cols, words: vec![0; rows * cols.div_ceil(WORD)] }
    }

    /// From one truth for each weight, row by row.
    ///
    /// # Panics
    /// If there are not as many as weights.
    pub fn pack(rows: usize, cols: usize, stays: &[bool]) -> BitMask {
        assert_eq!(stays.len(), rows * cols, "truths for [{rows}, {cols}]");
        let word = |part: &[bool]| part.iter().rev().fold(0, |word, stays| word << 1 | u64::from(*stays));
        let words = stays.par_chunks(cols.max(1)).flat_map_iter(|row| row.chunks(WORD).map(word)).collect();
        BitMask { rows, cols, words }
    }

    /// What [`words`](BitMask::words) gave; `None` if they are not of this shape.
    pub fn from_words(rows: usize, cols: usize, words: Vec<u64>) -> Option<BitMask> {
        let each = cols.div_ceil(WORD);
        let past = match cols % WORD {
            0 => 0,
            used => !0 << used,
        };
        let whole = rows.checked_mul(each) == Some(words.len());
        let clean = whole && words.chunks(each.max(1)).all(|row| row.last().is_none_or(|last| last & past == 0));
        clean.then_some(BitMask { rows, cols, words })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The bits, `[rows, cols.div_ceil(64)]`, lowest first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// How many weights stay.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether a weight stays.
    ///
    /// # Panics
    /// If there is no such weight.
    pub fn stays(&self, row: usize, col: usize) -> bool {
        self.words[self.word(row, col)] >> (col % WORD) & 1 == 1
    }

    /// Says whether a weight stays.
    ///
    /// # Panics
    /// If there is no such weight.
    pub fn set(&mut self, row: usize, col: usize, stays: bool) {
        let (word, bit) = (self.word(row, col), 1 << (col % WORD));
        match stays {
            true => self.words[word] |= bit,
            false => self.words[word] &= !bit,
        }
    }

    /// Sets what does not stay of a row to zero. `values`: the row's weights.
    ///
    /// # Panics
    /// If there is no such row, or it has another length.
    pub fn apply(&self, row: usize, values: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(values.len(), self.cols, "weights of a row");
        let words = &self.words[row * self.cols.div_ceil(WORD)..];
        for (values, word) in values.chunks_mut(WORD).zip(words) {
            // Without branches, which are as likely taken as not.
            for (bit, value) in values.iter_mut().enumerate() {
                let keep = 0_u32.wrapping_sub((word >> bit & 1) as u32);
                *value = f32::from_bits(value.to_bits() & keep);
            }
        }
    }

    fn word(&self, row: usize, col: usize) -> usize {
        assert!(row < self.rows && col < self.cols, "weight {row}, {col} of {}, {}", self.rows, self.cols);
        row * self.cols.div_ceil(WORD) + col / WORD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_told_apart_across_words_and_rows() {
        for cols in [1, 63, 64, 65, 130] {
            let keep = |row: usize, col: usize| (row * 7 + col * 5).is_multiple_of(3);
            let mut mask = BitMask::none(3, cols);
            for (row, col) in (0..3).flat_map(|row| (0..cols).map(move |col| (row, col))) {
                mask.set(row, col, true);
                mask.set(row, col, keep(row, col));
            }
            let mut kept = 0;
            for row in 0..3 {
                let mut values = vec![f32::NAN; cols];
                mask.apply(row, &mut values);
                for (col, value) in values.iter().enumerate() {
                    assert_eq!(value.is_nan(), keep(row, col), "{row}, {col} of {cols}");
                    assert_eq!(mask.stays(row, col), keep(row, col));
                    kept += usize::from(keep(row, col));
                }
            }
            assert_eq!(mask.count(), kept);
            let all: Vec<bool> = (0..3).flat_map(|row| (0..cols).map(move |col| keep(row, col))).collect();
            assert_eq!(BitMask::pack(3, cols, &all), mask);
            assert_eq!(BitMask::from_words(3, cols, mask.words().to_vec()), Some(mask));
        }
    }

    #[test]
    fn words_of_another_shape_are_refused() {
        assert!(BitMask::from_words(2, 65, vec![0; 3]).is_none());
        assert!(BitMask::from_words(1, 65, vec![0, 1]).is_some());
        assert!(BitMask::from_words(1, 65, vec![0, 2]).is_none());
        assert!(BitMask::from_words(usize::MAX, 65, vec![0; 2]).is_none());
    }
}
