//! Rows as columns of lanes, and their products with the factor of a Hessian: what pruning, least squares and ADMM
//! share.

use std::ops::Range;

use super::Hessian;
use super::factor::{SIDE, panels};
use super::kernels::{self, LANES, Lanes};
use super::triangle;
use crate::BitMask;
use crate::simd::Isa;

/// Sixteen rows, column by column in the order of the Hessian, with zeros up to a whole number of cells.
pub(super) type Columns = Vec<Lanes>;

/// The products of rows with parts of a Hessian.
#[derive(Clone, Copy)]
pub(super) struct Factored<'a> {
    pub hessian: &'a Hessian,
    pub isa: Isa,
}

impl<'a> Factored<'a> {
    pub fn new(hessian: &'a Hessian) -> Self {
        Factored { hessian, isa: Isa::best() }
    }

    /// Columns with those that fill the last cell.
    pub fn padded(self) -> usize {
        self.hessian.channels().next_multiple_of(SIDE)
    }

    /// Columns of zeros.
    pub fn zeros(self) -> Columns {
        vec![[0.0; LANES]; self.padded()]
    }

    /// At most sixteen rows side by side.
    pub fn load(self, rows: &[f32]) -> Columns {
        let mut out = self.zeros();
        for (l, row) in rows.chunks_exact(self.hessian.channels()).enumerate() {
            for (out, &c) in out.iter_mut().zip(self.hessian.order()) {
                out[l] = row[c as usize];
            }
        }
        out
    }

    /// One where a weight stays, zero where none does, of some rows.
    pub fn stays(self, mask: &BitMask, first: usize, rows: usize) -> Columns {
        let mut stays = self.zeros();
        for l in 0..rows {
            for (stays, &c) in stays.iter_mut().zip(self.hessian.order()) {
                stays[l] = f32::from(u8::from(mask.stays(first + l, c as usize)));
            }
        }
        stays
    }

    /// Back to rows.
    pub fn store(self, columns: &[Lanes], rows: &mut [f32]) {
        for (l, row) in rows.chunks_exact_mut(self.hessian.channels()).enumerate() {
            for (column, &c) in columns.iter().zip(self.hessian.order()) {
                row[c as usize] = column[l];
            }
        }
    }

    /// `out[c] += sum of M[k, c] * by[k]` over the columns `k`, all before `c`; both within a panel or made of whole
    /// ones. `out`: columns `c` only; `by`: all columns.
    pub fn add_before(self, out: &mut [Lanes], by: &[Lanes], c: Range<usize>, k: Range<usize>) {
        for part in panels(c.clone()) {
            for k in panels(k.clone()) {
                let m = self.hessian.factor().from(part.start, k.start);
                let out = &mut out[part.start - c.start..part.end - c.start];
                kernels::add_panel(self.isa, out, m, false, &by[k]);
            }
        }
    }

    /// x (H + damping), in the units of the factor: (x M) D M^T.
    pub fn times(self, x: &[Lanes]) -> Columns {
        let mut y = self.zeros();
        for c in panels(0..self.padded()) {
            let (before, here) = (0..c.start, c.clone());
            self.add_before(&mut y[c.clone()], x, c.clone(), before);
            let m = self.hessian.factor().from(c.start, c.start);
            kernels::add_panel(self.isa, &mut y[here.clone()], m, true, &x[here]);
        }
        self.times_pivots(&mut y);
        let mut out = self.zeros();
        for k in panels(0..self.padded()) {
            for c in panels(0..k.end) {
                let m = self.hessian.factor().from(k.start, c.start);
                kernels::add_transposed_panel(self.isa, &mut out[c.clone()], m, c == k, &y[k.clone()]);
            }
        }
        out
    }

    /// x with x (H + damping) = b, in the units of the factor. `b`: columns; becomes x.
    pub fn solve(self, b: &mut [Lanes]) {
        // u M^T = b, from the last column on: u_j = b_j less the sum over k > j of u_k M[j, k].
        let all: Vec<Range<usize>> = panels(0..self.padded()).collect();
        for (i, c) in all.iter().enumerate().rev() {
            let mut sums = vec![[0.0; LANES]; c.len()];
            for k in &all[i + 1..] {
                let m = self.hessian.factor().from(k.start, c.start);
                kernels::add_transposed_panel(self.isa, &mut sums, m, false, &b[k.clone()]);
            }
            subtract(&mut b[c.clone()], &sums);
            triangle::solve_transposed(self.isa, &mut b[c.clone()], self.hessian.factor().from(c.start, c.start));
        }
        self.divide_pivots(b);
        // x M = y, from the first on: x_j = y_j less the sum over k < j of x_k M[k, j].
        for c in &all {
            let mut sums = vec![[0.0; LANES]; c.len()];
            self.add_before(&mut sums, b, c.clone(), 0..c.start);
            subtract(&mut b[c.clone()], &sums);
            triangle::solve_panel(self.isa, &mut b[c.clone()], self.hessian.factor().from(c.start, c.start));
        }
    }

    fn times_pivots(self, y: &mut [Lanes]) {
        for (y, pivot) in y.iter_mut().zip(self.hessian.pivots()) {
            y.iter_mut().for_each(|y| *y *= *pivot as f32);
        }
    }

    fn divide_pivots(self, y: &mut [Lanes]) {
        for (y, pivot) in y.iter_mut().zip(self.hessian.pivots()) {
            let by = (1.0 / pivot) as f32;
            y.iter_mut().for_each(|y| *y *= by);
        }
    }

    /// For the errors e = `given` less `values`: e (H + damping) in the units of the factor, and every row's loss
    /// e H e^T in the units of H.
    pub fn slopes(self, given: &[Lanes], values: &[Lanes]) -> (Columns, [f64; LANES]) {
        let mut errors = given.to_vec();
        subtract(&mut errors, values);
        let slopes = self.times(&errors);
        let (mut sums, damping) = ([0.0; LANES], self.hessian.damping());
        for (e, slope) in errors.iter().zip(&slopes) {
            for l in 0..LANES {
                let e = f64::from(e[l]);
                sums[l] += e * f64::from(slope[l]) - damping * e * e;
            }
        }
        (slopes, sums.map(|sum| if sum < 0.0 { 0.0 } else { sum / self.hessian.unit() }))
    }
}

fn subtract(from: &mut [Lanes], what: &[Lanes]) {
    for (from, what) in from.iter_mut().zip(what) {
        from.iter_mut().zip(what).for_each(|(from, what)| *from -= what);
    }
}
