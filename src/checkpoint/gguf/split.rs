//! A model in several GGUF files, as `llama-gguf-split` writes them.
//!
//! The first file has all keys, every file has the `split.*` keys and some of the tensors. Their names are
//! `PREFIX-00001-of-00003.gguf` and so on; any of them leads to all.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::error::Fault;
use crate::gguf::{Metadata, whole};

/// Which file of how many this is, from 0.
pub const NO: &str = "split.no";
/// How many files there are.
pub const COUNT: &str = "split.count";
/// Tensors in all files together.
pub const TENSORS: &str = "split.tensors.count";

/// The key prefix of everything that says how a model is spread over files; none of it belongs to the model.
pub const KEYS: &str = "split.";

/// The format counts files in 16 bits.
const MOST: u64 = u16::MAX as u64;

/// What one file says of its place among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    /// From 0.
    pub no: u64,
    pub count: u64,
    /// In all files; not every writer says so.
    pub tensors: Option<u64>,
}

impl Split {
    /// What the keys say; `None` for a model in one file.
    ///
    /// # Errors
    /// If a key holds something else than a number, or there is no such file of so many.
    pub fn of(path: &Path, metadata: &Metadata) -> Result<Option<Split>> {
        let number = |key: &str| match metadata.get(key) {
            None => Ok(None),
            Some(value) => whole(value)
                .map(Some)
                .ok_or_else(|| Fault::damaged("must be a whole number that is not negative").of_key(path, key)),
        };
        let count = number(COUNT)?.unwrap_or(1);
        if count <= 1 {
            return Ok(None);
        }
        if count > MOST {
            let what = format!("is {count}, at most {MOST} files are possible");
            return Err(Fault::damaged(what).of_key(path, COUNT));
        }
        let missing = || Fault::damaged(format!("missing in a model of {count} files")).of_key(path, NO);
        let no = number(NO)?.ok_or_else(missing)?;
        if no >= count {
            let what = format!("is {no}, but there are {count} files, counted from 0");
            return Err(Fault::damaged(what).of_key(path, NO));
        }
        Ok(Some(Split { no, count, tensors: number(TENSORS)? }))
    }

    /// The names of all files, in order. `path`: the one that says this.
    ///
    /// # Errors
    /// If it is not called what one of these files is called: the others cannot be found then.
    pub fn files(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let Split { no, count, .. } = *self;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(prefix) = name.strip_suffix(&ending(no, count)) else {
            let what = format!(
                "holds part {} of a model in {count} files, but is not called PREFIX{}; give all parts back their names, \
                 or make one file of them with llama-gguf-split --merge",
                no + 1,
                ending(no, count)
            );
            return Err(Fault::damaged(what).of(path));
        };
        let sibling = |no| path.with_file_name(format!("{prefix}{}", ending(no, count)));
        Ok((0..count).map(sibling).collect())
    }
}

/// What the name of file `no`, counted from 0, of `count` ends in.
pub fn ending(no: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}

/// `stem`, the name of a GGUF file without `.gguf`, without the place among several that it may end in.
pub fn without_place(stem: &str) -> &str {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let cut = || {
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, no) = rest.rsplit_once('-')?;
        (digits(count) && digits(no) && !prefix.is_empty()).then_some(prefix)
    };
    cut().unwrap_or(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_cut_off_names() {
        assert_eq!(without_place("llama-00002-of-00009"), "llama");
        assert_eq!(without_place("llama-2-of-9"), "llama-2-of-9");
        assert_eq!(without_place("llama-7b"), "llama-7b");
        assert_eq!(without_place("-00001-of-00002"), "-00001-of-00002");
    }

    #[test]
    fn any_part_names_all() {
        let split = Split { no: 1, count: 3, tensors: None };
        let all = split.files(Path::new("/a/m-00002-of-00003.gguf")).unwrap();
        let names = ["/a/m-00001-of-00003.gguf", "/a/m-00002-of-00003.gguf", "/a/m-00003-of-00003.gguf"];
        assert_eq!(all, names.map(PathBuf::from));
        let message = split.files(Path::new("/a/renamed.gguf")).unwrap_err().to_string();
        assert!(message.contains("part 2 of a model in 3 files"), "{message}");
    }
}
