//! A file in which every byte has its place before the first is written.

use std::path::Path;

use aurora_quantizers::Field;

use super::Sink;
use crate::Result;
use crate::files::AtomicFile;
use crate::plan::Plan;
use crate::watch::Watch;

/// Where every byte of an output file will be.
#[derive(Debug, Clone, PartialEq)]
pub struct FileMap {
    /// The file's first bytes.
    pub header: Vec<u8>,
    /// Position of each field of each tensor of the plan in the file.
    pub offsets: Vec<Vec<u64>>,
    /// Size of the file.
    pub size: u64,
}

impl FileMap {
    /// All fields of all tensors one after the other, behind a header.
    pub fn gapless(header: Vec<u8>, plan: &Plan) -> FileMap {
        let mut size = header.len() as u64;
        let mut place = |field: &Field| {
            let start = size;
            size += field.bytes;
            start
        };
        let offsets = plan.tensors.iter().map(|t| t.fields.iter().map(&mut place).collect()).collect();
        FileMap { header, offsets, size }
    }
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

    /// Writes a run of bytes of a tensor's field. `at`: from the field's start.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn put(&self, tensor: usize, field: usize, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_at(self.map.offsets[tensor][field] + at, bytes)
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
    fn put(&self, tensor: usize, field: usize, at: u64, bytes: &[u8]) -> Result<()> {
        Output::put(self, tensor, field, at, bytes)
    }

    fn finish(self: Box<Self>, watch: &dyn Watch) -> Result<u64> {
        let size = self.map.size;
        Output::finish(*self, watch).map(|()| size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::two_fields;
    use crate::watch::Unwatched;

    #[test]
    fn fields_have_places_of_their_own() {
        let map = FileMap::gapless(vec![9; 2], &two_fields::plan());
        assert_eq!((&map.offsets[..], map.size), (&[vec![2, 50], vec![56, 104]][..], 110));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let output = Output::begin(&path, map, false).unwrap();
        output.put(1, 1, 2, &[4; 4]).unwrap();
        output.put(0, 1, 0, &[2; 6]).unwrap();
        output.put(1, 1, 0, &[4; 2]).unwrap();
        output.put(0, 0, 0, &[1; 48]).unwrap();
        output.put(1, 0, 0, &[3; 48]).unwrap();
        output.finish(&Unwatched).unwrap();
        let expected = [vec![9; 2], vec![1; 48], vec![2; 6], vec![3; 48], vec![4; 6]].concat();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
    }
}
