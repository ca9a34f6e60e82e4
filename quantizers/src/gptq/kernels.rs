//! The loops that cost time, written once and compiled for every instruction set.
//!
//! Rows of weights are worked on sixteen at a time, side by side: a [`Lanes`] is one column of them. So every sum runs
//! along columns within a lane, in one order, and a row gets the same numbers whatever rows lie beside it. No fused
//! multiply-add: the same bits on every machine.

use super::factor::{CELLS, Cell, SIDE};
use crate::grid::Levels;
use crate::search::lanes::whole_bits;
use crate::simd::dispatch;

/// Rows side by side: two AVX2 registers.
pub(super) const LANES: usize = 16;

/// One column of sixteen rows.
pub(super) type Lanes = [f32; LANES];

/// Columns whose sums are kept in registers together: eight AVX2 registers.
type Across = [Lanes; SIDE];

/// `out[c] += sum over k of m[c, k] * e[k]`.
///
/// `m`: a matrix of `stride` columns whose first row belongs to `out[0]` and first column to `e[0]`.
#[inline(always)]
fn add_products_of(out: &mut [Lanes], m: &[f32], stride: usize, e: &[Lanes]) {
    let row = |c: usize| &m[c * stride..][..e.len()];
    let (fours, rest) = out.as_chunks_mut::<SIDE>();
    for (i, out) in fours.iter_mut().enumerate() {
        let m: [&[f32]; SIDE] = std::array::from_fn(|c| &row(i * SIDE + c)[..e.len()]);
        let mut sums = *out;
        for (k, e) in e.iter().enumerate() {
            for c in 0..SIDE {
                for l in 0..LANES {
                    sums[c][l] += m[c][k] * e[l];
                }
            }
        }
        *out = sums;
    }
    let done = fours.len() * SIDE;
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

/// `sums[c] += sum over k of m[c, k] * e[k]`. `m`: cells of four rows.
#[inline(always)]
fn add_cells(sums: &mut Across, m: &[Cell], e: &[Across]) {
    for (m, e) in m.iter().zip(e) {
        for (m, e) in m.0.iter().zip(e) {
            for c in 0..SIDE {
                for l in 0..LANES {
                    sums[c][l] += m[c] * e[l];
                }
            }
        }
    }
}

/// Columns in fours: blocks have multiples of 32.
#[inline(always)]
fn fours(columns: &[Lanes]) -> &[Across] {
    let (fours, rest) = columns.as_chunks();
    assert!(rest.is_empty(), "{} columns", columns.len());
    fours
}

/// `out[c] += sum over k of m[c, k] * e[k]`.
///
/// `m`: a panel of the factor from the cell on that belongs to `out[0]` and `e[0]`; where that is on the diagonal, only
/// what is not zero is added.
#[inline(always)]
fn add_panel_of(out: &mut [Lanes], m: &[Cell], diagonal: bool, e: &[Lanes]) {
    let e = fours(e);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let depth = if diagonal { i + 1 } else { e.len() };
        let mut sums = *out;
        add_cells(&mut sums, &m[i * CELLS..][..depth], &e[..depth]);
        *out = sums;
    }
}

/// `out[c] += sum over k of m[k, c] * by[k]`, `m` a whole panel of the factor; of one on the diagonal only what is not
/// zero.
#[inline(always)]
fn add_transposed_panel_of(out: &mut [Lanes], m: &[Cell], diagonal: bool, by: &[Lanes]) {
    let by = fours(by);
    for (i, out) in out.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
        let mut sums = *out;
        let from = if diagonal { i } else { 0 };
        for (m, by) in m.iter().skip(from * CELLS + i).step_by(CELLS).zip(&by[from..]) {
            for (k, by) in by.iter().enumerate() {
                for (sums, m) in sums.iter_mut().zip(&m.0) {
                    for l in 0..LANES {
                        sums[l] += m[k] * by[l];
                    }
                }
            }
        }
        *out = sums;
    }
}

