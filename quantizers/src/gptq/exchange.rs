//! Exchange of kept and pruned weights after least squares: those that a row would miss least go, those that would help
//! it most come, and least squares start again. A row takes what lowers its loss, and else stays as it was.
//!
//! At the optimum of the weights that stay, with g = (W - V) (H + damping), a weight that goes costs V_u^2 H_uu and one that
//! comes gains g_p^2 / H_pp, if all others are held. They are not, so the one costs less and the other gains more; how much
//! is seen when it is tried. SparseSwaps (2512.10922) does the same for masks alone
//! ([`prune::exchange`](crate::prune::exchange)).

use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

use super::Hessian;
use super::kernels::{LANES, Lanes};
use super::lanes::Factored;
use super::refit::{damped_diagonal, descend};
use crate::BitMask;
use crate::prune::{Exchanged, Sparsity};
use crate::view::{elements, elements_mut};

/// Rounds of conjugate gradients after each exchange.
const REFITS: usize = 4;

/// Part of the weights that stay of a row that may go in the first round; half of it where a round did not help.
const PART: f64 = 0.04;

/// Least gain beside the cost, both with all others held, of a pair that is tried. bookworm-8m, ADMM at 50%, 16 rounds:
/// 0.2 lowers the losses to 0.984 and the KL divergence from 0.0297 to 0.0281; 1 finds almost no pairs.
const HOPE: f32 = 0.2;

/// Improves a mask together with the values of what stays. As many weights stay of each row, and of each run of a pattern.
///
/// `w`: the weights as they were, `[rows, channels]`; `values`: `[rows, channels]`, zero where the mask says so, and best
/// after [`refit`](super::refit). `rounds`: of exchange.
///
/// # Panics
/// If shapes differ, or rows do not lie [one after the other](crate::view).
pub fn exchange(
    w: ArrayView2<'_, f32>,
    sparsity: Sparsity,
    hessian: &Hessian,
    rounds: usize,
    mask: &mut BitMask,
    values: ArrayViewMut2<'_, f32>,
) -> Exchanged {
    let (rows, cols) = w.dim();
    assert_eq!(cols, hessian.channels(), "columns of the weights and channels of the Hessian");
    assert_eq!((mask.rows(), mask.cols()), (rows, cols), "a mask for the weights");
    assert_eq!(values.dim(), (rows, cols), "values for the weights");
    let (factored, shared) = (Factored::new(hessian), &*mask);
    let run = match sparsity {
        Sparsity::Share(_) => cols,
        Sparsity::Pattern { of, .. } => of,
    };
    let tiles = elements(w).par_chunks(LANES * cols).zip(elements_mut(values).par_chunks_mut(LANES * cols));
    let found: Vec<Tile> = tiles
        .enumerate()
        .map(|(i, (w, values))| {
            let stays = factored.stays(shared, i * LANES, w.len() / cols);
            tile(factored, w, run, rounds, stays, values)
        })
        .collect();
    let mut out = Exchanged::default();
    for (i, tile) in found.into_iter().enumerate() {
        for (l, (before, after)) in tile.before.iter().zip(&tile.after).enumerate() {
            let row = i * LANES + l;
            for (stays, c) in tile.stays.iter().zip(hessian.order()) {
                mask.set(row, *c as usize, stays[l] != 0.0);
            }
            out.before.push(*before);
            out.after.push(*after);
        }
        out.pairs += tile.pairs;
    }
    out
}

struct Tile {
    stays: Vec<Lanes>,
    before: Vec<f64>,
    after: Vec<f64>,
    pairs: usize,
}

fn tile(
    factored: Factored<'_>,
    w: &[f32],
    run: usize,
    rounds: usize,
    mut stays: Vec<Lanes>,
    values: &mut [f32],
) -> Tile {
    let hessian = factored.hessian;
    let (rows, cols) = (w.len() / hessian.channels(), hessian.channels());
    let (given, mut now) = (factored.load(w), factored.load(values));
    let (mut slopes, before) = factored.slopes(&given, &now);
    let (mut losses, mut part, mut pairs) = (before, [PART; LANES], 0);
    // Where each natural column stands in the order of the Hessian.
    let mut places = vec![0; cols];
    hessian.order().iter().enumerate().for_each(|(at, c)| places[*c as usize] = at);
    let diagonal = damped_diagonal(hessian);
    for _ in 0..rounds {
        let (mut next, mut other) = (now.clone(), stays.clone());
        let mut tried = [0; LANES];
        for l in 0..rows {
            let score = |at: usize| match stays[at][l] != 0.0 {
                true => now[at][l] * now[at][l] * diagonal[at],
                false => slopes[at][l] * slopes[at][l] / diagonal[at],
            };
            let chosen = pairs_of(&places, run, part[l], &|at| stays[at][l] != 0.0, &score);
            tried[l] = chosen.len();
            for (goes, comes) in chosen {
                (other[goes][l], other[comes][l], next[goes][l]) = (0.0, 1.0, 0.0);
            }
        }
        if tried.iter().all(|n| *n == 0) {
            break;
        }
        let (towards, _) = factored.slopes(&given, &next);
        descend(factored, &other, &towards, REFITS, &mut next);
        let (there, after) = factored.slopes(&given, &next);
        for l in 0..rows {
            // NaN is no gain either.
            let gains = after[l] < losses[l];
            if !gains {
                part[l] /= 2.0;
                continue;
            }
            losses[l] = after[l];
            pairs += tried[l];
            for at in 0..cols {
                (now[at][l], stays[at][l], slopes[at][l]) = (next[at][l], other[at][l], there[at][l]);
            }
        }
    }
    factored.store(&now, values);
    Tile { stays, before: before[..rows].to_vec(), after: losses[..rows].to_vec(), pairs }
}

/// Which weights of a row go for which: (goes, comes), those that gain most first.
fn pairs_of(
    places: &[usize],
    run: usize,
    part: f64,
    stays: &dyn Fn(usize) -> bool,
    score: &dyn Fn(usize) -> f32,
) -> Vec<(usize, usize)> {
    let mut all: Vec<(f32, usize, usize)> = Vec::new();
    let mut kept = 0;
    for places in places.chunks(run) {
        let scored = |which: bool| -> Vec<(f32, usize)> {
            places.iter().filter(|at| stays(**at) == which).map(|at| (score(*at), *at)).collect()
        };
        let (mut goes, mut comes) = (scored(true), scored(false));
        kept += goes.len();
        goes.sort_by(|a, b| a.0.total_cmp(&b.0));
        comes.sort_by(|a, b| b.0.total_cmp(&a.0));
        let better = goes.iter().zip(&comes).take_while(|(goes, comes)| comes.0 > HOPE * goes.0);
        all.extend(better.map(|(goes, comes)| (comes.0 / goes.0.max(f32::MIN_POSITIVE), goes.1, comes.1)));
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    all.truncate((part * kept as f64) as usize);
    all.into_iter().map(|(_, goes, comes)| (goes, comes)).collect()
}
