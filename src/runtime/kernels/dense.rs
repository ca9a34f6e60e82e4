//! A dense matrix as it is stored, and the products that its type has.

use std::borrow::Cow;
use std::ops::Range;

use aurora_quantizers::{Spec, Store};

use super::acts::Acts;
use super::isa::KernelIsa;
use super::out::Out;

/// A product with activations as floats.
pub(super) type Float = fn(KernelIsa, &Dense, &Acts, Out);

/// A product with activations as integers.
pub(super) type Integer = fn(KernelIsa, &Dense, &Acts, usize, &mut [f32]);

/// A weight matrix `[rows, cols]`, every weight of it stored: what turns `cols` inputs into `rows` outputs.
pub struct Dense<'a> {
    pub(super) store: &'static dyn Store,
    /// The store's: looked up once.
    pub(super) spec: &'static Spec,
    pub(super) float: Float,
    pub(super) integer: Option<Integer>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_bytes: usize,
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) order: Option<Box<[u32]>>,
}

impl Dense<'_> {
    /// The stored bytes of logical row `r`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub fn row(&self, r: usize) -> &[u8] {
        let r = self.order.as_ref().map_or(r, |order| order[r] as usize);
        &self.bytes[r * self.row_bytes..(r + 1) * self.row_bytes]
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The stored bytes of all rows, in stored order.
    pub fn stored(&self) -> &[u8] {
        &self.bytes
    }

    /// How the weights are stored.
    pub fn store(&self) -> &'static dyn Store {
        self.store
    }

    /// Some columns of row `r` as floats. `columns` must start and end between blocks.
    pub(super) fn decode(&self, r: usize, columns: Range<usize>, out: &mut [f32]) {
        let at = |column: usize| column / self.spec.block * self.spec.bytes;
        self.store.decode(&self.row(r)[at(columns.start)..at(columns.end)], out);
    }
}
