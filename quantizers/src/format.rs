//! What a tensor type can do: encode and decode rows, and, where it has blocks, show the grid of one block.
//!
//! [`Format`] is the handle used everywhere (`&'static dyn Format`, looked up in [`crate::formats`]). The types
//! with shared scales also implement [`BlockFormat`], through which a solver chooses codes itself.

use std::slice;

use crate::Spec;
use crate::grid::{Grid, Levels};

/// How the scales of blocks are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scales<'a> {
    /// By one formula, exactly as ggml's reference encoder does without an importance matrix: quick, and the same
    /// bytes as its files have. Only the simple types have it.
    Reference,
    /// Searched for the smallest squared error. Each column's error counts by its importance, E[x_col^2] of the
    /// inputs, one number per column, not negative; without one all columns count alike.
    Search(Option<&'a [f32]>),
}

/// A storage format that this crate can write and read.
pub trait Format: Send + Sync {
    /// Name, ggml id and sizes.
    fn spec(&self) -> &'static Spec;

    /// Rounds `x` to this format.
    ///
    /// `x`: whole blocks, in row order (rows may follow each other: a row is a whole number of blocks). `scales`: how
    /// the scales of blocks are chosen; a format without blocks, or without a search, gives the same for all.
    /// `out`: exactly their bytes. Values must be finite and at most [`Spec::max_abs`]; the caller checks.
    ///
    /// # Panics
    /// If the lengths do not belong together: `x` and `out`, or `x` is not whole rows of as many columns as there are
    /// importances. If [`Scales::Reference`] is asked of a format that [has none](Format::has_reference).
    fn encode(&self, x: &[f32], scales: Scales, out: &mut [u8]);

    /// Whether [`Scales::Reference`] is there.
    fn has_reference(&self) -> bool {
        true
    }

    /// The values that every reader of this format sees, bit for bit those of ggml's decoder.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    fn decode(&self, bytes: &[u8], out: &mut [f32]);

    /// The same format seen block by block, if it has blocks.
    fn as_blocks(&self) -> Option<&dyn BlockFormat> {
        None
    }
}

/// A format whose blocks hold integer codes on a fitted grid: `value(i) = scale[g] * level(code) + offset[g]`.
///
/// Round to nearest is `fit`, [`Grid::nearest`], `pack`. A solver (GPTQ) uses `fit`, its own codes, `pack`.
/// Decoding is `unpack`, [`Grid::value`].
pub trait BlockFormat: Format {
    /// The grid for one block of weights, found by the search of [`Scales::Search`].
    ///
    /// `x`: one block. `importance`: the weight of each squared error, E[x_col^2] of the inputs; ones for none. Only
    /// their ratios matter; if all are zero they count as ones. The grid's scales and offsets are already rounded to
    /// what the block stores.
    fn fit(&self, x: &[f32], importance: &[f32]) -> Grid {
        let mut grid = Grid::single(self.spec().block, 0.0, 0.0, Levels::Linear { min: 0, max: 0 });
        assert_eq!(x.len(), importance.len(), "{}: weights and importance of one block", self.spec().name);
        self.fit_many(x, importance, slice::from_mut(&mut grid));
        grid
    }

    /// The grids of several blocks: what [`BlockFormat::fit`] finds for each, in less time.
    ///
    /// `x`: as many blocks as there are `grids`, one after the other. `importance`: of whole blocks; block `i` of `x` has
    /// that of block `i % n`, if there are `n` (whole rows of their columns, or one strip of columns of many rows).
    fn fit_many(&self, x: &[f32], importance: &[f32], grids: &mut [Grid]);

    /// As [`BlockFormat::fit_many`], for grids whose codes will not be the nearest ones: a format that loses nothing by it
    /// searches less.
    fn draft_many(&self, x: &[f32], importance: &[f32], grids: &mut [Grid]) {
        self.fit_many(x, importance, grids);
    }

    /// `grid` with the scale and offset of group `g` replaced by the nearest that the block can store beside all others: a
    /// super-block's steps stay. What the format does not have (an offset, a sign of the scale) is left out.
    fn with_group(&self, grid: &Grid, g: usize, scale: f32, offset: f32) -> Grid;

    /// Stores a grid and its codes. `codes`: one per weight, within the grid's levels. `block`: one block's bytes.
    fn pack(&self, grid: &Grid, codes: &[i8], block: &mut [u8]);

    /// The grid and the codes of a stored block, exactly as the decoder sees them.
    fn unpack(&self, block: &[u8], codes: &mut [i8]) -> Grid;
}

/// Asserts that `weights` whole blocks of `spec` take `bytes` bytes.
///
/// # Panics
/// With both sides printed, if they do not.
pub fn check_lengths(spec: &Spec, weights: usize, bytes: usize) {
    assert_eq!(
        spec.bytes_for(weights),
        Some(bytes),
        "{}: {weights} weights against {bytes} bytes (blocks of {} weights in {} bytes)",
        spec.name,
        spec.block,
        spec.bytes
    );
}

/// The importances of the columns of `weights` weights in whole rows: those given, else ones for one block.
///
/// # Panics
/// If `weights` are not whole rows of whole blocks.
pub(crate) fn columns_of<'a>(spec: &Spec, weights: usize, importance: Option<&'a [f32]>) -> &'a [f32] {
    const ONES: [f32; 256] = [1.0; 256];
    let columns = importance.unwrap_or(&ONES[..spec.block]);
    let whole = columns.len().is_multiple_of(spec.block) && (weights == 0 || !columns.is_empty());
    assert!(
        whole && weights.is_multiple_of(columns.len().max(1)),
        "{}: {weights} weights against importances of {} columns (blocks of {} weights)",
        spec.name,
        columns.len(),
        spec.block
    );
    columns
}
