//! What calibration keeps of the inputs of one site: per channel the sum of x^2 and of |x| over tokens, and, if asked
//! for, the Gram matrix X^T X, from which GPTQ makes its Hessian 2/N X^T X (Frantar et al. 2022, equation 1).
//!
//! Sums, not means: sums of parts of a text add up to those of the whole ([`SiteStats::merge`]). They are f64; the
//! Gram matrix is f32, made of numbers rounded to a 2047th of their channel's largest of 512 tokens. Order is fixed:
//! the same bits for any number of threads. What adds up a text in an order that does not depend on how it was cut is
//! [`crate::tree`].

use std::ops::Range;

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::NumError;
use crate::linalg::{self, TILE, place, tile_of, tiles_len};
use crate::simd::{Isa, dispatch};
use crate::view::elements;

/// Channels that one thread sums at a time: their sums stay in the nearest cache.
const CHANNELS: usize = 64;
/// Channels whose sums stay in registers: 8 of AVX2's 16.
const LANES: usize = 16;

/// Statistics of one site's inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteStats {
    tokens: u64,
    sum_sq: Vec<f64>,
    sum_abs: Vec<f64>,
    gram: Option<Gram>,
}

impl SiteStats {
    /// Of no tokens yet. `gram`: whether X^T X is kept.
    pub fn new(width: usize, gram: bool) -> Self {
        let gram = gram.then(|| Gram::new(width));
        SiteStats { tokens: 0, sum_sq: vec![0.0; width], sum_abs: vec![0.0; width], gram }
    }

