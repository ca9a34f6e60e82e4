//! model.safetensors.index.json: which shard holds which tensor.
//!
//! Only two things are believed: that the named shards belong to the model, and that the listed tensors exist. Where
//! a tensor really is, the shards themselves say.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde_json::Value as Json;

use super::super::TensorInfo;
use super::super::config::read_json_object;
use crate::error::printable;
use crate::{Error, Result};

/// At most so many problems are listed one by one.
const MAX_LISTED: usize = 20;

/// The index, its shard names known to be plain file names.
pub(super) struct Index {
    path: PathBuf,
    /// Tensor and shard, in file order.
    entries: Vec<(String, String)>,
}

impl Index {
    /// Reads and checks the file; touches no shard.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut object = read_json_object(path)?;
        let Some(Json::Object(map)) = object.remove("weight_map") else {
            return Err(Error::config(path, "weight_map", "must be an object that maps tensors to files"));
        };
        let mut entries = Vec::with_capacity(map.len());
        for (tensor, shard) in map {
            match shard {
                Json::String(shard) if is_plain(&shard) => entries.push((tensor, shard)),
                Json::String(shard) => {
                    let what = format!(
                        "shard name \"{}\" must be a plain file name inside the folder; nothing outside is read",
                        printable(&shard)
                    );
                    return Err(Error::tensor(path, printable(&tensor), what));
                }
                other => {
                    let what = format!("must be a file name, found {}", printable(&other.to_string()));
                    return Err(Error::tensor(path, printable(&tensor), what));
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
                format!("tensor {} is in no shard; the index puts it in {}", printable(name), printable(shard))
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
