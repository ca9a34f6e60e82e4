//! Number formats and solvers: numbers in, numbers out.
//!
//! This crate knows how weights are stored and rounded. It knows no files, no model or tensor names, prints
//! nothing, reads no environment and no clock.
//!
//! Conventions: matrices are `[out, in]` and cross as views of [ndarray], row-major (others are refused, see
//! [`view`]); blocks run along a row; every length is checked, in release builds too, because a caller that is off by
//! one block would otherwise write a file that loads and is wrong.
//!
//! | module | what it answers |
//! |---|---|
//! | [`spec`] | what every ggml tensor type is called and how many bytes it takes |
//! | [`store`] | [`Store`]: what a matrix becomes, its rows encoded and decoded; [`BlockFormat`]: one block's grid |
//! | [`grid`] | [`Grid`]: the values that one block can hold, and the nearest of them |
//! | [`formats`] | the table of formats, one file each |
//! | [`fidelity`] | how much of weights is left once they are stored, and what their being small costs |
//! | [`fallback`](mod@fallback) | what to store where a type's blocks do not divide a row |
//! | [`gptq`] | codes that make up for each other's errors |
//! | [`cholesky`] | the factor L of a symmetric matrix A = L L^T, the same bits everywhere |
//! | [`linalg`] | X^T X of activations |
//! | [`stats`] | what calibration keeps of the inputs of linears |
//! | [`tree`] | such sums in the order of a fixed tree, however a text is cut |
//! | [`metrics`] | what a row of logits says: NLL, KL divergence, agreement, and the standard errors of their means |
//! | [`awq`] | factors per channel that make rounding hurt less |
//! | [`mask`] | which weights of a matrix stay |
//! | [`prune`] | how many weights go, and which |
//! | [`sparse`] | matrices without their zeros: masks, and the values one after the other |
//! | [`scan`](mod@scan) | whether values are finite and small enough for a type |
//! | [`simd`] | which instructions this machine has; one source for every kernel |
//! | [`view`] | [`matrix`], [`elements`]: how matrices cross the face of this crate |
//! | [`par`] | fixed-size chunks over threads: the same bytes for any thread count |

pub mod awq;
mod bits;
pub mod cholesky;
pub mod error;
pub mod fallback;
pub mod fidelity;
pub mod formats;
pub mod gptq;
pub mod grid;
pub mod linalg;
pub mod mask;
pub mod metrics;
pub mod par;
pub mod prune;
pub mod scan;
mod search;
pub mod simd;
pub mod sparse;
pub mod spec;
pub mod stats;
pub mod store;
pub mod tree;
pub mod view;

pub use error::NumError;
pub use fallback::fallback;
pub use fidelity::Fidelity;
pub use grid::Grid;
pub use mask::BitMask;
pub use scan::{Scan, scan};
pub use spec::Spec;
pub use stats::SiteStats;
pub use store::{BlockFormat, Care, Encoders, Field, Scales, Store};
pub use view::{elements, elements_mut, matrix, matrix_mut};
