//! Coordinate descent after solving: every code given all others, every group's scale and offset given all codes.
//!
//! What decides is the slope g = e H of the loss e H e^T. A change of one column's error changes all slopes; some columns' changes
//! are gathered, acted on among themselves, and then go into all slopes at once, sixteen rows side by side.

use super::kernels::{self, Descent, LANES, Lanes};
use super::rows::{Chunk, PANEL, Tile};
use crate::Grid;

/// Columns whose changes are gathered: 64 rows of H for [`ACROSS`] slopes are 64 KiB and stay in the second cache.
const GATHERED: usize = 64;
/// Slopes that changes go into before the next tile's.
const ACROSS: usize = 256;

/// Columns of one tile whose errors changed, and by how much.
#[derive(Default)]
struct Changes {
    columns: Vec<u32>,
    by: Vec<Lanes>,
}

impl Chunk<'_> {
    /// Improves each row given its codes and scales, `sweeps` times: every code given all else, then every group's scale and
    /// offset given all else, codes again at last. Ends early when nothing changes. Says how many codes changed.
    pub(super) fn descend(&self, tiles: &mut [Tile], sweeps: usize) -> u64 {
        if sweeps == 0 {
            return 0;
        }
        for tile in tiles.iter_mut() {
            tile.work.fill([0.0; LANES]);
        }
        for first in (0..self.cols).step_by(PANEL) {
            let end = (first + PANEL).min(self.cols);
            self.add_products(tiles, self.hessian.matrix(), first..end, 0..self.cols);
        }
        let mut places = vec![0; self.cols];
        for (place, column) in self.hessian.order().iter().enumerate() {
            places[*column as usize] = place as u32;
        }
        let mut total = 0;
        for sweep in 0..sweeps {
            let codes = self.descend_codes(tiles);
            total += codes;
            if sweep + 1 == sweeps || self.descend_scales(tiles, &places) + codes == 0 {
                break;
            }
        }
        total
    }

    /// Gives each code in turn its best value given all others. Says how many changed.
    fn descend_codes(&self, tiles: &mut [Tile]) -> u64 {
        let mut changed = 0;
        let mut changes: Vec<Changes> = tiles.iter().map(|_| Changes::default()).collect();
        let (mut slopes, mut by) = ([[0.0; LANES]; GATHERED], [[0.0; LANES]; GATHERED]);
        for first in (0..self.cols).step_by(GATHERED) {
            let c = first..(first + GATHERED).min(self.cols);
            let (slopes, by) = (&mut slopes[..c.len()], &mut by[..c.len()]);
            for (tile, changes) in tiles.iter_mut().zip(&mut changes) {
                slopes.copy_from_slice(&tile.work[c.clone()]);
                let mut descent = Descent {
                    slopes,
                    w: &tile.w[c.clone()],
                    groups: &self.groups[c.clone()],
                    scale: &tile.scale,
                    offset: &tile.offset,
                    levels: self.levels,
                    errors: &mut tile.errors[c.clone()],
                    codes: &mut tile.codes[c.clone()],
                    by,
                };
                let h = &self.hessian.matrix()[first * self.cols + first..];
                changed += kernels::descend(self.isa, &mut descent, h, self.cols);
                let moved = c.clone().zip(&*by).filter(|(_, by)| **by != [0.0; LANES]);
                (changes.columns, changes.by) = moved.map(|(column, by)| (column as u32, *by)).unzip();
            }
            self.spread(tiles, &changes);
        }
        changed
    }

    /// Lets changes go into all slopes.
    fn spread(&self, tiles: &mut [Tile], changes: &[Changes]) {
        for first in (0..self.cols).step_by(ACROSS) {
            let c = first..(first + ACROSS).min(self.cols);
            for (tile, Changes { columns, by }) in tiles.iter_mut().zip(changes) {
                let slopes = &mut tile.work[c.clone()];
                kernels::add_rows(self.isa, slopes, &self.hessian.matrix()[first..], self.cols, columns, by);
            }
        }
    }

    /// Gives each group's scale and offset their best storable values given all codes. Says how many groups changed.
    ///
    /// `places`: of every column in the order of the Hessian.
    fn descend_scales(&self, tiles: &mut [Tile], places: &[u32]) -> u64 {
        let len = self.group_len;
        let mut changed = 0;
        let mut changes: Vec<Changes> = tiles.iter().map(|_| Changes::default()).collect();
        let mut h = vec![0.0; len * len];
        for (group, places) in places.chunks_exact(len).enumerate() {
            for (h, i) in h.chunks_exact_mut(len).zip(places) {
                let row = self.hessian.row(*i as usize);
                h.iter_mut().zip(places).for_each(|(h, j)| *h = row[*j as usize]);
            }
            for (tile, changes) in tiles.iter_mut().zip(&mut changes) {
                changes.by.clear();
                changes.by.resize(len, [0.0; LANES]);
                let moved = self.descend_group(tile, group, places, &h, &mut changes.by);
                changes.columns.clear();
                if moved > 0 {
                    changes.columns.extend(places);
                }
                changed += moved;
            }
            self.spread(tiles, &changes);
        }
        changed
    }

    /// The same for one group of sixteen rows. `h`: the group's part of H; `by`: how the errors change, zeros before. Says in how
    /// many rows they do.
    fn descend_group(&self, tile: &mut Tile, group: usize, places: &[u32], h: &[f32], by: &mut [Lanes]) -> u64 {
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
        kernels::add_products(self.isa, &mut by_levels, h, len, 0..len, &levels);
        let (mut aa, mut ao, mut a, mut o, mut oo) = ([0.0; LANES], [0.0; LANES], [0.0; LANES], [0.0; LANES], 0.0);
        for ((levels, by_levels), (h, k)) in levels.iter().zip(&by_levels).zip(h.chunks_exact(len).zip(places)) {
            oo += h.iter().map(|h| f64::from(*h)).sum::<f64>();
            let slopes = &tile.work[*k as usize];
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

    /// The grid with the scale and offset of group `g` where the loss is least. The scale is rounded first, the offset solved for
    /// what the scale then is.
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
