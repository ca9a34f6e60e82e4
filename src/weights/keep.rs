//! Carrying a quantiser's integers over into GGUF's blocks, without rounding weights a second time.
//!
//! A block of 32 weights `scale * (level - zero)` is exactly a block `d * q` where `level - zero` is within the type's
//! codes, and a block `d * q + m` with `m = -scale * zero` where only the width of the levels fits, or `m = bias` where
//! the checkpoint has that instead of zeros. What is rounded is `m`, and a scale that half precision does not hold.

use std::ops::Range;

use aurora_quantizers::grid::Levels;
use aurora_quantizers::spec::Kind;
use aurora_quantizers::{BlockFormat, Store, formats, matrix_mut};
use ndarray::ArrayViewMut2;

use super::Weights;
use super::bind::Numbers;
use super::read::Piece;
use super::step::Places;
use crate::checkpoint::quantized::{RowGrid, Survey};
use crate::checkpoint::{Packed, TensorSource};
use crate::model::ParamId;

/// Types whose blocks can take over integers, from the fewest bits to the most.
const BLOCKS: [&str; 5] = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"];

/// Weights to a block of each of them.
pub(super) const BLOCK: usize = 32;

/// The most that rounding to BF16 changes a number by, as a share of it.
const BF16_ERROR: f64 = 1.0 / 512.0;

/// One packed tensor of a matrix.
#[derive(Clone, Copy)]
pub(super) struct Surveyed<'a> {
    pub(super) packed: &'a Packed,
    pub(super) survey: Survey,
    /// Whether every block's columns, where they are now, are of one group (if groups and blocks divide each other).
    pub(super) runs: bool,
}

/// The type in which a parameter keeps what the checkpoint has.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// What would hold it: the smallest type of enough levels; of floats, their own.
    pub wanted: &'static dyn Store,
    /// What does hold it.
    pub store: &'static dyn Store,
    /// Why integers cannot be carried over, if they cannot.
    pub reason: Option<String>,
    /// Whether codes become codes (else the numbers are stored as floats).
    pub integers: bool,
}

impl<'a> Weights<'a> {
    /// In which type a matrix keeps its numbers: the integers of a packed one, else the floats as they are stored.
    /// Integers go where rows and columns go, but no other edit leaves them what they were: then the type is one of
    /// floats, and the reason says so.
    ///
    /// Reads the scales and zeros of a packed matrix.
    pub fn kept(&self, id: ParamId) -> Kept {
        let (surveyed, whole) = self.surveyed(id);
        if whole {
            return choose(&surveyed, self.changes(id).as_deref(), self.edits.left(id));
        }
        let mut stores = self.bound[id.0].runs.iter().map(|run| match run.numbers {
            Numbers::Stored(store) if store.spec().kind == Kind::Float => store,
            Numbers::Sparse(sparse) if sparse.store.spec().kind == Kind::Float => sparse.store,
            _ => &formats::F16,
        });
        let first = stores.next().unwrap_or(&formats::F32);
        let store = match stores.all(|store| store == first) {
            // What checkpoints alone have (64 bits) GGUF's readers do not multiply with.
            true if first.spec().name == "f64" => &formats::F32,
            true => first,
            false => &formats::F16,
        };
        Kept { wanted: store, store, reason: None, integers: false }
    }

    /// The packed tensors behind a parameter, and whether they are all of it. Reads their scales and zeros.
    pub(super) fn surveyed(&self, id: ParamId) -> (Vec<Surveyed<'a>>, bool) {
        let (all, each) = (&self.bound[id.0].runs, self.rows_of_each(id));
        let (mut surveyed, mut row) = (Vec::new(), 0);
        for run in all {
            if let Numbers::Packed(packed) = run.numbers {
                let runs = match &self.edited[id.0] {
                    None => packed.order.is_none(),
                    Some(edited) => edited.made_of(row / each).all(|made| runs(packed, made.columns().as_deref())),
                };
                surveyed.push(Surveyed { packed, survey: packed.survey(self.source), runs });
            }
            row += run.rows;
        }
        let whole = !surveyed.is_empty() && surveyed.len() == all.len();
        (surveyed, whole)
    }

    /// Whether the checkpoint has a parameter as blocks of this very type, and nothing was done to it: then its bytes
    /// can be copied.
    pub fn stored_as(&self, id: ParamId, store: &dyn Store) -> bool {
        let own = |store: &&dyn Store| store.spec().kind == Kind::Block && self.order(id).is_none();
        Some(store).filter(own).is_some_and(|store| self.store(id).is_some_and(|found| *found == *store))
    }