/// Codes (as whole numbers) and errors of a column: what is nearest to `target` on each lane's own scale and offset,
/// and how far it lies from `w`. The arithmetic of [`Grid::nearest`](crate::Grid::nearest) and
/// [`Grid::value`](crate::Grid::value).
#[inline(always)]
fn round(target: &Lanes, w: &Lanes, scale: &Lanes, offset: &Lanes, levels: Levels) -> (Lanes, Lanes) {
    let (mut steps, mut codes, mut level) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for l in 0..LANES {
        // Divided first: a branch around it would be taken lane by lane.
        let quotient = (target[l] - offset[l]) / scale[l];
        steps[l] = if scale[l] == 0.0 { 0.0 } else { quotient };
    }
    match levels {
        Levels::Linear { min, max } => {
            let (min, max) = (f32::from(min), f32::from(max));
            for l in 0..LANES {
                let nearest = (steps[l] - 0.5).ceil();
                let nearest = if nearest > min { nearest } else { min };
                level[l] = if nearest < max { nearest } else { max };
            }
            codes = level;
        }
        Levels::Table(table) => {
            level = [f32::from(table[0]); LANES];
            for pair in table.windows(2) {
                let (low, high) = (f32::from(pair[0]), f32::from(pair[1]));
                let middle = (low + high) * 0.5;
                for l in 0..LANES {
                    level[l] = if steps[l] > middle { high } else { level[l] };
                    codes[l] += if steps[l] > middle { 1.0 } else { 0.0 };
                }
            }
        }
    }
    let mut errors = [0.0; LANES];
    for l in 0..LANES {
        errors[l] = w[l] - (scale[l] * level[l] + offset[l]);
    }
    (codes, errors)
}

/// A whole number from -128 to 127.
#[inline(always)]
fn low_byte(whole: f32) -> i8 {
    whole_bits(whole) as i8
}

/// Sixteen rows' state in one panel of columns, at most [`PANEL`](super::factor::PANEL) of them.
pub(super) struct Panel<'a> {
    /// What the columns should have been, with the errors of all columns before the panel made up for. Out: how far the
    /// values lie from that once the panel's errors are made up for too, which is (e M) of these columns.
    pub targets: &'a mut [Lanes],
    /// The weights themselves.
    pub w: &'a [Lanes],
    /// Each column's group, as an index into `scale` and `offset`.
    pub groups: &'a [u32],
    pub scale: &'a [Lanes],
    pub offset: &'a [Lanes],
    pub levels: Levels,
    /// One where a weight stays, zero where it is zero whatever it should be; empty if all stay.
    pub stays: &'a [Lanes],
    /// Out: how far each column's value lies from its weight.
    pub errors: &'a mut [Lanes],
    /// Out.
    pub codes: &'a mut [[i8; LANES]],
}

/// Rounds the columns of a panel in turn, each after making up for those before it in the panel.
///
/// `m`: the factor from the panel's first cell on the diagonal on.
#[inline(always)]
fn round_panel_of(panel: &mut Panel, m: &[Cell]) {
    for four in 0..fours(panel.targets).len() {
        let m = &m[four * CELLS..][..=four];
        let mut targets: Across = *panel.targets[four * SIDE..].first_chunk().expect("whole fours");
        add_cells(&mut targets, &m[..four], fours(panel.errors));
        let m = &m[four].0;
        let mut errors: Across = [[0.0; LANES]; SIDE];
        let mut chosen = errors;
        for c in 0..SIDE {
            let at = four * SIDE + c;
            // Copies, not references: what may lie in the same place is not worked on side by side.
            let (mut target, w) = (targets[c], panel.w[at]);
            for (m, e) in m.iter().zip(&errors[..c]) {
                for l in 0..LANES {
                    target[l] += m[c] * e[l];
                }
            }
            let group = panel.groups[at] as usize;
            let mut aim = target;
            if let Some(stays) = panel.stays.get(at) {
                for l in 0..LANES {
                    aim[l] *= stays[l];
                }
            }
            let (codes, e) = round(&aim, &w, &panel.scale[group], &panel.offset[group], panel.levels);
            for l in 0..LANES {
                target[l] = target[l] - w[l] + e[l];
            }
            (chosen[c], targets[c], errors[c]) = (codes, target, e);
        }
        panel.targets[four * SIDE..][..SIDE].copy_from_slice(&targets);
        panel.errors[four * SIDE..][..SIDE].copy_from_slice(&errors);
        // Narrowed together, which takes few instructions.
        let codes = panel.codes[four * SIDE..][..SIDE].as_flattened_mut();
        codes.iter_mut().zip(chosen.as_flattened()).for_each(|(code, chosen)| *code = low_byte(*chosen));
    }
}

/// The errors that columns would have if none of them were rounded: each takes up what makes up best for the errors
/// before.
///
/// `work`, `w`, `errors`: the panel's columns; `m`: as for [`round_panel`].
#[inline(always)]
fn take_up_of(work: &[Lanes], w: &[Lanes], errors: &mut [Lanes], m: &[Cell]) {
    for c in 0..work.len() {
        let mut target = work[c];
        for (k, e) in errors[..c].iter().enumerate() {
            let m = m[c / SIDE * CELLS + k / SIDE].0[k % SIDE][c % SIDE];
            for l in 0..LANES {
                target[l] += m * e[l];
            }
        }
        for l in 0..LANES {
            errors[c][l] = w[c][l] - target[l];
        }
    }
}

