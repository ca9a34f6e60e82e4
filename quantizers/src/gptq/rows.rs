//! The solver's work on one chunk of rows, by one thread.

use std::ops::Range;

use super::factor::panels;
use super::kernels::{self, LANES, Lanes, Panel};
use super::lanes::Factored;
use super::{Hessian, Order, RowLoss, SolveOptions, Solved};
use crate::grid::Levels;
use crate::prune;
use crate::simd::Isa;
use crate::{BitMask, BlockFormat, Care, Grid, Scales};

/// Rows of a chunk: four tiles share what is read of the factor.
pub(super) const CHUNK: usize = 4 * LANES;

/// Sixteen rows, column by column in the order of the Hessian.
pub(super) struct Tile {
    /// Rows that are there; lanes past them are zero.
    pub rows: usize,
    pub w: Vec<Lanes>,
    /// Weight less value.
    pub errors: Vec<Lanes>,
    /// What is to be rounded; then e M; in the descent e H.
    pub work: Vec<Lanes>,
    pub codes: Vec<[i8; LANES]>,
    /// One where a weight stays, zero where it is zero; empty if all stay.
    pub stays: Vec<Lanes>,
    /// Per group of each row, groups in their natural order.
    pub scale: Vec<Lanes>,
    pub offset: Vec<Lanes>,
    /// `[rows, blocks]`
    pub grids: Vec<Option<Grid>>,
}

/// What all tiles of a chunk share.
pub(super) struct Chunk<'a> {
    pub format: &'a dyn BlockFormat,
    pub hessian: &'a Hessian,
    pub isa: Isa,
    pub cols: usize,
    pub blocks: usize,
    pub group_len: usize,
    pub levels: Levels,
    /// Each column's group, in the order of the Hessian.
    pub groups: Vec<u32>,
}

