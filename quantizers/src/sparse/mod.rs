//! Matrices whose zeros are left out: which weights are there, and their values one after the other.
//!
//! A matrix is up to four parts, each a run of bytes. Numbers are little-endian.
//!
//! | part | what |
//! |---|---|
//! | mask | `[rows, cols.div_ceil(8)]` bytes, see [`Packing`] |
//! | index | `[rows + 1]` of i64: how many values are stored before each row. Not for 2:4, where it is known |
//! | values | what is stored, in order, rows one after the other |
//! | scales | `[rows, cols / 32]` of F16, for types with codes: those of the dense type's blocks |
//!
//! So a matrix of codes is exactly its dense type without the zeros. Floats and codes of 8 bits are stored as in the
//! dense type. Codes of four bits are stored plus 8, two to a byte, the first one low; every row takes an even number
//! of them, and its last may be a filler (8, zero).
//!
//! [`SparseLayout`] says how long parts are, packs dense rows and unpacks them again; [`SparseView`] is a whole matrix
//! whose parts have been checked.

mod error;
mod layout;
mod pack;
mod unpack;
mod view;

#[cfg(test)]
mod tests;

pub use error::SparseError;
pub use layout::{Packing, SparseLayout, SparseParts};
pub use view::SparseView;
