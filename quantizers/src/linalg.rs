//! X^T X of rows of activations: what GPTQ's Hessians are made of.
//!
//! A blocked product in the manner of Goto and van de Geijn ("Anatomy of high-performance matrix multiplication",
//! 2008): some tokens are laid out in panels once, then every tile of the result is made of small blocks whose sums
//! stay in registers. A tile is computed by one thread in an order that its place alone decides.
//!
//! Products are those of whole numbers: every 512 tokens each channel is rounded to multiples of a 2047th of its
//! largest magnitude there, eleven bits and a sign, where BF16 has eight. Processors multiply such numbers half as fast
//! again as F32, and their sums are exact: the same bits for any number of threads and on every machine. What 1024
//! tokens come to is rounded to F32, which has twice the digits that the numbers had, and added in F32: half the memory
//! of F64. A number is off by at most a 4094th of the largest beside it, each in its own direction, so that over many
//! tokens next to nothing is left of it: of 8192 tokens of evenly spread numbers less than one in 30,000 of a channel's
//! mean square, where damping is a hundredth.

use std::ops::Range;

use rayon::prelude::*;

use crate::search::lanes::{inverse, whole_bits};
use crate::simd::{BLOCK, Isa, dispatch, sum_pairs};

/// Rows and columns of a tile of the result: a multiple of both block sides. Small enough that a matrix 256 wide has
/// work for several threads, and that a tile's rows of panels (96 KiB) stay in the second cache.
pub const TILE: usize = 96;

/// Largest magnitude of the whole numbers.
const LARGEST: f32 = 2047.0;
/// Tokens whose products are summed in registers: as many as fit, 512 * 2047^2 < 2^31. A panel of 16 columns is 16 KiB
/// and stays in the nearest cache.
const DEPTH: usize = 512;
/// Tokens laid out at a time: each time all sums go through memory once.
pub const SPAN: usize = 2 * DEPTH;

/// Magnitudes below this count as zero: their products would vanish in F32.
const VANISHING: f32 = 1e-30;

/// At most [`DEPTH`] tokens' numbers in one strip of [`TILE`] columns: for each group of columns, two tokens of it
/// after the other. What is past the width, or the last token, is zero.
struct Strip {
    rows: Vec<[[i16; 2]; BLOCK.0]>,
    /// The same in wider panels.
    cols: Vec<[[i16; 2]; BLOCK.1]>,
    /// What one is worth in each column.
    steps: [f64; TILE],
}

impl Strip {
    /// `x`: `[tokens, width]`; `columns`: at most `TILE` of them.
    fn new(isa: Isa, x: &[f32], width: usize, columns: &Range<usize>) -> Strip {
        let pairs = (x.len() / width).div_ceil(2);
        let mut strip = Strip {
            rows: vec![[[0; 2]; BLOCK.0]; TILE / BLOCK.0 * pairs],
            cols: vec![[[0; 2]; BLOCK.1]; TILE / BLOCK.1 * pairs],
            steps: [0.0; TILE],
        };
        lay_out(isa, &mut strip, x, width, columns);
        strip
    }
}

/// Fills in a strip of zeros.
#[inline(always)]
fn lay_out_of(strip: &mut Strip, x: &[f32], width: usize, columns: &Range<usize>) {
    let mut top = [0.0f32; TILE];
    for x in x.chunks_exact(width) {
        for (top, x) in top.iter_mut().zip(&x[columns.clone()]) {
            *top = if x.abs() > *top { x.abs() } else { *top };
        }
    }
    let mut by = [0.0; TILE];
    for ((by, step), top) in by.iter_mut().zip(&mut strip.steps).zip(top) {
        let top = if top < VANISHING { 0.0 } else { top };
        *by = LARGEST * inverse(top);
        *step = f64::from(top) / f64::from(LARGEST);
    }
    let pairs = strip.rows.len() / (TILE / BLOCK.0);
    for (k, x) in x.chunks(2 * width).enumerate() {
        let mut numbers = [[0; 2]; TILE];
        for (t, x) in x.chunks_exact(width).enumerate() {
            for ((number, x), by) in numbers.iter_mut().zip(&x[columns.clone()]).zip(&by) {
                number[t] = whole_bits(x * by) as i16;
            }
        }
        for (panel, some) in strip.rows.chunks_exact_mut(pairs).zip(numbers.as_chunks().0) {
            panel[k] = *some;
        }
        for (panel, some) in strip.cols.chunks_exact_mut(pairs).zip(numbers.as_chunks().0) {
            panel[k] = *some;
        }
    }
}

