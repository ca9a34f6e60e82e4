//! What a checkpoint's tensors are, and where they come from; and how a matrix that a quantiser stored as codes is made
//! of several of them, since a tensor may be such a matrix and such a matrix is made of tensors.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aurora_quantizers::sparse::SparseLayout;
use aurora_quantizers::spec::Kind;
use aurora_quantizers::{Spec, Store, formats};

use super::config::Config;
use crate::Result;

/// One tensor of a source.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Name as the file spells it.
    pub name: String,
    /// Dimensions, outermost first (`[out, in]`, `[expert, out, in]`), whatever order the file stores them in.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub spec: &'static Spec,
    /// Index into [`TensorSource::files`].
    pub file: usize,
    /// Its bytes within that file; checked against the file's length and against `shape` and `spec`.
    pub range: Range<usize>,
    /// For a matrix that a quantiser stored as codes in several tensors: how to read it. `shape` is then that of the
    /// matrix, `file` and `range` those of its codes.
    pub packed: Option<Arc<Packed>>,
    /// For a matrix whose zeros are left out: how to read it. `shape` and `spec` are then those of the dense matrix,
    /// `file` and `range` those of what is stored of its values.
    pub(crate) sparse: Option<Arc<SparseMatrix>>,
}

/// Where tensors come from. Bytes are mapped, not read: nothing is in memory until it is touched.
pub trait TensorSource: Send + Sync {
    /// The directory or file that the user named.
    fn path(&self) -> &Path;

    /// config.json, or the GGUF header.
    fn config(&self) -> &Config;

    /// Files that hold tensors.
    fn files(&self) -> &[PathBuf];

    /// All tensors, sorted by name.
    fn tensors(&self) -> &[TensorInfo];

    /// Tensors that an index lists and no file has, and the files that it names for them.
    fn promised(&self) -> &BTreeMap<String, String>;

    /// Tensors of the files that are not in the list, because no weight is computed from them: scales of a cache of
    /// keys and values.
    fn idle(&self) -> &[String];

    /// `range` of the bytes of `tensor` (relative to the tensor's start). Zero copy.
    ///
    /// # Panics
    /// If the range reaches past the tensor.
    fn bytes(&self, tensor: &TensorInfo, range: Range<usize>) -> &[u8];

    /// Tells the system that these bytes will not be read again soon, so that resident memory stays bounded.
    fn release(&self, tensor: &TensorInfo, range: Range<usize>);
}

impl TensorInfo {
    /// How many numbers it has; `None` if that overflows.
    pub fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))
    }

    /// Bytes that `shape` and `spec` call for; `None` if blocks do not divide a row or it overflows.
    pub fn expected_bytes(&self) -> Option<usize> {
        let row = self.shape.last().copied().unwrap_or(1);
        let rows = self.shape.iter().rev().skip(1).try_fold(1usize, |n, &dim| n.checked_mul(dim))?;
        self.spec.bytes_for(row)?.checked_mul(rows)
    }

    /// Bytes of it and of all that belongs to it.
    pub fn stored_bytes(&self) -> usize {
        let packed = self.packed.as_ref().map(|packed| packed.bytes());
        packed.or(self.sparse.as_ref().map(|sparse| sparse.bytes())).unwrap_or(self.range.len())
    }
}