    /// From sums that were stored.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn from_sums(tokens: u64, sum_sq: Vec<f64>, sum_abs: Vec<f64>, gram: Option<Gram>) -> Self {
        assert_eq!(sum_sq.len(), sum_abs.len(), "channels of both sums");
        assert!(gram.as_ref().is_none_or(|g| g.width() == sum_sq.len()), "channels of the Gram matrix");
        SiteStats { tokens, sum_sq, sum_abs, gram }
    }

    /// Adds tokens. `x`: `[tokens, width]`.
    ///
    /// # Errors
    /// If a number is not finite; the sums are useless then.
    ///
    /// # Panics
    /// If `x` has another width, or its rows do not lie [one after the other](crate::view).
    pub fn add(&mut self, x: ArrayView2<'_, f32>) -> Result<(), NumError> {
        let width = self.width();
        assert_eq!(x.ncols(), width, "channels of the tokens and of the statistics");
        let x = elements(x);
        self.tokens += (x.len() / width) as u64;
        let sums = self.sum_sq.par_chunks_mut(CHANNELS).zip(self.sum_abs.par_chunks_mut(CHANNELS)).enumerate();
        let isa = Isa::best();
        sums.for_each(|(i, (sq, abs))| add_sums(isa, &x[i * CHANNELS..], width, sq, abs));
        // In f64 no sum of squares of finite f32 overflows.
        if !self.sum_sq.iter().all(|s| s.is_finite()) {
            return Err(not_finite(x));
        }
        if let Some(gram) = &mut self.gram {
            linalg::add_gram(x, gram.width, &mut gram.tiles);
        }
        Ok(())
    }

    /// Tokens seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Channels.
    pub fn width(&self) -> usize {
        self.sum_sq.len()
    }

    /// Sum of x^2 over tokens, per channel.
    pub fn sum_sq(&self) -> &[f64] {
        &self.sum_sq
    }

    /// Sum of |x| over tokens, per channel.
    pub fn sum_abs(&self) -> &[f64] {
        &self.sum_abs
    }

    /// E[x^2] per channel: what an error of a weight in this column costs. Zeros if no token was seen.
    pub fn mean_sq(&self) -> Vec<f32> {
        self.mean(&self.sum_sq)
    }

    /// E[|x|] per channel. Zeros if no token was seen.
    pub fn mean_abs(&self) -> Vec<f32> {
        self.mean(&self.sum_abs)
    }

    fn mean(&self, sums: &[f64]) -> Vec<f32> {
        let n = self.tokens.max(1) as f64;
        sums.iter().map(|s| (s / n) as f32).collect()
    }

    /// X^T X, if it was asked for.
    pub fn gram(&self) -> Option<&Gram> {
        self.gram.as_ref()
    }

    /// Adds the sums of other tokens of the same site. The Gram matrix stays only if both have one.
    ///
    /// # Panics
    /// If the widths differ.
    pub fn merge(&mut self, other: &SiteStats) {
        assert_eq!(self.width(), other.width(), "channels of the statistics that are merged");
        self.add_sums(other);
        self.gram = match (self.gram.take(), &other.gram) {
            (Some(mut gram), Some(other)) => {
                gram.add(other);
                Some(gram)
            }
            _ => None,
        };
    }

    /// Of both; where only one saw tokens, X^T X is its.
    pub(crate) fn joined(mut self, mut other: SiteStats) -> SiteStats {
        let both = (self.gram.take(), other.gram.take());
        self.add_sums(&other);
        self.gram = match both {
            (Some(mut gram), Some(other)) => {
                gram.add(&other);
                Some(gram)
            }
            (one, other) => one.or(other),
        };
        self
    }

    pub(crate) fn take_gram(&mut self) -> Option<Gram> {
        self.gram.take()
    }

    pub(crate) fn set_gram(&mut self, gram: Gram) {
        self.gram = Some(gram);
    }

    /// All sums but X^T X.
    pub(crate) fn add_sums(&mut self, other: &SiteStats) {
        let add = |to: &mut [f64], from: &[f64]| to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
        self.tokens += other.tokens;
        add(&mut self.sum_sq, &other.sum_sq);
        add(&mut self.sum_abs, &other.sum_abs);
    }

    /// With sums rounded to F32, as files hold them: so it makes no difference whether statistics came from one.
    pub fn as_stored(mut self) -> SiteStats {
        let sums = self.sum_sq.iter_mut().chain(&mut self.sum_abs);
        sums.for_each(|sum| *sum = f64::from(*sum as f32));
        self
    }

    /// The statistics of x / s: what they become when the producer absorbs `s` (AWQ).
    ///
    /// # Panics
    /// If `s` has another length.
    pub fn rescale(&mut self, s: &[f32]) {
        assert_eq!(s.len(), self.width(), "factors of the channels");
        let factors = s.iter().map(|&s| f64::from(s));
        self.sum_sq.iter_mut().zip(factors.clone()).for_each(|(x, s)| *x /= s * s);
        self.sum_abs.iter_mut().zip(factors).for_each(|(x, s)| *x /= s.abs());
        if let Some(gram) = &mut self.gram {
            gram.rescale(s);
        }
    }
}

/// Adds squares and magnitudes of some channels. `x`: rows `width` apart, the first of which begins with these
/// channels.
#[inline(always)]
fn add_sums_of(x: &[f32], width: usize, sq: &mut [f64], abs: &mut [f64]) {
    let mut from = 0;
    while let (Some(sq), Some(abs)) = (sq[from..].first_chunk_mut::<LANES>(), abs[from..].first_chunk_mut::<LANES>()) {
        let (mut squares, mut magnitudes) = ([0.0; LANES], [0.0; LANES]);
        x.chunks(width).for_each(|row| add_row(&row[from..from + LANES], &mut squares, &mut magnitudes));
        sq.iter_mut().zip(squares).for_each(|(to, sum)| *to += sum);
        abs.iter_mut().zip(magnitudes).for_each(|(to, sum)| *to += sum);
        from += LANES;
    }
    if from < sq.len() {
        x.chunks(width).for_each(|row| add_row(&row[from..], &mut sq[from..], &mut abs[from..]));
    }
}

/// Adds squares and magnitudes of one token's channels, as many as there are sums.
#[inline(always)]
fn add_row(x: &[f32], sq: &mut [f64], abs: &mut [f64]) {
    for ((sq, abs), x) in sq.iter_mut().zip(abs).zip(x) {
        let x = f64::from(*x);
        *sq += x * x;
        *abs += x.abs();
    }
}

