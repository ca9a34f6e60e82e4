//! Whether an output can have its name. All that is known to go wrong is found here, before the work: it may take hours.

use std::path::{Path, PathBuf};

use crate::checkpoint::directory_of;
use crate::{Error, Result};

fn refused(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::unsupported(format!("{}: {what}", path.display()))
}

fn parent_exists(path: &Path) -> Result<()> {
    let parent = directory_of(path);
    match parent.is_dir() {
        true => Ok(()),
        false => Err(refused(path, format_args!("directory {} does not exist; create it first", parent.display()))),
    }
}

/// Where a file goes: `path` itself, or what it links to. `replace`: whether it may take the place of another.
///
/// # Errors
/// If the directory does not exist, `path` names a directory, or something is there that must not be replaced.
pub fn file(path: &Path, replace: bool) -> Result<PathBuf> {
    parent_exists(path)?;
    let ends_like_a_directory = path.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
    if path.is_dir() || path.file_name().is_none() || ends_like_a_directory {
        return Err(refused(path, "names a directory; `output` needs a file name"));
    }
    let Ok(found) = path.symlink_metadata() else { return Ok(path.to_owned()) };
    if !replace {
        return Err(refused(path, "exists; use `force` to replace it, or another name with `output`"));
    }
    // A link stays a link: what it leads to is replaced.
    let real = if found.is_symlink() {
        path.canonicalize().map_err(|e| Error::io(path, "follow the link", e))?
    } else {
        path.to_owned()
    };
    if !real.is_file() {
        return Err(refused(path, "is no regular file; it is not replaced"));
    }
    Ok(real)
}

/// Where a folder goes: `path` itself. A folder never takes the place of another.
///
/// # Errors
/// If the directory does not exist, or something has that name.
pub fn folder(path: &Path) -> Result<PathBuf> {
    parent_exists(path)?;
    match path.symlink_metadata() {
        Err(_) => Ok(path.to_owned()),
        Ok(_) => Err(refused(path, "exists; folders are not replaced: remove it, or name another with `output`")),
    }
}
