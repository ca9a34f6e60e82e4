//! Printing: results to stdout, everything else to stderr.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::Common;
use super::eta::Eta;
use super::lines::Lines;
use super::wording;
use crate::{Error, Result};

/// Writes text to stdout as it is.
///
/// # Errors
/// If stdout is closed (see [`is_broken_pipe`]) or fails.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io(Path::new("stdout"), "write", e))
}

/// Writes one JSON document to stdout.
///
/// # Errors
/// As [`print`].
pub fn print_json(document: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(document).expect("documents have string keys");
    text.push('\n');
    print(&text)
}

/// Whether the reader of our output went away (`aurora-quant inspect ... | head`), which is not a failure.
pub fn is_broken_pipe(e: &Error) -> bool {
    matches!(e, Error::Io { path, source, .. }
        if path == Path::new("stdout") && source.kind() == io::ErrorKind::BrokenPipe)
}

/// Reports why the run failed.
pub fn failure(e: &Error, json: bool) {
    let message = e.explain();
    let message = wording::flags(&message);
    say(&format!("error: {message}"));
    if json {
        // A reader of the JSON gets the reason too. If it cannot be written, stderr still has it.
        let _ = print_json(&serde_json::json!({ "error": message }));
    }
}

/// Writes a message to stderr unless told to be quiet.
pub fn message(common: &Common, text: &str) {
    if !common.quiet {
        say(text);
    }
}

/// Writes what the user should know to stderr unless told to be quiet.
pub fn notes(common: &Common, notes: &[String]) {
    for note in notes {
        message(common, &wording::flags(&format!("note: {note}")));
    }
}

/// Writes a line to stderr. If that fails (a full disk, a closed pipe), the work goes on.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// "1.1 GB": decimal, as disks and model pages count.
pub fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// "8.0M", "1.1B": counts of weights.
pub fn count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1}K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", n as f64 / 1e6),
        _ => format!("{:.1}B", n as f64 / 1e9),
    }
}

/// A progress bar on stderr, counted in weights; an occasional line if stderr is not a terminal.
pub fn progress(common: &Common, weights: u64) -> ProgressBar {
    let bar = if common.quiet { ProgressBar::hidden() } else { ProgressBar::new(weights) };
    let mut style = "{bar:30} {percent:>3}%  {left:>4} left  {msg}";
    if !common.quiet && io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    } else if !common.quiet {
        bar.set_draw_target(ProgressDrawTarget::term_like_with_hz(Box::new(Lines::new()), 1));
        style = "{percent:>3}%  {elapsed} elapsed, {left} left  {msg}";
    }
    let style = ProgressStyle::with_template(style).expect("a valid template");
    bar.set_style(style.with_key("left", Eta::default()));
    bar
}

/// A status line on stderr, if that is a terminal.
pub fn spinner(common: &Common) -> ProgressBar {
    let bar = if common.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    if !common.quiet {
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    }
    bar
}

/// "0.42 s", "3m 05s".
pub fn duration(d: Duration) -> String {
    match d.as_secs() {
        0..10 => format!("{:.2} s", d.as_secs_f64()),
        10..120 => format!("{:.1} s", d.as_secs_f64()),
        s => format!("{}m {:02}s", s / 60, s % 60),
    }
}

/// Makes text from a file safe for a terminal by escaping control characters.
pub fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_debug()) } else { out.push(c) }
    }
    out
}

/// Aligns columns: those in `left` to the left, the others to the right.
pub fn table(rows: &[Vec<String>], left: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            if c > 0 {
                line.push_str("  ");
            }
            if left.contains(&c) {
                line.push_str(cell);
                line.push_str(&pad);
            } else {
                line.push_str(&pad);
                line.push_str(cell);
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Dimensions, outermost first: "512 x 64".
pub fn shape(dims: &[usize]) -> String {
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}