dispatch!(fn add_sums(x: &[f32], width: usize, sq: &mut [f64], abs: &mut [f64]) = add_sums_of);

fn not_finite(x: &[f32]) -> NumError {
    let count = |f: fn(&f32) -> bool| x.iter().filter(|x| f(x)).count() as u64;
    let first = x.iter().position(|x| !x.is_finite()).unwrap_or(0) as u64;
    NumError::NotFinite { nan: count(|x| x.is_nan()), inf: count(|x| x.is_infinite()), first }
}

/// X^T X, a symmetric matrix: the lower triangle in square tiles.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    width: usize,
    /// See [`linalg::place`]. In tiles on the diagonal only the lower triangle counts.
    pub(crate) tiles: Vec<f32>,
}

impl Gram {
    /// Zeros.
    pub fn new(width: usize) -> Self {
        Gram { width, tiles: vec![0.0; tiles_len(width)] }
    }

    /// From the rows of a lower triangle, one after the other, the diagonal included: `width * (width + 1) / 2`
    /// numbers.
    ///
    /// # Panics
    /// If there are fewer or more.
    pub fn from_lower(width: usize, mut lower: impl Iterator<Item = f32>) -> Self {
        let mut gram = Gram::new(width);
        for i in 0..width {
            for j in 0..=i {
                let at = place(i, j);
                gram.tiles[at] = lower.next().expect("numbers of a lower triangle");
            }
        }
        assert!(lower.next().is_none(), "more numbers than a lower triangle of {width} has");
        gram
    }

    /// Rows and columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes held for a matrix of that width.
    pub fn bytes(width: usize) -> usize {
        tiles_len(width) * size_of::<f32>()
    }

    /// Element (i, j), which is also (j, i).
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        assert!(i < self.width && j < self.width, "element {i}, {j} of {}", self.width);
        f64::from(self.tiles[place(i.max(j), i.min(j))])
    }

    /// The diagonal: the sums of x^2.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.width).map(|i| self.get(i, i)).collect()
    }

    /// Elements 0 to i of row i.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn lower_row(&self, i: usize, out: &mut Vec<f32>) {
        assert!(i < self.width, "row {i} of {}", self.width);
        for from in (0..=i).step_by(TILE) {
            let at = place(i, from);
            out.extend_from_slice(&self.tiles[at..at + (i + 1 - from).min(TILE)]);
        }
    }

    /// The sum of e G e^T over rows e, what errors of weights add up to in squared outputs. `rows`: `[any, width]`.
    /// Products are summed in f32 within a tile, tiles in f64, in a fixed order.
    ///
    /// # Panics
    /// If `rows` has another width, or its rows do not lie one after the other.
    pub fn quadratic(&self, rows: ArrayView2<f32>) -> f64 {
        let width = self.width;
        assert!(width > 0 && rows.ncols() == width, "rows of {}, needed {width}", rows.ncols());
        let rows = rows.to_slice().expect("rows that lie one after the other");
        let isa = Isa::best();
        let tiles = self.tiles.par_chunks(TILE * TILE).enumerate();
        let sums: Vec<f64> = tiles.map(|(at, tile)| tile_sum(isa, tile, tile_of(at, width), rows, width)).collect();
        sums.iter().sum()
    }

    /// The whole matrix times `factor`.
    pub fn to_square(&self, factor: f64) -> Array2<f32> {
        let n = self.width;
        let mut square = vec![0.0; n * n];
        // Tile by tile of the result: a tile above the diagonal is read down its columns, which stay in the nearest
        // cache.
        square.par_chunks_mut(n.max(1) * TILE).enumerate().for_each(|(strip, rows)| {
            for from in (0..n).step_by(TILE) {
                for (i, row) in rows.chunks_exact_mut(n).enumerate() {
                    for (j, x) in row[from..].iter_mut().enumerate().take(TILE) {
                        *x = (self.get(strip * TILE + i, from + j) * factor) as f32;
                    }
                }
            }
        });
        Array2::from_shape_vec((n, n), square).expect("n rows of n")
    }

    fn rescale(&mut self, s: &[f32]) {
        let width = self.width;
        self.tiles.par_chunks_mut(TILE * TILE).enumerate().for_each(|(at, tile)| {
            let (i, j) = tile_of(at, width);
            for (sums, i) in tile.chunks_exact_mut(TILE).zip(i) {
                let factors = j.clone().map(|j| f64::from(s[i]) * f64::from(s[j]));
                sums.iter_mut().zip(factors).for_each(|(x, by)| *x = (f64::from(*x) / by) as f32);
            }
        });
    }

    pub(crate) fn add(&mut self, other: &Gram) {
        self.tiles.par_iter_mut().zip(&other.tiles).for_each(|(a, b)| *a += b);
    }
}

