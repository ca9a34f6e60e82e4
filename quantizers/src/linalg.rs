//! X^T X of rows of activations: what GPTQ's Hessians are made of.
//!
//! A blocked product in the manner of Goto and van de Geijn ("Anatomy of high-performance matrix multiplication",
//! 2008): some tokens are laid out in panels once, then every tile of the result is made of small blocks whose sums
//! stay in registers. A tile is computed by one thread in an order that its place alone decides: the same bits for any
//! number of threads. Where the machine has fused multiply-add, products are not rounded on their own.

use std::ops::Range;

use rayon::prelude::*;

use crate::simd::{Isa, dispatch_fused};

/// Rows and columns of a tile of the result: a multiple of both block sides.
pub const TILE: usize = 240;

/// Rows of a block. 6 by 16 sums fill 12 of AVX2's 16 registers.
const ROWS: usize = 6;
/// Columns of a block.
const COLS: usize = 16;
/// Tokens laid out at a time: a panel of 16 columns is 16 KiB and stays in the nearest cache.
const DEPTH: usize = 256;

/// For each group of columns, that many numbers of one token after the other.
struct Panels {
    /// `[width / ROWS][tokens]`.
    rows: Vec<[f32; ROWS]>,
    /// `[width / COLS][tokens]`.
    cols: Vec<[f32; COLS]>,
    tokens: usize,
}

impl Panels {
    /// `x`: `[tokens, width]`, the width filled up with zeros to whole panels.
    fn new(x: &[f32], width: usize) -> Panels {
        let tokens = x.len() / width;
        let mut rows = vec![[0.0; ROWS]; width.div_ceil(ROWS) * tokens];
        let mut cols = vec![[0.0; COLS]; width.div_ceil(COLS) * tokens];
        for (t, x) in x.chunks_exact(width).enumerate() {
            lay(x, t, tokens, &mut rows);
            lay(x, t, tokens, &mut cols);
        }
        Panels { rows, cols, tokens }
    }
}

/// Puts one token's numbers at their places in the panels.
fn lay<const N: usize>(x: &[f32], t: usize, tokens: usize, panels: &mut [[f32; N]]) {
    let (whole, rest) = x.as_chunks::<N>();
    whole.iter().enumerate().for_each(|(p, x)| panels[p * tokens + t] = *x);
    if !rest.is_empty() {
        panels[whole.len() * tokens + t][..rest.len()].copy_from_slice(rest);
    }
}

/// Adds `X^T X` to its lower triangle. `x`: `[tokens, width]` row-major; `tiles`: see [`tile_of`] and [`place`]; above
/// the diagonal anything may be added. Products of `DEPTH` tokens are summed in f32, these sums in f64.
///
/// # Panics
/// If the lengths do not belong together.
pub fn add_gram(x: &[f32], width: usize, tiles: &mut [f64]) {
    add_gram_with(Isa::best(), x, width, tiles);
}

/// [`add_gram`] for an instruction set of the caller's choice.
///
/// # Panics
/// As [`add_gram`].
pub fn add_gram_with(isa: Isa, x: &[f32], width: usize, tiles: &mut [f64]) {
    assert!(width > 0 && x.len().is_multiple_of(width), "{} numbers in rows of {width}", x.len());
    assert_eq!(tiles.len(), tiles_len(width), "numbers in the tiles of a matrix {width} wide");
    for x in x.chunks(DEPTH * width) {
        let panels = Panels::new(x, width);
        tiles.par_chunks_mut(TILE * TILE).enumerate().for_each(|(at, tile)| {
            let (i, j) = tile_of(at, width);
            let of = |of: &Range<usize>, n: usize| of.start / n * panels.tokens..of.end.div_ceil(n) * panels.tokens;
            let (a, b) = (&panels.rows[of(&i, ROWS)], &panels.cols[of(&j, COLS)]);
            tile_with(isa, a, b, panels.tokens, i == j, tile);
        });
    }
}

dispatch_fused!(fn tile_with(a: &[[f32; ROWS]], b: &[[f32; COLS]], tokens: usize, diagonal: bool, out: &mut [f64]) = tile);

