//! A folder that appears under its name complete or not at all: it is filled as a temporary sibling and renamed at the
//! end.

use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint::directory_of;
use crate::watch::Watch;
use crate::{Error, Result};

/// A folder that is being filled; removed unless it is finished.
pub(super) struct Folder {
    temp: tempfile::TempDir,
    path: PathBuf,
}

impl Folder {
    /// Creates a temporary folder beside `path`.
    pub fn begin(path: &Path) -> Result<Folder> {
        let parent = directory_of(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temp = tempfile::Builder::new().prefix(&format!(".{name}.")).suffix(".aurora-tmp").tempdir_in(parent);
        let temp = temp.map_err(|e| Error::io(parent, "create a folder in this directory", e.kind().into()))?;
        Ok(Folder { temp, path: path.to_owned() })
    }

    /// Where the folder is until it is finished.
    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Gives the folder its name, unless `watch` says to stop.
    pub fn commit(self, watch: &dyn Watch) -> Result<()> {
        open_to_all(self.temp.path()).map_err(|e| Error::io(&self.path, "set the permissions of", e))?;
        watch.go_on()?;
        fs::rename(self.temp.path(), &self.path)
            .map_err(|e| Error::io(&self.path, "give the finished folder this name", e))?;
        // It is no longer temporary.
        let _ = self.temp.keep();
        Ok(())
    }
}

/// Temporary folders are private; this one should be like any other new folder.
#[cfg(unix)]
fn open_to_all(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn open_to_all(_: &Path) -> std::io::Result<()> {
    Ok(())
}
