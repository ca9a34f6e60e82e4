//! Sums over a text that do not depend on how it was cut: those of a fixed binary tree over its leaves.
//!
//! A leaf is a run of tokens; node `index` of level `l` is the sum of its two children, and covers leaves `index * 2^l`
//! to `(index + 1) * 2^l`. Leaves past the last are absent and nothing is added for them. Whoever has the sums of some
//! leaves in a row keeps the largest nodes that these make up ([`subtrees`]); such nodes of all parts of a text make up
//! those of the whole, the same bits.
//!
//! A part's sums are carried as a binary counter carries: at most one node of each level waits for its sibling, so of
//! X^T X there are at most log2(leaves) in memory. Carrying costs no way through memory of its own: what a leaf adds is
//! added to all nodes that it completes tile by tile ([`linalg::sum_gram`]). Which tokens of X^T X share a step depends
//! on their place in the leaf alone.

use std::ops::Range;

use ndarray::ArrayView2;

use crate::linalg::{self, Onto, SPAN};
use crate::simd::Isa;
use crate::stats::Gram;
use crate::view::elements;
use crate::{NumError, SiteStats};

/// A node's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// 0 of a leaf.
    pub level: u32,
    /// From the left.
    pub index: u64,
}

impl Place {
    /// Whether `self` and `right` are the two children of one node.
    fn is_sibling(self, right: Place) -> bool {
        self.level == right.level && self.index.is_multiple_of(2) && self.index + 1 == right.index
    }

    fn parent(self) -> Place {
        Place { level: self.level + 1, index: self.index / 2 }
    }
}

/// The level of the root over `leaves` leaves.
fn height(leaves: u64) -> u32 {
    leaves.max(1).next_power_of_two().trailing_zeros()
}

/// The largest nodes that leaves `range` of `leaves` make up, from the left.
///
/// # Panics
/// If there are no such leaves.
pub fn subtrees(range: Range<u64>, leaves: u64) -> Vec<Place> {
    assert!(range.start <= range.end && range.end <= leaves, "leaves {range:?} of {leaves}");
    // What is past the last leaf is as good as there.
    let end = if range.end == leaves { 1 << height(leaves) } else { range.end };
    let (mut from, mut all) = (range.start, Vec::new());
    while from < end && !range.is_empty() {
        let aligned = if from == 0 { height(leaves) } else { from.trailing_zeros() };
        let level = aligned.min((end - from).ilog2());
        all.push(Place { level, index: from >> level });
        from += 1 << level;
    }
    all
}

/// Adds the node `place` behind the others in `nodes`, and whatever this completes. `add(left, right)`.
pub fn carry<T>(nodes: &mut Vec<(Place, T)>, place: Place, value: T, mut add: impl FnMut(T, T) -> T) {
    let (mut place, mut value) = (place, value);
    while let Some((_, left)) = nodes.pop_if(|(left, _)| left.is_sibling(place)) {
        value = add(left, value);
        place = place.parent();
    }
    nodes.push((place, value));
}

/// Adds up what one feed is shown, leaf after leaf.
#[derive(Debug)]
pub struct Tree {
    next: u64,
    gram: bool,
    /// Of the leaf under way, without X^T X.
    leaf: SiteStats,
    /// Its rows that are not in `begun`: at most [`SPAN`] tokens. Only once more come is it known that they are not the
    /// last.
    rows: Vec<f32>,
    /// X^T X of the rows before those.
    begun: Option<Gram>,
    /// Nodes that wait for their siblings, from the left. Of those without a token X^T X is left out.
    nodes: Vec<(Place, SiteStats)>,
    /// Memory of nodes that were added to others.
    spare: Vec<Gram>,
    /// Whether the leaf under way is among the nodes already.
    settled: bool,
}

impl Tree {
    /// Of these leaves. `gram`: whether X^T X is kept.
    pub fn new(width: usize, gram: bool, leaves: Range<u64>) -> Tree {
        let leaf = SiteStats::new(width, false);
        // As many as can wait when the first leaf is number 0. The caller's thread makes them: an allocator with a
        // heap for each thread would otherwise keep as much in several heaps.
        let most = if gram { (leaves.end - leaves.start + 1).ilog2() } else { 0 };
        let spare = (0..most).map(|_| Gram::new(width)).collect();
        Tree { next: leaves.start, gram, leaf, rows: Vec::new(), begun: None, nodes: Vec::new(), spare, settled: false }
    }

    /// Adds tokens to the leaf under way. `x`: `[tokens, width]`.
    ///
    /// # Errors
    /// If a number is not finite; the sums are useless then.
    ///
    /// # Panics
    /// If `x` has another width, or its rows do not lie one after the other.
    pub fn add(&mut self, x: ArrayView2<f32>) -> Result<(), NumError> {
        self.leaf.add(x)?;
        let (most, mut x) = (SPAN * self.leaf.width(), elements(x));
        while self.gram && !x.is_empty() {
            if self.rows.len() == most {
                let (begun, mut rows) = (self.begun.take().into_iter().collect(), std::mem::take(&mut self.rows));
                self.begun = Some(self.multiply(&rows, begun));
                rows.clear();
                self.rows = rows;
            }
            let (now, later) = x.split_at(x.len().min(most - self.rows.len()));
            self.rows.extend_from_slice(now);
            x = later;
        }
        Ok(())
    }