    /// Writes canonical rows of a packed matrix as blocks of a type that [`kept`](Weights::kept) found, or copies those
    /// that are [stored so](Weights::stored_as). `values`: receives the weights of these rows, `[rows.len(), cols]`, as
    /// [`rows`](Weights::rows) reads them. `out`: exactly their bytes in `store`.
    ///
    /// # Panics
    /// As [`rows`](Weights::rows); or if the parameter has no integers, its weights were [changed](Weights::changes),
    /// or `out` has another length.
    pub fn carry(
        &self,
        id: ParamId,
        rows: Range<usize>,
        store: &dyn Store,
        values: ArrayViewMut2<'_, f32>,
        out: &mut [u8],
    ) {
        let param = self.graph.param(id);
        let cols = param.cols();
        assert_eq!(self.changes(id), None, "{}: what was done to its integers", param.name);
        self.rows(id, rows.clone(), values);
        if self.stored_as(id, store) {
            return self.copy(id, rows, out);
        }
        let format = store.blocks().expect("a type of BLOCKS");
        let row_bytes = store.spec().bytes_for(cols).expect("rows of whole blocks");
        let mut rest = out;
        let mut write = |places: Places, columns: Option<&[u32]>| {
            for piece in self.gather(id, places.list().into_iter()) {
                let (now, later) = std::mem::take(&mut rest).split_at_mut(piece.rows.len() * row_bytes);
                blocks(self.source, &piece, columns, format, now);
                rest = later;
            }
        };
        match &self.edited[id.0] {
            None => write(Places::Run(rows), None),
            Some(edited) => {
                edited.split(rows).for_each(|(made, rows)| write(edited.sources(made, rows), made.columns().as_deref()))
            }
        }
        assert!(rest.is_empty(), "{}: bytes of rows", param.name);
    }
}

impl Weights<'_> {
    /// The bytes of rows that have one [store](Weights::store), in the order in which they are stored.
    pub(crate) fn copy(&self, id: ParamId, rows: Range<usize>, out: &mut [u8]) {
        let spec = self.store(id).expect("stored in order").spec();
        let row_bytes = spec.bytes_for(self.graph.param(id).cols()).expect("rows of whole blocks");
        let mut rest = out;
        self.bound[id.0].for_each(rows, |run, first, n| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(n * row_bytes);
            match run.numbers {
                Numbers::Sparse(sparse) => sparse.read(self.source, first..first + n, now),
                _ => {
                    let range = first * row_bytes..(first + n) * row_bytes;
                    now.copy_from_slice(self.source.bytes(run.tensor, range));
                }
            }
            rest = later;
        });
        assert!(rest.is_empty(), "{}: bytes of rows", self.graph.param(id).name);
    }
}

/// Whether every block of a matrix's columns, which come from `columns`, is of one group.
fn runs(packed: &Packed, columns: Option<&[u32]>) -> bool {
    let of_one =
        |block: &[u32]| block.iter().all(|&c| packed.group_of(c as usize) == packed.group_of(block[0] as usize));
    columns.map_or(packed.order.is_none(), |columns| columns.chunks(BLOCK).all(of_one))
}

fn named(name: &str) -> &'static dyn Store {
    formats::by_name(name).expect("a row of FORMATS")
}

/// Whether a format has offsets, and its lowest and highest codes.
fn grid(format: &dyn BlockFormat) -> (bool, (i32, i32)) {
    let spec = format.spec();
    let (mut codes, bytes) = (vec![0; spec.block], vec![0; spec.bytes]);
    let grid = format.unpack(&bytes, &mut codes);
    let Levels::Linear { min, max } = grid.levels else { unreachable!("{} has integers", spec.name) };
    // A format without offsets has a negative zero there.
    (grid.offset[0].is_sign_positive(), (i32::from(min), i32::from(max)))
}

