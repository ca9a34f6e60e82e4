//! Writing the output: laid out to the byte before any work, streamed, and there whole or not at all.

use std::path::Path;

use crate::Result;
use crate::gguf::Metadata;
use crate::plan::Plan;
use crate::watch::Watch;

mod atomic;
pub mod destination;
pub mod gguf;
pub mod metadata;
pub mod packed;
pub mod packing;

pub use atomic::AtomicFile;

/// An output format.
pub trait Exporter: Send + Sync {
    /// Name as `--format` will take it; also the file extension.
    fn name(&self) -> &'static str;

    /// Where every byte will be.
    ///
    /// # Errors
    /// If the header cannot be expressed in this format.
    fn layout(&self, plan: &Plan, metadata: &Metadata) -> Result<Layout>;
}

/// Where every byte of an output file will be.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The file's first bytes.
    pub header: Vec<u8>,
    /// Position of each tensor of the plan in the file.
    pub offsets: Vec<u64>,
    /// Size of the file.
    pub size: u64,
}

/// All exporters; the first is the default.
pub static EXPORTERS: &[&dyn Exporter] = &[&gguf::Gguf];

/// An output file that is being written. Tensors may arrive in any order and from any thread.
pub struct Output {
    file: AtomicFile,
    layout: Layout,
}

impl Output {
    /// Creates a temporary file beside `path`, of its final size, and writes the header. `replace`: whether a file that
    /// has that name at the end may be replaced.
    ///
    /// # Errors
    /// If the directory cannot be written or the disk is too small.
    pub fn begin(path: &Path, layout: Layout, replace: bool) -> Result<Output> {
        let file = AtomicFile::create(path, layout.size, replace)?;
        file.write_at(0, &layout.header)?;
        Ok(Output { file, layout })
    }

    /// Writes a run of a tensor's bytes. `at`: from the tensor's start.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn put(&self, tensor: usize, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_at(self.layout.offsets[tensor] + at, bytes)
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// If the disk fails, the watch says to stop, or the name cannot be taken; then nothing is left behind and what was
    /// there stays.
    pub fn finish(self, watch: &dyn Watch) -> Result<()> {
        self.file.commit(watch)
    }
}