    /// Adds all tokens of the leaf under way at once, which needs no copy of them.
    ///
    /// # Errors
    /// As [`Tree::add`].
    ///
    /// # Panics
    /// If `x` has another width, its rows do not lie one after the other, or the leaf has tokens already.
    pub fn add_all(&mut self, x: ArrayView2<f32>) -> Result<(), NumError> {
        assert!(self.leaf.tokens() == 0 && !self.settled, "a leaf whose tokens come at once has some already");
        if x.nrows() > SPAN {
            return self.add(x);
        }
        self.leaf.add(x)?;
        self.settle(elements(x));
        self.settled = true;
        Ok(())
    }

    /// The leaf is complete, empty or not.
    pub fn end_leaf(&mut self) {
        if !std::mem::take(&mut self.settled) {
            let mut rows = std::mem::take(&mut self.rows);
            self.settle(&rows);
            rows.clear();
            self.rows = rows;
        }
        self.next += 1;
    }

    /// Puts the leaf under way among the nodes. `rows`: those that are not in `begun`.
    fn settle(&mut self, rows: &[f32]) {
        let (width, mut place) = (self.leaf.width(), Place { level: 0, index: self.next });
        let mut stats = std::mem::replace(&mut self.leaf, SiteStats::new(width, false));
        let mut grams: Vec<Gram> = self.begun.take().into_iter().collect();
        while let Some((_, mut left)) = self.nodes.pop_if(|(left, _)| left.is_sibling(place)) {
            grams.extend(left.take_gram());
            left.add_sums(&stats);
            stats = left;
            place = place.parent();
        }
        if self.gram && stats.tokens() > 0 {
            stats.set_gram(self.multiply(rows, grams));
        }
        self.nodes.push((place, stats));
    }

    /// The product of rows, to which `grams` are added one after the other. In the memory of the last of them.
    fn multiply(&mut self, rows: &[f32], mut grams: Vec<Gram>) -> Gram {
        let width = self.leaf.width();
        let (mut sum, onto) = match grams.pop() {
            Some(last) => (last, Onto::Added),
            None => (self.spare.pop().unwrap_or_else(|| Gram::new(width)), Onto::Replaced),
        };
        if rows.is_empty() {
            // No token of this leaf came here: what waits is added up by itself.
            let below = grams.into_iter().reduce(|below, mut gram| {
                gram.add(&below);
                self.spare.push(below);
                gram
            });
            if let Some(below) = below {
                sum.add(&below);
                self.spare.push(below);
            }
            return sum;
        }
        let below: Vec<&[f32]> = grams.iter().map(|gram| gram.tiles.as_slice()).collect();
        linalg::sum_gram(Isa::best(), rows, width, &below, onto, &mut sum.tiles);
        self.spare.extend(grams);
        sum
    }

