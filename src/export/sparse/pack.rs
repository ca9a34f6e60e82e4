//! Writes tensors to their places in a file: matrices without zeros, the rest as it is.

use aurora_quantizers::sparse::{SparseLayout, SparseParts};
use rayon::prelude::*;

use super::count::{Decided, chunks, groups, part};
use super::dense::DenseTensor;
use super::form::Form;
use crate::Result;
use crate::checkpoint::mmap::Map;
use crate::files::AtomicFile;
use crate::watch::Watch;

/// Bytes that are copied at a time.
const COPY: usize = 8 << 20;

/// Writes a tensor. `offsets`: where each of its parts begins in the file.
///
/// # Errors
/// If the disk is full or fails, or the watch says to stop.
pub(crate) fn write(
    t: &DenseTensor,
    decided: &Decided,
    (map, form): (&Map, Form),
    (file, offsets): (&AtomicFile, &[u64]),
    watch: &dyn Watch,
) -> Result<()> {
    watch.stage(&format!("packing {}", t.name));
    match decided {
        Decided::Dense => {
            for from in t.range.clone().step_by(COPY) {
                watch.go_on()?;
                let range = from..(from + COPY).min(t.range.end);
                file.write_at(offsets[0] + (from - t.range.start) as u64, &map.bytes()[range.clone()])?;
                map.release(range);
            }
            Ok(())
        }
        Decided::Sparse { layout, before } => sparse(t, (layout, before), (map, form), (file, offsets), watch),
    }
}

fn sparse(
    t: &DenseTensor,
    (layout, before): (&SparseLayout, &[u64]),
    (map, form): (&Map, Form),
    (file, offsets): (&AtomicFile, &[u64]),
    watch: &dyn Watch,
) -> Result<()> {
    for group in groups(t.dim().0, layout.cols()) {
        watch.go_on()?;
        chunks(group.clone(), layout.cols()).into_par_iter().try_for_each(|rows| {
            let mut packed = SparseParts::<Vec<u8>>::default();
            if layout.fixed().is_none() {
                packed.index.extend(before[rows.start].to_le_bytes());
            }
            let dense = &map.bytes()[part(t, layout, &rows)];
            layout.pack(dense, &mut packed).expect("rows that were counted");
            let mut pieces = form.pieces(layout, rows, before, packed).into_iter();
            pieces.try_for_each(|(at, from, bytes)| file.write_at(offsets[at] + from, &bytes))
        })?;
        map.release(part(t, layout, &group));
    }
    Ok(())
}