impl dyn TensorSource + '_ {
    /// The tensor with this name.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        let tensors = self.tensors();
        tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok().map(|i| &tensors[i])
    }

    /// Whether two tensors of floats hold the same numbers in the same shape, in whatever types.
    pub fn same_numbers(&self, a: &TensorInfo, b: &TensorInfo) -> bool {
        if a.shape != b.shape || a.packed.is_some() || b.packed.is_some() {
            return false;
        }
        if a.sparse.is_some() || b.sparse.is_some() {
            return self.same_rows(a, b);
        }
        let (Some(cols), Some(stored)) = (a.shape.last().copied(), of_floats(a).zip(of_floats(b))) else {
            return false;
        };
        let (mut left, mut right) = (vec![0.0; cols], vec![0.0; cols]);
        (0..a.elements().unwrap_or(0) / cols.max(1)).all(|row| {
            let range = |t: &TensorInfo| row * cols * t.spec.bytes..(row + 1) * cols * t.spec.bytes;
            let (x, y) = (self.bytes(a, range(a)), self.bytes(b, range(b)));
            let same = (a.spec.name == b.spec.name && x == y) || {
                stored.0.decode(x, &mut left);
                stored.1.decode(y, &mut right);
                left == right
            };
            self.release(a, range(a));
            self.release(b, range(b));
            same
        })
    }

    /// The same where zeros may be left out of either.
    fn same_rows(&self, a: &TensorInfo, b: &TensorInfo) -> bool {
        let (Some(cols), Some(stores)) = (a.shape.last().copied(), of_floats(a).zip(of_floats(b))) else {
            return false;
        };
        let decoded = |t: &TensorInfo, store: &dyn Store, row: usize| {
            let mut values = vec![0.0; cols];
            store.decode(&self.dense_row(t, row, cols), &mut values);
            values
        };
        let rows = a.elements().unwrap_or(0) / cols.max(1);
        (0..rows).all(|row| decoded(a, stores.0, row) == decoded(b, stores.1, row))
    }

    /// The bytes that a row has when dense.
    fn dense_row(&self, t: &TensorInfo, row: usize, cols: usize) -> Vec<u8> {
        let bytes = t.spec.bytes_for(cols).unwrap_or(0);
        match &t.sparse {
            None => self.bytes(t, row * bytes..(row + 1) * bytes).to_vec(),
            Some(sparse) => {
                let mut dense = vec![0; bytes];
                sparse.read(self, row..row + 1, &mut dense);
                dense
            }
        }
    }

    /// The file that holds `tensor`.
    pub fn file_of(&self, tensor: &TensorInfo) -> &Path {
        &self.files()[tensor.file]
    }
}

/// How a tensor of floats is read; `None` if it holds something else.
fn of_floats(tensor: &TensorInfo) -> Option<&'static dyn Store> {
    (tensor.spec.kind == Kind::Float).then(|| formats::by_name(tensor.spec.name)).flatten()
}

/// How one kind of source is recognised and opened.
pub struct SourceKind {
    /// What users call it ("safetensors directory", "GGUF file").
    pub name: &'static str,
    /// Whether `path` looks like one; must not read more than a few bytes.
    pub matches: fn(&Path) -> bool,
    /// Opens it, checking everything that can be checked without reading tensor data.
    pub open: fn(&Path) -> Result<Box<dyn TensorSource>>,
}

/// Whether `path` ends in `.extension`, in any case.
pub(super) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// One weight matrix, `[rows, cols]` = `[out, in]`.
#[derive(Debug)]
pub struct Packed {
    /// The method that wrote it, as users call it.
    pub method: &'static str,
    /// Bits of a code.
    pub bits: u32,
    /// Rows: outputs.
    pub rows: usize,
    /// Columns: inputs.
    pub cols: usize,
    /// The codes.
    pub codes: Ints,
    /// Whether codes are stored `[in, out]`.
    pub transposed: bool,
    /// What codes stand for, if not themselves: a number for each.
    pub table: Option<Arc<[f32]>>,
    /// The factors.
    pub scales: StoredScales,
    /// Subtracted from the codes.
    pub zeros: Zeros,
    /// Added to what codes, zeros and scales make, one number for every group: MLX has these instead of zeros.
    pub biases: Option<TensorInfo>,
    /// Which weights share a scale and a zero.
    pub groups: Groups,
    /// The group of every column, where groups are not runs of columns (act order).
    pub order: Option<Vec<u32>>,
    /// All tensors that it is made of.
    pub parts: Vec<TensorInfo>,
}

