//! A method: how a checkpoint's codes, scales and zeros make up a matrix.

use std::sync::Arc;

use super::super::mapped::Mapped;
use super::super::source::{Groups, IntLayout, Ints, Packed, TensorInfo, TensorSource};
use super::stated::Stated;
use crate::error::{Fault, Misfit, printable};
use crate::{Error, Result};

/// One method's layout.
pub struct MethodRow {
    /// `quant_method`, and what users call it.
    pub name: &'static str,
    /// Understands what a checkpoint states.
    pub(super) open: fn(&Stated) -> Result<Box<dyn Reader>>,
}

/// Puts together matrices of one checkpoint.
pub(super) trait Reader {
    /// The matrix's name without `.weight`, if this is its tensor of codes.
    fn stem<'t>(&self, tensor: &'t TensorInfo) -> Option<&'t str>;

    /// How a user could find such a tensor: the names "end in .qweight".
    fn looks_for(&self) -> &'static str;

    /// Ends of the names of tensors that are not needed.
    fn idle(&self) -> &'static [&'static str] {
        &[]
    }

    /// The matrix that the tensor of codes belongs to.
    fn read(&self, codes: &TensorInfo, parts: &mut MatrixTensors<'_>) -> Result<Packed>;
}

/// Ends of the names of scales that belong to the cache of keys and values, or to attention in eight bits: a runtime
/// that rounds these has use for them, weights have none.
pub(super) const CACHE_SCALES: [&str; 8] =
    [".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".prob_scale", ".k_zero_point", ".v_zero_point", ".q_zero_point"];

/// Words other than of 32 bits would lie in another order.
pub(super) fn pack_dtype(stated: &Stated) -> Result<()> {
    match stated.text("pack_dtype")? {
        None | Some("int32") => Ok(()),
        Some(other) => Err(stated.unsupported("pack_dtype", format!("{other:?} is not supported, only int32"))),
    }
}

/// Which weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// All.
    Tensor,
    /// Those of a row.
    Row,
    /// So many neighbours of a row.
    Columns(usize),
    /// Rectangles of this many rows and columns.
    Block(usize, usize),
}

/// The tensors of one matrix, found by name and held against each other.
pub(super) struct MatrixTensors<'a> {
    pub source: &'a Mapped,
    pub stem: &'a str,
    pub taken: Vec<TensorInfo>,
}

