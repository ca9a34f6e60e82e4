//! Flags shared by the commands that calibrate.

use super::args::TextArgs;
use crate::recipe::Text;

/// Applies the flags to a recipe's calibration text.
pub fn calibration(flags: &TextArgs, text: &mut Text) {
    if !flags.text.is_empty() {
        text.files.clone_from(&flags.text);
    }
    text.context = flags.context.or(text.context);
    text.samples = flags.samples.map(Into::into).or(text.samples);
    text.seed = flags.seed.unwrap_or(text.seed);
}
