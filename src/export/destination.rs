//! Whether an output can have its name. Anything known to go wrong is found here, before work that may take hours.

use std::path::{Path, PathBuf};

use crate::checkpoint::gguf::split;
use crate::checkpoint::{Config, TensorSource, card, directory_of};
use crate::plan::FileType;
use crate::{Error, Result, files};

/// What the name of a sparse GGUF file ends in, behind its type.
pub(super) const SPARSE: &str = "-sparse";

/// Where a file goes: `path` itself, or what it links to. `replace`: whether it may replace an existing file.
///
/// # Errors
/// If the directory does not exist, `path` names a directory, or an existing file must not be replaced.
pub fn file(path: &Path, replace: bool) -> Result<PathBuf> {
    files::destination(path, "output", replace)
}

/// Where a folder goes: `path` itself. A folder never replaces another.
///
/// # Errors
/// If the parent directory does not exist, or the name is taken.
pub fn folder(path: &Path) -> Result<PathBuf> {
    files::parent_exists(path)?;
    match path.symlink_metadata() {
        Err(_) => Ok(path.to_owned()),
        Ok(_) => {
            let what = "already exists; folders are not replaced: remove it or use another `output`";
            Err(Error::Exists { path: path.to_owned(), replaceable: false, what: what.to_owned() })
        }
    }
}

/// `<model>-<ending>` in the current directory.
pub fn usual(source: &dyn TensorSource, ending: &str) -> PathBuf {
    let config = source.config().path();
    let name = match source.config() {
        Config::HuggingFace(_) => {
            let dir = directory_of(config);
            let id = card::directory_id(dir).unwrap_or_else(|| "model".to_owned());
            id.rsplit('/').next().unwrap_or_default().to_owned()
        }
        Config::Gguf(_) => {
            let stem = config.file_stem().unwrap_or_default().to_string_lossy();
            let stem = split::without_place(&stem);
            let stem = stem.strip_suffix(SPARSE).unwrap_or(stem);
            // model-bf16.gguf becomes model-q4_0.gguf, not model-bf16-q4_0.gguf.
            let cut = stem.rsplit_once('-').filter(|(_, end)| FileType::by_name(end).is_ok());
            cut.map_or(stem, |(start, _)| start).to_owned()
        }
    };
    PathBuf::from(format!("{name}-{ending}"))
}