impl MatrixTensors<'_> {
    /// The name of the matrix without `.weight`.
    pub fn stem(&self) -> &str {
        self.stem
    }

    /// All tensors so far.
    pub fn taken(&self) -> Vec<TensorInfo> {
        self.taken.clone()
    }

    pub fn source(&self) -> &dyn TensorSource {
        self.source
    }

    /// An error about a tensor.
    pub fn fail(&self, tensor: &TensorInfo, what: impl Into<Fault>) -> Error {
        what.into().of_tensor(self.source().file_of(tensor), &tensor.name)
    }

    /// An error about a tensor of another shape or type than needed.
    pub fn misfit(&self, tensor: &TensorInfo, misfit: Misfit, what: impl Into<String>) -> Error {
        Error::misfit(self.source().file_of(tensor), &tensor.name, misfit, what.into())
    }

    /// An error about a tensor of another type than needed.
    fn other_type(&self, tensor: &TensorInfo, what: impl Into<String>) -> Error {
        self.misfit(tensor, Misfit::Type { found: tensor.spec.name.to_owned() }, what)
    }

    /// An error about a tensor of another shape than needed.
    pub fn other_shape(&self, tensor: &TensorInfo, needed: &[usize], what: impl Into<String>) -> Error {
        self.misfit(tensor, Misfit::Shape { found: tensor.shape.clone(), needed: needed.to_vec() }, what)
    }

    /// The tensor of that suffix, if it is there.
    pub fn maybe(&mut self, suffix: &str) -> Option<TensorInfo> {
        let found = self.source().find(&format!("{}{suffix}", self.stem)).cloned();
        self.taken.extend(found.clone());
        found
    }

    /// Counts tensors as part of the matrix that are of no use here.
    pub fn drop(&mut self, suffixes: &[&str]) {
        for suffix in suffixes {
            self.maybe(suffix);
        }
    }

    /// The tensor of that suffix.
    pub fn need(&mut self, suffix: &str) -> Result<TensorInfo> {
        self.maybe(suffix).ok_or_else(|| self.missing(suffix))
    }

    /// An error about a tensor that is not there.
    pub fn missing(&self, suffix: &str) -> Error {
        let (codes, name) = (&self.taken[0], format!("{}{suffix}", self.stem));
        let what = format!("missing; {} cannot be read without it", printable(&codes.name));
        Error::misfit(self.source().file_of(codes), &name, Misfit::Missing, what)
    }

    /// All bytes of a tensor.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        self.source().bytes(tensor, 0..tensor.range.len())
    }

    /// The `count` numbers of a small F32 tensor.
    pub fn numbers(&self, tensor: &TensorInfo, count: usize) -> Result<Arc<[f32]>> {
        if tensor.spec.name != "f32" || tensor.range.len() != count * 4 {
            let what = format!("{} of shape {:?}, needed f32 [{count}]", tensor.spec.name, tensor.shape);
            return Err(self.other_shape(tensor, &[count], what));
        }
        Ok(self.bytes(tensor).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// The shape that a tensor of two I64 numbers states.
    pub fn stated_shape(&self, tensor: &TensorInfo) -> Result<[usize; 2]> {
        let numbers: Vec<i64> = self.bytes(tensor).as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        let size = |n: i64| usize::try_from(n).ok().filter(|n| (1..1 << 31).contains(n));
        match numbers[..] {
            [rows, cols] if tensor.spec.name == "i64" => match (size(rows), size(cols)) {
                (Some(rows), Some(cols)) => Ok([rows, cols]),
                _ => Err(self.fail(tensor, format!("states a shape of [{rows}, {cols}]"))),
            },
            _ => {
                let what = format!("{} of shape {:?}, needed i64 [2]", tensor.spec.name, tensor.shape);
                Err(self.other_shape(tensor, &[2], what))
            }
        }
    }

    /// Groups as a strategy has them, after a look at the scales' shape.
    pub fn shared(
        &self,
        codes: &TensorInfo,
        scales: &TensorInfo,
        share: Share,
        rows: usize,
        cols: usize,
    ) -> Result<Groups> {
        let rectangles = |down: usize, across: usize| {
            let (below, beside) = (rows.div_ceil(down), cols.div_ceil(across));
            Groups { rows: down.min(rows), cols: across.min(cols), down: below, across: beside, transposed: false }
        };
        let groups = match share {
            Share::Tensor => Groups { rows, cols, down: 1, across: 1, transposed: false },
            Share::Row => Groups::of_columns(rows, cols, cols, false),
            Share::Columns(group) => self.groups(codes, rows, cols, Some(group), false)?,
            Share::Block(down, across) => rectangles(down, across),
        };
        let flat: &[&[usize]] = match share {
            Share::Tensor => &[&[], &[1], &[1, 1]],
            Share::Row => &[&[rows]],
            Share::Columns(_) | Share::Block(..) => &[],
        };
        let needed = [groups.down, groups.across];
        self.floats(scales, if flat.contains(&scales.shape.as_slice()) { &scales.shape } else { &needed })?;
        Ok(groups)
    }

    /// Both dimensions of a tensor that has two, none of them zero.
    pub fn matrix(&self, tensor: &TensorInfo) -> Result<[usize; 2]> {
        match tensor.shape[..] {
            [rows, cols] if rows > 0 && cols > 0 => Ok([rows, cols]),
            _ => Err(self.fail(tensor, format!("shape {:?}, needed a matrix", tensor.shape))),
        }
    }

    pub fn shape(&self, tensor: &TensorInfo, needed: &[usize]) -> Result<()> {
        match tensor.shape == needed {
            true => Ok(()),
            false => {
                let codes = &self.taken[0];
                let what = format!(
                    "shape {:?}, needed {needed:?} beside {} of shape {:?}",
                    tensor.shape,
                    printable(&codes.name),
                    codes.shape
                );
                Err(self.other_shape(tensor, needed, what))
            }
        }
    }

    /// Holds a tensor of scales against the shape that it must have.
    pub fn floats(&self, tensor: &TensorInfo, shape: &[usize]) -> Result<()> {
        if !["f16", "bf16", "f32", "f8_e8m0"].contains(&tensor.spec.name) {
            let what = format!("holds {} numbers; scales must be f16, bf16, f32 or f8_e8m0", tensor.spec.name);
            return Err(self.other_type(tensor, what));
        }
        self.shape(tensor, shape)
    }

    /// The integers that a tensor holds; `shape` is that of the unpacked matrix.
    pub fn ints(&self, tensor: TensorInfo, [rows, cols]: [usize; 2], bits: u32, layout: IntLayout) -> Result<Ints> {
        let needed: &[&str] = match layout {
            IntLayout::Bytes { signed: true } => &["i8"],
            IntLayout::Bytes { signed: false } => &["u8", "f8_e4m3", "f8_e5m2"],
            IntLayout::HighFirst => &["u8"],
            IntLayout::Words { .. } | IntLayout::Interleaved => &["i32", "u32"],
        };
        if !needed.contains(&tensor.spec.name) {
            let what = format!("holds {} numbers, needed {}", tensor.spec.name, needed.join(" or "));
            return Err(self.other_type(&tensor, what));
        }
        if layout != IntLayout::HighFirst {
            self.shape(&tensor, &Ints::word_shape(rows, cols, bits, layout))?;
        }
        Ok(Ints { tensor, rows, cols, bits, layout, bias: 0, less_one: false })
    }

    /// Groups of `group` columns, or of all.
    pub fn groups(
        &self,
        codes: &TensorInfo,
        rows: usize,
        cols: usize,
        group: Option<usize>,
        t: bool,
    ) -> Result<Groups> {
        let group = group.unwrap_or(cols).min(cols);
        if !cols.is_multiple_of(group) {
            let what = format!("{cols} inputs do not divide into groups of {group} (group_size)");
            return Err(self.fail(codes, what));
        }
        Ok(Groups::of_columns(rows, cols, group, t))
    }

    /// The group of every column, if columns are not in the order of their groups.
    pub fn order(&self, tensor: &TensorInfo, groups: Groups) -> Result<Option<Vec<u32>>> {
        let cols = self.taken[0].clone();
        if tensor.spec.name != "i32" {
            return Err(self.other_type(tensor, format!("holds {} numbers, needed i32", tensor.spec.name)));
        }
        let bytes = self.source().bytes(tensor, 0..tensor.range.len());
        let order: Vec<u32> = bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let needed = groups.cols * groups.across;
        if tensor.shape.len() != 1 || order.len() != needed {
            let what = format!("shape {:?}, needed [{needed}] beside {}", tensor.shape, printable(&cols.name));
            return Err(self.other_shape(tensor, &[needed], what));
        }
        if order.iter().all(|&g| g == u32::MAX) {
            // compressed-tensors' way to say that there is none.
            return Ok(None);
        }
        if let Some(col) = order.iter().position(|&g| g as usize >= groups.across) {
            let what = format!("input {col} is in group {} of {}", order[col] as i32, groups.across);
            return Err(self.fail(tensor, what));
        }
        let trivial = order.iter().enumerate().all(|(col, &g)| g as usize == col / groups.cols);
        Ok((!trivial).then_some(order))
    }
}
