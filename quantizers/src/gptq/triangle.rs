//! What happens within one panel on the diagonal of the factor: solving with it, and pruning its columns in order.

use super::factor::{CELLS, Cell, SIDE};
use super::kernels::{LANES, Lanes};
use crate::prune::WIDEST;
use crate::simd::dispatch;

/// One element of a panel of the factor: M[k, c].
#[inline(always)]
fn element(m: &[Cell], c: usize, k: usize) -> f32 {
    m[c / SIDE * CELLS + k / SIDE].0[k % SIDE][c % SIDE]
}

/// Takes `by` times row k of M, behind its diagonal, from the columns of its panel.
#[inline(always)]
fn take_row(columns: &mut [Lanes], m: &[Cell], k: usize, by: &Lanes) {
    let four = (k + 1).next_multiple_of(SIDE).min(columns.len());
    for (c, column) in columns[..four].iter_mut().enumerate().skip(k + 1) {
        let m = element(m, c, k);
        for l in 0..LANES {
            column[l] -= m * by[l];
        }
    }
    for (i, columns) in columns[four..].as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
        let m = &m[(four / SIDE + i) * CELLS + k / SIDE].0[k % SIDE];
        for c in 0..SIDE {
            for l in 0..LANES {
                columns[c][l] -= m[c] * by[l];
            }
        }
    }
}

/// x with x M = b, within a panel on the diagonal. `x`: b; becomes x.
#[inline(always)]
fn solve_panel_of(x: &mut [Lanes], m: &[Cell]) {
    for k in 0..x.len() {
        let by = x[k];
        take_row(x, m, k, &by);
    }
}

/// x with x M^T = b, within a panel on the diagonal. `x`: b; becomes x.
#[inline(always)]
fn solve_transposed_of(x: &mut [Lanes], m: &[Cell]) {
    for k in (0..x.len()).rev() {
        let mut sums = x[k];
        for (c, x) in x.iter().enumerate().skip(k + 1) {
            let m = element(m, c, k);
            for l in 0..LANES {
                sums[l] -= m * x[l];
            }
        }
        x[k] = sums;
    }
}

/// How the weights of sixteen rows that go are found within a panel.
pub(super) struct Pruning<'a> {
    /// What the columns take up for the errors of all before the panel, with columns that fill the last cell; becomes
    /// what they are.
    pub values: &'a mut [Lanes],
    /// As they were given.
    pub w: &'a [Lanes],
    /// Out: given less value.
    pub errors: &'a mut [Lanes],
    /// Whether each stays. With a pattern it is found here.
    pub stays: &'a mut [[bool; LANES]],
    /// Of every so many columns so many stay.
    pub pattern: Option<(usize, usize)>,
    /// D of the columns, without those that only fill the last cell.
    pub pivots: &'a [f64],
    /// What was put into H's diagonal.
    pub damping: f64,
    /// Grows by e H e^T.
    pub losses: &'a mut [f64; LANES],
}

/// Goes through a panel's columns in order: one that goes becomes zero, and those behind make up for it. With a pattern,
/// what goes of its next columns is decided when they are reached, by what they then are.
#[inline(always)]
fn prune_panel_of(state: &mut Pruning, m: &[Cell]) {
    for k in 0..state.pivots.len() {
        if let Some((keep, of)) = state.pattern.filter(|(_, of)| k % of == 0) {
            let (mut next, mut scores) = ([[0.0_f32; LANES]; WIDEST], [0.0_f32; WIDEST]);
            // What they are if none of them goes: each then takes up what those before have changed by.
            for c in 0..of {
                let mut column = state.values[k + c];
                for j in 0..c {
                    let m = element(m, k + c, k + j);
                    for (column, (w, next)) in column.iter_mut().zip(state.w[k + j].iter().zip(&next[j])) {
                        *column += m * (w - next);
                    }
                }
                next[c] = column;
            }
            for l in 0..LANES {
                for (score, (next, pivot)) in scores.iter_mut().zip(next.iter().zip(&state.pivots[k..k + of])) {
                    *score = score_of(next[l], *pivot);
                }
                // The lowest go, of equal ones the first.
                for c in 0..of {
                    let lower = |j: usize| scores[j] < scores[c] || (scores[j] == scores[c] && j < c);
                    state.stays[k + c][l] = (0..of).filter(|j| lower(*j)).count() >= of - keep;
                }
            }
        }
        let mut by = [0.0; LANES];
        for (l, by) in by.iter_mut().enumerate() {
            let target = state.values[k][l];
            let value = if state.stays[k][l] { target } else { 0.0 };
            let error = state.w[k][l] - value;
            state.losses[l] += f64::from(target - value).powi(2) * state.pivots[k];
            state.losses[l] -= f64::from(error).powi(2) * state.damping;
            (state.values[k][l], state.errors[k][l]) = (value, error);
            // Those behind make up for it.
            *by = -error;
        }
        take_row(state.values, m, k, &by);
    }
}

/// What pruning a weight costs if those behind make up for it: w^2 D (Frantar & Alistarh 2023, SparseGPT, equation 6,
/// where D is the inverse square of the diagonal of the upper Cholesky factor of H^-1).
#[inline(always)]
pub(super) fn score_of(value: f32, pivot: f64) -> f32 {
    (f64::from(value).powi(2) * pivot) as f32
}

dispatch!(pub(super) fn solve_panel(x: &mut [Lanes], m: &[Cell]) = solve_panel_of);
dispatch!(pub(super) fn solve_transposed(x: &mut [Lanes], m: &[Cell]) = solve_transposed_of);
dispatch!(pub(super) fn prune_panel(state: &mut Pruning, m: &[Cell]) = prune_panel_of);
