//! How a matrix is stored: the tensors it becomes, its rows encoded and decoded, and, where it has blocks, their grids.
//!
//! [`Store`] is the handle used everywhere (`&'static dyn Store`, a row of [`crate::formats`]). The types with shared
//! scales also implement [`BlockFormat`], through which a solver chooses codes itself.

use std::fmt;
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
    /// inputs, one number per column, not negative; without one all columns count the same.
    Search(Option<&'a [f32]>),
}

/// Which [`Scales`] a type with blocks can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoders {
    /// Either.
    Both,
    /// The formula alone, which then also stands in for a search.
    Reference,
    /// The search alone.
    Search,
}

/// How thorough a search for scales is, and how much a [guess](crate::gptq::Guess) looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Care {
    /// For codes that will not be the nearest ones: a type that loses nothing by it searches less. A guess looks at
    /// strips of 128 columns.
    #[default]
    Quick,
    /// The whole search; a guess looks at strips of 256 columns: 2 to 6 % less KL divergence (Q3_K to Q6_K) for about
    /// twice the time.
    Full,
}

/// One tensor that a stored matrix becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// What follows the matrix's name; nothing where the matrix is one tensor.
    pub suffix: &'static str,
    /// How its numbers are stored.
    pub spec: &'static Spec,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Size in bytes, without padding.
    pub bytes: u64,
}

/// A way to store a matrix that this crate can write and read.
pub trait Store: Send + Sync {
    /// Name and sizes.
    fn spec(&self) -> &'static Spec;

    /// The tensors that a matrix of this shape (outermost dimension first; a vector is one row) becomes.
    ///
    /// Every type of [`crate::formats`] is dense: one tensor of the matrix's name and shape.
    ///
    /// # Panics
    /// If the shape is none, or blocks do not divide its rows.
    fn fields(&self, shape: &[usize]) -> Vec<Field> {
        let spec = self.spec();
        let (cols, outer) = shape.split_last().unwrap_or_else(|| panic!("{}: a matrix without dimensions", spec.name));
        let row = spec.bytes_for(*cols);
        let row = row.unwrap_or_else(|| panic!("{}: {cols} columns, blocks of {} weights", spec.name, spec.block));
        let bytes = row as u64 * outer.iter().map(|&n| n as u64).product::<u64>();
        vec![Field { suffix: "", spec, shape: shape.to_vec(), bytes }]
    }

    /// Rounds `x` to this type.
    ///
    /// `x`: whole blocks, in row order (rows may follow each other: a row is a whole number of blocks). `scales`: how
    /// the scales of blocks are chosen; a type without blocks, or without a search, gives the same for all.
    /// `out`: exactly their bytes. Values must be finite and at most [`Spec::max_abs`]; the caller checks.
    ///
    /// # Panics
    /// If the lengths do not belong together: `x` and `out`, or `x` is not whole rows of as many columns as there are
    /// importances. If [`Scales::Reference`] is asked of a type that [has none](BlockFormat::encoders).
    fn encode(&self, x: &[f32], scales: Scales, out: &mut [u8]);

    /// The values that every reader of this type sees, bit for bit those of ggml's decoder.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    fn decode(&self, bytes: &[u8], out: &mut [f32]);

    /// The same type seen block by block, if it has blocks.
    fn blocks(&self) -> Option<&dyn BlockFormat>;
}

impl dyn Store + '_ {
    /// Whether [`Scales::Reference`] can be asked of it: of floats always, since they have no scales.
    pub fn has_reference(&self) -> bool {
        self.blocks().is_none_or(|blocks| blocks.encoders() != Encoders::Search)
    }

    /// Whether a weight of zero is stored as exactly zero: always among floats.
    pub fn has_zero(&self) -> bool {
        self.blocks().is_none_or(|blocks| blocks.has_zero())
    }

    /// Whether [`Scales::Search`] searches, and heeds importances.
    pub fn has_search(&self) -> bool {
        self.blocks().is_some_and(|blocks| blocks.encoders() != Encoders::Reference)
    }
}

/// Two are the same if they have one name.
impl PartialEq for dyn Store + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.spec().name == other.spec().name
    }
}

impl fmt::Debug for dyn Store + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spec().name)
    }
}

/// A type whose blocks hold integer codes on a fitted grid: `value(i) = scale[g] * level(code) + offset[g]`.
///
/// Round to nearest is `fit`, [`Grid::nearest`], `pack`. A solver (GPTQ) uses `fit`, its own codes, `pack`.
/// Decoding is `unpack`, [`Grid::value`].
pub trait BlockFormat: Store {
    /// Which ways of choosing scales there are.
    fn encoders(&self) -> Encoders;

    /// The grids of several blocks of weights, found by the search of [`Scales::Search`].
    ///
    /// `x`: as many blocks as there are `grids`, one after the other. `importance`: the weight of each squared error,
    /// E[x_col^2] of the inputs; ones for none. It is that of whole blocks: block `i` of `x` has that of block `i % n`,
    /// if there are `n` (whole rows of their columns, or one strip of columns of many rows). Only ratios matter; if all
    /// of a block's are zero they count as ones. The grids' scales and offsets are already rounded to what the block
    /// stores.
    fn fit_many(&self, x: &[f32], importance: &[f32], care: Care, grids: &mut [Grid]);

    /// `grid` with the scale and offset of group `g` replaced by the nearest that the block can store beside all
    /// others: a super-block's steps stay. What the format does not have (an offset, a sign of the scale) is left out.
    fn with_group(&self, grid: &Grid, g: usize, scale: f32, offset: f32) -> Grid;

    /// Stores a grid and its codes. `codes`: one per weight, within the grid's levels. `block`: one block's bytes.
    fn pack(&self, grid: &Grid, codes: &[i8], block: &mut [u8]);

    /// The grid and the codes of a stored block, exactly as the decoder sees them.
    fn unpack(&self, block: &[u8], codes: &mut [i8]) -> Grid;
}

impl dyn BlockFormat + '_ {
    /// Whether every grid has a level that is exactly zero: no offset, and the number zero among its levels.
    pub fn has_zero(&self) -> bool {
        let spec = self.spec();
        let (mut bytes, mut codes) = (vec![0; spec.bytes], vec![0; spec.block]);
        // Far from zero, so that an offset is used if there can be one.
        let weights: Vec<f32> = (0..spec.block).map(|i| 1.0 + i as f32 / 1024.0).collect();
        self.encode(&weights, Scales::Search(None), &mut bytes);
        let grid = self.unpack(&bytes, &mut codes);
        let level = match grid.levels {
            Levels::Linear { min, max } => min <= 0 && 0 <= max,
            Levels::Table(table) => table.contains(&0),
        };
        level && grid.offset.iter().all(|offset| *offset == 0.0)
    }

    /// The grid for one block of weights: what [`BlockFormat::fit_many`] finds, with full care.
    ///
    /// # Panics
    /// If `x` and `importance` are not of one block.
    pub fn fit(&self, x: &[f32], importance: &[f32]) -> Grid {
        let mut grid = Grid::single(self.spec().block, 0.0, 0.0, Levels::Linear { min: 0, max: 0 });
        assert_eq!(x.len(), importance.len(), "{}: weights and importance of one block", self.spec().name);
        self.fit_many(x, importance, Care::Full, slice::from_mut(&mut grid));
        grid
    }
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
