//! CSR in torch's names: `NAME.crow_indices`, `NAME.col_indices`, `NAME.values`, and `NAME.shape`, since the number of
//! columns cannot be seen from these.

use std::ops::Range;

use aurora_quantizers::{Store, formats};
use rayon::prelude::*;

use super::parts::{AGAIN, Parts, tensor};
use crate::Result;
use crate::checkpoint::mapped::Mapped;
use crate::checkpoint::source::{SparseMatrix, SparsePlaces, TensorInfo, TensorSource};
use crate::error::{Error, Fault, Misfit};

/// The layout's name.
pub(crate) const NAME: &str = "csr";
/// What the name of the numbers of values before each row ends in.
pub(crate) const CROW: &str = ".crow_indices";
/// Columns of the values.
pub(crate) const COLUMNS: &str = ".col_indices";
/// The values.
pub(crate) const VALUES: &str = ".values";
/// Rows and columns.
pub(crate) const SHAPE: &str = ".shape";

/// All matrices that are stored so.
///
/// # Errors
/// If their parts do not fit together.
pub(super) fn find(source: &Mapped) -> Result<Vec<TensorInfo>> {
    let names = source.tensors().iter().filter_map(|t| t.name.strip_suffix(CROW));
    names.map(|name| matrix(source, name)).collect()
}

/// Numbers of four or eight bytes; `None` for one that is negative.
fn whole(tensor: &TensorInfo, bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = &bytes[at * tensor.spec.bytes..];
    let number = match tensor.spec.bytes {
        4 => bytes.first_chunk().map(|b| i64::from(i32::from_le_bytes(*b))),
        _ => bytes.first_chunk().map(|b| i64::from_le_bytes(*b)),
    };
    number.and_then(|n| usize::try_from(n).ok())
}

fn matrix(source: &Mapped, name: &str) -> Result<TensorInfo> {
    let mut parts = Parts::new(source, name, NAME);
    let whole_of = |tensor: &TensorInfo| source.bytes(tensor, 0..tensor.range.len());
    let shape = parts.need(&format!("{name}{SHAPE}"), &["i64"], Some(&[2]))?;
    let [rows, cols] = dims(&parts, &shape)?;
    let crow = parts.need(&format!("{name}{CROW}"), &["i32", "i64"], Some(&[rows + 1]))?;
    let columns = parts.need(&format!("{name}{COLUMNS}"), &["i32", "i64"], None)?;
    let values = parts.need(&format!("{name}{VALUES}"), &["f16", "bf16", "f32"], None)?;
    let count = columns.shape[0];
    if values.shape != columns.shape {
        let what =
            format!("{} values, needed {count}, one for each column in {name}{COLUMNS}; {AGAIN}", values.shape[0]);
        let misfit = Misfit::Shape { found: values.shape.clone(), needed: columns.shape.clone() };
        return Err(Error::misfit((source as &dyn TensorSource).file_of(&values), &values.name, misfit, what));
    }
    let mut before = Vec::with_capacity(rows + 1);
    for row in 0..=rows {
        let least = before.last().copied().unwrap_or(0);
        let found = whole(&crow, whole_of(&crow), row);
        match found {
            Some(n) if n >= least && n <= count && (row > 0 || n == 0) && (row < rows || n == count) => before.push(n),
            _ => {
                let found = found.map_or("a negative number".to_owned(), |n| n.to_string());
                let needed = match row {
                    0 => "0".to_owned(),
                    _ if row == rows => format!("{count}, the number of values"),
                    _ => format!("a number from {least} to {count}"),
                };
                let what = format!("{found} values before row {row}, needed {needed}; {AGAIN}");
                return Err(parts.fail(&crow, Fault::damaged(what)));
            }
        }
    }
    let bytes = whole_of(&columns);
    let fault = (0..rows).into_par_iter().find_map_first(|row| {
        let mut last = None;
        (before[row]..before[row + 1]).find_map(|at| {
            let found = whole(&columns, bytes, at);
            let sound = found.is_some_and(|col| col < cols && last.is_none_or(|last| col > last));
            let fault = (!sound).then_some((row, found, last));
            last = found;
            fault
        })
    });
    source.release(&columns, 0..columns.range.len());
    if let Some((row, found, last)) = fault {
        let found = found.map_or("a negative number".to_owned(), |col| col.to_string());
        let after = last.map_or(String::new(), |last| format!(" after column {last}"));
        let what = format!("row {row}: column {found}{after}; columns go up, and are below {cols}; {AGAIN}");
        return Err(parts.fail(&columns, Fault::damaged(what)));
    }
    let store: &'static dyn Store = formats::by_name(values.spec.name).expect("a type of floats");
    let places = SparsePlaces::Columns { before, columns };
    let matrix = SparseMatrix { name: NAME, rows, cols, store, places, values, parts: parts.taken };
    Ok(tensor(name, vec![rows, cols], matrix))
}

/// Rows and columns, as a tensor of two numbers states them.
pub(super) fn dims(parts: &Parts<'_>, shape: &TensorInfo) -> Result<[usize; 2]> {
    let bytes = parts.source().bytes(shape, 0..shape.range.len());
    let dims = [0, 1].map(|at| whole(shape, bytes, at).filter(|n| (1..1 << 31).contains(n)));
    match dims {
        [Some(rows), Some(cols)] => Ok([rows, cols]),
        _ => {
            let found: Vec<i64> = bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
            Err(parts.fail(shape, Fault::damaged(format!("states a shape of {found:?}; {AGAIN}"))))
        }
    }
}

/// Dense rows.
pub(super) fn read<S: TensorSource + ?Sized>(matrix: &SparseMatrix, source: &S, rows: Range<usize>, out: &mut [u8]) {
    let SparsePlaces::Columns { before, columns } = &matrix.places else { unreachable!("columns of values") };
    let width = matrix.store.spec().bytes;
    let places = source.bytes(columns, 0..columns.range.len());
    let values = source.bytes(&matrix.values, 0..matrix.values.range.len());
    assert_eq!(out.len(), rows.len() * matrix.cols * width, "bytes of {} dense rows", rows.len());
    out.fill(0);
    for (row, out) in rows.zip(out.chunks_exact_mut(matrix.cols * width)) {
        for at in before[row]..before[row + 1] {
            let col = whole(columns, places, at).expect("columns that were checked");
            out[col * width..(col + 1) * width].copy_from_slice(&values[at * width..(at + 1) * width]);
        }
    }
}
