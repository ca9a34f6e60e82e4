//! The loops that cost time, written once and compiled for every instruction set.
//!
//! Rows of weights are worked on sixteen at a time, side by side: a [`Lanes`] is one column of them. So every sum runs along
//! columns within a lane, in one order, and a row gets the same numbers whatever rows lie beside it. No fused multiply-add: the
//! same bits on every machine.

use std::ops::Range;

use crate::grid::Levels;
use crate::simd::dispatch;

/// Rows side by side: two AVX2 registers.
pub(super) const LANES: usize = 16;

/// One column of sixteen rows.
pub(super) type Lanes = [f32; LANES];

/// Columns whose sums are kept in registers together: eight AVX2 registers.
const ACROSS: usize = 4;

/// `out[c] += sum over k of m[c, k] * e[k]`, k in `depth`.
///
/// `m`: a matrix of `stride` columns whose first row belongs to `out[0]`; `e`: as many columns as `depth` reaches.
#[inline(always)]
fn add_products_of(out: &mut [Lanes], m: &[f32], stride: usize, depth: Range<usize>, e: &[Lanes]) {
    let e = &e[depth.clone()];
    let row = |c: usize| &m[c * stride..][depth.clone()];
    let (fours, rest) = out.as_chunks_mut::<ACROSS>();
    for (i, out) in fours.iter_mut().enumerate() {
        let m: [&[f32]; ACROSS] = std::array::from_fn(|c| &row(i * ACROSS + c)[..e.len()]);
        let mut sums = *out;
        for (k, e) in e.iter().enumerate() {
            for c in 0..ACROSS {
                for l in 0..LANES {
                    sums[c][l] += m[c][k] * e[l];
                }
            }
        }
        *out = sums;
    }
    let done = fours.len() * ACROSS;
    for (c, out) in rest.iter_mut().enumerate() {
        let mut sums = *out;
        for (m, e) in row(done + c).iter().zip(e) {
            for l in 0..LANES {
                sums[l] += m * e[l];
            }
        }
        *out = sums;
    }
}

/// Codes and errors of a column: what is nearest to `target` on each lane's own scale and offset, and how far it lies from
/// `w`. The arithmetic of [`Grid::nearest`](crate::Grid::nearest) and [`Grid::value`](crate::Grid::value).
#[inline(always)]
fn round(target: &Lanes, w: &Lanes, scale: &Lanes, offset: &Lanes, levels: Levels) -> ([i8; LANES], Lanes) {
    let (mut codes, mut errors) = ([0; LANES], [0.0; LANES]);
    match levels {
        Levels::Linear { min, max } => {
            let (min, max) = (f32::from(min), f32::from(max));
            for l in 0..LANES {
                let steps = if scale[l] == 0.0 { 0.0 } else { (target[l] - offset[l]) / scale[l] };
                let level = (steps - 0.5).ceil();
                let level = if level > min { level } else { min };
                let level = if level < max { level } else { max };
                codes[l] = level as i8;
                errors[l] = w[l] - (scale[l] * level + offset[l]);
            }
        }
        Levels::Table(table) => {
            for l in 0..LANES {
                let steps = if scale[l] == 0.0 { 0.0 } else { (target[l] - offset[l]) / scale[l] };
                codes[l] = nearest_in(table, steps);
                errors[l] = w[l] - (scale[l] * f32::from(table[codes[l] as usize]) + offset[l]);
            }
        }
    }
    (codes, errors)
}

/// The index of the entry nearest to `x`, of two equally near the lower.
fn nearest_in(table: &[i8], x: f32) -> i8 {
    let middle = |pair: &[i8]| (f32::from(pair[0]) + f32::from(pair[1])) * 0.5;
    table.windows(2).filter(|pair| x > middle(pair)).count() as i8
}

/// Sixteen rows' state in one panel of columns.
pub(super) struct Panel<'a> {
    /// What the columns should have been, with the errors of all columns before the panel made up for.
    pub targets: &'a [Lanes],
    /// The weights themselves.
    pub w: &'a [Lanes],
    /// Each column's group, as an index into `scale` and `offset`.
    pub groups: &'a [u32],
    pub scale: &'a [Lanes],
    pub offset: &'a [Lanes],
    pub levels: Levels,
    /// Out: how far each column's value lies from its weight.
    pub errors: &'a mut [Lanes],
    /// Out.
    pub codes: &'a mut [[i8; LANES]],
}

