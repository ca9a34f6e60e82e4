//! Coordinate descent after solving: every code given all others, every group's scale and offset given all codes.
//!
//! What decides is the slope g = e H of the loss e H e^T. A change of one column's error changes all slopes; some
//! columns' changes are gathered, acted on among themselves, and then go into all slopes at once, of the rows that they
//! are of.

use super::factor::panels;
use super::kernels::{self, Descent, LANES, Lanes, STRIP};
use super::rows::{Chunk, Tile, part};
use crate::Grid;

/// Columns whose changes are gathered: those of a square of H, which stays in the nearest cache while all rows of
/// weights meet it.
const GATHERED: usize = STRIP;

/// What goes into the slopes of one row of weights: changes of its errors, few as a rule.
#[derive(Default, Clone)]
struct Changes {
    /// Which of the gathered columns.
    columns: Vec<u32>,
    by: Vec<f32>,
}

impl Changes {
    /// Of sixteen rows, from how the errors of the gathered columns change: no change, no entry.
    fn take(all: &mut [Changes], by: &[Lanes]) {
        for (l, changes) in all.iter_mut().enumerate() {
            changes.columns.clear();
            changes.by.clear();
            for (column, by) in by.iter().enumerate().filter(|(_, by)| by[l] != 0.0) {
                changes.columns.push(column as u32);
                changes.by.push(by[l]);
            }
        }
    }
}

/// The slopes of a chunk's rows, `[rows, cols]`, and what is about to go into them.
struct Slopes {
    all: Vec<f32>,
    changes: Vec<Changes>,
}

impl Slopes {
    /// From `work`.
    fn of(tiles: &[Tile], cols: usize) -> Self {
        let rows = tiles.len() * LANES;
        let mut slopes = Slopes { all: vec![0.0; rows * cols], changes: vec![Changes::default(); rows] };
        for (tile, rows) in tiles.iter().zip(slopes.all.chunks_exact_mut(LANES * cols)) {
            for (l, row) in rows.chunks_exact_mut(cols).enumerate() {
                row.iter_mut().zip(&tile.work).for_each(|(slope, work)| *slope = work[l]);
            }
        }
        slopes
    }

    /// Back to `work`.
    fn store(&self, tiles: &mut [Tile], cols: usize) {
        for (tile, rows) in tiles.iter_mut().zip(self.all.chunks_exact(LANES * cols)) {
            for (l, row) in rows.chunks_exact(cols).enumerate() {
                tile.work.iter_mut().zip(row).for_each(|(work, slope)| work[l] = *slope);
            }
        }
    }

    /// Sixteen rows at a time: the rows themselves, and what is about to go into them.
    fn tiles(&mut self, cols: usize) -> impl Iterator<Item = (&[f32], &mut [Changes])> {
        self.all.chunks_exact(LANES * cols).zip(self.changes.chunks_exact_mut(LANES))
    }

    /// Lets the changes go into all slopes. `gathered`: the columns that changes speak of.
    fn spread(&mut self, chunk: &Chunk, gathered: &[u32]) {
        let h = chunk.hessian.products();
        for (s, from) in (0..chunk.cols).step_by(STRIP).enumerate() {
            let c = from..(from + STRIP).min(chunk.cols);
            let strips: Vec<&[f32; STRIP]> = gathered.iter().map(|k| h.strip(*k as usize, s)).collect();
            for (slopes, changes) in self.all.chunks_exact_mut(chunk.cols).zip(&self.changes) {
                if !changes.columns.is_empty() {
                    kernels::add_strips(chunk.isa, &mut slopes[c.clone()], &strips, &changes.columns, &changes.by);
                }
            }
        }
    }
}

