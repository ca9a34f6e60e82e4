//! Sparse products against those of the dense matrix, on every instruction set present.

use std::borrow::Cow;

use aurora_quantizers::sparse::{Packing, SparseLayout, SparseParts, SparseView};
use aurora_quantizers::{Scales, formats, matrix, matrix_mut};

use super::super::isa::KernelIsa;
use super::super::tests::Random;
use super::super::{Acts, Dense, matmul_with as dense_matmul};
use super::{Sparse, matmul_with};

struct Case {
    layout: SparseLayout,
    rows: usize,
    parts: SparseParts<Vec<u8>>,
    /// The matrix unpacked again.
    dense: Vec<u8>,
    order: Option<Box<[u32]>>,
    what: String,
}

impl Case {
    /// Odd numbers of rows and columns, masks from nothing to everything; rows that are empty or full among others.
    fn new(name: &str, packing: Packing, seed: u64) -> Case {
        let mut random = Random(seed);
        let store = formats::by_name(name).expect("a row");
        let rows = [1, 7, 8, 9, 33, 131][random.below(6)];
        let unit = match (store.spec().block, packing) {
            (1, Packing::Bitmask) => [1, 7, 8, 31, 32][random.below(5)],
            (1, Packing::TwoFour) => [4, 8, 12, 32][random.below(4)],
            (block, _) => block,
        };
        let cols = unit * [1, 2, 3, 5, 8, 9, 17, 24][random.below(8)];
        let density = [0, 10, 30, 50, 90, 100][random.below(6)];
        let what = format!("{name} {packing:?} [{rows}, {cols}], {density} %, seed {seed}");
        let mut weights: Vec<f32> = Vec::with_capacity(rows * cols);
        for row in 0..rows {
            let density = if row % 5 == 3 { [0, 100][random.below(2)] } else { density };
            let mut left = 2_usize;
            for col in 0..cols {
                left = if col % 4 == 0 { 2 } else { left };
                let stays = random.below(100) < density && (packing == Packing::Bitmask || left > 0);
                left = left.saturating_sub(usize::from(stays));
                weights.push(if stays { random.unit() * 4.0 } else { 0.0 });
            }
        }
        let mut dense = vec![0; store.spec().bytes_for(weights.len()).expect("whole blocks")];
        store.encode(&weights, Scales::Reference, &mut dense);
        let layout = SparseLayout::new(packing, store, cols).expect("blocks that divide a row");
        let mut parts = SparseParts::default();
        layout.pack(&dense, &mut parts).expect("at most two of four");
        layout.unpack(parts.as_slices(), &mut dense).expect("what was packed");
        let order = seed.is_multiple_of(3).then(|| (0..rows as u32).rev().collect());
        Case { layout, rows, parts, dense, order, what }
    }

    fn sparse(&self) -> Sparse<'_> {
        let view = SparseView::new(self.layout, self.rows, self.parts.as_slices()).expect("sound parts");
        Sparse::new(view, self.order.clone())
    }

    fn dense(&self) -> Dense<'_> {
        let bytes = Cow::Borrowed(&self.dense[..]);
        Dense::new(self.layout.store(), self.rows, self.layout.cols(), bytes, self.order.clone())
    }
}

impl Case {
    /// Whether the product with one token is not made in the order of the dense one.
    fn adds_in_another_order(&self) -> bool {
        self.layout.packing() == Packing::TwoFour && self.layout.store().blocks().is_none()
    }

    /// Holds the products with one token to 1e-6 of the sums of the magnitudes.
    fn assert_near(&self, found: &[f32], wanted: &[f32], x: &[f32], what: &str) {
        let mut row = vec![0.0; self.layout.cols()];
        for (r, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            self.layout.store().decode(self.dense().row(r), &mut row);
            let size: f32 = row.iter().zip(x).map(|(w, x)| (w * x).abs()).sum();
            assert!((found - wanted).abs() <= 1e-6 * size, "{what}: row {r}: {found} for {wanted}");
        }
    }
}

fn cases(seeds: u64) -> impl Iterator<Item = Case> {
    let types = ["f32", "f16", "bf16", "q8_0"];
    let kinds = types.into_iter().flat_map(|name| [Packing::Bitmask, Packing::TwoFour].map(|p| (name, p)));
    kinds.flat_map(move |(name, packing)| (0..seeds).map(move |seed| Case::new(name, packing, seed)))
}

