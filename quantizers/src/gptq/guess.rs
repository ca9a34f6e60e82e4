//! Which inputs of a linear go together, guessed from its weights: rounding that makes up for its own errors where only
//! the inputs' sizes are known, or nothing.
//!
//! An importance matrix is the diagonal of H = E\[x x^T\]. What it leaves out, weights know something of: every step of
//! gradient descent adds to each row a multiple of an input, so rows grow along inputs that occur, and columns of W are
//! alike where their inputs are. With C the correlations of W's columns (each row scaled to the same length) and S the
//! roots of the importances, the guess is S ((1 - t) I + t C) S, on the diagonal what it was. Rows are then rounded by
//! one GPTQ pass with that, on the grids of the ordinary search.
//!
//! Correlations of n rows are off by 1 / sqrt(n) where nothing goes together, so t is a constant times the share of
//! their mean square that is not this noise, or less where they are larger than inputs' are; weights without order are
//! rounded to nearest.
//!
//! Only columns of one strip of 128 or 256 are looked at together: a fixed price for a weight, however wide the matrix,
//! and a row's strips are independent. On an 8M-parameter model 256 wide, correlations of weights and of inputs
//! correlate at 0.2 to 0.66; `docs/methods.md` has what the codes gain.

use std::ops::Range;

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::Hessian;
use super::factor::panels;
use super::kernels::{self, LANES, Lanes, Panel};
use super::similarity::{correlations, prepare};
use crate::grid::Levels;
use crate::simd::Isa;
use crate::spec::Kind;
use crate::store::{check_lengths, columns_of};
use crate::view::elements;
use crate::{BlockFormat, Care, Grid, Spec, scan};

impl Care {
    /// Columns that are looked at together.
    fn strip(self) -> usize {
        match self {
            Care::Quick => 128,
            Care::Full => 256,
        }
    }
}

/// Types with fewer bits than this are worth it. From eight on, rounding weights does less than rounding inputs to
/// eight bits does, as most runtimes do.
const FINE: f64 = 8.0;

/// Rows that are looked at, at most, in as many runs of 16.
const SAMPLE: usize = 512;
const RUN: usize = 16;

/// The rows of a matrix that a [`Sample`] should have: all, or runs spread evenly.
pub fn sample(rows: usize) -> Vec<Range<usize>> {
    if rows <= SAMPLE {
        return std::iter::once(0..rows).collect();
    }
    let runs = SAMPLE / RUN;
    (0..runs).map(|i| i * (rows - RUN) / (runs - 1)).map(|from| from..from + RUN).collect()
}

/// A guess at a linear's inputs.
#[derive(Debug, Clone)]
pub struct Guess {
    cols: usize,
    care: Care,
    /// One for each strip; `None` where nothing goes together.
    strips: Vec<Option<Hessian>>,
}

/// Some rows of a matrix that is to be guessed about, strip by strip: several threads can share the strips.
#[derive(Debug)]
pub struct Sample {
    w: Array2<f32>,
    importance: Option<Vec<f32>>,
    care: Care,
}

/// What one strip of a [`Sample`] says.
#[derive(Debug, Clone)]
pub struct Strip(Option<Hessian>);

impl Sample {
    /// `w`: `[rows, cols]`. `importance`: E\[x_col^2\], as for [`Scales::Search`](crate::Scales::Search); equal
    /// without. `None` where there is nothing to look at, or weights are not finite.
    ///
    /// # Panics
    /// If there are not as many importances as columns, or rows do not lie [one after the other](crate::view).
    pub fn new(w: Array2<f32>, importance: Option<&[f32]>, care: Care) -> Option<Sample> {
        let cols = w.ncols();
        if let Some(importance) = importance {
            assert_eq!(importance.len(), cols, "importances of the columns");
        }
        let usable = !w.is_empty() && scan(elements(w.view())).first.is_none();
        usable.then(|| Sample { w, importance: importance.map(<[f32]>::to_vec), care })
    }

    /// How many strips there are.
    pub fn strips(&self) -> usize {
        self.w.ncols().div_ceil(self.care.strip())
    }

    /// Looks at strip `i`. Starts no jobs on a thread pool.
    pub fn strip(&self, i: usize) -> Strip {
        let strip = self.care.strip();
        let (rows, cols) = self.w.dim();
        let columns = i * strip..((i + 1) * strip).min(cols);
        let like = correlations(elements(self.w.view()), cols, columns.clone());
        let importance = self.importance.as_ref().map(|all| &all[columns.clone()]);
        Strip(prepare(like, columns.len(), rows, importance))
    }
}

impl Guess {
    /// Whether codes of this type are worth choosing together.
    pub fn helps(spec: &Spec) -> bool {
        spec.kind == Kind::Block && spec.bits_per_weight() < FINE
    }