/// The smallest type that holds the integers of all packed tensors of a matrix. `changes`: what was done to its
/// weights; `stuck`: why columns cannot be put in order.
pub(super) fn choose(surveyed: &[Surveyed<'_>], changes: Option<&str>, stuck: Option<&str>) -> Kept {
    let holds = |store: &&'static dyn Store| {
        let (offset, codes) = grid(store.blocks().expect("a type of blocks"));
        surveyed.iter().all(|Surveyed { packed, survey, .. }| {
            let (low, high) = (i32::from(survey.lowest), i32::from(survey.highest));
            let (from, to) = survey.span();
            packed.linear()
                && match offset {
                    false if packed.biases.is_some() => false,
                    true => high - low <= codes.1 - codes.0,
                    false => codes.0 <= from && to <= codes.1,
                }
        })
    };
    let wanted = BLOCKS.iter().map(|name| named(name)).find(holds);
    let obstacle = |Surveyed { packed, survey, runs }: &Surveyed<'_>| {
        let (from, to) = survey.span();
        let Some(wanted) = wanted.map(Store::spec) else {
            return packed.linear().then(|| format!("no type holds integers from {from} to {to}"));
        };
        if !runs {
            let how = if packed.order.is_some() { "act order" } else { "columns permuted" };
            let why = stuck.map_or(String::new(), |why| format!("; they cannot be made so: {why}"));
            return Some(format!("{how}: its groups are not runs of adjacent columns, as {} needs{why}", wanted.name));
        }
        let needs = |what: String| format!("{what}, {} needs a multiple of {}", wanted.name, wanted.block);
        if !packed.cols.is_multiple_of(wanted.block) {
            return Some(needs(format!("{} columns", packed.cols)));
        }
        if survey.scale_error > BF16_ERROR {
            let (most, lost) = (survey.scale_max, 100.0 * survey.scale_error);
            return Some(format!(
                "scales of at most {most:.1e}: half precision, in which {} has them, is {lost:.1} % off",
                wanted.name
            ));
        }
        let groups = packed.groups;
        let whole = groups.across == 1 || groups.cols.is_multiple_of(wanted.block);
        (!whole).then(|| needs(format!("groups of {}", groups.cols)))
    };
    let gone = changes.map(|what| format!("its weights are {what}, so they are no longer the checkpoint's integers"));
    let reason = gone.or_else(|| surveyed.iter().find_map(obstacle));
    match (wanted, reason) {
        (Some(store), None) => Kept { wanted: store, store, reason: None, integers: true },
        (wanted, reason) => {
            let fit = surveyed.iter().all(|s| s.packed.fits_half(&s.survey));
            let store: &dyn Store = if fit { &formats::F16 } else { &formats::BF16 };
            // Floats are all that can be wanted of what has no integers.
            let wanted = if reason.is_some() { wanted.unwrap_or(named("q8_0")) } else { store };
            Kept { wanted, store, reason, integers: false }
        }
    }
}

/// Rows of a packed matrix as blocks. `from`: which column each is, if they changed places.
fn blocks(
    source: &dyn TensorSource,
    piece: &Piece<'_, '_>,
    from: Option<&[u32]>,
    format: &dyn BlockFormat,
    out: &mut [u8],
) {
    let Piece { packed, rows, .. } = piece;
    let spec = format.spec();
    let (n, cols) = (spec.block, packed.cols);
    let (offset, (low, _)) = grid(format);
    let mut levels = vec![0; rows.len() * cols];
    packed.levels(source, rows, matrix_mut(&mut levels, cols));
    let (mut lines, mut codes) = (RowGrid::default(), vec![0; n]);
    let empty = format.unpack(&vec![0; spec.bytes], &mut codes);
    let lowest = i32::from(packed.lowest());
    for ((&row, levels), out) in
        rows.iter().zip(levels.chunks_exact(cols)).zip(out.chunks_exact_mut(cols / n * spec.bytes))
    {
        packed.grid(source, row, &mut lines);
        for (i, out) in out.chunks_exact_mut(spec.bytes).enumerate() {
            let column = |i: usize| from.map_or(i, |from| from[i] as usize);
            let g = packed.group_of(column(i * n));
            let (scale, zero) = (lines.scales[g], i32::from(lines.zeros[g]));
            // Codes of a type with offsets begin at its lowest.
            let shift = if offset { low - lowest } else { -zero };
            for (j, code) in codes.iter_mut().enumerate() {
                *code = (i32::from(levels[column(i * n + j)]) + shift) as i8;
            }
            let mut fitted = format.with_group(&empty, 0, scale, 0.0);
            if offset {
                let d = fitted.scale[0];
                // Where the scale itself was rounded, the middle of the block is kept.
                let (min, max) = codes.iter().fold((i8::MAX, i8::MIN), |(a, b), c| (a.min(*c), b.max(*c)));
                let middle = (f32::from(min) + f32::from(max)) / 2.0;
                let bias = lines.biases.get(g).copied().unwrap_or(0.0);
                let m = bias + scale * (-zero - shift) as f32 + (scale - d) * middle;
                fitted = format.with_group(&empty, 0, scale, m);
            }
            format.pack(&fitted, &codes, out);
        }
    }
}
