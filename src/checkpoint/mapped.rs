//! What all readers end in: mapped files, a configuration and a checked, sorted tensor list.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::config::Config;
use super::mmap::Map;
use super::source::{TensorInfo, TensorSource};

/// A source whose tensors lie in mapped files.
pub(super) struct Mapped {
    path: PathBuf,
    config: Config,
    files: Vec<PathBuf>,
    maps: Vec<Map>,
    tensors: Vec<TensorInfo>,
    /// Tensors that an index lists and no file has, and the file that should.
    promised: BTreeMap<String, String>,
    /// Tensors that no weight is computed from.
    idle: Vec<String>,
}

impl Mapped {
    /// `files` are the names of `maps`; `tensors` come in any order and have unique names.
    pub(super) fn new(
        path: &Path,
        config: Config,
        files: Vec<PathBuf>,
        maps: Vec<Map>,
        mut tensors: Vec<TensorInfo>,
    ) -> Self {
        assert_eq!(files.len(), maps.len(), "one name per map");
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Mapped { path: path.to_owned(), config, files, maps, tensors, promised: BTreeMap::new(), idle: Vec::new() }
    }

    /// The same files with another list of tensors in them.
    pub(super) fn with_tensors(self, tensors: Vec<TensorInfo>) -> Self {
        let Mapped { path, config, files, maps, promised, idle, .. } = self;
        Mapped { promised, idle, ..Mapped::new(&path, config, files, maps, tensors) }
    }

    /// The same with another configuration.
    pub(super) fn with_config(self, config: Config) -> Self {
        Mapped { config, ..self }
    }

    /// The same with what an index promises and no file has.
    pub(super) fn promising(self, promised: BTreeMap<String, String>) -> Self {
        Mapped { promised, ..self }
    }

    /// The same with the names of tensors that were left out.
    pub(super) fn without(self, idle: Vec<String>) -> Self {
        Mapped { idle, ..self }
    }
}

/// `range` of `tensor`, as bytes of its file.
fn absolute(tensor: &TensorInfo, range: Range<usize>) -> Range<usize> {
    let len = tensor.range.len();
    assert!(range.end <= len, "{}: bytes {range:?} of a tensor of {len} bytes", tensor.name);
    tensor.range.start + range.start..tensor.range.start + range.end
}

impl TensorSource for Mapped {
    fn path(&self) -> &Path {
        &self.path
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn files(&self) -> &[PathBuf] {
        &self.files
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn promised(&self) -> &BTreeMap<String, String> {
        &self.promised
    }

    fn idle(&self) -> &[String] {
        &self.idle
    }

    fn bytes(&self, tensor: &TensorInfo, range: Range<usize>) -> &[u8] {
        &self.maps[tensor.file].bytes()[absolute(tensor, range)]
    }

    fn release(&self, tensor: &TensorInfo, range: Range<usize>) {
        self.maps[tensor.file].release(absolute(tensor, range));
    }
}
