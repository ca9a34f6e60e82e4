//! The solver's work on one chunk of rows, by one thread.

use std::ops::Range;

use super::kernels::{self, Column, LANES, Lanes, Panel};
use super::{Hessian, Options, Order, RowLoss, Solved};
use crate::grid::Levels;
use crate::simd::Isa;
use crate::{BlockFormat, Grid, Scales};

/// Rows of a chunk: four tiles share what is read of the factor.
pub(super) const CHUNK: usize = 4 * LANES;

/// Columns that are rounded before their errors go into the columns after them all at once.
const PANEL: usize = 32;

/// Sums of products run over this many columns at a time: a panel's rows of the factor (32 * 1024 * 4 bytes) stay in the second
/// cache while the tiles of the chunk meet them.
const DEPTH: usize = 1024;

/// Sixteen rows, column by column in the order of the Hessian.
struct Tile {
    /// Rows that are there; lanes past them are zero.
    rows: usize,
    w: Vec<Lanes>,
    /// Weight less value.
    errors: Vec<Lanes>,
    /// What is to be rounded; later H times the errors.
    work: Vec<Lanes>,
    codes: Vec<[i8; LANES]>,
    /// Per group of each row, groups in their natural order.
    scale: Vec<Lanes>,
    offset: Vec<Lanes>,
    /// `[rows, blocks]`
    grids: Vec<Option<Grid>>,
}

/// What all tiles of a chunk share.
struct Chunk<'a> {
    format: &'a dyn BlockFormat,
    hessian: &'a Hessian,
    isa: Isa,
    cols: usize,
    blocks: usize,
    group_len: usize,
    levels: Levels,
    /// Each column's group, in the order of the Hessian.
    groups: Vec<u32>,
}

/// See [`super::solve`]; `w` and `out` are the chunk's.
pub(super) fn solve(
    format: &dyn BlockFormat,
    w: &[f32],
    hessian: &Hessian,
    options: Options,
    out: &mut [u8],
) -> Solved {
    format.encode(w, Scales::Search(Some(hessian.importance())), out);
    let chunk = Chunk::new(format, hessian, out);
    let cols = chunk.cols;
    let row_bytes = out.len() / (w.len() / cols);
    let mut tiles: Vec<Tile> =
        w.chunks(LANES * cols).zip(out.chunks(LANES * row_bytes)).map(|(w, nearest)| chunk.load(w, nearest)).collect();
    let nearest: Vec<f64> = chunk.losses(&mut tiles);
    match options.order {
        Order::Static => chunk.round_static(&mut tiles),
        Order::Natural => chunk.round_natural(&mut tiles),
    }
    let descended = chunk.descend(&mut tiles, options.sweeps);
    let solved = chunk.losses(&mut tiles);
    let mut result = Solved { descended, ..Solved::default() };
    for (row, (solved, nearest)) in solved.into_iter().zip(nearest).enumerate() {
        // Where the loss overflowed, or is NaN, rounding to nearest stands.
        let better = solved <= nearest;
        if better {
            chunk.store(&tiles[row / LANES], row % LANES, &mut out[row * row_bytes..][..row_bytes]);
        } else {
            result.kept_nearest += 1;
        }
        result.rows.push(RowLoss { solved: if better { solved } else { nearest }, nearest });
    }
    result
}

/// Gives rows that are rounded to nearest in `out` other codes on the same grids: one pass over the columns.
pub(super) fn round_again(format: &dyn BlockFormat, w: &[f32], hessian: &Hessian, out: &mut [u8]) {
    let chunk = Chunk::new(format, hessian, out);
    let row_bytes = out.len() / (w.len() / chunk.cols);
    for (w, out) in w.chunks(LANES * chunk.cols).zip(out.chunks_mut(LANES * row_bytes)) {
        let mut tiles = [chunk.tile(w, out)];
        chunk.round_static(&mut tiles);
        for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
            chunk.store(&tiles[0], row, out);
        }
    }
}

impl<'a> Chunk<'a> {
    /// `bytes`: begins with a block; any tells how a format's groups and levels are.
    fn new(format: &'a dyn BlockFormat, hessian: &'a Hessian, bytes: &[u8]) -> Self {
        let (cols, spec) = (hessian.channels(), format.spec());
        let any = format.unpack(&bytes[..spec.bytes], &mut vec![0; spec.block]);
        Chunk {
            format,
            hessian,
            isa: Isa::best(),
            cols,
            blocks: cols / spec.block,
            group_len: any.group_len,
            levels: any.levels,
            groups: hessian.order().iter().map(|c| c / any.group_len as u32).collect(),
        }
    }
}

