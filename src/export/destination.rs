//! Whether an output can have its name. Anything known to go wrong is found here, before work that may take hours.

use std::path::{Path, PathBuf};

use crate::checkpoint::{Config, TensorSource, card, directory_of};
use crate::plan::FileType;
use crate::{Error, Result};

fn parent_exists(path: &Path) -> Result<()> {
    let parent = directory_of(path);
    match parent.is_dir() {
        true => Ok(()),
        false => {
            Err(Error::destination(path, format!("directory {} does not exist; create it first", parent.display())))
        }
    }
}

/// Where a file goes: `path` itself, or what it links to. `replace`: whether it may replace an existing file.
///
/// # Errors
/// If the directory does not exist, `path` names a directory, or an existing file must not be replaced.
pub fn file(path: &Path, replace: bool) -> Result<PathBuf> {
    parent_exists(path)?;
    let ends_like_a_directory = path.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
    if path.is_dir() || path.file_name().is_none() || ends_like_a_directory {
        return Err(Error::destination(path, "is a directory; `output` needs a file name"));
    }
    let Ok(found) = path.symlink_metadata() else { return Ok(path.to_owned()) };
    if !replace {
        return Err(Error::destination(path, "already exists; use `replace` to replace it, or another `output`"));
    }
    // A link stays a link: its target is replaced.
    let real = if found.is_symlink() {
        path.canonicalize().map_err(|e| Error::io(path, "follow the link", e))?
    } else {
        path.to_owned()
    };
    if !real.is_file() {
        return Err(Error::destination(path, "is not a regular file, so it is not replaced"));
    }
    Ok(real)
}

/// Where a folder goes: `path` itself. A folder never replaces another.
///
/// # Errors
/// If the parent directory does not exist, or the name is taken.
pub fn folder(path: &Path) -> Result<PathBuf> {
    parent_exists(path)?;
    match path.symlink_metadata() {
        Err(_) => Ok(path.to_owned()),
        Ok(_) => {
            Err(Error::destination(path, "already exists; folders are not replaced: remove it or use another `output`"))
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
            let stem = config.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            // model-bf16.gguf becomes model-q4_0.gguf, not model-bf16-q4_0.gguf.
            let cut = stem.rsplit_once('-').filter(|(_, end)| FileType::by_name(end).is_ok());
            cut.map_or(stem.clone(), |(start, _)| start.to_owned())
        }
    };
    PathBuf::from(format!("{name}-{ending}"))
}
