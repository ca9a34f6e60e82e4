//! What a linear multiplies with: stored matrices, factors of low rank, and sums of both, behind one trait.
//!
//! In go activations, out come `rows` numbers per token. The executor holds one [`Linear`] for each matrix and asks it
//! once per product, so what is behind it costs one dynamic call. Knows no parameters and no files.

use std::borrow::Cow;

use aurora_quantizers::formats;
use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use super::kernels::{Acts, Dense, Sparse, matmul, sparse};

/// A linear map of `cols` inputs to `rows` outputs.
pub trait Linear: Send + Sync {
    /// Outputs and inputs: `(rows, cols)`.
    fn shape(&self) -> (usize, usize);

    /// Bytes of weights that one product reads.
    fn bytes(&self) -> usize;

    /// `out`: `[tokens, rows]`, the outputs of each token. `exact`: keep activations in f32 where they would be rounded
    /// to 8 bits.
    ///
    /// Parallel on the current rayon pool; the result is the same for any number of threads.
    ///
    /// # Panics
    /// If `x` has not `cols` columns, or `out` has another shape or not its rows one after the other.
    fn forward(&self, x: &Acts<'_>, exact: bool, out: ArrayViewMut2<'_, f32>);
}

impl Linear for Dense<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.rows(), self.cols())
    }

    fn bytes(&self) -> usize {
        self.stored().len()
    }

    fn forward(&self, x: &Acts<'_>, exact: bool, out: ArrayViewMut2<'_, f32>) {
        matmul(self, x, exact, out);
    }
}

impl Linear for Sparse<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.view().rows(), self.view().layout().cols())
    }

    fn bytes(&self) -> usize {
        self.view().bytes()
    }

    fn forward(&self, x: &Acts<'_>, exact: bool, out: ArrayViewMut2<'_, f32>) {
        sparse::matmul(self, x, exact, out);
    }
}

impl<L: Linear + ?Sized> Linear for &L {
    fn shape(&self) -> (usize, usize) {
        (**self).shape()
    }

    fn bytes(&self) -> usize {
        (**self).bytes()
    }

    fn forward(&self, x: &Acts<'_>, exact: bool, out: ArrayViewMut2<'_, f32>) {
        (**self).forward(x, exact, out);
    }
}

/// `scale * B (A x)`, in f32: an adapter, or what a factorisation makes up for.
pub struct LowRank {
    a: Dense<'static>,
    b: Dense<'static>,
    scale: f32,
}

impl LowRank {
    /// `a`: `[rank, cols]`; `b`: `[rows, rank]`. Both are copied.
    ///
    /// # Panics
    /// If `b` has not as many columns as `a` has rows.
    pub fn new(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, scale: f32) -> LowRank {
        assert_eq!(b.ncols(), a.nrows(), "columns of B and rows of A: the rank");
        LowRank { a: floats(a), b: floats(b), scale }
    }
}

/// A matrix of f32; copied.
pub(crate) fn floats(values: ArrayView2<'_, f32>) -> Dense<'static> {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Dense::new(&formats::F32, values.nrows(), values.ncols(), Cow::Owned(bytes), None)
}

impl Linear for LowRank {
    fn shape(&self) -> (usize, usize) {
        (self.b.rows(), self.a.cols())
    }

    fn bytes(&self) -> usize {
        self.a.bytes() + self.b.bytes()
    }

    fn forward(&self, x: &Acts<'_>, exact: bool, out: ArrayViewMut2<'_, f32>) {
        let mut inner = Array2::zeros((x.tokens(), self.a.rows()));
        self.a.forward(x, exact, inner.view_mut());
        inner *= self.scale;
        self.b.forward(&Acts::new(inner.view()), exact, out);
    }
}

/// The sum of several linears of one shape, added in their order.
pub struct Sum<'a>(Vec<Box<dyn Linear + 'a>>);

impl<'a> Sum<'a> {
    /// # Panics
    /// If there are none, or their shapes differ.
    pub fn new(terms: Vec<Box<dyn Linear + 'a>>) -> Sum<'a> {
        let shape = terms.first().expect("a sum of at least one linear").shape();
        terms.iter().for_each(|term| assert_eq!(term.shape(), shape, "shapes of the terms of a sum"));
        Sum(terms)
    }
}

impl Linear for Sum<'_> {
    fn shape(&self) -> (usize, usize) {
        self.0[0].shape()
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|term| term.bytes()).sum()
    }

    fn forward(&self, x: &Acts<'_>, exact: bool, mut out: ArrayViewMut2<'_, f32>) {
        let (first, others) = self.0.split_first().expect("at least one linear");
        first.forward(x, exact, out.view_mut());
        if others.is_empty() {
            return;
        }
        let mut product = Array2::zeros(out.dim());
        for term in others {
            term.forward(x, exact, product.view_mut());
            out += &product;
        }
    }
}

