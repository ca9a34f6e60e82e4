//! The one memory map: a whole file, read-only, with a way to give its pages back.
//!
//! In comes a path, out come bytes. Only regular files are mapped: a fifo would block the run, a device has no length.
//! Knows nothing of formats.

#![allow(unsafe_code)]

use std::fs::{File, Metadata, OpenOptions};
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Fault, Result};

/// A file, mapped. Nothing is in memory until it is touched.
#[derive(Debug)]
pub struct Map {
    /// `None` for an empty file: mapping zero bytes is an error on every system.
    map: Option<Mmap>,
}

/// Reading one page makes Linux map the cached pages of the aligned 64 KiB around it ("fault-around").
/// Releasing whole windows of that size keeps such neighbours from piling up: after 1 GiB in chunks of 1 MB, 2 MB are
/// resident, against 69 MB when windows that a chunk only touches are left alone.
#[cfg(unix)]
const WINDOW: usize = 64 * 1024;

/// How the text begins that a clone without Git LFS has in place of every large file.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Bytes of such a text, at most; so the specification.
const LFS_MOST: usize = 1024;

impl Map {
    /// Maps `path`, following links.
    ///
    /// # Errors
    /// If it cannot be opened, is a directory, a fifo, a socket or a device, or is a Git LFS pointer.
    pub fn open(path: &Path) -> Result<Self> {
        // Before opening, because merely opening a device can have effects; after, because the name may since lead
        // elsewhere.
        require_regular(path, &std::fs::metadata(path).map_err(|e| Error::io(path, "open", e))?)?;
        let file = open_without_waiting(path).map_err(|e| Error::io(path, "open", e))?;
        let meta = file.metadata().map_err(|e| Error::io(path, "read the size", e))?;
        require_regular(path, &meta)?;
        if meta.len() == 0 {
            return Ok(Map { map: None });
        }
        // SAFETY: the map is private and read-only, and every slice of it borrows from `Map`, so it cannot outlive the
        // mapping. What remains is another process changing the file meanwhile. Readers copy what they check (names,
        // lengths, types) and index with checked ranges, and tensor data is only ever decoded as numbers, for which
        // any bytes are valid. A file shortened under us raises SIGBUS, which the command line turns into a message.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
        if map.len() <= LFS_MOST && map.starts_with(LFS) {
            let what = "a Git LFS pointer that stands for the file, not the file itself; run git lfs pull in its \
                        repository, or download the file";
            return Err(Fault::damaged(what).of(path));
        }
        // Weights are read once, front to back: read far ahead, evict early. Only a hint, so a failure is no error.
        #[cfg(unix)]
        let _ = map.advise(memmap2::Advice::Sequential);
        Ok(Map { map: Some(map) })
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// Tells the system that the pages around `range` are not needed soon; they leave resident memory and are read
    /// again if touched. Parts of `range` outside the file are ignored. Does nothing where the system cannot.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            // Windows are aligned by address, not by file offset.
            let base = map.as_ptr() as usize;
            let start = ((base + range.start.min(map.len())) & !(WINDOW - 1)).max(base) - base;
            let end = (base + range.end.min(map.len())).next_multiple_of(WINDOW) - base;
            let end = end.min(map.len());
            if start < end {
                // SAFETY: dropping pages of a read-only map of a file changes no byte: they are read from the file
                // again when touched, also by threads that hold slices of them now.
                let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// Reads a whole small file: a regular one, of at most `limit` bytes.
///
/// # Errors
/// As [`Map::open`], and if it is longer.
pub fn read_whole(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let map = Map::open(path)?;
    let bytes = map.bytes();
    if bytes.len() > limit {
        return Err(Fault::unsupported(format!("{} bytes; at most {limit} are read", bytes.len())).of(path));
    }
    Ok(bytes.to_vec())
}

fn open_without_waiting(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        // A fifo that took the file's name between the check and now must not block; on a file the flag does nothing.
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    options.open(path)
}

fn require_regular(path: &Path, meta: &Metadata) -> Result<()> {
    let found = match meta {
        m if m.is_file() => return Ok(()),
        m if m.is_dir() => "a directory",
        _ => "a fifo, socket or device",
    };
    Err(Fault::unsupported(format!("{found}, needed a regular file")).of(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_no_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let map = Map::open(file.path()).unwrap();
        assert_eq!(map.bytes(), b"");
        map.release(0..100);
    }

    #[test]
    fn a_pointer_is_not_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5000000000\n").unwrap();
        let error = Map::open(&path).unwrap_err().to_string();
        assert!(error.contains("model.safetensors: a Git LFS pointer") && error.contains("git lfs pull"), "{error}");
    }

    #[test]
    fn a_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = Map::open(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("a directory, needed a regular file"), "{error}");
    }

    #[test]
    fn released_bytes_read_the_same_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let bytes: Vec<u8> = (0..1_000_003u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = Map::open(&path).unwrap();
        for range in [0..0, 5..9, 4096..8192, 65_535..200_000, 999_999..1_000_003, 0..usize::MAX] {
            assert_eq!(map.bytes(), bytes);
            map.release(range);
        }
        assert_eq!(map.bytes(), bytes);
    }
}
