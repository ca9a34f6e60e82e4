//! Progress on stderr for whatever watches long work, and the way in which Ctrl-C and changed files end it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::args::Common;
use super::ui;
use crate::checkpoint::Unchanged;
use crate::watch::Watch;
use crate::{Error, Result};

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A progress bar that watches work.
pub struct Progress<'a> {
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
    files: Vec<&'a Unchanged>,
    looked: Mutex<Instant>,
}

impl<'a> Progress<'a> {
    /// `stop`: ends the work when it becomes true. `files`: end it, with an error, as soon as one of them has changed.
    pub fn new(common: &Common, stop: Arc<AtomicBool>, files: impl IntoIterator<Item = &'a Unchanged>) -> Self {
        let (bar, looked) = (ui::progress(common, 1), Mutex::new(Instant::now()));
        Progress { bar, stop, files: files.into_iter().collect(), looked }
    }

    /// Whether it is time to look at the files again.
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

impl Watch for Progress<'_> {
    fn begin(&self, units: u64) {
        self.bar.reset();
        self.bar.set_length(units);
    }

    fn advance(&self, what: &str, units: u64) {
        if self.bar.message() != what {
            self.bar.set_message(what.to_owned());
        }
        self.bar.inc(units);
    }

    fn stage(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
    }

    fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if self.due() { self.files.iter().try_for_each(|files| files.check()) } else { Ok(()) }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        // An error message must not end up behind half a bar.
        self.bar.finish_and_clear();
    }
}
