//! What the matrices of a block read while a leaf of samples goes through it, and sums over all leaves.

use std::collections::BTreeMap;

use aurora_quantizers::tree::Tree;
use aurora_quantizers::{SiteStats, elements, elements_mut, matrix};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::model::Reader;
use crate::runtime::kernels::Acts;
use crate::runtime::{Linear, LinearInput, Tap, floats};

/// The inputs of some matrices, `[tokens, cols]` each.
pub(super) struct Catch {
    rows: BTreeMap<Reader, Vec<f32>>,
}

impl Catch {
    /// Of these.
    pub fn of(readers: impl IntoIterator<Item = Reader>) -> Catch {
        Catch { rows: readers.into_iter().map(|reader| (reader, Vec::new())).collect() }
    }

    /// What a matrix read; nothing if no token came there.
    pub fn rows(&self, reader: Reader) -> &[f32] {
        self.rows.get(&reader).map_or(&[], Vec::as_slice)
    }
}

impl Tap for Catch {
    fn linear_input(&mut self, input: &LinearInput<'_>) {
        let reader = Reader { weight: input.weight, expert: input.expert };
        if let Some(rows) = self.rows.get_mut(&reader) {
            rows.extend_from_slice(elements(input.x));
        }
    }
}

/// E\[x x^T\] and, if there is a wish for what comes out, E\[d x^T\] and E\[|d|^2\]: sums so far.
pub(super) struct Sums {
    tree: Tree,
    leaves: u64,
    wish: Option<Wish>,
}

struct Wish {
    products: Array2<f32>,
    square: f64,
    tokens: usize,
}

impl Sums {
    /// For a matrix `[rows, cols]`.
    pub fn new((rows, cols): (usize, usize), leaves: u64, wish: bool) -> Sums {
        let wish = wish.then(|| Wish { products: Array2::zeros((rows, cols)), square: 0.0, tokens: 0 });
        Sums { tree: Tree::new(cols, true, 0..leaves), leaves, wish }
    }

    /// Adds a leaf. `x`: `[tokens, cols]`; `wish`: `[tokens, rows]`, if there is one.
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn add(&mut self, x: &[f32], cols: usize, wish: Option<&[f32]>) -> Result<(), String> {
        if !x.is_empty() {
            self.tree.add_all(matrix(x, cols)).map_err(|e| e.to_string())?;
        }
        self.tree.end_leaf();
        if let (Some(sums), Some(wish)) = (&mut self.wish, wish) {
            sums.tokens += x.len() / cols;
            sums.square += wish.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>();
            let rows = sums.products.nrows();
            let all = elements_mut(sums.products.view_mut());
            all.par_chunks_mut(cols).enumerate().for_each_init(
                || vec![0.0; cols],
                |sum, (row, out)| {
                    sum.fill(0.0);
                    for (x, wish) in x.chunks_exact(cols).zip(wish.chunks_exact(rows)) {
                        let d = wish[row];
                        sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += d * x);
                    }
                    out.iter_mut().zip(&*sum).for_each(|(out, sum)| *out += sum);
                },
            );
        }
        Ok(())
    }

    /// Over all tokens.
    pub fn finish(self) -> (SiteStats, Option<(Array2<f32>, f64)>) {
        let cols = self.wish.as_ref().map(|wish| wish.products.ncols());
        let mut nodes = self.tree.finish(self.leaves);
        let stats = nodes.pop().map(|(_, stats)| stats).unwrap_or_else(|| SiteStats::new(cols.unwrap_or(0), true));
        let wish = self.wish.filter(|wish| wish.tokens > 0).map(|wish| {
            let n = wish.tokens as f64;
            (wish.products.mapv(|v| (f64::from(v) / n) as f32), wish.square / n)
        });
        (stats, wish)
    }
}

/// W x of every row: `x` `[tokens, cols]` to `[tokens, rows]`.
pub(super) fn times(w: ArrayView2<'_, f32>, x: &[f32]) -> Vec<f32> {
    let (rows, cols) = w.dim();
    let mut out = Array2::zeros((x.len() / cols, rows));
    floats(w).forward(&Acts::new(matrix(x, cols)), true, out.view_mut());
    out.into_raw_vec_and_offset().0
}
