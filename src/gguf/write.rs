//! Lays out a GGUF header: the counterpart of [`super::read`].
//!
//! In come keys, values and a tensor table with offsets already chosen; out come the bytes that stand before the
//! tensor data, padded to the alignment. Knows nothing of files.

use super::{ALIGNMENT_KEY, MAGIC, MAX_DIMS, Metadata, VERSION, align};
use crate::error::{Within, printable};
use crate::{Error, Result};

/// A row of the tensor table: name, dimensions outermost first, ggml's type id, and the first byte counted from the
/// start of tensor data (a multiple of the alignment).
pub type TensorEntry<'a> = (&'a str, &'a [usize], u32, u64);

/// Appends the header of a version 3 file to `out`, which must be empty, padded with zeros to the alignment that
/// `metadata` states: tensor data follows at once.
///
/// # Errors
/// If a tensor has more than four dimensions or an unaligned offset, or if the alignment is no power of two: nothing
/// could read that back.
///
/// # Panics
/// If `out` is not empty.
pub fn write_header(metadata: &Metadata, tensors: &[TensorEntry], out: &mut Vec<u8>) -> Result<()> {
    assert!(out.is_empty(), "a header stands at the start of a file, {} bytes are there", out.len());
    let alignment = metadata.alignment().map_err(|what| Error::unsupported(Within::Key(ALIGNMENT_KEY.into()), what))?;
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        put_text(key, out);
        out.extend((value.value_type() as u32).to_le_bytes());
        value.write_to(out).map_err(|e| Error::Unsupported {
            path: None,
            within: Within::Key(printable(key)),
            what: "cannot be written into a GGUF header".to_owned(),
            source: Some(e.into()),
        })?;
    }
    for &(name, shape, ggml_id, offset) in tensors {
        if shape.len() > MAX_DIMS || !offset.is_multiple_of(alignment) {
            let what = format!(
                "cannot be written into a GGUF header: shape {shape:?} at offset {offset}; at most {MAX_DIMS} \
                 dimensions and multiples of {alignment} are allowed"
            );
            return Err(Error::unsupported(Within::Tensor(printable(name)), what));
        }
        put_text(name, out);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&dim| out.extend((dim as u64).to_le_bytes()));
        out.extend(ggml_id.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    out.resize(align(out.len() as u64, alignment) as usize, 0);
    Ok(())
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
