//! Rounding what stays.

use crate::{BitMask, Scales, Store};

/// Rounds rows to a type, with searched scales, in which what goes is zero and counts nothing.
///
/// `w`: whole rows, those from `first` on of the mask's matrix. `importance`: E\[x^2\] of every column's input; ones for
/// none. `out`: exactly their bytes.
///
/// # Panics
/// As [`Store::encode`]; or if the mask has no such rows.
pub fn encode(
    store: &dyn Store,
    w: &[f32],
    (mask, first): (&BitMask, usize),
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let cols = mask.cols();
    let row_bytes = store.spec().bytes_for(cols).expect("blocks divide rows");
    let (mut row, mut counts) = (vec![0.0; cols], vec![0.0; cols]);
    for (i, (w, out)) in w.chunks_exact(cols).zip(out.chunks_exact_mut(row_bytes)).enumerate() {
        row.copy_from_slice(w);
        match importance {
            Some(importance) => counts.copy_from_slice(importance),
            None => counts.fill(1.0),
        }
        mask.apply(first + i, &mut row);
        mask.apply(first + i, &mut counts);
        store.encode(&row, Scales::Search(Some(&counts)), out);
    }
}
