//! The result matrix, written by several threads at once.
//!
//! `[tokens, rows]`, and each thread has some of the rows, which are not contiguous: the one thing here that slices
//! cannot say.
#![allow(unsafe_code)]

use std::ops::Range;

use rayon::prelude::*;

/// Weights that one thread takes at a time with few tokens: long enough to make handing them out cheap.
const CHUNK_WEIGHTS: usize = 64 * 1024;

/// Products that one thread makes at a time with many tokens: a third of a millisecond. So small matrices have work for
/// several threads.
const CHUNK_PRODUCTS: usize = 1 << 24;

/// Rows that kernels unpack at a time for a batch: 64 KiB of floats, 256 columns of each, which stay in the second-
/// level cache.
pub(super) const PANEL: usize = 64;

/// With fewer tokens than this a thread takes fewer rows: the work is short and bound by memory.
const FEW: usize = 5;

/// Rows of `cols` weights that one thread takes at a time: whole panels of those that kernels unpack.
pub(super) fn chunk(tokens: usize, cols: usize) -> usize {
    let weights = CHUNK_WEIGHTS.min(CHUNK_PRODUCTS / tokens.max(1));
    (weights / cols.max(1)).max(1).next_multiple_of(if tokens < FEW { 8 } else { PANEL })
}

/// All of the result.
struct Shared {
    start: *mut f32,
    tokens: usize,
    rows: usize,
}

// SAFETY: the pointer is only used through `Out`s, which have different rows each (see `by_rows`).
unsafe impl Sync for Shared {}

/// Calls `each` for every `chunk` rows of `out`, in parallel on the current rayon pool.
///
/// `out`: `[tokens, rows]`, what was in it is lost. `chunk`: rows per call, at least one.
pub(super) fn by_rows(out: &mut [f32], tokens: usize, rows: usize, chunk: usize, each: impl Fn(Out<'_>) + Sync) {
    assert_eq!(Some(out.len()), tokens.checked_mul(rows), "{tokens} tokens of {rows} sums");
    assert!(chunk > 0, "rows per call");
    let shared = Shared { start: out.as_mut_ptr(), tokens, rows };
    let part = |i: usize| each(Out { all: &shared, base: 0, span: i * chunk..rows.min((i + 1) * chunk) });
    match rows.div_ceil(chunk) {
        0 => {}
        1 => part(0),
        parts => (0..parts).into_par_iter().for_each(part),
    }
}

/// Some rows of the result, for all tokens. Made by [`by_rows`] only, each with rows of its own.
pub(super) struct Out<'a> {
    all: &'a Shared,
    /// The result's row that is row 0 here.
    base: usize,
    span: Range<usize>,
}

impl Out<'_> {
    /// The same rows, counted from 0.
    pub(super) fn rebased(self) -> Self {
        Out { all: self.all, base: self.base + self.span.start, span: 0..self.span.len() }
    }

    /// The rows.
    pub(super) fn rows(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Number of tokens.
    pub(super) fn tokens(&self) -> usize {
        self.all.tokens
    }

    /// Checked: a wrong index must not reach another thread's rows.
    #[inline(always)]
    fn at(&self, token: usize, row: usize, n: usize) -> *mut f32 {
        let Range { start, end } = self.span;
        assert!(token < self.all.tokens && row >= start && row <= end && n <= end - row, "{token} {row} {n}");
        // SAFETY: `[token, base + row..base + row + n]` lies within the slice that `by_rows` was given and holds
        // borrowed.
        unsafe { self.all.start.add(token * self.all.rows + self.base + row) }
    }

    /// Stores the sums of rows `row..` with one token: the first `n`, or all if there are fewer.
    #[inline(always)]
    pub(super) fn put<const N: usize>(&mut self, token: usize, row: usize, sums: &[f32; N], n: usize) {
        if n >= N {
            // The usual case, a copy of known size: stores instead of a call.
            let to = self.at(token, row, N).cast::<[f32; N]>();
            // SAFETY: `at` checked that this part, which is borrowed mutably, owns the place. An f32's alignment is
            // an array's.
            unsafe { *to = *sums };
        } else {
            let to = self.at(token, row, n);
            // SAFETY: as above, and `n < N`.
            unsafe { std::ptr::copy_nonoverlapping(sums.as_ptr(), to, n) };
        }
    }

    /// What `put` stored there, the rest zero.
    #[inline(always)]
    pub(super) fn get<const N: usize>(&self, token: usize, row: usize, n: usize) -> [f32; N] {
        if n >= N {
            let from = self.at(token, row, N).cast::<[f32; N]>();
            // SAFETY: `at` checked that this part owns the place.
            return unsafe { *from };
        }
        let mut sums = [0.0; N];
        let from = self.at(token, row, n);
        // SAFETY: as above, and `n < N`.
        unsafe { std::ptr::copy_nonoverlapping(from, sums.as_mut_ptr(), n) };
        sums
    }
}
