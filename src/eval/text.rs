//! The held-out text that is compiled in: what is scored unless another text is named. Never calibrated on.

/// Prose, code, tables, lists, dialogue and a few other languages; `calibration-data/manifest.toml` names every part.
pub const HELDOUT: &str = include_str!("../../calibration-data/heldout.txt");

/// What records call [`HELDOUT`].
pub const HELDOUT_NAME: &str = "heldout (embedded)";

/// The part of a text file that is scored: llama-perplexity drops one line feed at the end, so do we, or the figures of
/// both could differ by a token.
pub fn scored(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}
