//! Progress on stderr for long work, and how Ctrl-C ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;

use super::args::Common;
use super::ui;
use crate::watch::Watch;
use crate::{Error, Result};

/// A progress bar that watches work.
pub struct Progress {
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
}

impl Progress {
    /// `stop`: ends the work when it becomes true.
    pub fn new(common: &Common, stop: Arc<AtomicBool>) -> Self {
        Progress { bar: ui::progress(common, 1), stop }
    }
}

impl Watch for Progress {
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
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // An error message must not end up behind half a bar.
        self.bar.finish_and_clear();
    }
}
