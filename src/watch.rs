//! What long work reports while it runs, and where it asks whether to continue.
//!
//! A leaf module: everything that works for long takes a [`Watch`], and nothing needs to know who is watching.

use crate::Result;

/// Observes work from any thread. Every method has a default, so a watch implements only what it needs.
pub trait Watch: Sync {
    /// A stretch of work begins, with this many units: weights to write, or samples times blocks to run.
    fn begin(&self, _units: u64) {}

    /// This many more units are done, the last of them in `what`, such as a tensor.
    fn advance(&self, _what: &str, _units: u64) {}

    /// Says what is being done when no unit will be finished for a while.
    fn stage(&self, _what: &str) {}

    /// Called often. An error ends the work, and nothing of it is left behind.
    ///
    /// # Errors
    /// If the work should stop: [`Error::Interrupted`](crate::Error::Interrupted), or a reason of the watch's own.
    fn go_on(&self) -> Result<()> {
        Ok(())
    }
}

/// Nobody watches, and nothing stops the work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}