impl Chunk<'_> {
    /// A tile of `w` on the grids of the bytes, with the errors that they have.
    fn load(&self, w: &[f32], bytes: &[u8]) -> Tile {
        let mut tile = self.tile(w, bytes);
        let mut errors = vec![0.0; w.len()];
        self.format.decode(bytes, &mut errors);
        errors.iter_mut().zip(w).for_each(|(v, w)| *v = w - *v);
        tile.errors = self.lanes(&errors);
        tile
    }

    /// A tile of `w` on the grids of the bytes, without errors.
    fn tile(&self, w: &[f32], bytes: &[u8]) -> Tile {
        let (cols, spec) = (self.cols, self.format.spec());
        let rows = w.len() / cols;
        let groups = cols / self.group_len;
        let mut tile = Tile {
            rows,
            w: self.lanes(w),
            errors: vec![[0.0; LANES]; cols],
            work: vec![[0.0; LANES]; cols],
            codes: vec![[0; LANES]; cols],
            scale: vec![[0.0; LANES]; groups],
            offset: vec![[0.0; LANES]; groups],
            grids: vec![None; rows * self.blocks],
        };
        let mut codes = vec![0; spec.block];
        for (i, block) in bytes.chunks_exact(spec.bytes).enumerate() {
            let grid = self.format.unpack(block, &mut codes);
            self.set_grid(&mut tile, i / self.blocks, i % self.blocks, grid);
        }
        tile
    }

    /// Rows side by side, column by column in the order of the Hessian.
    fn lanes(&self, x: &[f32]) -> Vec<Lanes> {
        let mut out = vec![[0.0; LANES]; self.cols];
        for (l, row) in x.chunks_exact(self.cols).enumerate() {
            for (out, &c) in out.iter_mut().zip(self.hessian.order()) {
                out[l] = row[c as usize];
            }
        }
        out
    }

    fn set_grid(&self, tile: &mut Tile, row: usize, block: usize, grid: Grid) {
        let groups = self.format.spec().block / self.group_len;
        for g in 0..groups {
            tile.scale[block * groups + g][row] = grid.scale[g];
            tile.offset[block * groups + g][row] = grid.offset[g];
        }
        tile.grids[row * self.blocks + block] = Some(grid);
    }

    /// `work[c] += sum of m[c, k] * errors[k]` for columns `c`, `k` in `depth`, in all tiles. `m`: `[cols, cols]`.
    fn add_products(&self, tiles: &mut [Tile], m: &[f32], c: Range<usize>, depth: Range<usize>) {
        let mut from = depth.start;
        while from < depth.end {
            let to = (from + DEPTH).min(depth.end);
            for tile in tiles.iter_mut() {
                let (work, m) = (&mut tile.work[c.clone()], &m[c.start * self.cols..]);
                kernels::add_products(self.isa, work, m, self.cols, from..to, &tile.errors);
            }
            from = to;
        }
    }

    /// e H e^T of every row's errors, in the units of the Hessian: sum of D_k (e M)_k^2, less what the damping put in.
    fn losses(&self, tiles: &mut [Tile]) -> Vec<f64> {
        for tile in tiles.iter_mut() {
            tile.work.fill([0.0; LANES]);
        }
        for first in (0..self.cols).step_by(PANEL) {
            let end = (first + PANEL).min(self.cols);
            // The factor has ones on its diagonal and zeros above.
            self.add_products(tiles, self.hessian.factor(), first..end, 0..end);
        }
        let mut losses = Vec::new();
        for tile in tiles {
            let mut sums = [0.0f64; LANES];
            for ((work, errors), pivot) in tile.work.iter().zip(&tile.errors).zip(self.hessian.pivots()) {
                for l in 0..LANES {
                    let damped = f64::from(errors[l]).powi(2) * self.hessian.damping();
                    sums[l] += f64::from(work[l]).powi(2) * pivot - damped;
                }
            }
            // Rounding may leave an exact row just below zero. Not `max`, which would make a perfect row of NaN.
            losses.extend(sums[..tile.rows].iter().map(|s| if *s < 0.0 { 0.0 } else { s / self.hessian.unit() }));
        }
        losses
    }

    fn round_static(&self, tiles: &mut [Tile]) {
        for tile in tiles.iter_mut() {
            tile.work.copy_from_slice(&tile.w);
        }
        for first in (0..self.cols).step_by(PANEL) {
            let end = (first + PANEL).min(self.cols);
            self.add_products(tiles, self.hessian.factor(), first..end, 0..first);
            self.round_panel(tiles, first..end);
        }
    }

    fn round_natural(&self, tiles: &mut [Tile]) {
        let len = self.format.spec().block;
        for tile in tiles.iter_mut() {
            tile.work.copy_from_slice(&tile.w);
        }
        for block in 0..self.blocks {
            let (start, stop) = (block * len, (block + 1) * len);
            self.add_products(tiles, self.hessian.factor(), start..stop, 0..start);
            let before: Vec<Vec<Lanes>> = tiles.iter().map(|tile| tile.work[start..stop].to_vec()).collect();
            let panels = || (start..stop).step_by(PANEL).map(|first| first..(first + PANEL).min(stop));
            for c in panels() {
                self.add_products(tiles, self.hessian.factor(), c.clone(), start..c.start);
                self.take_up(tiles, c);
            }
            for (tile, before) in tiles.iter_mut().zip(before) {
                self.fit_block(tile, block);
                tile.work[start..stop].copy_from_slice(&before);
            }
            for c in panels() {
                self.add_products(tiles, self.hessian.factor(), c.clone(), start..c.start);
                self.round_panel(tiles, c);
            }
        }
    }

    /// Sets the errors of columns to those of weights that make up for all before them and are not rounded.
    fn take_up(&self, tiles: &mut [Tile], c: Range<usize>) {
        let m = &self.hessian.factor()[c.start * self.cols + c.start..];
        for tile in tiles {
            let (work, w, errors) = (&tile.work[c.clone()], &tile.w[c.clone()], &mut tile.errors[c.clone()]);
            kernels::take_up(self.isa, work, w, errors, m, self.cols);
        }
    }

    /// The grids of a block from its weights less their errors.
    fn fit_block(&self, tile: &mut Tile, block: usize) {
        let spec = self.format.spec();
        let range = block * spec.block..(block + 1) * spec.block;
        let mut x = Vec::with_capacity(tile.rows * spec.block);
        for row in 0..tile.rows {
            x.extend(tile.w[range.clone()].iter().zip(&tile.errors[range.clone()]).map(|(w, e)| {
                let current = w[row] - e[row];
                // It may run away on a hostile Hessian; the row's loss then speaks against it.
                if current.is_finite() { current.clamp(-spec.max_abs, spec.max_abs) } else { 0.0 }
            }));
        }
        let mut grids = vec![Grid::single(spec.block, 0.0, 0.0, self.levels); tile.rows];
        self.format.fit_many(&x, &self.hessian.importance()[range], &mut grids);
        for (row, grid) in grids.into_iter().enumerate() {
            self.set_grid(tile, row, block, grid);
        }
    }

    fn round_panel(&self, tiles: &mut [Tile], c: Range<usize>) {
        let m = &self.hessian.factor()[c.start * self.cols + c.start..];
        for tile in tiles {
            let mut panel = Panel {
                targets: &tile.work[c.clone()],
                w: &tile.w[c.clone()],
                groups: &self.groups[c.clone()],
                scale: &tile.scale,
                offset: &tile.offset,
                levels: self.levels,
                errors: &mut tile.errors[c.clone()],
                codes: &mut tile.codes[c.clone()],
            };
            kernels::round_panel(self.isa, &mut panel, m, self.cols);
        }
    }

    /// Improves each row given its codes and scales, `sweeps` times: every code given all else, then every group's scale and
    /// offset given all else, codes again at last. Ends early when nothing changes. Says how many codes changed.
    fn descend(&self, tiles: &mut [Tile], sweeps: usize) -> u64 {
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
        // Row after row from here on: a change touches its own row only. A row's slopes are g = e H.
        let mut slopes: Vec<Vec<f32>> = Vec::new();
        for tile in tiles.iter() {
            slopes.extend((0..tile.rows).map(|l| tile.work.iter().map(|g| g[l]).collect()));
        }
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
        total
    }

    /// Gives each code in turn its best value given all others: moving value j by d changes the loss by
    /// d^2 H_jj - 2 d g_j, least at d = g_j / H_jj. Says how many changed.
    fn descend_codes(&self, tiles: &mut [Tile], slopes: &mut [Vec<f32>]) -> u64 {
        let mut changed = 0;
        for j in 0..self.cols {
            let h = self.hessian.row(j);
            if h[j] <= 0.0 {
                continue;
            }
            let group = self.groups[j] as usize;
            for (tile, slopes) in tiles.iter_mut().zip(slopes.chunks_mut(LANES)) {
                let column = Column {
                    w: &tile.w[j],
                    errors: &tile.errors[j],
                    scale: &tile.scale[group],
                    offset: &tile.offset[group],
                    levels: self.levels,
                };
                let mut slope = [0.0; LANES];
                for (slope, slopes) in slope.iter_mut().zip(&*slopes) {
                    *slope = slopes[j];
                }
                let (codes, errors) = kernels::round_again(self.isa, column, &slope, h[j]);
                if codes == tile.codes[j] {
                    continue;
                }
                for (l, slopes) in slopes.iter_mut().enumerate() {
                    let step = tile.errors[j][l] - errors[l];
                    // Where two values are equally good the old one stays: no running in circles.
                    if codes[l] != tile.codes[j][l] && step * (step * h[j] - 2.0 * slopes[j]) < 0.0 {
                        kernels::add_scaled(self.isa, slopes, -step, h);
                        tile.codes[j][l] = codes[l];
                        tile.errors[j][l] = errors[l];
                        changed += 1;
                    }
                }
            }
        }
        changed
    }

    /// Gives each group's scale and offset their best storable values given all codes. Says how many groups changed.
    ///
    /// `places`: of every column in the order of the Hessian.
    fn descend_scales(&self, tiles: &mut [Tile], slopes: &mut [Vec<f32>], places: &[u32]) -> u64 {
        let (len, in_block) = (self.group_len, self.format.spec().block / self.group_len);
        let mut changed = 0;
        let mut h = vec![0.0; len * len];
        let (ones, mut levels, mut back) = (vec![1.0; len], vec![0.0; len], vec![0.0; len]);
        let (mut by_ones, mut by_levels) = (vec![0.0; len], vec![0.0; len]);
        for (group, places) in places.chunks_exact(len).enumerate() {
            let (block, g) = (group / in_block, group % in_block);
            for (h, i) in h.chunks_exact_mut(len).zip(places) {
                let row = self.hessian.row(*i as usize);
                h.iter_mut().zip(places).for_each(|(h, j)| *h = row[*j as usize]);
            }
            kernels::times(self.isa, &h, &ones, &mut by_ones);
            for (row, slopes) in slopes.iter_mut().enumerate() {
                let (tile, l) = (&mut tiles[row / LANES], row % LANES);
                let Some(grid) = &tile.grids[l * self.blocks + block] else { continue };
                levels.iter_mut().zip(places).for_each(|(v, k)| *v = grid.level(tile.codes[*k as usize][l]));
                kernels::times(self.isa, &h, &levels, &mut by_levels);
                let mut loss = Quadratic { oo: sum(&by_ones), ao: sum(&by_levels), ..Quadratic::default() };
                for ((level, by_level), k) in levels.iter().zip(&by_levels).zip(places) {
                    let slope = f64::from(slopes[*k as usize]);
                    loss.aa += f64::from(*level) * f64::from(*by_level);
                    loss.a += f64::from(*level) * slope;
                    loss.o += slope;
                }
                let better = self.better_group(grid, g, &loss);
                let step = better.scale[g] - grid.scale[g];
                let change = loss.at(step, better.offset[g] - grid.offset[g]);
                // Where something overflowed the grid stays.
                if change >= 0.0 || change.is_nan() {
                    continue;
                }
                for ((back, level), k) in back.iter_mut().zip(&levels).zip(places) {
                    let k = *k as usize;
                    let error = tile.w[k][l] - (better.scale[g] * level + better.offset[g]);
                    *back = error - tile.errors[k][l];
                    tile.errors[k][l] = error;
                }
                kernels::add_rows(self.isa, slopes, &back, self.hessian.matrix(), places);
                self.set_grid(tile, l, block, better);
                changed += 1;
            }
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

    /// Packs one row of a tile.
    fn store(&self, tile: &Tile, row: usize, out: &mut [u8]) {
        let spec = self.format.spec();
        let mut codes = vec![0; self.cols];
        for (code, &c) in tile.codes.iter().zip(self.hessian.order()) {
            codes[c as usize] = code[row];
        }
        for (block, out) in out.chunks_exact_mut(spec.bytes).enumerate() {
            let codes = &codes[block * spec.block..][..spec.block];
            if let Some(grid) = &tile.grids[row * self.blocks + block] {
                self.format.pack(grid, codes, out);
            }
        }
    }
}

/// How the loss changes as a group's values move by s * levels + o, given its part of H and of the slopes g:
/// s^2 aa + 2 s o ao + o^2 oo - 2 (s a + o o').
#[derive(Clone, Copy, Default)]
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

fn sum(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x)).sum()
}
