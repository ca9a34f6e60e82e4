//! model.safetensors.index.json: which shard holds which tensor.
//!
//! Only two things are believed: that the named shards belong to the model, and that the listed tensors exist. Where
//! a tensor really is, the shards themselves say.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::config::read_json;
use super::super::source::TensorInfo;
use crate::error::printable;
use crate::{Error, Result};

/// At most so many problems are listed one by one.
const MAX_LISTED: usize = 20;

/// The largest known index (a model of 90,000 tensors) has about 10 MB.
const MAX_BYTES: usize = 64 << 20;

/// The file. Read straight into what matters: a generic JSON value takes many times the memory of its text.
#[derive(serde::Deserialize)]
struct File {
    weight_map: Option<Entries>,
}

/// Tensor and shard in file order; `Err` says what stands in place of a name.
struct Entries(Vec<(String, Result<String, String>)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("weight_map to be an object that maps tensors to files")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some((tensor, shard)) = map.next_entry::<String, Shard>()? {
                    entries.push((tensor, shard.0));
                }
                Ok(Entries(entries))
            }
        }
        d.deserialize_map(Read)
    }
}

/// A text; anything else is only described.
struct Shard(Result<String, String>);

impl<'de> Deserialize<'de> for Shard {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Shard;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a file name")
            }
            fn visit_str<E>(self, text: &str) -> Result<Shard, E> {
                Ok(Shard(Ok(text.to_owned())))
            }
            fn visit_bool<E>(self, found: bool) -> Result<Shard, E> {
                Ok(Shard(Err(found.to_string())))
            }
            fn visit_i64<E>(self, found: i64) -> Result<Shard, E> {
                Ok(Shard(Err(found.to_string())))
            }
            fn visit_u64<E>(self, found: u64) -> Result<Shard, E> {
                Ok(Shard(Err(found.to_string())))
            }
            fn visit_f64<E>(self, found: f64) -> Result<Shard, E> {
                Ok(Shard(Err(found.to_string())))
            }
            fn visit_unit<E>(self) -> Result<Shard, E> {
                Ok(Shard(Err("null".to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shard, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Shard(Err("a list".to_owned())))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shard, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Shard(Err("an object".to_owned())))
            }
        }
        d.deserialize_any(Read)
    }
}

/// The index, its shard names known to be plain file names.
pub(super) struct Index {
    path: PathBuf,
    /// Tensor and shard, in file order.
    entries: Vec<(String, String)>,
}

impl Index {
    /// Reads and checks the file; touches no shard.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let Some(map) = read_json::<File>(path, MAX_BYTES)?.weight_map else {
            return Err(Error::config(path, "weight_map", "must be an object that maps tensors to files"));
        };
        let mut entries = Vec::with_capacity(map.0.len());
        for (tensor, shard) in map.0 {
            match shard {
                Ok(shard) if is_plain(&shard) => entries.push((tensor, shard)),
                Ok(shard) => {
                    let what = format!(
                        "shard name \"{}\" must be a plain file name inside the folder; nothing outside is read",
                        printable(&shard)
                    );
                    return Err(Error::tensor(path, printable(&tensor), what));
                }
                Err(found) => {
                    return Err(Error::tensor(path, printable(&tensor), format!("must be a file name, found {found}")));
                }
            }
        }
        if entries.is_empty() {
            return Err(Error::config(path, "weight_map", "lists no tensors"));
        }
        Ok(Index { path: path.to_owned(), entries })
    }

    /// Paths of all shards, sorted, each once.
    ///
    /// # Errors
    /// If some are not there: all of them.
    pub(super) fn shards(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let names: BTreeSet<&str> = self.entries.iter().map(|(_, shard)| shard.as_str()).collect();
        let missing: Vec<String> = names
            .iter()
            .filter(|name| matches!(dir.join(name).try_exists(), Ok(false)))
            .map(|name| format!("missing file {}, named by the index; download it", printable(name)))
            .collect();
        if !missing.is_empty() {
            return Err(Error::Checkpoint { path: self.path.clone(), problems: shortened(missing) });
        }
        Ok(names.iter().map(|name| dir.join(name)).collect())
    }

    /// Whether every listed tensor was found, in whichever shard. `tensors` are sorted by name.
    pub(super) fn require_all(&self, tensors: &[TensorInfo]) -> Result<()> {
        let absent: Vec<String> = self
            .entries
            .iter()
            .filter(|(name, _)| tensors.binary_search_by(|t| t.name.as_str().cmp(name)).is_err())
            .map(|(name, shard)| {
                format!("tensor {} is in no shard, but the index puts it in {}", printable(name), printable(shard))
            })
            .collect();
        match absent.is_empty() {
            true => Ok(()),
            false => Err(Error::Checkpoint { path: self.path.clone(), problems: shortened(absent) }),
        }
    }
}

/// One normal component and nothing that is a separator on any system.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    one && !name.contains(['/', '\\', '\0'])
}

fn shortened(mut problems: Vec<String>) -> Vec<String> {
    let more = problems.len().saturating_sub(MAX_LISTED);
    if more > 0 {
        problems.truncate(MAX_LISTED);
        problems.push(format!("and {more} more"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names() {
        assert!(is_plain("model-00001-of-00002.safetensors"));
        for bad in ["", ".", "..", "/", "/etc/passwd", "../x", "a/b", "a/", "./a", "a\\b", "..\\a", "a\0b"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
