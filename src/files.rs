//! Files that appear whole, under their name, or not at all; and whether a file can have its name.

use std::path::{Path, PathBuf};

use crate::paths::directory_of;
use crate::watch::Unwatched;
use crate::{Error, Result};

mod atomic;

pub use atomic::AtomicFile;

/// Whether there is a directory for this file or folder.
///
/// # Errors
/// If there is none.
pub fn parent_exists(path: &Path) -> Result<()> {
    let parent = directory_of(path);
    match parent.is_dir() {
        true => Ok(()),
        false => {
            let what = format!("directory {} does not exist; create it first", parent.display());
            Err(Error::missing(path, vec![parent.to_owned()], what))
        }
    }
}

/// Where a file goes: `path` itself, or what it links to. `setting`: what names it, for errors. `replace`: whether it
/// may take the place of another.
///
/// # Errors
/// If the directory does not exist, `path` names a directory, or something is there that must not be replaced.
pub fn destination(path: &Path, setting: &str, replace: bool) -> Result<PathBuf> {
    parent_exists(path)?;
    let ends_like_a_directory = path.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
    if path.is_dir() || path.file_name().is_none() || ends_like_a_directory {
        return Err(Error::setting(setting, path.display(), "is a directory; a file name is needed"));
    }
    let Ok(found) = path.symlink_metadata() else { return Ok(path.to_owned()) };
    if !replace {
        let what = format!("already exists; use `replace` to replace it, or another `{setting}`");
        return Err(Error::Exists { path: path.to_owned(), replaceable: true, what });
    }
    // A link stays a link: what it leads to is replaced.
    let real = if found.is_symlink() {
        path.canonicalize().map_err(|e| Error::io(path, "follow the link", e))?
    } else {
        path.to_owned()
    };
    if !real.is_file() {
        let what = "is not a regular file, so it is not replaced";
        return Err(Error::Exists { path: path.to_owned(), replaceable: false, what: what.to_owned() });
    }
    Ok(real)
}

/// Whether a file can be written later, as [`write`](fn@write) does.
///
/// # Errors
/// Those of [`destination`], or if nothing can be created in its directory.
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only a command line asks before it writes"))]
pub fn check(path: &Path, setting: &str, replace: bool) -> Result<()> {
    AtomicFile::create(&destination(path, setting, replace)?, 0, replace).map(drop)
}

/// Writes a file. `setting` and `replace` as for [`destination`].
///
/// # Errors
/// Those of [`destination`], or if the disk is full or fails; then what was there stays.
pub fn write(path: &Path, setting: &str, replace: bool, bytes: &[u8]) -> Result<()> {
    let file = AtomicFile::create(&destination(path, setting, replace)?, bytes.len() as u64, replace)?;
    file.write_at(0, bytes)?;
    file.commit(&Unwatched)
}
