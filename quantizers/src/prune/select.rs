//! Which weights go, by their scores.
//!
//! The lowest go, and of equal scores the first: the count is exact, also with ties, and the same for any number of
//! threads.

use rayon::prelude::*;

use super::{Bins, Sparsity};
use crate::{BitMask, par};

/// Among which weights a share is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Each row's own.
    Row,
    /// All of the matrix.
    Matrix,
}

/// Says which weights stay. `scores`: `[rows, cols]`, finite and at least zero.
///
/// A pattern has no scope: it is the same in every row.
///
/// # Panics
/// If scores are not whole rows, or a pattern does not divide them.
pub fn select(scores: &[f32], cols: usize, sparsity: Sparsity, scope: Scope) -> BitMask {
    assert!(scores.len().is_multiple_of(cols.max(1)), "{} scores in rows of {cols}", scores.len());
    assert!(sparsity.divides(cols), "{sparsity} in rows of {cols}");
    let rows = scores.len() / cols.max(1);
    let mut stays = vec![true; scores.len()];
    match (sparsity, scope) {
        (Sparsity::Share(_), Scope::Matrix) => {
            let rank = Ranks::new(scores).cut(sparsity.pruned(scores.len()));
            let mut equal = rank.equal;
            for (stays, score) in stays.iter_mut().zip(scores) {
                *stays = rank.keeps(*score, &mut equal);
            }
        }
        (sparsity, _) => {
            let least = par::rows_for(par::CHUNK_WEIGHTS, cols);
            let each = stays.par_chunks_mut(cols.max(1)).zip(scores.par_chunks(cols.max(1)));
            each.with_min_len(least).for_each_init(Vec::new, |bits, (stays, scores)| match sparsity {
                Sparsity::Share(_) => drop_lowest(scores, sparsity.pruned(cols), bits, stays),
                Sparsity::Pattern { keep, of } => {
                    for (scores, stays) in scores.chunks(of).zip(stays.chunks_mut(of)) {
                        drop_lowest(scores, of - keep, bits, stays);
                    }
                }
            });
        }
    }
    BitMask::pack(rows, cols, &stays)
}

/// Says which weights stay by a size: those of at least `size`, but for the first `equal` of those that have it.
/// `w`: `[rows, cols]`.
///
/// # Panics
/// If weights are not whole rows.
pub fn below(w: &[f32], cols: usize, size: f32, equal: usize) -> BitMask {
    assert!(w.len().is_multiple_of(cols.max(1)), "{} weights in rows of {cols}", w.len());
    let (cut, mut equal) = (Cut { at: size.to_bits(), equal }, equal);
    let mut stays = vec![true; w.len()];
    if equal == 0 {
        let each = stays.par_iter_mut().zip(w).with_min_len(par::CHUNK_WEIGHTS);
        each.for_each(|(stays, w)| *stays = w.abs() >= size);
    } else {
        stays.iter_mut().zip(w).for_each(|(stays, w)| *stays = cut.keeps(w.abs(), &mut equal));
    }
    BitMask::pack(w.len() / cols.max(1), cols, &stays)
}

/// Says of the `count` lowest scores, the first of equals before the others, that they do not stay.
pub(crate) fn drop_lowest(scores: &[f32], count: usize, bits: &mut Vec<u32>, stays: &mut [bool]) {
    if count == 0 {
        return;
    }
    bits.clear();
    bits.extend(scores.iter().map(|s| s.to_bits()));
    let (below, at, _) = bits.select_nth_unstable(count - 1);
    let at = *at;
    let mut equal = count - below.iter().filter(|b| **b < at).count();
    let rank = Cut { at, equal };
    for (stays, score) in stays.iter_mut().zip(scores) {
        *stays = rank.keeps(*score, &mut equal);
    }
}

/// Where the lowest scores end: those below `at` go, and so many of those equal to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    at: u32,
    equal: usize,
}

impl Cut {
    /// How many of the scores that are equal to the cut go.
    pub(crate) fn equal(&self) -> usize {
        self.equal
    }

    /// How many of these scores are equal to the cut.
    pub(crate) fn equals(&self, scores: &[f32]) -> usize {
        scores.iter().filter(|score| score.to_bits() == self.at).count()
    }

    /// Whether the next weight stays; `equal`: how many at the cut are still to go.
    pub(crate) fn keeps(&self, score: f32, equal: &mut usize) -> bool {
        let bits = score.to_bits();
        if bits != self.at {
            return bits > self.at;
        }
        let goes = *equal > 0;
        *equal -= usize::from(goes);
        !goes
    }
}

/// How often each score occurs, by its bits: of numbers that are not negative, these have the same order.
pub(crate) struct Ranks<'a> {
    scores: &'a [f32],
    high: Bins,
}

impl<'a> Ranks<'a> {
    /// Counts the upper halves of the bits.
    pub(crate) fn new(scores: &'a [f32]) -> Self {
        Ranks { scores, high: Bins::upper().count(scores) }
    }

    /// Where the `count` lowest end.
    pub(crate) fn cut(&self, count: usize) -> Cut {
        if count == 0 {
            return Cut { at: 0, equal: 0 };
        }
        let (high, before) = self.high.place(count as u64);
        let (low, below) = Bins::lower(high).count(self.scores).place(count as u64 - before);
        Cut { at: high << 16 | low, equal: count - (before + below) as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By sorting all scores with their places.
    fn twin(scores: &[f32], count: usize) -> Vec<bool> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(a.cmp(b)));
        let mut stays = vec![true; scores.len()];
        order[..count].iter().for_each(|i| stays[*i] = false);
        stays
    }

    fn scores(n: usize) -> Vec<f32> {
        // Many ties, and channels without any input.
        (0..n).map(|i| if i % 11 == 3 { 0.0 } else { ((i * 7919) % 97) as f32 / 16.0 }).collect()
    }

    #[test]
    fn counts_are_exact_whatever_the_ties() {
        let (rows, cols) = (12, 64);
        let scores = scores(rows * cols);
        let check = |sparsity: Sparsity, scope, want: Vec<bool>| {
            let mask = select(&scores, cols, sparsity, scope);
            for (i, want) in want.iter().enumerate() {
                assert_eq!(mask.stays(i / cols, i % cols), *want, "{sparsity} {scope:?} {i}");
            }
        };
        for share in [0.01, 0.3, 0.5, 0.6, 0.99] {
            let sparsity = Sparsity::Share(share);
            check(sparsity, Scope::Matrix, twin(&scores, sparsity.pruned(scores.len())));
            let by_row = scores.chunks(cols).flat_map(|row| twin(row, sparsity.pruned(cols))).collect();
            check(sparsity, Scope::Row, by_row);
        }
        for (keep, of) in [(2, 4), (1, 4), (4, 8)] {
            let sparsity = Sparsity::Pattern { keep, of };
            check(sparsity, Scope::Row, scores.chunks(of).flat_map(|few| twin(few, of - keep)).collect());
        }
        assert_eq!(select(&[0.0; 128], 64, Sparsity::Share(0.5), Scope::Matrix).count(), 64);
        assert_eq!(select(&[1.0; 100], 10, Sparsity::Share(0.001), Scope::Row).count(), 100);
    }
}