    /// Guesses from some rows of a matrix, on the current rayon pool. `None` if nothing seems to go together, or the
    /// weights are not finite.
    ///
    /// # Panics
    /// As [`Sample::new`].
    pub fn of(w: Array2<f32>, importance: Option<&[f32]>, care: Care) -> Option<Guess> {
        let sample = Sample::new(w, importance, care)?;
        Guess::from_strips(&sample, (0..sample.strips()).into_par_iter().map(|i| sample.strip(i)).collect())
    }

    /// From all [strips](Sample::strip) of a sample in their order; `None` if nothing seems to go together.
    pub fn from_strips(sample: &Sample, strips: Vec<Strip>) -> Option<Guess> {
        let (cols, care) = (sample.w.ncols(), sample.care);
        assert_eq!(strips.len(), sample.strips(), "strips of a guess for {cols} columns");
        let strips: Vec<_> = strips.into_iter().map(|strip| strip.0).collect();
        strips.iter().any(Option::is_some).then_some(Guess { cols, care, strips })
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rounds rows: grids as [`Care`] says, codes that make up for each other's errors.
    ///
    /// `x`: `[rows, cols]`. `importance`: as for [`Sample::new`]. `out`: exactly their bytes in the format. Rows do not
    /// depend on those beside them; sixteen at a time are quickest.
    ///
    /// # Panics
    /// If the lengths do not belong together, blocks do not divide a strip, or rows do not lie
    /// [one after the other](crate::view).
    pub fn encode(&self, format: &dyn BlockFormat, x: ArrayView2<'_, f32>, importance: Option<&[f32]>, out: &mut [u8]) {
        assert_eq!(x.ncols(), self.cols, "columns of the weights and of those that were looked at");
        let x = elements(x);
        let spec = format.spec();
        check_lengths(spec, x.len(), out.len());
        let importance = columns_of(spec, x.len(), importance);
        let strip = self.care.strip();
        let span = strip.max(spec.block);
        let row_bytes = self.cols / spec.block * spec.bytes;
        let mut rounding = Rounding::new(format, self.cols, strip, span);
        for (x, out) in x.chunks(LANES * self.cols).zip(out.chunks_mut(LANES * row_bytes)) {
            rounding.grids.resize(x.len() / spec.block, rounding.none.clone());
            format.fit_many(x, importance, self.care, &mut rounding.grids);
            for (at, strips) in self.strips.chunks(span / strip).enumerate() {
                let columns = at * span..(at * span + span).min(self.cols);
                assert!(columns.len().is_multiple_of(spec.block), "{}: blocks in columns {columns:?}", spec.name);
                rounding.round(strips, x, columns, out);
            }
        }
    }
}

/// Sixteen rows on their grids, some whole blocks of each at a time.
struct Rounding<'a> {
    format: &'a dyn BlockFormat,
    cols: usize,
    strip: usize,
    none: Grid,
    /// `[rows, blocks]`, of whole rows.
    grids: Vec<Grid>,
    /// `[rows, columns]`
    codes: Vec<i8>,
    /// Per group of each row.
    scale: Vec<Lanes>,
    offset: Vec<Lanes>,
    /// One strip's columns as they stand.
    columns: Vec<Lanes>,
    /// The same in the order of its Hessian.
    w: Vec<Lanes>,
    targets: Vec<Lanes>,
    errors: Vec<Lanes>,
    chosen: Vec<[i8; LANES]>,
    groups: Vec<u32>,
    /// Codes of the columns as they stand.
    sorted: Vec<[i8; LANES]>,
}

impl<'a> Rounding<'a> {
    /// Room for rows of `cols` columns, `span` of them at a time.
    fn new(format: &'a dyn BlockFormat, cols: usize, strip: usize, span: usize) -> Self {
        let zero = [0.0; LANES];
        Rounding {
            format,
            cols,
            strip,
            none: Grid::single(format.spec().block, 0.0, 0.0, Levels::Linear { min: 0, max: 0 }),
            grids: Vec::new(),
            codes: vec![0; LANES * span],
            scale: vec![zero; span],
            offset: vec![zero; span],
            columns: vec![zero; strip],
            w: vec![zero; strip],
            targets: vec![zero; strip],
            errors: vec![zero; strip],
            chosen: vec![[0; LANES]; strip],
            groups: vec![0; strip],
            sorted: vec![[0; LANES]; strip],
        }
    }

    /// Chooses the codes of some columns of all rows and stores the blocks.
    ///
    /// `strips`: of these columns; `x`: at most sixteen rows of weights, `out` their bytes.
    fn round(&mut self, strips: &[Option<Hessian>], x: &[f32], columns: Range<usize>, out: &mut [u8]) {
        let (spec, cols, span) = (self.format.spec(), self.cols, columns.len());
        let row_blocks = cols / spec.block;
        let blocks = columns.start / spec.block..columns.end / spec.block;
        if strips.iter().any(Option::is_none) {
            self.round_to_nearest(x, &columns);
        }
        if strips.iter().any(Option::is_some) {
            self.load(&blocks);
        }
        for (strip, hessian) in strips.iter().enumerate() {
            if let Some(hessian) = hessian {
                let first = strip * self.strip;
                let rows = x.chunks_exact(cols).map(|row| &row[columns.start + first..]);
                self.round_strip(hessian, rows, first, span);
            }
        }
        let rows = out.chunks_exact_mut(row_blocks * spec.bytes).zip(self.grids.chunks_exact(row_blocks));
        for ((row, grids), codes) in rows.zip(self.codes.chunks_exact(span)) {
            let bytes = row[blocks.start * spec.bytes..blocks.end * spec.bytes].chunks_exact_mut(spec.bytes);
            let parts = bytes.zip(&grids[blocks.clone()]).zip(codes.chunks_exact(spec.block));
            parts.for_each(|((block, grid), codes)| self.format.pack(grid, codes, block));
        }
    }

