//! Products with matrices without their zeros (`aurora_quantizers::sparse`).
//!
//! | file | what it answers |
//! |---|---|
//! | `expand` | values put back into their columns: the operation, its tables and its plain twin |
//! | `x86`, `neon` | the same by byte shuffles, and by expanding |
//! | `matrix` | [`Sparse`]: a matrix as it is stored, and its rows |
//! | `floats`, `codes` | the product with one token, and a row made dense |
//! | `pairs` | the product of 2:4 with one token |

mod codes;
pub(super) mod expand;
mod floats;
mod matrix;
#[cfg(all(target_arch = "aarch64", not(aurora_scalar)))]
mod neon;
mod pairs;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
mod x86;

use std::borrow::Cow;

use aurora_quantizers::sparse::SparseView;
use aurora_quantizers::{Store, elements_mut};
use ndarray::ArrayViewMut2;

use self::expand::{Bits, Quads};
use self::matrix::Kernel;
pub use self::matrix::Sparse;
use super::acts::{Acts, Single};
use super::dense::Dense;
use super::floats::{BF16, F16, F32};
use super::isa::KernelIsa;
use super::{blocks, out};

/// The products of each type. Q4_0 has none: putting codes of four bits into their places takes longer than reading all of
/// a dense row does (with one token 2.1 times as long: 1.1B weights, 70% pruned, two AVX2 threads).
static KERNELS: &[Kernel] = &[
    Kernel {
        name: "f32",
        alone: [floats::alone::<Bits, F32, 4>, pairs::floats::<F32, 4>],
        unpack: [floats::unpack::<Bits, F32, 4>, floats::unpack::<Quads, F32, 4>],
        dense: None,
    },
    Kernel {
        name: "f16",
        alone: [floats::alone::<Bits, F16, 2>, pairs::floats::<F16, 2>],
        unpack: [floats::unpack::<Bits, F16, 2>, floats::unpack::<Quads, F16, 2>],
        dense: None,
    },
    Kernel {
        name: "bf16",
        alone: [floats::alone::<Bits, BF16, 2>, pairs::floats::<BF16, 2>],
        unpack: [floats::unpack::<Bits, BF16, 2>, floats::unpack::<Quads, BF16, 2>],
        dense: None,
    },
    Kernel {
        name: "q8_0",
        alone: [codes::alone::<Bits>, pairs::codes],
        unpack: [codes::unpack::<Bits>, codes::unpack::<Quads>],
        dense: Some(|isa, w, x, out| blocks::part::<super::codes::Q8_0, 34>(isa, w, x.rounded::<Single>(isa), out)),
    },
];

impl<'a> Sparse<'a> {
    /// Whether there is a product for matrices of this type; others are faster dense.
    pub fn takes(store: &dyn Store) -> bool {
        kernel(store).is_some()
    }

    /// `view`: the matrix as it is stored. `order`: logical row `r` is stored as row `order[r]`.
    ///
    /// # Panics
    /// If there is no product for its type, or `order` is not as many numbers as there are rows, each a row.
    pub fn new(view: SparseView<'a>, order: Option<Box<[u32]>>) -> Sparse<'a> {
        let store = view.layout().store();
        let kernel = kernel(store).unwrap_or_else(|| panic!("no sparse product for {}", store.spec().name));
        Sparse::of(view, order, kernel)
    }
}

fn kernel(store: &dyn Store) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == store.spec().name)
}

/// `out[t][r] = sum over k of w[r][k] * x[t][k]`, as [`matmul`](super::matmul) of the dense matrix gives.
///
/// # Panics
/// If `x` has not as many columns as `w`, or `out` has another shape or not its rows one after the other.
pub fn matmul(w: &Sparse, x: &Acts, exact: bool, out: ArrayViewMut2<'_, f32>) {
    matmul_with(KernelIsa::best(), w, x, exact, out);
}

/// [`matmul`] for an instruction set of the caller's choice.
///
/// # Panics
/// As [`matmul`].
pub(super) fn matmul_with(isa: KernelIsa, w: &Sparse, x: &Acts, exact: bool, out: ArrayViewMut2<'_, f32>) {
    let (rows, layout) = (w.view().rows(), w.view().layout());
    let (tokens, cols) = (x.tokens(), layout.cols());
    assert_eq!(x.cols(), cols, "columns of activations and of weights");
    assert_eq!(out.dim(), (tokens, rows), "shape of the products");
    let (out, chunk) = (elements_mut(out), out::chunk(tokens, cols));
    let dense = w.kernel.dense.filter(|_| !exact);
    // Floats have one product; codes another one with activations as they are.
    if tokens == 1 && (dense.is_some() || w.kernel.dense.is_none()) {
        return w.kernel.alone[w.packing()](isa, w, x, chunk, out);
    }
    x.prepare(isa, dense.is_some());
    let (row, unpack) = (layout.dense_row(), w.kernel.unpack[w.packing()]);
    out::by_rows(out, tokens, rows, chunk, |out| {
        let span = out.rows();
        let mut bytes = vec![0; span.len() * row];
        for (r, bytes) in span.clone().zip(bytes.chunks_exact_mut(row.max(1))) {
            unpack(isa, w, r, bytes);
        }
        let tile = Dense::new(layout.store(), span.len(), cols, Cow::Owned(bytes), None);
        match dense {
            Some(product) => product(isa, &tile, x, out.rebased()),
            None => (tile.float)(isa, &tile, x, out.rebased()),
        }
    });
}