/// `out[c] += sum over i of h[columns[i]][c] * by[i]`, in one row of weights.
///
/// `out`: columns of one strip, at most as many as that has.
#[inline(always)]
fn add_strips_of(out: &mut [f32], h: &[&[f32; STRIP]], columns: &[u32], by: &[f32]) {
    let mut sums = [0.0; STRIP];
    match out.first_chunk() {
        Some(all) => sums = *all,
        None => sums[..out.len()].copy_from_slice(out),
    }
    for (column, by) in columns.iter().zip(by) {
        let h = h[*column as usize];
        for c in 0..STRIP {
            sums[c] += h[c] * by;
        }
    }
    match out.first_chunk_mut() {
        Some(all) => *all = sums,
        None => out.copy_from_slice(&sums[..out.len()]),
    }
}

/// Columns of a strip of H. Their sums stay in registers: eight of AVX2's.
pub(super) const STRIP: usize = 64;

/// Sixteen rows' state in some columns, of which each code is to have its best value given all others.
pub(super) struct Descent<'a> {
    /// e H of these columns; becomes that after the changes among columns before, in each column.
    pub slopes: &'a mut [Lanes],
    pub w: &'a [Lanes],
    /// Each column's group, as an index into `scale` and `offset`.
    pub groups: &'a [u32],
    pub scale: &'a [Lanes],
    pub offset: &'a [Lanes],
    pub levels: Levels,
    /// As in [`Panel`].
    pub stays: &'a [Lanes],
    pub errors: &'a mut [Lanes],
    pub codes: &'a mut [[i8; LANES]],
    /// Out: how errors changed.
    pub by: &'a mut [Lanes],
}

/// Gives each code in turn its best value given all others: changing error j by d changes the loss by d^2 H_jj + 2 d
/// g_j, least at d = -g_j / H_jj. Says how many codes changed.
///
/// `h`: H from the first column's row and column on.
#[inline(always)]
fn descend_of(state: &mut Descent, h: &[[f32; STRIP]]) -> u64 {
    let columns = state.slopes.len();
    let mut changed = 0;
    for c in 0..columns {
        let row = &h[c][..columns];
        let (diagonal, slopes) = (row[c], state.slopes[c]);
        state.by[c] = [0.0; LANES];
        if diagonal <= 0.0 {
            continue;
        }
        let (group, w, old, old_codes) = (state.groups[c] as usize, &state.w[c], state.errors[c], state.codes[c]);
        let mut target = [0.0; LANES];
        for l in 0..LANES {
            target[l] = w[l] - old[l] + slopes[l] / diagonal;
        }
        if let Some(stays) = state.stays.get(c) {
            for l in 0..LANES {
                target[l] *= stays[l];
            }
        }
        let (codes, errors) = round(&target, w, &state.scale[group], &state.offset[group], state.levels);
        let (mut before, mut same) = ([0.0; LANES], true);
        for l in 0..LANES {
            before[l] = f32::from(old_codes[l]);
            same &= codes[l] == before[l];
        }
        if same {
            continue;
        }
        let mut any = 0;
        for l in 0..LANES {
            let by = errors[l] - old[l];
            // Where two values are equally good the old one stays: no running in circles.
            if codes[l] != before[l] && by * (by * diagonal + 2.0 * slopes[l]) < 0.0 {
                state.by[c][l] = by;
                state.errors[c][l] = errors[l];
                state.codes[c][l] = low_byte(codes[l]);
                any += 1;
            }
        }
        if any > 0 {
            changed += any;
            let by = state.by[c];
            for (slopes, h) in state.slopes[c + 1..].iter_mut().zip(&row[c + 1..]) {
                for l in 0..LANES {
                    slopes[l] += h * by[l];
                }
            }
        }
    }
    changed
}

dispatch!(pub(super) fn descend(state: &mut Descent, h: &[[f32; STRIP]]) -> u64 = descend_of);
dispatch!(pub(super) fn add_strips(out: &mut [f32], h: &[&[f32; STRIP]], columns: &[u32], by: &[f32]) = add_strips_of);
dispatch!(pub(super) fn add_products(out: &mut [Lanes], m: &[f32], stride: usize, e: &[Lanes]) = add_products_of);
dispatch!(pub(super) fn add_panel(out: &mut [Lanes], m: &[Cell], diagonal: bool, e: &[Lanes]) = add_panel_of);
dispatch!(
    pub(super) fn add_transposed_panel(out: &mut [Lanes], m: &[Cell], diagonal: bool, by: &[Lanes])
        = add_transposed_panel_of
);
dispatch!(pub(super) fn round_panel(panel: &mut Panel, m: &[Cell]) = round_panel_of);
dispatch!(pub(super) fn take_up(work: &[Lanes], w: &[Lanes], errors: &mut [Lanes], m: &[Cell]) = take_up_of);
