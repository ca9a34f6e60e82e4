//! A file that appears whole, under its name, or not at all.
//!
//! Bytes go to a temporary sibling, because a rename is atomic only within a file system, and because the file that
//! is replaced may be the mapped input of this very run. The sibling is removed when the run fails or is
//! interrupted. A run that was killed leaves one behind; the next run for the same name removes it, unless its
//! writer still lives (it holds a lock on it).

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use tempfile::NamedTempFile;

use crate::{Error, Result};

const SUFFIX: &str = ".aurora-tmp";

/// Bytes after which the disk is set to work. Otherwise nothing is written until the end, while dirty pages pile up.
const FLUSH: u64 = 64 << 20;

/// A file being written.
pub struct AtomicFile {
    temp: NamedTempFile,
    path: PathBuf,
    written: AtomicU64,
    flusher: Flusher,
}

/// A thread that flushes what has been written so far, whenever it is told that there is more.
struct Flusher {
    more: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Flusher {
    fn start(file: File) -> Self {
        let (more, told) = sync_channel::<()>(1);
        // The first failure is kept: the system reports one only once.
        let thread = thread::spawn(move || told.iter().try_for_each(|()| file.sync_data()));
        Flusher { more, thread }
    }

    fn finish(self) -> io::Result<()> {
        drop(self.more);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the flushing thread panicked")))
    }
}

impl AtomicFile {
    /// Reserves `size` bytes beside `path`.
    ///
    /// # Errors
    /// If the directory cannot be written or has no room for `size` bytes.
    pub fn create(path: &Path, size: u64) -> Result<Self> {
        let (dir, prefix) = (directory(path), prefix(path));
        remove_stale(&dir, &prefix);
        let temp = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(SUFFIX)
            .permissions(permissions())
            .tempfile_in(&dir)
            .map_err(|e| Error::io(&dir, "create a file in this directory", e))?;
        let fail = |e| Error::io(path, format!("reserve {size} bytes for it"), e);
        // Only to protect it from being taken for stale; file systems without locks do without.
        let _ = temp.as_file().try_lock();
        reserve(temp.as_file(), size).map_err(fail)?;
        let handle = temp.as_file().try_clone().map_err(|e| Error::io(path, "open a second time", e))?;
        let flusher = Flusher::start(handle);
        Ok(AtomicFile { temp, path: path.to_owned(), written: AtomicU64::new(0), flusher })
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        write_all_at(self.temp.as_file(), bytes, offset).map_err(|e| Error::io(&self.path, "write", e))?;
        let before = self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before / FLUSH != (before + bytes.len() as u64) / FLUSH {
            // Full: it has been told already. Closed: it has failed and will say so at the end.
            let _ = self.flusher.more.try_send(());
        }
        Ok(())
    }

    /// Flushes to the disk, then takes the final name.
    ///
    /// # Errors
    /// If either fails.
    pub fn commit(self) -> Result<()> {
        let path = self.path;
        let flushed = self.flusher.finish().and_then(|()| self.temp.as_file().sync_data());
        flushed.map_err(|e| Error::io(&path, "flush to the disk", e))?;
        self.temp.persist(&path).map_err(|e| Error::io(&path, "rename the finished file to this name", e.error))?;
        // The name itself is durable once the directory is; a system that cannot flush directories does it by itself.
        if let Ok(dir) = File::open(directory(&path)) {
            let _ = dir.sync_all();
        }
        Ok(())
    }
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn prefix(path: &Path) -> String {
    format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes what killed runs left for this name. Whatever goes wrong here must not stop the run.
fn remove_stale(dir: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !(name.starts_with(prefix) && name.ends_with(SUFFIX)) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        if !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// What an ordinary new file gets (the umask still applies); temporary files are private by default.
#[cfg(unix)]
fn permissions() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o666)
}

#[cfg(not(unix))]
fn permissions() -> fs::Permissions {
    fs::metadata(".").map(|m| m.permissions()).expect("the working directory exists")
}

/// Takes the disk space at once where the system can, so that a full disk is an error now and not in an hour.
#[cfg(target_os = "linux")]
fn reserve(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    use rustix::io::Errno;
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(size),
        Err(e) => Err(e.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(file: &File, size: u64) -> io::Result<()> {
    file.set_len(size)
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        let n = file.seek_write(bytes, offset)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}