/// What one tile has of the sum of e G e^T. Off the diagonal its mirror image has as much.
#[inline(always)]
fn tile_sum_of(tile: &[f32], (i, j): (Range<usize>, Range<usize>), rows: &[f32], width: usize) -> f64 {
    let mut sum = 0.0;
    for row in rows.chunks_exact(width) {
        let (left, right) = (&row[i.clone()], &row[j.clone()]);
        let mut products = [0.0_f32; TILE];
        let (mut diagonal, triangle) = (0.0, i == j);
        for (a, (e, tile)) in left.iter().zip(tile.chunks_exact(TILE)).enumerate() {
            let below = if triangle { a } else { right.len() };
            products[..below].iter_mut().zip(&tile[..below]).for_each(|(p, g)| *p += e * g);
            if triangle {
                diagonal += f64::from(e * e) * f64::from(tile[a]);
            }
        }
        let mut lanes = [0.0_f32; LANES];
        for (products, right) in products.chunks_exact(LANES).zip(right.chunks(LANES)) {
            lanes.iter_mut().zip(products.iter().zip(right)).for_each(|(lane, (p, e))| *lane += p * e);
        }
        sum += diagonal + 2.0 * lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
    }
    sum
}

dispatch!(
    fn tile_sum(tile: &[f32], place: (Range<usize>, Range<usize>), rows: &[f32], width: usize) -> f64 = tile_sum_of
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::tests::numbers;
    use crate::matrix;

    /// The definitions, in f64.
    fn plainly(x: &[f32], width: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let (mut sq, mut abs, mut gram) = (vec![0.0; width], vec![0.0; width], vec![0.0; width * width]);
        for row in x.chunks_exact(width) {
            for (i, &a) in row.iter().enumerate() {
                sq[i] += f64::from(a) * f64::from(a);
                abs[i] += f64::from(a).abs();
                for (j, &b) in row.iter().enumerate() {
                    gram[i * width + j] += f64::from(a) * f64::from(b);
                }
            }
        }
        (sq, abs, gram)
    }

    /// What sums over `tokens` products of magnitude at most one are off by where each factor is rounded to a 2047th:
    /// as many steps as a walk in either direction takes one far, twice.
    fn bound(tokens: usize) -> f64 {
        2.0 * (tokens as f64).sqrt() / 2047.0
    }

    #[test]
    fn sums_are_those_of_the_definitions() {
        for (tokens, width) in [(1, 1), (5, 3), (40, 96), (33, 97), (17, 600)] {
            let x = numbers(tokens * width, 7);
            let mut stats = SiteStats::new(width, true);
            // In two calls, as batches come.
            let half = tokens / 2 * width;
            stats.add(matrix(&x[..half], width)).unwrap();
            stats.add(matrix(&x[half..], width)).unwrap();
            let (sq, abs, gram) = plainly(&x, width);
            assert_eq!((stats.tokens(), stats.sum_sq(), stats.sum_abs()), (tokens as u64, &sq[..], &abs[..]));
            let found = stats.gram().unwrap();
            let square = found.to_square(1.0);
            let mut lower = Vec::new();
            for i in 0..width {
                found.lower_row(i, &mut lower);
                for j in 0..width {
                    let apart = (found.get(i, j) - gram[i * width + j]).abs();
                    assert!(apart <= bound(tokens), "{tokens} x {width} at {i} {j}: {apart:e}");
                    assert_eq!(square[[i, j]], found.get(i, j) as f32);
                }
            }
            let back = Gram::from_lower(width, lower.iter().copied());
            assert_eq!(back.to_square(1.0), square, "width {width}");
        }
    }

    #[test]
    fn no_number_of_threads_changes_a_bit() {
        let x = numbers(70 * 700, 3);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut stats = SiteStats::new(700, true);
            pool.install(|| stats.add(matrix(&x, 700))).unwrap();
            stats
        };
        let one = run(1);
        assert!([2, 5].map(run).iter().all(|other| *other == one));
    }

    #[test]
    fn merging_parts_is_the_whole() {
        let x = numbers(64 * 300, 11);
        let of = |x: &[f32]| {
            let mut stats = SiteStats::new(300, true);
            stats.add(matrix(x, 300)).unwrap();
            stats
        };
        let (whole, mut merged) = (of(&x), of(&x[..20 * 300]));
        merged.merge(&of(&x[20 * 300..]));
        assert_eq!(whole.tokens(), merged.tokens());
        for (a, b) in whole.sum_sq().iter().zip(merged.sum_sq()) {
            assert!((a - b).abs() <= 64.0 * f64::EPSILON * a.abs(), "{a} {b}");
        }
        for i in 0..300 {
            let apart = (whole.gram().unwrap().get(i, 7) - merged.gram().unwrap().get(i, 7)).abs();
            assert!(apart <= bound(64), "{apart:e}");
        }
        merged.merge(&SiteStats::new(300, false));
        assert!(merged.gram().is_none(), "half a Gram matrix is none");
    }

    #[test]
    fn errors_of_rows_cost_what_the_definition_says() {
        for width in [1, 5, 96, 97, 300] {
            let (x, e) = (numbers(40 * width, 7), numbers(3 * width, 9));
            let mut stats = SiteStats::new(width, true);
            stats.add(matrix(&x, width)).unwrap();
            let gram = stats.gram().unwrap();
            let (mut want, mut size) = (0.0, 0.0);
            for row in e.chunks_exact(width) {
                for (i, a) in row.iter().enumerate() {
                    for (j, b) in row.iter().enumerate() {
                        let term = f64::from(*a) * f64::from(*b) * gram.get(i, j);
                        (want, size) = (want + term, size + term.abs());
                    }
                }
            }
            // At most as many roundings as a tile has terms in a row and in a column.
            let apart = (gram.quadratic(matrix(&e, width)) - want).abs();
            assert!(
                apart <= size * 2.0 * TILE as f64 * f64::from(f32::EPSILON),
                "width {width}: {apart:e} of {size:e}"
            );
        }
    }

    #[test]
    fn rescaling_is_what_the_statistics_of_the_quotient_are() {
        let (tokens, width) = (20, 270);
        let x = numbers(tokens * width, 5);
        // Powers of two divide exactly.
        let s: Vec<f32> = (0..width).map(|i| [0.25, 1.0, 8.0][i % 3]).collect();
        let divided: Vec<f32> = x.iter().enumerate().map(|(i, x)| x / s[i % width]).collect();
        let (mut rescaled, mut directly) = (SiteStats::new(width, true), SiteStats::new(width, true));
        rescaled.add(matrix(&x, width)).unwrap();
        rescaled.rescale(&s);
        directly.add(matrix(&divided, width)).unwrap();
        assert_eq!(rescaled, directly);
    }

    #[test]
    fn a_number_that_is_not_finite_is_an_error_with_its_place() {
        let mut x = vec![1.0_f32; 12];
        x[5] = f32::INFINITY;
        x[7] = f32::NAN;
        let error = SiteStats::new(4, false).add(matrix(&x, 4)).unwrap_err();
        assert_eq!(error, NumError::NotFinite { nan: 1, inf: 1, first: 5 });
        let mut huge = SiteStats::new(1, false);
        huge.add(matrix(&[f32::MAX; 9], 1)).unwrap();
        assert!(huge.sum_sq()[0].is_finite());
    }
}
