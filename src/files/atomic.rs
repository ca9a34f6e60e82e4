//! A file that appears under its name complete or not at all.
//!
//! Bytes go to a temporary sibling, because a rename is atomic only within a file system, and because the file being
//! replaced may be the mapped input of this very run. The sibling is removed if the run fails or is interrupted. A
//! killed run leaves one behind; the next run for the same name removes it, unless its writer is still alive (it holds
//! a lock on the file).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use tempfile::NamedTempFile;

use crate::paths::directory_of;
use crate::watch::Watch;
use crate::{Error, Result};

const SUFFIX: &str = ".aurora-tmp";

/// Bytes between flushes. Without them, nothing reaches the disk until the end, while dirty pages pile up.
const FLUSH: u64 = 64 << 20;

/// A file being written.
pub struct AtomicFile {
    temp: NamedTempFile,
    path: PathBuf,
    replace: bool,
    written: AtomicU64,
    flush_every: u64,
    flusher: Flusher,
}

/// A thread that flushes what has been written so far, whenever it is told there is more.
struct Flusher {
    more: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Flusher {
    fn start(file: File) -> Self {
        let (more, told) = sync_channel::<()>(1);
        // Keep the first failure: the system reports each only once.
        let thread = thread::spawn(move || told.iter().try_for_each(|()| file.sync_data()));
        Flusher { more, thread }
    }

    fn finish(self) -> io::Result<()> {
        drop(self.more);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the flushing thread panicked")))
    }
}

impl AtomicFile {
    /// Reserves `size` bytes beside `path`, none if there is no telling. `replace`: whether a file that has the name at the end may be replaced.
    ///
    /// # Errors
    /// If the directory cannot be written or has no room for `size` bytes.
    pub fn create(path: &Path, size: u64, replace: bool) -> Result<Self> {
        Self::flushing(path, size, replace, FLUSH)
    }

    fn flushing(path: &Path, size: u64, replace: bool, flush_every: u64) -> Result<Self> {
        let (dir, prefix) = (directory_of(path), prefix(path));
        remove_stale(dir, &prefix);
        let temp = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(SUFFIX)
            .permissions(permissions())
            .tempfile_in(dir)
            // The system's reason, without the temporary name that tempfile adds.
            .map_err(|e| Error::io(dir, "create a file in this directory", e.kind().into()))?;
        let fail = |e| Error::io(path, format!("reserve {size} bytes for it"), e);
        // Protects the file from being taken for stale. On file systems without locks, it goes unprotected.
        let _ = temp.as_file().try_lock();
        reserve(temp.as_file(), size).map_err(fail)?;
        let handle = temp.as_file().try_clone().map_err(|e| Error::io(path, "open a second time", e))?;
        let flusher = Flusher::start(handle);
        Ok(AtomicFile { temp, path: path.to_owned(), replace, written: AtomicU64::new(0), flush_every, flusher })
    }

    /// Where the bytes are until the file has its name: to read them back.
    pub fn temporary(&self) -> &Path {
        self.temp.path()
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        write_all_at(self.temp.as_file(), bytes, offset).map_err(|e| Error::io(&self.path, "write", e))?;
        let before = self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before / self.flush_every != (before + bytes.len() as u64) / self.flush_every {
            // If the channel is full, it has been told already; if closed, it has failed and will say so at the end.
            let _ = self.flusher.more.try_send(());
        }
        Ok(())
    }

    /// Flushes to disk, then takes the final name, unless `watch` says to stop in between.
    ///
    /// # Errors
    /// If either fails, if the watch says to stop, or if the name was taken in the meantime and may not be replaced.
    pub fn commit(self, watch: &dyn Watch) -> Result<()> {
        let path = self.path;
        let flushed = self.flusher.finish().and_then(|()| self.temp.as_file().sync_data());
        flushed.map_err(|e| Error::io(&path, "flush to disk", e))?;
        watch.go_on()?;
        let named = if self.replace { self.temp.persist(&path) } else { self.temp.persist_noclobber(&path) };
        named.map_err(|e| Error::io(&path, "give the finished file this name", e.error))?;
        // The name itself is durable once the directory is. Systems that cannot flush directories do so themselves.
        if let Ok(dir) = File::open(directory_of(&path)) {
            let _ = dir.sync_all();
        }
        Ok(())
    }
}

/// The prefix of temporary files for this name: the name itself or, to limit the length, its beginning and a checksum.
fn prefix(path: &Path) -> String {
    const LONGEST: usize = 100;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.len() <= LONGEST {
        return format!(".{name}.");
    }
    let start: String = name.chars().take(LONGEST / 4).collect();
    let mut sum = flate2::Crc::new();
    sum.update(name.as_bytes());
    format!(".{start}-{:08x}.", sum.sum())
}

/// Removes what killed runs left for this name. A failure here must not stop the run.
fn remove_stale(dir: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !(name.starts_with(prefix) && name.ends_with(SUFFIX)) {
            continue;
        }
        if !entry.file_type().is_ok_and(|t| t.is_file()) {
            continue;
        }
        // Without working locks, nothing is known about the writer, so nothing is removed.
        if File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Permissions of an ordinary new file (the umask still applies). Temporary files are private by default.
#[cfg(unix)]
fn permissions() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o666)
}

#[cfg(not(unix))]
fn permissions() -> fs::Permissions {
    fs::metadata(".").map(|m| m.permissions()).expect("the working directory exists")
}

/// Reserves the disk space at once if the system can, so that a full disk is an error now and not in an hour.
#[cfg(target_os = "linux")]
fn reserve(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    use rustix::io::Errno;
    if size == 0 {
        return Ok(());
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Unwatched;

    struct Stop;

    impl Watch for Stop {
        fn go_on(&self) -> Result<()> {
            Err(Error::Interrupted)
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn bytes_written_across_many_flushes_arrive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let file = AtomicFile::flushing(&path, 10_000, false, 64).unwrap();
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| (i * 7 % 251) as u8).collect();
        for (i, chunk) in bytes.chunks(33).enumerate() {
            file.write_at(i as u64 * 33, chunk).unwrap();
        }
        file.commit(&Unwatched).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(names(dir.path()), ["x"]);
    }

    #[test]
    fn a_living_writer_keeps_its_file_and_a_dead_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(dir.path().join(".x.dead.aurora-tmp"), "").unwrap();
        let first = AtomicFile::create(&path, 10, true).unwrap();
        let second = AtomicFile::create(&path, 10, true).unwrap();
        assert_eq!(names(dir.path()).len(), 2, "{:?}", names(dir.path()));
        first.write_at(0, b"first_____").unwrap();
        second.write_at(0, b"second____").unwrap();
        first.commit(&Unwatched).unwrap();
        second.commit(&Unwatched).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second____");
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let file = AtomicFile::create(&path, 4, false).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(file.commit(&Unwatched), Err(Error::Io { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert_eq!(names(dir.path()), ["x"]);
    }

    #[test]
    fn stopping_at_the_end_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = AtomicFile::create(&dir.path().join("x"), 4, false).unwrap();
        assert!(matches!(file.commit(&Stop), Err(Error::Interrupted)));
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn long_names_leave_room_for_the_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n".repeat(250));
        AtomicFile::create(&path, 4, false).unwrap().commit(&Unwatched).unwrap();
        assert!(path.exists());
    }
}
