//! A model in several files, as `llama-gguf-split` cuts it and as llama.cpp loads it: tensors in order, a file begins
//! where the next tensor would make one too large. The first has all keys, every file says which of how many it is.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::layout::{layout, layout_some, sizes};
use crate::checkpoint::gguf::split;
use crate::export::{FileMap, Output, Sink, shards};
use crate::files;
use crate::gguf::{ALIGNMENT_KEY, Metadata, Value};
use crate::options::{Opt, OptKind, UNLIMITED};
use crate::plan::Plan;
use crate::watch::Watch;
use crate::{Error, Result};

/// The option of the format.
pub(super) const SPLIT: Opt = Opt {
    name: "split_max_size",
    about: "Size of a GGUF file, at most, such as 4GB. A larger model is written as NAME-00001-of-00003.gguf and so on; \
            llama.cpp loads all of them when given the first",
    kind: OptKind::Size,
    default: UNLIMITED,
};

/// One of the files.
pub(super) struct Part {
    /// Its tensors in the plan.
    range: Range<usize>,
    map: FileMap,
}

impl Part {
    pub fn bytes(&self) -> u64 {
        self.map.size
    }
}

/// Lays the files out; tensors of a file have `limit` bytes at most, or are a single one.
///
/// # Errors
/// If a header cannot be expressed in the format, or there would be more files than it can count.
pub(super) fn cut(plan: &Plan, metadata: &Metadata, limit: u64) -> Result<Vec<Part>> {
    let runs = shards::split(&sizes(plan, metadata), limit);
    if runs.len() == 1 {
        let all = 0..plan.tensors.len();
        return Ok(vec![Part { map: layout(plan, metadata)?, range: all }]);
    }
    let Ok(count) = u16::try_from(runs.len()) else {
        let what = format!("makes {} files; a GGUF model has at most {}", runs.len(), u16::MAX);
        return Err(Error::setting(SPLIT.name, limit, what));
    };
    let fields: usize = plan.tensors.iter().map(|t| t.fields.len()).sum();
    let part = |(no, range): (usize, Range<usize>)| {
        let mut keys = match no {
            0 => metadata.clone(),
            _ => Metadata::new(),
        };
        if let Some(alignment) = metadata.get(ALIGNMENT_KEY) {
            keys.set(ALIGNMENT_KEY, alignment.clone());
        }
        // The types are those that llama.cpp asks for.
        keys.set(split::NO, Value::U16(no as u16));
        keys.set(split::COUNT, Value::U16(count));
        keys.set(split::TENSORS, Value::I32(i32::try_from(fields).unwrap_or(i32::MAX)));
        Ok(Part { map: layout_some(plan, range.clone(), &keys)?, range })
    };
    runs.into_iter().enumerate().map(part).collect()
}

/// The names of `count` files for an output that was named `path`.
pub(super) fn names(path: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![path.to_owned()];
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = split::without_place(name.strip_suffix(".gguf").unwrap_or(&name));
    (0..count as u64).map(|no| path.with_file_name(format!("{stem}{}", split::ending(no, count as u64)))).collect()
}

/// Files that are being written.
struct Files<'p> {
    /// The first tensor of each.
    starts: Vec<usize>,
    files: Vec<(PathBuf, Output)>,
    parts: &'p [Part],
}

/// Begins all files, beside `path`.
///
/// # Errors
/// If one of them cannot be written, or has a name that is taken and must not be replaced.
pub(super) fn begin<'p>(parts: &'p [Part], path: &Path, replace: bool) -> Result<Box<dyn Sink + 'p>> {
    if let [part] = parts {
        return Ok(Box::new(Output::begin(path, part.map.clone(), replace)?));
    }
    let begin = |(name, part): (PathBuf, &Part)| {
        let name = files::destination(&name, "output", replace)?;
        Ok((name.clone(), Output::begin(&name, part.map.clone(), replace)?))
    };
    let files = names(path, parts.len()).into_iter().zip(parts).map(begin).collect::<Result<_>>()?;
    Ok(Box::new(Files { starts: parts.iter().map(|part| part.range.start).collect(), files, parts }))
}

impl Sink for Files<'_> {
    fn put(&self, tensor: usize, field: usize, at: u64, bytes: &[u8]) -> Result<()> {
        let file = self.starts.partition_point(|start| *start <= tensor) - 1;
        self.files[file].1.put(tensor - self.starts[file], field, at, bytes)
    }

    fn finish(self: Box<Self>, watch: &dyn Watch) -> Result<u64> {
        let Files { files, parts, .. } = *self;
        let mut named = Vec::new();
        // The first comes last: readers begin with it, so no incomplete model can be loaded.
        for (path, output) in files.into_iter().rev() {
            let new = !path.exists();
            if let Err(e) = output.finish(watch) {
                named.iter().for_each(|path: &PathBuf| drop(std::fs::remove_file(path)));
                return Err(e);
            }
            named.extend(new.then_some(path));
        }
        Ok(parts.iter().map(Part::bytes).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_as_llama_cpp_finds_them() {
        let names = |path: &str, count| names(Path::new(path), count);
        assert_eq!(names("a/x.gguf", 1), [Path::new("a/x.gguf")]);
        assert_eq!(names("a/x.gguf", 2), ["a/x-00001-of-00002.gguf", "a/x-00002-of-00002.gguf"].map(PathBuf::from));
        assert_eq!(names("x-00001-of-00009.gguf", 2)[1], Path::new("x-00002-of-00002.gguf"));
        assert_eq!(names("x", 2)[0], Path::new("x-00001-of-00002.gguf"));
    }
}
