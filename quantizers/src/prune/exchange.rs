//! Exchange of kept and pruned weights, one pair of a row at a time, each of which lowers the loss (as SparseSwaps does,
//! 2512.10922).

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::Sparsity;
use crate::BitMask;
use crate::view::elements;

/// What exchanging did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Exchanged {
    /// e H e^T of every row before, e the weights that are zero.
    pub before: Vec<f64>,
    /// The same after; never more.
    pub after: Vec<f64>,
    /// Pairs that were exchanged.
    pub pairs: usize,
}

/// Exchanges kept and pruned weights of each row while that lowers its loss e H e^T, with e the pruned weights: what
/// stays keeps its value. As many weights stay of each row, and of each run of a pattern.
///
/// With c = H e, keeping p and pruning u changes the loss by 2 w_u c_u + w_u^2 H_uu - 2 w_p c_p + w_p^2 H_pp - 2 w_u w_p
/// H_up. Each step takes the best pair that has the best p or the best u alone.
///
/// `w`: `[rows, channels]`; `h`: E\[x x^T\], `[channels, channels]`. `most`: pairs of a row.
///
/// # Panics
/// If shapes differ, or rows do not lie [one after the other](crate::view).
pub fn exchange(
    w: ArrayView2<'_, f32>,
    h: ArrayView2<'_, f32>,
    sparsity: Sparsity,
    most: usize,
    mask: &mut BitMask,
) -> Exchanged {
    let (rows, cols) = w.dim();
    assert_eq!(h.dim(), (cols, cols), "channels of the Hessian");
    assert_eq!((mask.rows(), mask.cols()), (rows, cols), "a mask for the weights");
    let run = match sparsity {
        Sparsity::Share(_) => cols,
        Sparsity::Pattern { of, .. } => of,
    };
    let (h, shared) = (elements(h), &*mask);
    let found: Vec<(Vec<bool>, [f64; 2], usize)> = elements(w)
        .par_chunks(cols)
        .enumerate()
        .map(|(r, w)| {
            let mut stays: Vec<bool> = (0..cols).map(|c| shared.stays(r, c)).collect();
            let before = loss(w, h, &stays);
            let pairs = row(w, h, run, most, &mut stays);
            let after = loss(w, h, &stays);
            // What rounding makes of a chain of small steps is looked at again.
            if after <= before { (stays, [before, after], pairs) } else { (Vec::new(), [before; 2], 0) }
        })
        .collect();
    let mut out = Exchanged::default();
    for (r, (stays, [before, after], pairs)) in found.into_iter().enumerate() {
        stays.iter().enumerate().for_each(|(c, stays)| mask.set(r, c, *stays));
        out.before.push(before);
        out.after.push(after);
        out.pairs += pairs;
    }
    out
}

fn loss(w: &[f32], h: &[f32], stays: &[bool]) -> f64 {
    let c = products(w, h, stays);
    let each = c.iter().zip(w).zip(stays).filter(|(_, stays)| !**stays);
    each.map(|((c, w), _)| c * f64::from(*w)).sum()
}

/// H e.
fn products(w: &[f32], h: &[f32], stays: &[bool]) -> Vec<f64> {
    let mut c = vec![0.0; w.len()];
    for (k, w) in w.iter().enumerate().filter(|(k, _)| !stays[*k]) {
        c.iter_mut().zip(&h[k * stays.len()..]).for_each(|(c, h)| *c += f64::from(*w) * f64::from(*h));
    }
    c
}

fn row(w: &[f32], h: &[f32], run: usize, most: usize, stays: &mut [bool]) -> usize {
    let cols = w.len();
    let mut c: Vec<f32> = products(w, h, stays).iter().map(|c| *c as f32).collect();
    let diagonal: Vec<f32> = (0..cols).map(|j| h[j * cols + j]).collect();
    // Of keeping or pruning it, with all others as they are.
    let change = |j: usize, c: &[f32], stays: &[bool]| {
        let part = w[j] * w[j] * diagonal[j];
        if stays[j] { part + 2.0 * w[j] * c[j] } else { part - 2.0 * w[j] * c[j] }
    };
    for pairs in 0..most {
        let mut best: Option<(f32, usize, usize)> = None;
        for start in (0..cols).step_by(run) {
            let least = |kept: bool| {
                let alone = |j: &usize| change(*j, &c, stays);
                let here = (start..start + run).filter(|j| stays[*j] == kept);
                here.min_by(|a, b| alone(a).total_cmp(&alone(b)))
            };
            let (Some(p), Some(u)) = (least(false), least(true)) else { continue };
            let mut look = |p: usize, u: usize, h: f32| {
                let d = change(p, &c, stays) + change(u, &c, stays) - 2.0 * w[u] * w[p] * h;
                if best.is_none_or(|(least, ..)| d < least) {
                    best = Some((d, p, u));
                }
            };
            for j in start..start + run {
                match stays[j] {
                    true => look(p, j, h[p * cols + j]),
                    false => look(j, u, h[u * cols + j]),
                }
            }
        }
        let Some((d, p, u)) = best else { return pairs };
        if d >= 0.0 || d.is_nan() {
            return pairs;
        }
        (stays[p], stays[u]) = (true, false);
        let (hp, hu) = (&h[p * cols..(p + 1) * cols], &h[u * cols..(u + 1) * cols]);
        let (wp, wu) = (w[p], w[u]);
        c.iter_mut().zip(hp).zip(hu).for_each(|((c, hp), hu)| *c += wu * hu - wp * hp);
    }
    most
}