fn product(isa: KernelIsa, case: &Case, tokens: usize, x: &[f32], exact: bool) -> [Vec<f32>; 2] {
    let acts = || Acts::new(matrix(x, case.layout.cols()));
    let mut out = [(); 2].map(|()| vec![f32::NAN; tokens * case.rows]);
    let [sparse, dense] = &mut out;
    matmul_with(isa, &case.sparse(), &acts(), exact, matrix_mut(sparse, case.rows));
    dense_matmul(isa, &case.dense(), &acts(), exact, matrix_mut(dense, case.rows));
    out
}

#[test]
fn sparse_products_are_those_of_the_dense_matrix() {
    for case in cases(120) {
        let mut random = Random(case.rows as u64);
        for tokens in [1, 2, 6, 19] {
            let x: Vec<f32> = (0..tokens * case.layout.cols()).map(|_| random.unit() * 3.0).collect();
            for isa in KernelIsa::present() {
                for exact in [false, true] {
                    let [sparse, dense] = product(isa, &case, tokens, &x, exact);
                    let what = format!("{} {isa:?}, {tokens} tokens, exact {exact}", case.what);
                    if tokens == 1 && case.adds_in_another_order() {
                        case.assert_near(&sparse, &dense, &x, &what);
                    } else {
                        assert_eq!(sparse, dense, "{what}");
                    }
                }
            }
        }
    }
}

/// Zeros that are not stored do not hide what the executor looks for; but 2:4 does not look at all of the floats.
#[test]
fn activations_that_are_not_finite_reach_every_output() {
    for case in cases(20).filter(|case| !case.adds_in_another_order()) {
        let mut random = Random(case.rows as u64);
        let mut x: Vec<f32> = (0..case.layout.cols()).map(|_| random.unit()).collect();
        let at = random.below(x.len());
        x[at] = [f32::NAN, f32::INFINITY][random.below(2)];
        for isa in KernelIsa::present() {
            let [sparse, dense] = product(isa, &case, 1, &x, false);
            for (sparse, dense) in sparse.iter().zip(dense) {
                assert!(!sparse.is_finite() && !dense.is_finite(), "{} {isa:?}: {sparse} {dense}", case.what);
            }
        }
    }
}

/// The values of experts lie one after the other in one matrix.
#[test]
fn some_rows_are_a_matrix_of_their_own() {
    for case in cases(30).filter(|case| case.rows > 2) {
        let mut random = Random(case.rows as u64);
        let x: Vec<f32> = (0..case.layout.cols()).map(|_| random.unit()).collect();
        let acts = Acts::new(matrix(&x, case.layout.cols()));
        let view = *case.sparse().view();
        let rows = case.rows / 3..case.rows - 1;
        let (mut all, mut some) = (vec![f32::NAN; case.rows], vec![f32::NAN; rows.len()]);
        let best = KernelIsa::best();
        matmul_with(best, &Sparse::new(view, None), &acts, false, matrix_mut(&mut all, case.rows));
        let slice = Sparse::new(view.slice(rows.clone()), None);
        matmul_with(best, &slice, &acts, false, matrix_mut(&mut some, rows.len()));
        assert_eq!(some, all[rows], "{}", case.what);
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (rows, cols) = (1029, 256);
    for name in ["f16", "q8_0"] {
        let mut random = Random(7);
        let store = formats::by_name(name).expect("a row");
        let weights: Vec<f32> =
            (0..rows * cols).map(|_| if random.below(2) == 0 { 0.0 } else { random.unit() }).collect();
        let mut dense = vec![0; store.spec().bytes_for(weights.len()).expect("whole blocks")];
        store.encode(&weights, Scales::Reference, &mut dense);
        let layout = SparseLayout::new(Packing::Bitmask, store, cols).expect("blocks that divide a row");
        let mut parts = SparseParts::default();
        layout.pack(&dense, &mut parts).expect("a bitmask holds everything");
        let w = Sparse::new(SparseView::new(layout, rows, parts.as_slices()).expect("sound parts"), None);
        for tokens in [1, 3, 300] {
            let x: Vec<f32> = (0..tokens * cols).map(|_| random.unit()).collect();
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                let mut out = vec![f32::NAN; tokens * rows];
                let acts = Acts::new(matrix(&x, cols));
                pool.install(|| {
                    matmul_with(KernelIsa::best(), &w, &acts, false, matrix_mut(&mut out, rows));
                });
                out
            };
            assert_eq!(run(1), run(3), "{name} {tokens} tokens");
        }
    }
}
