//! The embedded held-out text, which is scored unless another text is named. Never calibrated on.

/// Prose, code, tables, lists, dialogue and a few other languages; `calibration-data/manifest.toml` names every part.
pub const HELDOUT: &str = include_str!("../../calibration-data/heldout.txt");

/// The name of [`HELDOUT`] in records.
pub const HELDOUT_NAME: &str = "heldout (embedded)";

/// The part of a text file that is scored. llama-perplexity drops one line feed at the end, and so do we; otherwise the
/// figures could differ by a token.
pub fn scored(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}
