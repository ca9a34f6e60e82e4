//! Files of a tokenizer's folder, which may be missing, large or damaged.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::{json, mmap};
use crate::error::{Fault, Result};

/// The largest published tokenizer.json has about 35 MB.
const LARGEST: usize = 256 << 20;

/// A whole file, or `None` if there is none.
pub(super) fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => mmap::read_whole(path, LARGEST).map(Some),
    }
}

/// A whole file as UTF-8 without a byte order mark, or `None` if there is none.
pub(super) fn read_text(path: &Path) -> Result<Option<String>> {
    let Some(bytes) = read_bytes(path)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|e| {
        let what = format!("not UTF-8: invalid byte at offset {}", e.utf8_error().valid_up_to());
        Fault::damaged(what).because(e).of(path)
    })?;
    Ok(Some(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }))
}

/// A JSON file, or `None` if there is none.
pub(super) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read_bytes(path)? else { return Ok(None) };
    json::parse(&bytes).map(Some).map_err(|fault| fault.of(path))
}

/// Longest file that is read as a generic JSON value; the longest in use have two megabytes.
const SMALL: u64 = 16 << 20;

/// A JSON file of no fixed shape, or `None` if there is none.
pub(super) fn read_small_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    match fs::metadata(path) {
        Ok(m) if m.len() > SMALL => {
            Err(Fault::unsupported(format!("{} bytes; more than {SMALL} are not read", m.len())).of(path))
        }
        _ => read_json(path),
    }
}
