//! The one loop of byte-pair encoding: merge the best neighbours until no pair can be merged.
//!
//! SentencePiece and GPT-2 differ in what the best pair is (the token with the highest score, the merge with the
//! lowest rank) and in nothing else; both are a number here, lowest first, the leftmost of equals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A run of the text that is one token, or one character that is none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// First byte.
    pub start: usize,
    /// After the last byte; equal to `start` once it has been merged into its left neighbour.
    pub end: usize,
    /// Its token.
    pub id: Option<u32>,
    prev: usize,
    next: usize,
}

/// Two neighbours that could be merged, in the order in which they will be.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    priority: u32,
    left: usize,
    right: usize,
    /// Of both together: tells whether one has changed since.
    length: usize,
    /// The token that they make.
    id: u32,
}

/// No neighbour.
const NONE: usize = usize::MAX;

/// Working memory that is kept from word to word.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Pair>>,
}

impl Merger {
    /// Starts with the characters of a text: byte range and token of each, in order.
    pub fn start(&mut self, characters: impl Iterator<Item = (usize, usize, Option<u32>)>) {
        self.queue.clear();
        self.symbols.clear();
        for (i, (start, end, id)) in characters.enumerate() {
            self.symbols.push(Symbol { start, end, id, prev: i.wrapping_sub(1), next: i + 1 });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
    }

    /// Merges as long as `find` knows priority and token of a pair of neighbours; returns what is left, in order.
    pub fn run(&mut self, find: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) -> impl Iterator<Item = &Symbol> {
        for right in 1..self.symbols.len() {
            self.offer(right - 1, right, &find);
        }
        while let Some(Reverse(Pair { left, right, length, id, .. })) = self.queue.pop() {
            let (l, r) = (self.symbols[left], self.symbols[right]);
            // A pair is stale once one of its symbols has grown or gone.
            if l.start == l.end || r.start == r.end || r.end - l.start != length {
                continue;
            }
            self.symbols[left] = Symbol { end: r.end, id: Some(id), next: r.next, ..l };
            self.symbols[right].end = r.start;
            if r.next != NONE {
                self.symbols[r.next].prev = left;
            }
            self.offer(l.prev, left, &find);
            self.offer(left, r.next, &find);
        }
        self.symbols.iter().filter(|s| s.start < s.end)
    }

    fn offer(&mut self, left: usize, right: usize, find: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        if left == NONE || right == NONE {
            return;
        }
        let (l, r) = (&self.symbols[left], &self.symbols[right]);
        if let Some((priority, id)) = find(l, r) {
            self.queue.push(Reverse(Pair { priority, left, right, length: r.end - l.start, id }));
        }
    }
}
