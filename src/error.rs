//! Everything that can stop a run: a kind for each cause that a caller would treat differently, and its place.
//!
//! What is known is in fields: the file, the key or tensor in it, the setting, what was found and needed. `what` is
//! for people, and its words may change. An error's text is its own part of the story; what it came from is its
//! [`source`](std::error::Error::source), and [`Error::explain`] tells both, each once. Settings stand in `backticks`,
//! as recipes spell them: the command line shows them as flags.

mod explain;
mod fault;
mod kinds;
mod place;

pub use fault::Fault;
pub use kinds::{Cause, Error};
pub use place::{Misfit, Quantity, TensorFault, Within};

pub(crate) use place::{list, printable, printable_json};

/// Shorthand used by the whole library.
pub type Result<T, E = Error> = std::result::Result<T, E>;