dispatch!(fn lay_out(strip: &mut Strip, x: &[f32], width: usize, columns: &Range<usize>) = lay_out_of);

/// Adds `X^T X` to its lower triangle. `x`: `[tokens, width]` row-major; `tiles`: see [`tile_of`] and [`place`]; above
/// the diagonal anything may be added. Sums over [`SPAN`] tokens are those of numbers rounded as the head of this file
/// says, rounded to F32 once; they are added in F32.
///
/// # Panics
/// If the lengths do not belong together.
pub fn add_gram(x: &[f32], width: usize, tiles: &mut [f32]) {
    add_gram_with(Isa::best(), x, width, tiles);
}

/// [`add_gram`] for an instruction set of the caller's choice.
///
/// # Panics
/// As [`add_gram`].
pub fn add_gram_with(isa: Isa, x: &[f32], width: usize, tiles: &mut [f32]) {
    assert!(width > 0 && x.len().is_multiple_of(width), "{} numbers in rows of {width}", x.len());
    x.chunks(SPAN * width).for_each(|x| sum_gram(isa, x, width, &[], Onto::Added, tiles));
}

/// What becomes of the numbers that are in the tiles already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// They are the last to be added to.
    Added,
    /// They are replaced.
    Replaced,
}

/// `X^T X` of at most [`SPAN`] tokens, to which `below` are added one after the other, and then what `onto` says: all
/// sums go through memory once, however many there are.
///
/// # Panics
/// If the lengths do not belong together, or there are more tokens.
pub fn sum_gram(isa: Isa, x: &[f32], width: usize, below: &[&[f32]], onto: Onto, tiles: &mut [f32]) {
    assert!(width > 0 && x.len().is_multiple_of(width), "{} numbers in rows of {width}", x.len());
    assert!(x.len() <= SPAN * width, "{} tokens at a time, at most {SPAN}", x.len() / width);
    let all = below.iter().map(|b| b.len()).chain([tiles.len()]);
    all.for_each(|n| assert_eq!(n, tiles_len(width), "numbers in the tiles of a matrix {width} wide"));
    let strips: Vec<Vec<Strip>> = (0..width.div_ceil(TILE))
        .into_par_iter()
        .map(|i| {
            let columns = i * TILE..width.min((i + 1) * TILE);
            x.chunks(DEPTH * width).map(|x| Strip::new(isa, x, width, &columns)).collect()
        })
        .collect();
    let tiles = tiles.par_chunks_mut(TILE * TILE).enumerate();
    tiles.for_each_init(
        || vec![0.0; TILE * TILE],
        |sums, (at, tile)| {
            let (i, j) = tile_of(at, width);
            sums.fill(0.0);
            for (a, b) in strips[i.start / TILE].iter().zip(&strips[j.start / TILE]) {
                tile_with(isa, isa, a, b, i == j, sums);
            }
            let here = at * TILE * TILE..(at + 1) * TILE * TILE;
            let below: Vec<&[f32]> = below.iter().map(|b| &b[here.clone()]).collect();
            settle(isa, sums, &below, onto, tile);
        },
    );
}

/// Rounds a tile's sums to F32, adds those below, and puts what comes of it where it belongs.
#[inline(always)]
fn settle_in(sums: &[f64], below: &[&[f32]], onto: Onto, tile: &mut [f32]) {
    let mut row = [0.0; TILE];
    for (i, (sums, tile)) in sums.as_chunks::<TILE>().0.iter().zip(tile.as_chunks_mut::<TILE>().0).enumerate() {
        row.iter_mut().zip(sums).for_each(|(x, sum)| *x = *sum as f32);
        for below in below {
            row.iter_mut().zip(&below[i * TILE..]).for_each(|(x, b)| *x += b);
        }
        match onto {
            Onto::Added => tile.iter_mut().zip(&row).for_each(|(to, x)| *to += x),
            Onto::Replaced => *tile = row,
        }
    }
}

dispatch!(fn settle(sums: &[f64], below: &[&[f32]], onto: Onto, tile: &mut [f32]) = settle_in);

dispatch!(fn tile_with(isa: Isa, a: &Strip, b: &Strip, diagonal: bool, out: &mut [f64]) = add_tile);

