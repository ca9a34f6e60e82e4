//! Number formats and solvers: numbers in, numbers out.
//!
//! This crate knows how weights are stored and rounded. It knows no files, no model or tensor names, prints
//! nothing, reads no environment and no clock.
//!
//! Conventions: matrices are row-major `[out, in]`; blocks run along a row; every length is checked, in release
//! builds too, because a caller that is off by one block would otherwise write a file that loads and is wrong.
//!
//! | module | what it answers |
//! |---|---|
//! | [`spec`] | what every ggml tensor type is called and how many bytes it takes |
//! | [`format`](mod@format) | [`Format`]: encode and decode rows; [`BlockFormat`]: the grid of one block |
//! | [`grid`] | [`Grid`]: the values that one block can hold, and the nearest of them |
//! | [`formats`] | the table of formats, one file each |
//! | [`par`] | fixed-size chunks over threads: the same bytes for any thread count |

mod bits;
pub mod error;
pub mod format;
pub mod formats;
pub mod grid;
pub mod par;
pub mod simd;
pub mod spec;

pub use error::NumError;
pub use format::{BlockFormat, Format};
pub use grid::Grid;
pub use spec::Spec;
