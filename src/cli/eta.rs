//! How long a run will still take.
//!
//! Work is counted when it is done, for some methods a block of the model at a time with minutes between: an estimate
//! from the last steps' speed would swing from nothing to years. This one goes by what all that is done has taken.

use std::fmt::Write;
use std::time::{Duration, Instant};

use indicatif::style::ProgressTracker;
use indicatif::{HumanDuration, ProgressState};

/// The key `left` of a progress bar's template.
#[derive(Debug, Clone, Default)]
pub struct Eta {
    position: u64,
    /// When the position was reached, from the start.
    reached: Duration,
}

impl ProgressTracker for Eta {
    fn clone_box(&self) -> Box<dyn ProgressTracker> {
        Box::new(self.clone())
    }

    fn tick(&mut self, state: &ProgressState, _: Instant) {
        if state.pos() != self.position {
            (self.position, self.reached) = (state.pos(), state.elapsed());
        }
    }

    fn reset(&mut self, _: &ProgressState, _: Instant) {
        *self = Eta::default();
    }

    fn write(&self, state: &ProgressState, out: &mut dyn Write) {
        // A string takes it.
        let _ = match rest(self.position, state.len().unwrap_or(0), self.reached, state.elapsed()) {
            Some(rest) => write!(out, "{:#}", HumanDuration(rest)),
            None => write!(out, "?"),
        };
    }
}

/// `done` of `all` were done at `reached`; nothing is known before anything is.
fn rest(done: u64, all: u64, reached: Duration, now: Duration) -> Option<Duration> {
    if done == 0 || all < done {
        return None;
    }
    Some(reached.mul_f64(all as f64 / done as f64).saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_for_each_share() {
        let minutes = |m: u64| Duration::from_secs(60 * m);
        assert_eq!(rest(0, 16, minutes(0), minutes(2)), None);
        assert_eq!(rest(1, 16, minutes(2), minutes(2)), Some(minutes(30)));
        assert_eq!(rest(1, 16, minutes(2), minutes(3)), Some(minutes(29)), "time goes on within a step");
        assert_eq!(rest(16, 16, minutes(32), minutes(33)), Some(minutes(0)));
    }
}