/// Adds the product of two strips to a tile's sums. On the diagonal, blocks above it are left out.
#[inline(always)]
fn add_tile(isa: Isa, a: &Strip, b: &Strip, diagonal: bool, out: &mut [f64]) {
    let pairs = a.rows.len() / (TILE / BLOCK.0);
    for (j, b_panel) in b.cols.chunks_exact(pairs).enumerate() {
        let steps: &[f64; BLOCK.1] = b.steps.as_chunks().0.get(j).expect("steps of all columns");
        for (i, a_panel) in a.rows.chunks_exact(pairs).enumerate() {
            if diagonal && j * BLOCK.1 >= (i + 1) * BLOCK.0 {
                continue;
            }
            for (r, sums) in sum_pairs(isa, a_panel, b_panel).iter().enumerate() {
                let row = i * BLOCK.0 + r;
                let out = &mut out[row * TILE + j * BLOCK.1..][..BLOCK.1];
                for c in 0..BLOCK.1 {
                    out[c] += f64::from(sums[c]) * (a.steps[row] * steps[c]);
                }
            }
        }
    }
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

    /// How far each channel's numbers may be from the rounded ones, by token: half a step of the tokens it is rounded
    /// with.
    fn half_steps(x: &[f32], width: usize) -> Vec<f64> {
        let mut halves = Vec::with_capacity(x.len());
        for x in x.chunks(DEPTH * width) {
            let top = |i: usize| x[i..].iter().step_by(width).fold(0.0f32, |top, v| top.max(v.abs()));
            let tops: Vec<f64> = (0..width).map(|i| f64::from(top(i)) / (2.0 * f64::from(LARGEST)) * 1.001).collect();
            (0..x.len() / width).for_each(|_| halves.extend_from_slice(&tops));
        }
        halves
    }

    /// Odd widths and lengths, against the definition in f64, and every instruction set against the others.
    #[test]
    fn every_copy_of_the_kernel_computes_the_product() {
        let shapes = [(1, 1), (3, 5), (257, 17), (40, 95), (2, 96), (33, 97), (SPAN + 1, 20), (513, 250)];
        for (tokens, width) in shapes {
            let mut x = numbers(tokens * width, tokens as u32);
            // Sizes that differ, one channel that is never active, one token that is like no other.
            for (at, x) in x.iter_mut().enumerate() {
                *x *= [1.0, 100.0, 1e-20, 3e-5, 0.0][at % width % 5] * if at / width == 1 { 50.0 } else { 1.0 };
            }
            let halves = half_steps(&x, width);
            let of = |isa: Isa| {
                let mut tiles = vec![0.0; tiles_len(width)];
                add_gram_with(isa, &x, width, &mut tiles);
                tiles
            };
            let tiles = of(Isa::BASELINE);
            for i in 0..width {
                for j in 0..=i {
                    let (mut want, mut bound) = (0.0, f64::MIN_POSITIVE);
                    for (x, half) in x.chunks_exact(width).zip(halves.chunks_exact(width)) {
                        want += f64::from(x[i]) * f64::from(x[j]);
                        bound += f64::from(x[i].abs()) * half[j] + f64::from(x[j].abs()) * half[i] + half[i] * half[j];
                    }
                    let apart = (f64::from(tiles[place(i, j)]) - want).abs();
                    assert!(apart <= bound, "{tokens} x {width} at {i} {j}: {apart:e}, at most {bound:e}");
                }
            }
            for isa in Isa::present() {
                assert!(of(isa) == tiles, "{isa:?}, {tokens} x {width}");
            }
        }
    }

    /// Many tokens: what is off in one direction and the other is not what adds up.
    #[test]
    fn what_rounding_takes_away_vanishes_among_many_tokens() {
        let (tokens, width) = (16 * DEPTH, 10);
        let x = numbers(tokens * width, 5);
        let mut tiles = vec![0.0; tiles_len(width)];
        add_gram(&x, width, &mut tiles);
        for i in 0..width {
            for j in 0..=i {
                let want: f64 = x.chunks_exact(width).map(|x| f64::from(x[i]) * f64::from(x[j])).sum();
                let apart = (f64::from(tiles[place(i, j)]) - want).abs() / tokens as f64;
                assert!(apart < 1e-5, "{apart:e} of numbers whose mean square is a third");
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