#[cfg(test)]
mod tests {
    use aurora_quantizers::{Scales, matrix, matrix_mut};

    use super::*;

    fn noise(seed: u32, n: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut one = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| one()).collect()
    }

    /// `W x` for every token, in f64.
    fn product(w: &[f64], x: &[f32], cols: usize) -> Vec<f64> {
        let dot = |row: &[f64], x: &[f32]| row.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum();
        x.chunks_exact(cols).flat_map(|x| w.chunks_exact(cols).map(move |row| dot(row, x))).collect()
    }

    /// `scale * B A`, `[rows, cols]`, in f64.
    fn multiplied(a: &[f32], b: &[f32], rank: usize, cols: usize, scale: f32) -> Vec<f64> {
        let entry = |row: &[f32], c: usize| {
            row.iter().enumerate().map(|(k, b)| f64::from(*b) * f64::from(a[k * cols + c])).sum::<f64>()
        };
        b.chunks_exact(rank).flat_map(|row| (0..cols).map(move |c| f64::from(scale) * entry(row, c))).collect()
    }

    fn assert_near(found: &[f32], wanted: &[f64], what: &str) {
        assert_eq!(found.len(), wanted.len(), "{what}");
        let size = wanted.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
        for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            assert!((f64::from(*found) - wanted).abs() <= 1e-5 * size, "{what}: {i}: {found} for {wanted}");
        }
    }

    #[test]
    fn low_ranks_and_sums_are_the_products_of_their_matrices() {
        for (rows, cols, rank, tokens) in [(1, 1, 1, 1), (7, 5, 2, 3), (64, 96, 8, 1), (33, 256, 16, 40)] {
            let what = format!("[{rows}, {cols}], rank {rank}, {tokens} tokens");
            let (a, b) = (noise(1, rank * cols), noise(2, rows * rank));
            let (w, x) = (noise(3, rows * cols), noise(4, tokens * cols));
            let acts = Acts::new(matrix(&x, cols));
            let low_rank = LowRank::new(matrix(&a, cols), matrix(&b, rank), 0.75);
            assert_eq!(low_rank.shape(), (rows, cols));
            let mut out = vec![f32::NAN; tokens * rows];
            low_rank.forward(&acts, true, matrix_mut(&mut out, rows));
            let full = multiplied(&a, &b, rank, cols, 0.75);
            assert_near(&out, &product(&full, &x, cols), &what);

            let bytes = low_rank.bytes() + 4 * w.len();
            let terms: Vec<Box<dyn Linear>> = vec![Box::new(floats(matrix(&w, cols))), Box::new(&low_rank)];
            let sum = Sum::new(terms);
            assert_eq!((sum.shape(), sum.bytes()), ((rows, cols), bytes));
            out.fill(f32::NAN);
            sum.forward(&acts, true, matrix_mut(&mut out, rows));
            let both: Vec<f64> = w.iter().zip(&full).map(|(w, f)| f64::from(*w) + f).collect();
            assert_near(&out, &product(&both, &x, cols), &what);
        }
    }

    #[test]
    fn a_sum_of_one_is_that_one() {
        let x = noise(5, 64);
        let mut bytes = vec![0; 36 * 2];
        let q4_0 = formats::by_name("q4_0").expect("a row");
        q4_0.encode(&noise(6, 128), Scales::Reference, &mut bytes);
        let dense = Dense::new(q4_0, 2, 64, Cow::Owned(bytes), None);
        let (mut alone, mut summed) = (Array2::zeros((1, 2)), Array2::from_elem((1, 2), f32::NAN));
        dense.forward(&Acts::new(matrix(&x, 64)), false, alone.view_mut());
        Sum::new(vec![Box::new(&dense)]).forward(&Acts::new(matrix(&x, 64)), false, summed.view_mut());
        assert_eq!(alone, summed);
    }

    #[test]
    #[should_panic(expected = "shapes of the terms of a sum")]
    fn a_sum_of_different_shapes_is_refused() {
        let (wide, tall) = (floats(matrix(&[0.0; 6], 3)), floats(matrix(&[0.0; 6], 2)));
        Sum::new(vec![Box::new(&wide), Box::new(&tall)]);
    }
}