/// See [`super::solve`]; `w` and `out` are the chunk's, and `mask` has its rows from `first` on.
pub(super) fn solve(
    format: &dyn BlockFormat,
    w: &[f32],
    mask: Option<(&BitMask, usize)>,
    hessian: &Hessian,
    options: SolveOptions,
    out: &mut [u8],
) -> Solved {
    let cols = hessian.channels();
    match mask {
        None => format.encode(w, Scales::Search(Some(hessian.importance())), out),
        Some(mask) => prune::encode(format, w, mask, Some(hessian.importance()), out),
    }
    let chunk = Chunk::new(format, hessian, out);
    let row_bytes = out.len() / (w.len() / cols);
    let mut tiles: Vec<Tile> =
        w.chunks(LANES * cols).zip(out.chunks(LANES * row_bytes)).map(|(w, nearest)| chunk.load(w, nearest)).collect();
    if let Some((mask, first)) = mask {
        for (i, tile) in tiles.iter_mut().enumerate() {
            tile.stays = chunk.factored().stays(mask, first + i * LANES, tile.rows);
        }
    }
    chunk.multiply(&mut tiles);
    let nearest = chunk.losses(&tiles);
    match options.order {
        Order::Static => chunk.round_static(&mut tiles),
        Order::Natural => chunk.round_natural(&mut tiles),
    }
    let (descended, solved) = if options.sweeps > 0 {
        (chunk.descend(&mut tiles, options.sweeps), chunk.losses_by_slopes(&tiles))
    } else {
        (0, chunk.losses(&tiles))
    };
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
    fn factored(&self) -> Factored<'_> {
        Factored { hessian: self.hessian, isa: self.isa }
    }

    /// A tile of `w` on the grids of the bytes, with the errors that they have.
    fn load(&self, w: &[f32], bytes: &[u8]) -> Tile {
        let (cols, spec) = (self.cols, self.format.spec());
        let rows = w.len() / cols;
        let groups = cols / self.group_len;
        let mut errors = vec![0.0; w.len()];
        self.format.decode(bytes, &mut errors);
        errors.iter_mut().zip(w).for_each(|(v, w)| *v = w - *v);
        let mut tile = Tile {
            rows,
            w: self.factored().load(w),
            errors: self.factored().load(&errors),
            work: vec![[0.0; LANES]; cols],
            codes: vec![[0; LANES]; cols],
            stays: Vec::new(),
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

    pub(super) fn set_grid(&self, tile: &mut Tile, row: usize, block: usize, grid: Grid) {
        let groups = self.format.spec().block / self.group_len;
        for g in 0..groups {
            tile.scale[block * groups + g][row] = grid.scale[g];
            tile.offset[block * groups + g][row] = grid.offset[g];
        }
        tile.grids[row * self.blocks + block] = Some(grid);
    }

    /// Makes up in columns `c` of `work` for the errors of columns `k`, all before: `work[c] += sum of M[k, c] *
    /// errors[k]`.
    fn make_up(&self, tiles: &mut [Tile], c: Range<usize>, k: Range<usize>) {
        for c in panels(c) {
            for k in panels(k.clone()) {
                let m = self.hessian.factor().from(c.start, k.start);
                for tile in tiles.iter_mut() {
                    kernels::add_panel(self.isa, &mut tile.work[c.clone()], m, false, &tile.errors[k.clone()]);
                }
            }
        }
    }

    /// Sets `work` to e M of the errors that there are.
    fn multiply(&self, tiles: &mut [Tile]) {
        for tile in tiles.iter_mut() {
            tile.work.fill([0.0; LANES]);
        }
        for c in panels(0..self.cols) {
            self.make_up(tiles, c.clone(), 0..c.start);
            let m = self.hessian.factor().from(c.start, c.start);
            for tile in tiles.iter_mut() {
                kernels::add_panel(self.isa, &mut tile.work[c.clone()], m, true, &tile.errors[c.clone()]);
            }
        }
    }

    /// e H e^T of every row, in the units of the Hessian, from e M in `work`: sum of D_k (e M)_k^2, less what the
    /// damping put in.
    fn losses(&self, tiles: &[Tile]) -> Vec<f64> {
        self.sum(tiles, |work, error, pivot| {
            f64::from(work).powi(2) * pivot - f64::from(error).powi(2) * self.hessian.damping()
        })
    }

    /// The same from e H in `work`.
    fn losses_by_slopes(&self, tiles: &[Tile]) -> Vec<f64> {
        self.sum(tiles, |work, error, _| f64::from(work) * f64::from(error))
    }

    /// Of every row the sum over columns of `term(work, error, pivot)`.
    fn sum(&self, tiles: &[Tile], term: impl Fn(f32, f32, f64) -> f64) -> Vec<f64> {
        let mut losses = Vec::new();
        for tile in tiles {
            let mut sums = [0.0f64; LANES];
            for ((work, errors), pivot) in tile.work.iter().zip(&tile.errors).zip(self.hessian.pivots()) {
                for l in 0..LANES {
                    sums[l] += term(work[l], errors[l], *pivot);
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
        for c in panels(0..self.cols) {
            self.make_up(tiles, c.clone(), 0..c.start);
            self.round_panel(tiles, c);
        }
    }

    fn round_natural(&self, tiles: &mut [Tile]) {
        let len = self.format.spec().block;
        for tile in tiles.iter_mut() {
            tile.work.copy_from_slice(&tile.w);
        }
        for block in 0..self.blocks {
            let (start, stop) = (block * len, (block + 1) * len);
            self.make_up(tiles, start..stop, 0..start);
            let before: Vec<Vec<Lanes>> = tiles.iter().map(|tile| tile.work[start..stop].to_vec()).collect();
            for c in panels(start..stop) {
                self.make_up(tiles, c.clone(), start..c.start);
                self.take_up(tiles, c);
            }
            for (tile, before) in tiles.iter_mut().zip(before) {
                self.fit_block(tile, block);
                tile.work[start..stop].copy_from_slice(&before);
            }
            for c in panels(start..stop) {
                self.make_up(tiles, c.clone(), start..c.start);
                self.round_panel(tiles, c);
            }
        }
    }

    /// Sets the errors of columns to those of weights that make up for all before them and are not rounded.
    fn take_up(&self, tiles: &mut [Tile], c: Range<usize>) {
        let m = self.hessian.factor().from(c.start, c.start);
        for tile in tiles {
            let (work, w, errors) = (&tile.work[c.clone()], &tile.w[c.clone()], &mut tile.errors[c.clone()]);
            kernels::take_up(self.isa, work, w, errors, m);
        }
    }

    /// The grids of a block from its weights less their errors.
    fn fit_block(&self, tile: &mut Tile, block: usize) {
        let spec = self.format.spec();
        let range = block * spec.block..(block + 1) * spec.block;
        let mut x = Vec::with_capacity(tile.rows * spec.block);
        let stays = |row: usize, c: usize| tile.stays.get(range.start + c).is_none_or(|stays| stays[row] != 0.0);
        for row in 0..tile.rows {
            x.extend(tile.w[range.clone()].iter().zip(&tile.errors[range.clone()]).enumerate().map(|(c, (w, e))| {
                let current = w[row] - e[row];
                // It may run away on a hostile Hessian; the row's loss then speaks against it.
                if current.is_finite() && stays(row, c) { current.clamp(-spec.max_abs, spec.max_abs) } else { 0.0 }
            }));
        }
        let mut grids = vec![Grid::single(spec.block, 0.0, 0.0, self.levels); tile.rows];
        self.format.fit_many(&x, &self.hessian.importance()[range], Care::Full, &mut grids);
        for (row, grid) in grids.into_iter().enumerate() {
            self.set_grid(tile, row, block, grid);
        }
    }

    fn round_panel(&self, tiles: &mut [Tile], c: Range<usize>) {
        let m = self.hessian.factor().from(c.start, c.start);
        for tile in tiles {
            let mut panel = Panel {
                targets: &mut tile.work[c.clone()],
                w: &tile.w[c.clone()],
                groups: &self.groups[c.clone()],
                scale: &tile.scale,
                offset: &tile.offset,
                levels: self.levels,
                stays: part(&tile.stays, c.clone()),
                errors: &mut tile.errors[c.clone()],
                codes: &mut tile.codes[c.clone()],
            };
            kernels::round_panel(self.isa, &mut panel, m);
        }
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

/// Some columns of what may be empty.
pub(super) fn part(stays: &[Lanes], c: Range<usize>) -> &[Lanes] {
    stays.get(c).unwrap_or_default()
}