impl Chunk<'_> {
    /// Improves each row given its codes and scales, `sweeps` times: every code given all else, then every group's
    /// scale and offset given all else, codes again at last. Ends early when nothing changes. Says how many codes
    /// changed.
    ///
    /// `work`: e M; afterwards e H.
    pub(super) fn descend(&self, tiles: &mut [Tile], sweeps: usize) -> u64 {
        self.slopes(tiles);
        let mut slopes = Slopes::of(tiles, self.cols);
        let mut places = vec![0; self.cols];
        for (place, column) in self.hessian.order().iter().enumerate() {
            places[*column as usize] = place as u32;
        }
        let mut total = 0;
        for sweep in 0..sweeps {
            let codes = self.descend_codes(tiles, &mut slopes);
            total += codes;
            if sweep + 1 == sweeps || self.descend_scales(tiles, &mut slopes, &places) + codes == 0 {
                break;
            }
        }
        slopes.store(tiles, self.cols);
        total
    }

    /// From e M in `work` to e H = (e M) D M^T, less what the damping put in: half the products of e times H.
    fn slopes(&self, tiles: &mut [Tile]) {
        let mut all: Vec<Vec<Lanes>> = tiles.iter().map(|_| vec![[0.0; LANES]; self.cols]).collect();
        for k in panels(0..self.cols) {
            for tile in tiles.iter_mut() {
                for (work, pivot) in tile.work[k.clone()].iter_mut().zip(&self.hessian.pivots()[k.clone()]) {
                    work.iter_mut().for_each(|work| *work *= *pivot as f32);
                }
            }
            for c in panels(0..k.end) {
                let m = self.hessian.factor().from(k.start, c.start);
                for (tile, slopes) in tiles.iter().zip(&mut all) {
                    kernels::add_transposed_panel(self.isa, &mut slopes[c.clone()], m, c == k, &tile.work[k.clone()]);
                }
            }
        }
        let damping = self.hessian.damping() as f32;
        for (tile, mut slopes) in tiles.iter_mut().zip(all) {
            for (slopes, errors) in slopes.iter_mut().zip(&tile.errors) {
                slopes.iter_mut().zip(errors).for_each(|(slope, error)| *slope -= damping * error);
            }
            tile.work = slopes;
        }
    }

    /// Gives each code in turn its best value given all others. Says how many changed.
    fn descend_codes(&self, tiles: &mut [Tile], slopes: &mut Slopes) -> u64 {
        let mut changed = 0;
        let (mut some, mut by) = ([[0.0; LANES]; GATHERED], [[0.0; LANES]; GATHERED]);
        for (square, first) in (0..self.cols).step_by(GATHERED).enumerate() {
            let c = first..(first + GATHERED).min(self.cols);
            let (some, by) = (&mut some[..c.len()], &mut by[..c.len()]);
            for (tile, (rows, changes)) in tiles.iter_mut().zip(slopes.tiles(self.cols)) {
                for (l, row) in rows.chunks_exact(self.cols).enumerate() {
                    some.iter_mut().zip(&row[c.clone()]).for_each(|(to, slope)| to[l] = *slope);
                }
                let mut descent = Descent {
                    slopes: some,
                    w: &tile.w[c.clone()],
                    groups: &self.groups[c.clone()],
                    scale: &tile.scale,
                    offset: &tile.offset,
                    levels: self.levels,
                    stays: part(&tile.stays, c.clone()),
                    errors: &mut tile.errors[c.clone()],
                    codes: &mut tile.codes[c.clone()],
                    by,
                };
                let h = self.hessian.products().square(square, square);
                changed += kernels::descend(self.isa, &mut descent, h);
                Changes::take(changes, by);
            }
            let gathered: Vec<u32> = c.map(|column| column as u32).collect();
            slopes.spread(self, &gathered);
        }
        changed
    }

    /// Gives each group's scale and offset their best storable values given all codes. Says how many groups changed.
    ///
    /// `places`: of every column in the order of the Hessian.
    fn descend_scales(&self, tiles: &mut [Tile], slopes: &mut Slopes, places: &[u32]) -> u64 {
        let len = self.group_len;
        let mut changed = 0;
        let (mut h, mut some, mut by) = (vec![0.0; len * len], vec![[0.0; LANES]; len], vec![[0.0; LANES]; len]);
        for (group, places) in places.chunks_exact(len).enumerate() {
            for (h, i) in h.chunks_exact_mut(len).zip(places) {
                h.iter_mut().zip(places).for_each(|(h, j)| *h = self.hessian.products().at(*i as usize, *j as usize));
            }
            for (tile, (rows, changes)) in tiles.iter_mut().zip(slopes.tiles(self.cols)) {
                for (l, row) in rows.chunks_exact(self.cols).enumerate() {
                    some.iter_mut().zip(places).for_each(|(to, k)| to[l] = row[*k as usize]);
                }
                by.fill([0.0; LANES]);
                changed += self.descend_group(tile, group, places, &h, &some, &mut by);
                Changes::take(changes, &by);
            }
            slopes.spread(self, places);
        }
        changed
    }

    /// The same for one group of sixteen rows. `h`, `slopes`: the group's part of them; `by`: how the errors change,
    /// zeros before. Says in how many rows they do.
    fn descend_group(
        &self,
        tile: &mut Tile,
        group: usize,
        places: &[u32],
        h: &[f32],
        slopes: &[Lanes],
        by: &mut [Lanes],
    ) -> u64 {
        let len = places.len();
        let in_block = self.format.spec().block / len;
        let (block, g) = (group / in_block, group % in_block);
        let mut levels = vec![[0.0; LANES]; len];
        for (levels, k) in levels.iter_mut().zip(places) {
            for (level, code) in levels.iter_mut().zip(&tile.codes[*k as usize]) {
                *level = self.levels.level(*code);
            }
        }
        let mut by_levels = vec![[0.0; LANES]; len];
        kernels::add_products(self.isa, &mut by_levels, h, len, &levels);
        let (mut aa, mut ao, mut a, mut o, mut oo) = ([0.0; LANES], [0.0; LANES], [0.0; LANES], [0.0; LANES], 0.0);
        for ((levels, by_levels), (h, slopes)) in levels.iter().zip(&by_levels).zip(h.chunks_exact(len).zip(slopes)) {
            oo += h.iter().map(|h| f64::from(*h)).sum::<f64>();
            for l in 0..LANES {
                aa[l] += f64::from(levels[l]) * f64::from(by_levels[l]);
                ao[l] += f64::from(by_levels[l]);
                a[l] += f64::from(levels[l]) * f64::from(slopes[l]);
                o[l] += f64::from(slopes[l]);
            }
        }
        let mut changed = 0;
        for l in 0..tile.rows {
            let loss = Quadratic { aa: aa[l], ao: ao[l], oo, a: a[l], o: o[l] };
            let Some(grid) = &tile.grids[l * self.blocks + block] else { continue };
            let better = self.better_group(grid, g, &loss);
            let step = better.scale[g] - grid.scale[g];
            let change = loss.at(step, better.offset[g] - grid.offset[g]);
            // Where something overflowed the grid stays.
            if change >= 0.0 || change.is_nan() {
                continue;
            }
            for ((by, levels), k) in by.iter_mut().zip(&levels).zip(places) {
                let k = *k as usize;
                let error = tile.w[k][l] - (better.scale[g] * levels[l] + better.offset[g]);
                by[l] = error - tile.errors[k][l];
                tile.errors[k][l] = error;
            }
            self.set_grid(tile, l, block, better);
            changed += 1;
        }
        changed
    }

    /// The grid with the scale and offset of group `g` where the loss is least. The scale is rounded first, the offset
    /// solved for what the scale then is.
    fn better_group(&self, grid: &Grid, g: usize, loss: &Quadratic) -> Grid {
        let Quadratic { aa, ao, oo, a, o } = *loss;
        let offsets = grid.parts.map_or(grid.offset[g] != 0.0, |parts| parts.offset_step != 0.0);
        let free = aa * oo - ao * ao;
        // All levels (nearly) equal: scale and offset cannot be told apart.
        let step = if offsets && free > 1e-6 * aa * oo {
            (a * oo - o * ao) / free
        } else if aa > 0.0 {
            a / aa
        } else {
            0.0
        };
        let scaled = self.format.with_group(grid, g, grid.scale[g] + step as f32, grid.offset[g]);
        if !offsets || oo <= 0.0 {
            return scaled;
        }
        let step = f64::from(scaled.scale[g] - grid.scale[g]);
        self.format.with_group(&scaled, g, scaled.scale[g], grid.offset[g] + ((o - step * ao) / oo) as f32)
    }
}

/// How the loss changes as a group's values move by s * levels + o, given its part of H and of the slopes g:
/// s^2 aa + 2 s o ao + o^2 oo - 2 (s a + o o').
#[derive(Clone, Copy)]
struct Quadratic {
    /// levels H levels
    aa: f64,
    /// levels H 1
    ao: f64,
    /// 1 H 1
    oo: f64,
    /// levels g
    a: f64,
    /// 1 g
    o: f64,
}

impl Quadratic {
    fn at(&self, scale: f32, offset: f32) -> f64 {
        let (s, o) = (f64::from(scale), f64::from(offset));
        s * (s * self.aa + 2.0 * (o * self.ao - self.a)) + o * (o * self.oo - 2.0 * self.o)
    }
}