/// Floating-point numbers of a tensor, in the order of the file.
#[derive(Debug)]
pub enum StoredScales {
    /// As they are.
    Stored(TensorInfo),
    /// Times a constant.
    Times(TensorInfo, f32),
    /// Codes themselves: `table[code] * outer[i / block] + offset`.
    Nested {
        /// One byte for each scale.
        codes: TensorInfo,
        /// What a byte stands for.
        table: Arc<[f32]>,
        /// Factors of runs of scales.
        outer: TensorInfo,
        /// Scales that share a factor.
        block: usize,
        /// Added to all.
        offset: f32,
    },
}

/// What is subtracted from codes.
#[derive(Debug)]
pub enum Zeros {
    /// The same everywhere.
    All(i16),
    /// One for every group.
    Stored(Ints),
}

/// Groups are rectangles, numbered row by row or column by column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Rows of a group.
    pub rows: usize,
    /// Columns of a group.
    pub cols: usize,
    /// Groups below each other.
    pub down: usize,
    /// Groups beside each other.
    pub across: usize,
    /// Whether scales are stored `[across, down]`.
    pub transposed: bool,
}

/// How the integers lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntLayout {
    /// One to a byte, row after row.
    Bytes {
        /// Two's complement.
        signed: bool,
    },
    /// Two to a byte, row after row, the first in the high half (bitsandbytes).
    HighFirst,
    /// In little-endian words of 32 bits, the first in the lowest bits.
    Words {
        /// A word holds neighbours of one column; else of one row.
        down: bool,
        /// Fields run on from one word into the next; else a word holds as many whole fields as fit.
        dense: bool,
    },
    /// Eight of four bits to a word along a row, in the order that AWQ's kernels unpack them.
    Interleaved,
}

/// A matrix of integers of up to eight bits.
#[derive(Debug, Clone)]
pub struct Ints {
    /// Where it is stored.
    pub tensor: TensorInfo,
    /// Rows, of the unpacked matrix.
    pub rows: usize,
    /// Columns, of the unpacked matrix.
    pub cols: usize,
    /// Bits of a field.
    pub bits: u32,
    /// How fields lie in the file.
    pub layout: IntLayout,
    /// Subtracted from every field.
    pub bias: i16,
    /// Whether the file holds each number less one (GPTQ's first format). Where words hold whole fields it was
    /// subtracted from whole words, so that a zero borrowed from the next field; adding to whole words gives it back.
    pub less_one: bool,
}

/// A matrix whose zeros a file leaves out, `[rows, cols]` over all outer dimensions. Its parts were checked when the
/// file was opened.
#[derive(Debug)]
pub(crate) struct SparseMatrix {
    /// What users call the layout: "bitmask".
    pub name: &'static str,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// How its rows are stored when dense.
    pub store: &'static dyn Store,
    /// Where its values belong.
    pub places: SparsePlaces,
    /// The values, row after row.
    pub values: TensorInfo,
    /// All tensors that it is made of.
    pub parts: Vec<TensorInfo>,
}

/// Which weights of a matrix are stored.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each matrix")]
pub(crate) enum SparsePlaces {
    /// A mask says so.
    Mask {
        /// How masks and values are read.
        layout: SparseLayout,
        /// The masks.
        mask: TensorInfo,
        /// What is stored before each row.
        index: SparseIndex,
        /// The scales of codes.
        scales: Option<TensorInfo>,
    },
    /// Each value has a column: CSR.
    Columns {
        /// How many values are stored before each row, and in all.
        before: Vec<usize>,
        /// The column of each value, of 4 or 8 bytes.
        columns: TensorInfo,
    },
}

/// How many values of a matrix with masks are stored before each row: `[rows + 1]` of i64.
#[derive(Debug)]
pub(crate) enum SparseIndex {
    /// As many for all rows.
    Fixed,
    /// In the file.
    Stored(TensorInfo),
    /// Made from what the file has in its place.
    Made(Vec<u8>),
}
