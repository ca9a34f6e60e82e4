//! Progress when stderr is not a terminal: an occasional line, for the log of a CI job.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::TermLike;

/// Minimum time between lines. Short runs print none.
const EVERY: Duration = Duration::from_secs(30);

/// Stands in for a terminal: receives every redraw of a progress bar and prints only a few.
#[derive(Debug)]
pub struct Lines(Mutex<Instant>);

impl Lines {
    /// Starts counting now.
    pub fn new() -> Self {
        Lines(Mutex::new(Instant::now()))
    }

    /// What to print of a redraw at that time, if anything.
    fn due<'a>(&self, drawn: &'a str, now: Instant) -> Option<&'a str> {
        let text = drawn.trim();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if text.is_empty() || now.saturating_duration_since(*last) < EVERY {
            return None;
        }
        *last = now;
        Some(text)
    }
}

impl TermLike for Lines {
    fn width(&self) -> u16 {
        160
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        if let Some(text) = self.due(s, Instant::now()) {
            // Failing to report progress must not stop the work.
            let _ = writeln!(io::stderr(), "{text}");
        }
        Ok(())
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.write_str(s)
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_a_while() {
        let lines = Lines::new();
        let start = *lines.0.lock().unwrap();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(lines.due(" 3% ", at(1)), None);
        assert_eq!(lines.due("   ", at(31)), None, "the rest of a terminal's line");
        assert_eq!(lines.due(" 7%  2m left ", at(31)), Some("7%  2m left"));
        assert_eq!(lines.due("8%", at(60)), None);
        assert_eq!(lines.due("9%", at(61)), Some("9%"));
    }
}
