//! compressed-tensors' layouts `sparse-bitmask` and `sparse-24-bitmask` (its releases up to 0.14 read them):
//! `compressed` has the values row by row, `bitmask` a bit for each weight. Of the second kind every four weights have
//! two.

use aurora_quantizers::formats;
use aurora_quantizers::sparse::{Packing, SparseLayout};

use super::csr::dims;
use super::parts::{AGAIN, Parts, check_masks, tensor};
use crate::Result;
use crate::checkpoint::mapped::Mapped;
use crate::checkpoint::source::{SparseIndex, SparseMatrix, SparsePlaces, TensorInfo, TensorSource};
use crate::error::Fault;

/// The layouts: what they are called, and the packing whose pattern they have.
pub(crate) const FORMATS: [(&str, Packing); 2] =
    [("sparse-bitmask", Packing::Bitmask), ("sparse-24-bitmask", Packing::TwoFour)];
/// What the name of the values ends in, in place of `.weight`.
pub(crate) const VALUES: &str = ".compressed";
/// The masks.
pub(crate) const MASK: &str = ".bitmask";
/// Values before each row.
pub(crate) const OFFSETS: &str = ".row_offsets";
/// Rows and columns.
pub(crate) const SHAPE: &str = ".shape";

/// All matrices of a checkpoint in one of the layouts.
///
/// # Errors
/// If their parts do not fit together.
pub(super) fn find(source: &Mapped, (format, packing): (&'static str, Packing)) -> Result<Vec<TensorInfo>> {
    let stems = source.tensors().iter().filter_map(|t| t.name.strip_suffix(VALUES));
    stems.map(|stem| matrix(source, stem, format, packing)).collect()
}

fn matrix(source: &Mapped, stem: &str, format: &'static str, packing: Packing) -> Result<TensorInfo> {
    let name = format!("{stem}.weight");
    let mut parts = Parts::new(source, &name, format);
    let quads = packing == Packing::TwoFour;
    let part = |end: &str| format!("{stem}{end}");
    let shape = parts.need(&part(SHAPE), &["i64"], Some(if quads { &[2, 1] } else { &[2] }))?;
    let [rows, cols] = dims(&parts, &shape)?;
    if quads && !cols.is_multiple_of(4) {
        return Err(parts.fail(&shape, Fault::damaged(format!("{cols} columns are no whole fours; {AGAIN}"))));
    }
    let flat = [rows, cols / 2];
    let values = parts.need(&part(VALUES), &["f16", "bf16", "f32"], quads.then_some(&flat[..]))?;
    let mask = parts.need(&part(MASK), &["u8"], Some(&[rows, cols.div_ceil(8)]))?;
    let count = values.range.len() / values.spec.bytes;
    let mut index: Vec<u8> = match quads {
        true => (0..rows).flat_map(|row| ((row * cols / 2) as i64).to_le_bytes()).collect(),
        false => {
            let offsets = parts.need(&part(OFFSETS), &["i64"], Some(&[rows]))?;
            source.bytes(&offsets, 0..offsets.range.len()).to_vec()
        }
    };
    index.extend((count as i64).to_le_bytes());
    let store = formats::by_name(values.spec.name).expect("a type of floats");
    // The bits of fours are bits like others, two of them in each.
    let layout = SparseLayout::new(Packing::Bitmask, store, cols)
        .map_err(|e| parts.fail(&values, Fault::damaged(format!("{e}; {AGAIN}"))))?;
    let places = SparsePlaces::Mask { layout, mask, index: SparseIndex::Made(index), scales: None };
    let taken = std::mem::take(&mut parts.taken);
    let matrix = SparseMatrix { name: format, rows, cols, store, places, values, parts: taken };
    check_masks(&matrix, &parts)?;
    Ok(tensor(&name, vec![rows, cols], matrix))
}
