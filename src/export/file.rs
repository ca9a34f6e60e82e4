//! A file in which every byte has its place before the first is written.

use std::path::Path;

use super::{AtomicFile, Sink};
use crate::Result;
use crate::watch::Watch;

/// Where every byte of an output file will be.
#[derive(Debug, Clone, PartialEq)]
pub struct FileMap {
    /// The file's first bytes.
    pub header: Vec<u8>,
    /// Position of each tensor of the plan in the file.
    pub offsets: Vec<u64>,
    /// Size of the file.
    pub size: u64,
}

/// An output file that is being written. Tensors may arrive in any order and from any thread.
pub struct Output {
    file: AtomicFile,
    map: FileMap,
}

impl Output {
    /// Creates a temporary file beside `path`, of its final size, and writes the header. `replace`: whether an existing
    /// file of that name may be replaced at the end.
    ///
    /// # Errors
    /// If the directory cannot be written or the disk is too small.
    pub fn begin(path: &Path, map: FileMap, replace: bool) -> Result<Output> {
        let file = AtomicFile::create(path, map.size, replace)?;
        file.write_at(0, &map.header)?;
        Ok(Output { file, map })
    }

    /// Writes a run of a tensor's bytes. `at`: offset from the tensor's start.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn put(&self, tensor: usize, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_at(self.map.offsets[tensor] + at, bytes)
    }

    /// Flushes the file to disk and gives it its name.
    ///
    /// # Errors
    /// If the disk fails, the watch says to stop, or the name cannot be taken; then nothing is left behind and what was
    /// there stays.
    pub fn finish(self, watch: &dyn Watch) -> Result<()> {
        self.file.commit(watch)
    }
}

impl Sink for Output {
    fn put(&self, tensor: usize, at: u64, bytes: &[u8]) -> Result<()> {
        Output::put(self, tensor, at, bytes)
    }

    fn finish(self: Box<Self>, watch: &dyn Watch) -> Result<u64> {
        let size = self.map.size;
        Output::finish(*self, watch).map(|()| size)
    }
}
