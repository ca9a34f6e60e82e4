//! Whether the files of a source are still what they were when it was opened.
//!
//! Mapped files are read for as long as a run lasts. A file rewritten meanwhile would be scored half old, half new; one
//! cut short ends the process when the lost part is read. Whoever reads for long looks now and then, so that the first
//! is an error and the second mostly one.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use super::source::TensorSource;
use crate::watch::Watch;
use crate::{Error, Result};

/// How often a [`Guard`] looks at its files.
const LOOK: Duration = Duration::from_millis(100);

/// A watch that also ends the work, with an error, as soon as one of some files has changed.
pub struct Guard<'a> {
    watch: &'a dyn Watch,
    files: Vec<&'a Unchanged>,
    looked: Mutex<Instant>,
}

impl<'a> Guard<'a> {
    /// Passes everything on to `watch`.
    pub fn new(watch: &'a dyn Watch, files: impl IntoIterator<Item = &'a Unchanged>) -> Guard<'a> {
        Guard { watch, files: files.into_iter().collect(), looked: Mutex::new(Instant::now()) }
    }

    /// Whether it is time to look again.
    fn due(&self) -> bool {
        // Another thread that holds the lock is looking right now.
        let Ok(mut looked) = self.looked.try_lock() else { return false };
        let due = looked.elapsed() >= LOOK;
        if due {
            *looked = Instant::now();
        }
        due
    }
}

impl Watch for Guard<'_> {
    fn begin(&self, units: u64) {
        self.watch.begin(units);
    }

    fn advance(&self, what: &str, units: u64) {
        self.watch.advance(what, units);
    }

    fn stage(&self, what: &str) {
        self.watch.stage(what);
    }

    fn go_on(&self) -> Result<()> {
        self.watch.go_on()?;
        if self.due() { self.files.iter().try_for_each(|files| files.check()) } else { Ok(()) }
    }
}

/// Size and time of change of every file of a source.
#[derive(Debug)]
pub struct Unchanged {
    files: Vec<(PathBuf, u64, Option<SystemTime>)>,
}

impl Unchanged {
    /// Remembers the files of `source` as they are. Call it right after opening.
    ///
    /// # Errors
    /// If a file is gone, or shorter than its tensors reach.
    pub fn since_now(source: &dyn TensorSource) -> Result<Unchanged> {
        let mut files = Vec::new();
        for (i, path) in source.files().iter().enumerate() {
            let (size, changed) = look(path)?;
            let end = source.tensors().iter().filter(|t| t.file == i).map(|t| t.range.end).max().unwrap_or(0);
            if size < end as u64 {
                let what = format!("changed while it was opened: tensors end at byte {end}, it has {size} bytes now");
                return Err(Error::changed(path, what));
            }
            files.push((path.clone(), size, changed));
        }
        Ok(Unchanged { files })
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.1).sum()
    }

    /// Looks again.
    ///
    /// # Errors
    /// Which file changed, and how.
    pub fn check(&self) -> Result<()> {
        for (path, size, changed) in &self.files {
            let (size_now, changed_now) = look(path)?;
            if size_now != *size {
                let what = format!("changed size while it was in use: {size} bytes at the start, {size_now} now");
                return Err(Error::changed(path, what));
            }
            if changed_now != *changed {
                return Err(Error::changed(path, "was written to while it was in use; run again"));
            }
        }
        Ok(())
    }
}

fn look(path: &PathBuf) -> Result<(u64, Option<SystemTime>)> {
    let meta = fs::metadata(path).map_err(|e| Error::io(path, "check again", e))?;
    Ok((meta.len(), meta.modified().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_grows_shrinks_or_goes_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let at =
            |size: u64| fs::File::options().write(true).create(true).truncate(false).open(&path).unwrap().set_len(size);
        at(100).unwrap();
        let (size, changed) = look(&path).unwrap();
        let files = Unchanged { files: vec![(path.clone(), size, changed)] };
        files.check().unwrap();
        for size in [99, 101] {
            at(size).unwrap();
            let error = files.check().unwrap_err().to_string();
            assert!(error.contains(&format!("100 bytes at the start, {size} now")), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(files.check().unwrap_err().to_string().contains("cannot check again"));
    }
}
