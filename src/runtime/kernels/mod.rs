//! The matrix products of the executor: weights as they are stored, activations as floats.
//!
//! | file | what it answers |
//! |---|---|
//! | `isa` | which instructions this machine has; the one dispatch |
//! | `simd` | the vector operations that kernels are written in, and their plain twin |
//! | `x86` | the same with AVX2, and with AVX-512 |
//! | `neon` | the same with the dotprod instructions of aarch64 |
//! | `dense` | a matrix as it is stored |
//! | `block_type` | what a product needs to know of a block type |
//! | `codes`, `supers` | where the block types keep codes, scales, offsets: blocks of 32 weights, and super-blocks |
//! | `acts` | [`Acts`]: activations, and their 8-bit form |
//! | `kinds` | integer sums within one block |
//! | `blocks` | integer products |
//! | `floats` | float products |
//! | `sparse` | matrices without their zeros |
//! | `tile` | products of small float matrices, for attention |
//! | `out` | the result, written by several threads |
//! | `vec` | small helpers over one row: largest value, exponentials, gate |
//!
//! A product is split by rows into parts that depend on the shape alone, and every sum is made by one thread in an
//! order that depends on the shape alone: the number of threads changes nothing. Integer products moreover give the
//! same bits on every instruction set and for every number of tokens.
//!
//! Knows no tensor names and no files.

mod acts;
mod block_type;
mod blocks;
mod codes;
mod dense;
mod floats;
pub(crate) mod isa;
mod kinds;
#[cfg(all(target_arch = "aarch64", not(aurora_scalar)))]
mod neon;
mod out;
mod simd;
pub(crate) mod sparse;
mod supers;
#[cfg(test)]
mod tests;
pub(crate) mod tile;
pub(crate) mod vec;
#[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
mod x86;

use std::borrow::Cow;

use aurora_quantizers::{Store, elements_mut};
use ndarray::ArrayViewMut2;

pub use acts::Acts;
pub use dense::Dense;
use dense::{Float, Integer};
use isa::KernelIsa;
pub use sparse::Sparse;

/// Types whose values are read one by one, without decoding a row first.
static FLOATS: &[(&str, Float)] = &[
    ("f32", floats::product::<floats::F32, 4>),
    ("f16", floats::product::<floats::F16, 2>),
    ("bf16", floats::product::<floats::BF16, 2>),
];

/// Types with a product in integers. All others are decoded.
static INTEGERS: &[(&str, Integer)] = &[
    ("q8_0", blocks::product::<codes::Q8_0, 34>),
    ("q5_1", blocks::product::<codes::Q5_1, 24>),
    ("q5_0", blocks::product::<codes::Q5_0, 22>),
    ("q4_1", blocks::product::<codes::Q4_1, 20>),
    ("q4_0", blocks::product::<codes::Q4_0, 18>),
    ("iq4_nl", blocks::product::<codes::Iq4Nl, 18>),
    ("mxfp4", blocks::product::<codes::MXFP4, 17>),
    ("q6_k", blocks::product::<supers::Q6K, 210>),
    ("q5_k", blocks::product::<supers::Q5K, 176>),
    ("q4_k", blocks::product::<supers::Q4K, 144>),
    ("q3_k", blocks::product::<supers::Q3K, 110>),
    ("q2_k", blocks::product::<supers::Q2K, 84>),
    ("iq4_xs", blocks::product::<supers::Iq4Xs, 136>),
];

impl<'a> Dense<'a> {
    /// `bytes`: `rows` rows of `cols` weights, stored so. `order`: logical row `r` is stored as row `order[r]`.
    ///
    /// # Panics
    /// If the store's blocks do not divide a row, the bytes are not `rows` rows, or `order` is not `rows` numbers below
    /// `rows`.
    pub fn new(
        store: &'static dyn Store,
        rows: usize,
        cols: usize,
        bytes: Cow<'a, [u8]>,
        order: Option<Box<[u32]>>,
    ) -> Dense<'a> {
        let spec = store.spec();
        let row_bytes = spec.bytes_for(cols);
        let row_bytes =
            row_bytes.unwrap_or_else(|| panic!("{}: {cols} columns, blocks of {} weights", spec.name, spec.block));
        assert_eq!(Some(bytes.len()), rows.checked_mul(row_bytes), "{}: bytes of {rows} rows of {cols}", spec.name);
        if let Some(order) = &order {
            assert_eq!(order.len(), rows, "numbers in the order of the rows");
            let wrong = order.iter().find(|&&r| r as usize >= rows);
            assert_eq!(wrong, None, "a row outside {rows}");
        }
        let float = FLOATS.iter().find(|(name, _)| *name == spec.name).map_or(floats::decoded as Float, |row| row.1);
        let integer = INTEGERS.iter().find(|(name, _)| *name == spec.name).map(|row| row.1);
        Dense { store, spec, float, integer, rows, cols, row_bytes, bytes, order }
    }
}

/// `out[t][r] = sum over k of w[r][k] * x[t][k]`; `out`: `[tokens, rows]`.
///
/// Block types with a kernel in integers take the activations rounded to 8 bits (see [`Acts`]) unless `exact`; then,
/// and for all other types, activations are f32 and sums are f32. Parallel over rows on the current rayon pool; a
/// caller that is itself a thread of the pool (`install`) saves a hand-over per call. The result is the same for any
/// number of threads.
///
/// # Panics
/// If `x` has not as many columns as `w`, or `out` has another shape or not its rows one after the other.
pub fn matmul(w: &Dense, x: &Acts, exact: bool, out: ArrayViewMut2<'_, f32>) {
    matmul_with(KernelIsa::best(), w, x, exact, out);
}

/// [`matmul`] for an instruction set of the caller's choice.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_with(isa: KernelIsa, w: &Dense, x: &Acts, exact: bool, out: ArrayViewMut2<'_, f32>) {
    assert_eq!(x.cols(), w.cols, "columns of activations and of weights");
    let (tokens, rows) = (x.tokens(), w.rows);
    assert_eq!(out.dim(), (tokens, rows), "shape of the products");
    let out = elements_mut(out);
    let chunk = out::chunk(tokens, w.cols);
    match w.integer.filter(|_| !exact) {
        Some(product) => product(isa, w, x, chunk, out),
        None => {
            x.prepare(isa, false);
            out::by_rows(out, tokens, rows, chunk, |out| (w.float)(isa, w, x, out));
        }
    }
}
