//! What long work tells while it runs, and where it asks whether to go on.
//!
//! A leaf: everyone who works for long takes a [`Watch`], and nobody needs to know who looks.

use crate::Result;

/// Looks on while work is done, from any thread. Every method has a default, so that a watch implements what it cares
/// for.
pub trait Watch: Sync {
    /// A stretch of work begins that has so many units: weights to write, or samples times blocks to run.
    fn begin(&self, _units: u64) {}

    /// So many more units are done; the last of them belong to `what`, such as a tensor.
    fn advance(&self, _what: &str, _units: u64) {}

    /// What is being done, where no unit is finished for a while.
    fn stage(&self, _what: &str) {}

    /// Asked often. An error ends the work, and nothing of it is left behind.
    ///
    /// # Errors
    /// If the work is to stop: [`Error::Interrupted`](crate::Error::Interrupted), or a reason of the watch's own.
    fn go_on(&self) -> Result<()> {
        Ok(())
    }
}

/// Nobody looks, and nothing stops the work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}