    /// Each weight of some columns on its own.
    fn round_to_nearest(&mut self, x: &[f32], columns: &Range<usize>) {
        let block = self.format.spec().block;
        let first = columns.start / block;
        let rows = x.chunks_exact(self.cols).zip(self.grids.chunks_exact(self.cols / block));
        for ((x, grids), codes) in rows.zip(self.codes.chunks_exact_mut(columns.len())) {
            let blocks = x[columns.clone()].chunks_exact(block).zip(codes.chunks_exact_mut(block));
            blocks.zip(&grids[first..]).for_each(|((x, codes), grid)| grid.nearest_all(x, codes));
        }
    }

    /// Takes scales and offsets of some blocks of all rows.
    fn load(&mut self, blocks: &Range<usize>) {
        let spec = self.format.spec();
        for (r, grids) in self.grids.chunks_exact(self.cols / spec.block).enumerate() {
            let mut at = 0;
            for grid in &grids[blocks.clone()] {
                for g in 0..spec.block / grid.group_len {
                    self.scale[at][r] = grid.scale[g];
                    self.offset[at][r] = grid.offset[g];
                    at += 1;
                }
            }
        }
    }

    /// One pass over the columns of a strip, which begins at column `first`. `rows`: from there on.
    fn round_strip<'b>(&mut self, hessian: &Hessian, rows: impl Iterator<Item = &'b [f32]>, first: usize, span: usize) {
        let (n, isa) = (hessian.channels(), Isa::best());
        let (group_len, levels) = (self.grids[0].group_len, self.grids[0].levels);
        for (r, row) in rows.enumerate() {
            self.columns[..n].iter_mut().zip(row).for_each(|(column, w)| column[r] = *w);
        }
        let places = self.w.iter_mut().zip(&mut self.targets).zip(&mut self.groups);
        for (((w, target), group), c) in places.zip(hessian.order()) {
            // Not one copy of all later: some processors take long to start a call's.
            *w = self.columns[*c as usize];
            *target = *w;
            *group = (first + *c as usize) as u32 >> group_len.trailing_zeros();
        }
        for c in panels(0..n) {
            for k in panels(0..c.start) {
                let m = hessian.factor().from(c.start, k.start);
                kernels::add_panel(isa, &mut self.targets[c.clone()], m, false, &self.errors[k]);
            }
            let mut panel = Panel {
                targets: &mut self.targets[c.clone()],
                w: &self.w[c.clone()],
                groups: &self.groups[c.clone()],
                scale: &self.scale,
                offset: &self.offset,
                levels,
                stays: &[],
                errors: &mut self.errors[c.clone()],
                codes: &mut self.chosen[c.clone()],
            };
            kernels::round_panel(isa, &mut panel, hessian.factor().from(c.start, c.start));
        }
        for (chosen, c) in self.chosen.iter().zip(hessian.order()) {
            self.sorted[*c as usize] = *chosen;
        }
        for (eight, columns) in self.sorted[..n].as_chunks().0.iter().enumerate() {
            for (row, codes) in turn(columns).iter().zip(self.codes.chunks_exact_mut(span)) {
                codes[first..].as_chunks_mut().0[eight] = *row;
            }
        }
    }
}

/// Eight columns of sixteen rows as rows of eight.
#[inline(always)]
fn turn(columns: &[[i8; LANES]; 8]) -> [[i8; 8]; LANES] {
    let mut rows = [[0; 8]; LANES];
    for half in 0..LANES / 8 {
        let mut words = [0u64; 8];
        for (word, column) in words.iter_mut().zip(columns) {
            let codes: [i8; 8] = *column[half * 8..].first_chunk().expect("sixteen rows");
            *word = u64::from_le_bytes(codes.map(i8::cast_unsigned));
        }
        // The squares off the diagonal change places: halves, then quarters, then single bytes.
        for (apart, mask) in [(4, 0xffff_ffff), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff_u64)] {
            for i in (0..8).filter(|i| i & apart == 0) {
                let change = (words[i] >> (8 * apart) ^ words[i + apart]) & mask;
                words[i + apart] ^= change;
                words[i] ^= change << (8 * apart);
            }
        }
        for (row, word) in rows[half * 8..].iter_mut().zip(words) {
            *row = word.to_le_bytes().map(u8::cast_signed);
        }
    }
    rows
}
