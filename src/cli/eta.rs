//! Estimated time left.
//!
//! Progress comes in steps; for some methods a step is a transformer block and takes minutes. An estimate from the
//! speed of the last steps would swing from nothing to years, so this one uses the average over everything done so far.

use std::fmt::Write;
use std::time::{Duration, Instant};

use indicatif::style::ProgressTracker;
use indicatif::{HumanDuration, ProgressState};

/// The key `left` in a progress bar's template.
#[derive(Debug, Clone, Default)]
pub struct Eta {
    position: u64,
    /// When that position was reached, counted from the start.
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
        // Writing to a string cannot fail.
        let _ = match rest(self.position, state.len().unwrap_or(0), self.reached, state.elapsed()) {
            Some(rest) => write!(out, "{:#}", HumanDuration(rest)),
            None => write!(out, "?"),
        };
    }
}

/// Time left if `done` of `all` units were done at `reached`. Unknown before the first unit is done.
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