/// Adds the product of two strips of panels to a tile. On the diagonal, blocks above it are left out.
#[inline(always)]
fn tile<const FUSED: bool>(a: &[[f32; ROWS]], b: &[[f32; COLS]], tokens: usize, diagonal: bool, out: &mut [f64]) {
    for (j, b) in b.chunks_exact(tokens).enumerate() {
        for (i, a) in a.chunks_exact(tokens).enumerate() {
            if diagonal && j * COLS >= (i + 1) * ROWS {
                continue;
            }
            let sums = block::<FUSED>(a, b);
            for (r, sums) in sums.iter().enumerate() {
                let out = &mut out[(i * ROWS + r) * TILE + j * COLS..][..COLS];
                out.iter_mut().zip(sums).for_each(|(o, s)| *o += f64::from(*s));
            }
        }
    }
}

/// Sums of products over tokens, all in registers.
#[inline(always)]
fn block<const FUSED: bool>(a: &[[f32; ROWS]], b: &[[f32; COLS]]) -> [[f32; COLS]; ROWS] {
    let mut sums = [[0.0_f32; COLS]; ROWS];
    for (a, b) in a.iter().zip(b) {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = if FUSED { a.mul_add(*b, *sum) } else { a * b + *sum };
            }
        }
    }
    sums
}

/// Numbers that the tiles of a lower triangle take.
pub fn tiles_len(width: usize) -> usize {
    let across = width.div_ceil(TILE);
    across * (across + 1) / 2 * TILE * TILE
}

/// Where element (i, j), j <= i, is. Tiles follow each other as (0, 0), (1, 0), (1, 1), (2, 0)..., each `[TILE, TILE]`
/// row-major.
pub fn place(i: usize, j: usize) -> usize {
    let (row, column) = (i / TILE, j / TILE);
    ((row * (row + 1) / 2 + column) * TILE + i % TILE) * TILE + j % TILE
}

/// Rows and columns of the tile with number `at`.
pub fn tile_of(at: usize, width: usize) -> (Range<usize>, Range<usize>) {
    let (row, column) = coordinates(at);
    let range = |i: usize| i * TILE..((i + 1) * TILE).min(width);
    (range(row), range(column))
}

fn coordinates(at: usize) -> (usize, usize) {
    let mut row = 0;
    while (row + 1) * (row + 2) / 2 <= at {
        row += 1;
    }
    (row, at - row * (row + 1) / 2)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Numbers from -1 to 1.
    pub(crate) fn numbers(n: usize, salt: u32) -> Vec<f32> {
        let mut state = salt;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..n).map(next).collect()
    }

    /// Every instruction set, odd widths and lengths, against the definition in f64.
    #[test]
    fn every_copy_of_the_kernel_computes_the_product() {
        let shapes = [(1, 1), (3, 5), (257, 17), (40, 239), (2, 240), (33, 241), (300, 500)];
        for (tokens, width) in shapes {
            let x = numbers(tokens * width, tokens as u32);
            for isa in Isa::present() {
                let mut tiles = vec![1.0; tiles_len(width)];
                add_gram_with(isa, &x, width, &mut tiles);
                for i in 0..width {
                    for j in 0..=i {
                        let product = |row: &[f32]| f64::from(row[i]) * f64::from(row[j]);
                        let want: f64 = 1.0 + x.chunks_exact(width).map(product).sum::<f64>();
                        // At most DEPTH terms below one in f32, each sum and each product rounded once.
                        let bound = (tokens * DEPTH.min(tokens)) as f64 * f64::from(f32::EPSILON);
                        let apart = (tiles[place(i, j)] - want).abs();
                        assert!(apart <= bound, "{isa:?}, {tokens} x {width} at {i} {j}: {apart:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn places_are_all_different_and_lie_in_their_tiles() {
        let width = 2 * TILE + 7;
        let mut seen = vec![false; tiles_len(width)];
        for i in 0..width {
            for j in 0..=i {
                let at = place(i, j);
                assert!(!std::mem::replace(&mut seen[at], true), "{i} {j}");
                let (rows, cols) = tile_of(at / (TILE * TILE), width);
                assert!(rows.contains(&i) && cols.contains(&j), "{i} {j}: {rows:?} {cols:?}");
            }
        }
    }
}