    /// The sums of the nodes that all leaves so far make up, `leaves` of them in the whole text.
    ///
    /// # Panics
    /// If a leaf is under way, or there were more.
    pub fn finish(mut self, leaves: u64) -> Vec<(Place, SiteStats)> {
        assert_eq!(self.leaf.tokens(), 0, "tokens of a leaf that did not end");
        assert!(self.next <= leaves, "{} leaves of {leaves}", self.next);
        let root = height(leaves);
        // What is past the last leaf is as good as there.
        let open = |(place, _): &mut (Place, SiteStats)| place.level < root && place.index.is_multiple_of(2);
        while self.next == leaves
            && let Some((place, stats)) = self.nodes.pop_if(open)
        {
            carry(&mut self.nodes, place.parent(), stats, SiteStats::joined);
        }
        let (width, gram) = (self.leaf.width(), self.gram);
        let empty = self.nodes.iter_mut().filter(|(_, stats)| gram && stats.gram().is_none());
        empty.for_each(|(_, stats)| stats.set_gram(Gram::new(width)));
        self.nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::tests::numbers;
    use crate::matrix;

    /// Leaves of a text, each a list of what comes in one call: some empty, some of more tokens than are multiplied at
    /// a time.
    fn text(width: usize, leaves: u64) -> Vec<Vec<Vec<f32>>> {
        let tokens = |leaf: u64| match leaf % 7 {
            2 => vec![],
            3 => vec![1],
            5 => vec![SPAN / 2, SPAN / 2, SPAN / 2],
            6 => vec![SPAN + 3],
            1 => vec![40],
            _ => vec![17, 40],
        };
        let leaf = |leaf| tokens(leaf).iter().map(|n| numbers(n * width, leaf as u32)).collect();
        (0..leaves).map(leaf).collect()
    }

    fn sums(text: &[Vec<Vec<f32>>], width: usize, range: Range<u64>) -> Vec<(Place, SiteStats)> {
        let mut tree = Tree::new(width, true, range.clone());
        let mut at_once = true;
        for leaf in &text[range.start as usize..range.end as usize] {
            match &leaf[..] {
                // Every other one of those that come in one call is announced as such.
                [all] if at_once => tree.add_all(matrix(all, width)).unwrap(),
                calls => calls.iter().for_each(|x| tree.add(matrix(x, width)).unwrap()),
            }
            at_once = !at_once;
            tree.end_leaf();
        }
        tree.finish(text.len() as u64)
    }

    #[test]
    fn nodes_cover_what_they_are_asked_for_and_no_two_are_siblings() {
        for leaves in 1..20_u64 {
            for from in 0..leaves {
                for to in from + 1..=leaves {
                    let nodes = subtrees(from..to, leaves);
                    let covers = |p: &Place| p.index << p.level..(p.index + 1) << p.level;
                    let all: Vec<u64> = nodes.iter().flat_map(covers).filter(|leaf| *leaf < leaves).collect();
                    assert!(all.into_iter().eq(from..to), "{from}..{to} of {leaves}: {nodes:?}");
                    assert!(nodes.windows(2).all(|p| !p[0].is_sibling(p[1])), "{from}..{to} of {leaves}: {nodes:?}");
                }
            }
            assert_eq!(subtrees(0..leaves, leaves), [Place { level: height(leaves), index: 0 }]);
        }
        assert!(subtrees(3..3, 8).is_empty());
    }

    #[test]
    fn no_cut_changes_a_bit() {
        for (width, leaves) in [(5, 1), (97, 6), (5, 8), (5, 13), (3, 33)] {
            let text = text(width, leaves);
            let whole = sums(&text, width, 0..leaves);
            assert_eq!(whole.len(), 1);
            for parts in [1, 3, 7].into_iter().filter(|parts| *parts <= leaves) {
                let mut joined = Vec::new();
                for i in 0..parts {
                    let range = i * leaves / parts..(i + 1) * leaves / parts;
                    let nodes = sums(&text, width, range.clone());
                    let places: Vec<Place> = nodes.iter().map(|(place, _)| *place).collect();
                    assert_eq!(places, subtrees(range, leaves), "part {i} of {parts}, {leaves} leaves");
                    nodes.into_iter().for_each(|(p, stats)| carry(&mut joined, p, stats, SiteStats::joined));
                }
                assert!(joined == whole, "{width} wide, {leaves} leaves in {parts} parts");
            }
        }
    }

    /// The slow twin: one sum after the other, in f64.
    #[test]
    fn sums_are_those_of_the_definitions() {
        let (width, leaves) = (20, 11);
        let text = text(width, leaves);
        let found = sums(&text, width, 0..leaves).remove(0).1;
        let x: Vec<f32> = text.concat().concat();
        let tokens = x.len() / width;
        assert_eq!(found.tokens(), tokens as u64);
        let gram = found.gram().unwrap();
        for i in 0..width {
            let column = |i: usize| x[i..].iter().step_by(width).map(|x| f64::from(*x));
            let (sq, abs) = (column(i).map(|x| x * x).sum::<f64>(), column(i).map(f64::abs).sum::<f64>());
            // Each of two orders of adding n numbers of one sign is off by at most n - 1 roundings.
            let most = 2.0 * tokens as f64 * f64::EPSILON / 2.0;
            assert!((found.sum_sq()[i] - sq).abs() <= most * sq && (found.sum_abs()[i] - abs).abs() <= most * abs);
            for j in 0..=i {
                let pairs = || column(i).zip(column(j)).map(|(a, b)| a * b);
                let (want, size) = (pairs().sum::<f64>(), pairs().map(f64::abs).sum::<f64>());
                // Factors are at most one: each is off by at most half of a 2047th. F32 rounds a leaf's pieces and one
                // sum a level.
                let factors: f64 = column(i).zip(column(j)).map(|(a, b)| (a.abs() + b.abs() + 1e-3) / 4094.0).sum();
                let rounding = size * (f64::from(height(leaves)) + 2.0) * f64::from(f32::EPSILON);
                let apart = (gram.get(i, j) - want).abs();
                assert!(apart <= factors + rounding, "at {i} {j}: {apart:e}");
            }
        }
    }

    #[test]
    fn what_waits_is_a_node_of_each_level_at_most() {
        let mut tree = Tree::new(2, true, 0..64);
        for leaf in 0..64_u32 {
            tree.add(matrix(&[1.0, 2.0], 2)).unwrap();
            tree.end_leaf();
            assert_eq!(tree.nodes.len(), (leaf + 1).count_ones() as usize);
            assert!(tree.nodes.len() + tree.spare.len() <= 6);
        }
        let whole = tree.finish(64).remove(0).1;
        assert_eq!((whole.tokens(), whole.sum_sq()), (64, &[64.0, 256.0][..]));
    }
}
