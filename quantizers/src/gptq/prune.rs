//! SparseGPT (Frantar & Alistarh 2023): columns are pruned in order, and those behind make up for what is lost.
//!
//! What goes of 128 columns is chosen at once, by the weights as they then are: for a share, by one threshold over all
//! rows; for a pattern, row by row when its columns are reached.

use std::ops::Range;

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::Hessian;
use super::factor::{SIDE, panels};
use super::kernels::{self, LANES, Lanes};
use super::lanes::{Columns, Factored};
use super::triangle::{self, Pruning, score_of};
use crate::BitMask;
use crate::prune::{Ranks, Sparsity};
use crate::view::{elements, elements_mut};

/// A matrix after pruning.
#[derive(Debug, Clone)]
pub struct Pruned {
    /// What stays.
    pub mask: BitMask,
    /// What it became, `[rows, cols]`: zeros where nothing stays.
    pub weights: Array2<f32>,
    /// e H e^T of every row, in the units of the Hessian.
    pub losses: Vec<f64>,
}

/// Sixteen rows at work.
struct Tile {
    rows: usize,
    w: Columns,
    errors: Columns,
    stays: Vec<[bool; LANES]>,
    /// The panel's columns, with the errors of all before made up for.
    values: Vec<Lanes>,
    /// Those of them that would come from pruning none.
    errors_of_none: Vec<Lanes>,
    losses: [f64; LANES],
}

/// Prunes a matrix. `w`: `[rows, channels]`, finite.
///
/// # Panics
/// If `w` has another number of columns or not its rows [one after the other](crate::view), or a pattern does not
/// divide them or comes with a Hessian in another order than [`Natural`](super::Order::Natural).
pub fn prune(w: ArrayView2<'_, f32>, hessian: &Hessian, sparsity: Sparsity) -> Pruned {
    let (rows, cols) = w.dim();
    assert_eq!(cols, hessian.channels(), "columns of the weights and channels of the Hessian");
    assert!(sparsity.divides(cols), "{sparsity} in rows of {cols}");
    let pattern = match sparsity {
        Sparsity::Share(_) => None,
        Sparsity::Pattern { keep, of } => {
            assert!(hessian.order().is_sorted(), "patterns are of neighbours");
            Some((keep, of))
        }
    };
    let factored = Factored::new(hessian);
    let w = elements(w);
    let mut tiles: Vec<Tile> = w.par_chunks(LANES * cols).map(|w| Tile::new(factored, w)).collect();
    for c in panels(0..cols) {
        tiles.par_iter_mut().for_each(|tile| tile.take_up(factored, c.clone()));
        if pattern.is_none() {
            choose(&mut tiles, hessian, c.clone(), sparsity, rows);
        }
        tiles.par_iter_mut().for_each(|tile| tile.prune(factored, c.clone(), pattern));
    }
    let (mut weights, mut stays) = (Array2::zeros((rows, cols)), vec![false; rows * cols]);
    let parts = elements_mut(weights.view_mut()).par_chunks_mut(LANES * cols);
    parts.zip(stays.par_chunks_mut(LANES * cols)).zip(&tiles).for_each(|((weights, stays), tile)| {
        factored.store(&tile.w, weights);
        for (l, row) in stays.chunks_exact_mut(cols).enumerate() {
            for (stay, &c) in tile.stays.iter().zip(hessian.order()) {
                row[c as usize] = stay[l];
            }
        }
    });
    let losses = tiles.iter().flat_map(|tile| &tile.losses[..tile.rows]);
    // Rounding may leave one just below zero.
    let losses = losses.map(|loss| if *loss < 0.0 { 0.0 } else { loss / hessian.unit() }).collect();
    Pruned { mask: BitMask::pack(rows, cols, &stays), weights, losses }
}

/// Says of the panel's weights which stay: of all rows, those whose loss costs most.
fn choose(tiles: &mut [Tile], hessian: &Hessian, c: Range<usize>, sparsity: Sparsity, rows: usize) {
    let pivots = &hessian.pivots()[c.clone()];
    let each = |tile: &Tile| {
        let row = |l: usize| {
            let columns = tile.w[c.clone()].iter().zip(&tile.errors_of_none).zip(pivots);
            columns.map(move |((w, e), pivot)| score_of(w[l] - e[l], *pivot))
        };
        (0..tile.rows).flat_map(row).collect::<Vec<f32>>()
    };
    let scores: Vec<f32> = tiles.par_iter().flat_map_iter(each).collect();
    // So many that the count over all columns is that of the whole matrix.
    let before = |columns: usize| sparsity.pruned(rows * columns);
    let cut = Ranks::new(&scores).cut(before(c.end) - before(c.start));
    let parts = scores.par_chunks(LANES * c.len());
    let equal: Vec<usize> = parts.clone().map(|scores| cut.equals(scores)).collect();
    let mut left = cut.equal();
    let here = |equal: usize| {
        let here = equal.min(left);
        left -= here;
        here
    };
    let allowed: Vec<usize> = equal.into_iter().map(here).collect();
    tiles.par_iter_mut().zip(parts).zip(allowed).for_each(|((tile, scores), mut equal)| {
        for (l, row) in scores.chunks_exact(c.len()).enumerate() {
            for (stays, score) in tile.stays[c.clone()].iter_mut().zip(row) {
                stays[l] = cut.keeps(*score, &mut equal);
            }
        }
    });
}

impl Tile {
    fn new(factored: Factored<'_>, w: &[f32]) -> Tile {
        let cols = factored.hessian.channels();
        Tile {
            rows: w.len() / cols,
            w: factored.load(w),
            errors: factored.zeros(),
            stays: vec![[true; LANES]; cols],
            values: Vec::new(),
            errors_of_none: Vec::new(),
            losses: [0.0; LANES],
        }
    }

    /// The panel's columns with all errors before made up for.
    fn take_up(&mut self, factored: Factored<'_>, c: Range<usize>) {
        let padded = c.start..c.end.next_multiple_of(SIDE);
        self.values.clear();
        self.values.extend_from_slice(&self.w[padded.clone()]);
        factored.add_before(&mut self.values, &self.errors, padded, 0..c.start);
        self.errors_of_none.resize(c.len(), [0.0; LANES]);
        let m = factored.hessian.factor().from(c.start, c.start);
        kernels::take_up(factored.isa, &self.values[..c.len()], &self.w[c], &mut self.errors_of_none, m);
    }

    fn prune(&mut self, factored: Factored<'_>, c: Range<usize>, pattern: Option<(usize, usize)>) {
        let hessian = factored.hessian;
        let mut state = Pruning {
            values: &mut self.values,
            w: &self.w[c.clone()],
            errors: &mut self.errors[c.clone()],
            stays: &mut self.stays[c.clone()],
            pattern,
            pivots: &hessian.pivots()[c.clone()],
            damping: hessian.damping(),
            losses: &mut self.losses,
        };
        triangle::prune_panel(factored.isa, &mut state, hessian.factor().from(c.start, c.start));
        self.w[c.clone()].copy_from_slice(&self.values[..c.len()]);
    }
}
