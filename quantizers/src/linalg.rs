//! X^T X of rows of activations: what GPTQ's Hessians are made of.
//!
//! A blocked product in the manner of Goto and van de Geijn ("Anatomy of high-performance matrix multiplication",
//! 2008): some tokens are laid out in panels once, then every tile of the result is made of small blocks whose sums
//! stay in registers. A tile is computed by one thread in an order that its place alone decides: the same bits for any
//! number of threads. Where the machine has fused multiply-add, products are not rounded on their own.

use std::ops::Range;

use rayon::prelude::*;

use crate::simd::{Isa, dispatch_fused};

/// Rows and columns of a tile of the result: a multiple of both block sides. Small enough that a matrix 256 wide has work for
/// several threads, and that a tile's rows of panels (96 KiB) stay in the second cache.
pub const TILE: usize = 96;

/// Rows of a block. 6 by 16 sums fill 12 of AVX2's 16 registers.
const ROWS: usize = 6;
/// Columns of a block.
const COLS: usize = 16;
/// Tokens whose products are summed in registers: a panel of 16 columns is 16 KiB and stays in the nearest cache.
const DEPTH: usize = 256;
/// Tokens laid out at a time: each time all sums go through memory once.
const SPAN: usize = 4 * DEPTH;

/// Some tokens' numbers in one strip of `TILE` columns: for each group of columns, that many numbers of one token after the
/// other. What is past the width is zero.
struct Strip {
    /// See [`panels`].
    rows: Vec<[f32; ROWS]>,
    /// The same in wider panels.
    cols: Vec<[f32; COLS]>,
}

impl Strip {
    /// `x`: `[tokens, width]`; `columns`: at most `TILE` of them.
    fn new(x: &[f32], width: usize, columns: Range<usize>) -> Strip {
        Strip { rows: panels(x, width, columns.clone()), cols: panels(x, width, columns) }
    }
}

/// For each `DEPTH` tokens, the last ones fewer: `[columns / N][tokens]`.
fn panels<const N: usize>(x: &[f32], width: usize, columns: Range<usize>) -> Vec<[f32; N]> {
    let mut all = Vec::with_capacity(columns.len().div_ceil(N) * (x.len() / width));
    // So many tokens of a strip stay in the second cache until they are in all panels.
    for x in x.chunks(DEPTH * width) {
        for from in columns.clone().step_by(N) {
            let some = from..columns.end.min(from + N);
            let rows = x.chunks_exact(width).map(|x| &x[some.clone()]);
            if some.len() == N {
                all.extend(rows.map(|x| *x.first_chunk().expect("N columns")));
            } else {
                all.extend(rows.map(|x| {
                    let mut padded = [0.0; N];
                    padded[..x.len()].copy_from_slice(x);
                    padded
                }));
            }
        }
    }
    all
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
    for x in x.chunks(SPAN * width) {
        let tokens = x.len() / width;
        let strip = |i: usize| Strip::new(x, width, i * TILE..width.min((i + 1) * TILE));
        let strips: Vec<Strip> = (0..width.div_ceil(TILE)).into_par_iter().map(strip).collect();
        tiles.par_chunks_mut(TILE * TILE).enumerate().for_each(|(at, tile)| {
            let (i, j) = tile_of(at, width);
            let (a, b) = (&strips[i.start / TILE].rows, &strips[j.start / TILE].cols);
            tile_with(isa, a, b, tokens, i == j, tile);
        });
    }
}

dispatch_fused!(fn tile_with(a: &[[f32; ROWS]], b: &[[f32; COLS]], tokens: usize, diagonal: bool, out: &mut [f64]) = tile);

/// Adds the product of two strips to a tile. On the diagonal, blocks above it are left out.
#[inline(always)]
fn tile<const FUSED: bool>(a: &[[f32; ROWS]], b: &[[f32; COLS]], tokens: usize, diagonal: bool, out: &mut [f64]) {
    let (rows, cols) = (a.len() / tokens, b.len() / tokens);
    for (a, b) in a.chunks(DEPTH * rows).zip(b.chunks(DEPTH * cols)) {
        let depth = a.len() / rows;
        for (j, b) in b.chunks_exact(depth).enumerate() {
            for (i, a) in a.chunks_exact(depth).enumerate() {
                if diagonal && j * COLS >= (i + 1) * ROWS {
                    continue;
                }
                for (r, sums) in block::<FUSED>(a, b).iter().enumerate() {
                    let out = &mut out[(i * ROWS + r) * TILE + j * COLS..][..COLS];
                    out.iter_mut().zip(sums).for_each(|(o, s)| *o += f64::from(*s));
                }
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
        let shapes = [(1, 1), (3, 5), (257, 17), (40, 95), (2, 96), (33, 97), (SPAN + 1, 20), (300, 250)];
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
