//! The factor of a Hessian, laid out for the loops that meet it.

use std::ops::Range;

use rayon::prelude::*;

use crate::par;

/// Columns that are rounded one after the other before their errors reach those behind. What the columns before a panel
/// mean to it is taken up a panel at a time too: 64 KiB of the factor, which stay in the second cache while all tiles
/// of rows meet them.
pub(super) const PANEL: usize = 128;

/// The parts of some columns that lie in one panel each.
pub(super) fn panels(columns: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut from = columns.start;
    std::iter::from_fn(move || {
        let part = from..columns.end.min((from / PANEL + 1) * PANEL);
        from = part.end;
        (!part.is_empty()).then_some(part)
    })
}

/// Rows and columns of a cell.
pub(super) const SIDE: usize = 4;

/// Cells in one row of a panel.
pub(super) const CELLS: usize = PANEL / SIDE;

/// Four rows of M^T by four of its columns, `[column][row]`: a line of cache, all of which is used when it is read,
/// whether sums run along its rows or its columns.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Cell(pub [[f32; SIDE]; SIDE]);

/// M^T, `[n, n]`, ones on its diagonal and zeros above, in panels of [`PANEL`] rows and columns. Rows of a large matrix
/// would lie a power of two apart and push each other out of the cache.
#[derive(Debug, Clone)]
pub(super) struct Factor {
    /// Panels on and below the diagonal, row by row, each `[CELLS, CELLS]`; zeros past the edges.
    cells: Vec<Cell>,
}

impl Factor {
    /// From the lower triangle of L, `[n, n]`, with J H J = L L^T, J the reversal of rows: R = J L J is upper
    /// triangular and H = R R^T, so M = R / diag(R), column by column. Row k of M^T is column n-1-k of L read upwards.
    pub(super) fn new(lower: &[f64], n: usize) -> Factor {
        let across = n.div_ceil(PANEL);
        let mut cells = vec![Cell([[0.0; SIDE]; SIDE]); across * (across + 1) / 2 * CELLS * CELLS];
        let places: Vec<(usize, usize)> = (0..across).flat_map(|i| (0..=i).map(move |j| (i, j))).collect();
        let roots: Vec<f64> = (0..n).map(|k| lower[(n - 1 - k) * (n + 1)]).collect();
        let panels = cells.par_chunks_exact_mut(CELLS * CELLS).zip(places);
        let least = par::rows_for(par::CHUNK_WEIGHTS, PANEL * PANEL);
        panels.with_min_len(least).for_each(|(panel, (i, j))| {
            let roots = &roots[i * PANEL..n.min((i + 1) * PANEL)];
            // Four rows of L at a time, so that cells are filled whole.
            for c in 0..CELLS {
                for x in 0..SIDE.min(n.saturating_sub(j * PANEL + c * SIDE)) {
                    let column = j * PANEL + c * SIDE + x;
                    let source = &lower[(n - 1 - column) * n..][n - i * PANEL - roots.len()..n - i * PANEL];
                    let above = column.saturating_sub(i * PANEL);
                    for (r, (value, root)) in source.iter().rev().zip(roots).enumerate().skip(above) {
                        panel[r / SIDE * CELLS + c].0[x][r % SIDE] = (value / root) as f32;
                    }
                }
            }
        });
        Factor { cells }
    }

    /// The panel that has this row and column, `[CELLS, CELLS]`, from their cell on.
    pub(super) fn from(&self, row: usize, column: usize) -> &[Cell] {
        let (i, j) = (row / PANEL, column / PANEL);
        let panel = &self.cells[(i * (i + 1) / 2 + j) * CELLS * CELLS..][..CELLS * CELLS];
        &panel[row % PANEL / SIDE * CELLS + column % PANEL / SIDE..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_where_the_loops_look_for_it() {
        for n in [1, 4, 31, 128, 130, 300] {
            let lower: Vec<f64> = (0..n * n).map(|at| 1.0 + ((at * 7919) % 1009) as f64).collect();
            let factor = Factor::new(&lower, n);
            for row in 0..n {
                for column in 0..n.div_ceil(SIDE) * SIDE {
                    if column / PANEL > row / PANEL {
                        continue;
                    }
                    let found = factor.from(row, column)[0].0[column % SIDE][row % SIDE];
                    let (down, across) = (n - 1 - row, n - 1 - column.min(row));
                    let want = if column <= row { lower[across * n + down] / lower[down * n + down] } else { 0.0 };
                    assert_eq!(found, want as f32, "n {n}: [{row}, {column}]");
                }
            }
        }
    }
}