/// Rounds the columns of a panel in turn, each after making up for those before it in the panel.
///
/// `m`: the factor from the panel's first row and first column on, `stride` columns a row.
#[inline(always)]
fn round_panel_of(panel: &mut Panel, m: &[f32], stride: usize) {
    for c in 0..panel.targets.len() {
        let mut target = panel.targets[c];
        for (m, e) in m[c * stride..][..c].iter().zip(&panel.errors[..c]) {
            for l in 0..LANES {
                target[l] += m * e[l];
            }
        }
        let group = panel.groups[c] as usize;
        let (codes, errors) = round(&target, &panel.w[c], &panel.scale[group], &panel.offset[group], panel.levels);
        panel.codes[c] = codes;
        panel.errors[c] = errors;
    }
}

/// The errors that columns would have if none of them were rounded: each takes up what makes up best for the errors before.
///
/// `work`, `w`, `errors`: the panel's columns; `m`: as for [`round_panel`].
#[inline(always)]
fn take_up_of(work: &[Lanes], w: &[Lanes], errors: &mut [Lanes], m: &[f32], stride: usize) {
    for c in 0..work.len() {
        let mut target = work[c];
        for (m, e) in m[c * stride..][..c].iter().zip(&errors[..c]) {
            for l in 0..LANES {
                target[l] += m * e[l];
            }
        }
        for l in 0..LANES {
            errors[c][l] = w[c][l] - target[l];
        }
    }
}

/// `out += a * x`.
#[inline(always)]
fn add_scaled_of(out: &mut [f32], a: f32, x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += a * x;
    }
}

/// `out += sum over i of a[i] * x[i]`, x[i] the rows of `matrix` that `rows` names. Eight rows at a time, so that `out` is
/// fetched and stored once for them.
#[inline(always)]
fn add_rows_of(out: &mut [f32], a: &[f32], matrix: &[f32], rows: &[u32]) {
    const TOGETHER: usize = 8;
    let n = out.len();
    let row = |i: u32| &matrix[i as usize * n..][..n];
    let ((a, a_rest), (rows, rows_rest)) = (a.as_chunks::<TOGETHER>(), rows.as_chunks::<TOGETHER>());
    for (a, rows) in a.iter().zip(rows) {
        let x = rows.map(row);
        for k in 0..n {
            let mut sum = out[k];
            for i in 0..TOGETHER {
                sum += a[i] * x[i][k];
            }
            out[k] = sum;
        }
    }
    for (a, i) in a_rest.iter().zip(rows_rest) {
        add_scaled_of(out, *a, row(*i));
    }
}

/// Codes and errors of a column when each code takes its best value given all others: `slopes` is e H of that column, `h` its
/// diagonal element.
#[inline(always)]
fn round_again_of(column: Column, slopes: &Lanes, h: f32) -> ([i8; LANES], Lanes) {
    let mut target = [0.0; LANES];
    for l in 0..LANES {
        target[l] = column.w[l] - column.errors[l] + slopes[l] / h;
    }
    round(&target, column.w, column.scale, column.offset, column.levels)
}

/// Sixteen rows' state in one column.
#[derive(Clone, Copy)]
pub(super) struct Column<'a> {
    pub w: &'a Lanes,
    pub errors: &'a Lanes,
    pub scale: &'a Lanes,
    pub offset: &'a Lanes,
    pub levels: Levels,
}

/// `out = H x`, H symmetric, `[n, n]`, n the length of `x`.
#[inline(always)]
fn times_of(h: &[f32], x: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (h, x) in h.chunks_exact(x.len()).zip(x) {
        add_scaled_of(out, *x, h);
    }
}

dispatch!(pub(super) fn round_again(column: Column, slopes: &Lanes, h: f32) -> ([i8; LANES], Lanes) = round_again_of);
dispatch!(pub(super) fn times(h: &[f32], x: &[f32], out: &mut [f32]) = times_of);
dispatch!(pub(super) fn add_rows(out: &mut [f32], a: &[f32], matrix: &[f32], rows: &[u32]) = add_rows_of);
dispatch!(pub(super) fn add_products(out: &mut [Lanes], m: &[f32], stride: usize, depth: Range<usize>, e: &[Lanes]) = add_products_of);
dispatch!(pub(super) fn round_panel(panel: &mut Panel, m: &[f32], stride: usize) = round_panel_of);
dispatch!(pub(super) fn take_up(work: &[Lanes], w: &[Lanes], errors: &mut [Lanes], m: &[f32], stride: usize) = take_up_of);
dispatch!(pub(super) fn add_scaled(out: &mut [f32], a: f32, x: &[f32]) = add_scaled_of);
