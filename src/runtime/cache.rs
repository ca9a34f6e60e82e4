//! Keys and values of one attention op, in tiles of [`TILE`] positions.
//!
//! Within a tile each head's keys lie `[head_dim][TILE]` and its values `[TILE][head_dim]`: so scores of a tile are
//! `q [rows, head_dim] x keys`, outputs `weights [rows, TILE] x values`, both with the longer loop innermost and no
//! sum across lanes. A tile is the unit that grows and that attention reads at once, once for all query heads of
//! a group.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::CacheType;

/// Positions per tile.
pub(super) const TILE: usize = 64;
/// Numbers that share a scale in a Q8_0 cache.
pub(super) const Q8_BLOCK: usize = 32;

/// Which of the two.
#[derive(Clone, Copy)]
enum Axis {
    Keys,
    Values,
}

/// One tile's numbers, head after head.
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    /// Codes as the others lie; scales `[head][head_dim / 32][TILE]`.
    Q8 {
        codes: Vec<i8>,
        scales: Vec<f16>,
    },
}

/// Keys and values of one attention op.
pub(super) struct Cache {
    kind: CacheType,
    heads: usize,
    dim: usize,
    tiles: Vec<[Numbers; 2]>,
}

impl Cache {
    /// An empty cache for `heads` key and value heads of `dim` numbers.
    pub fn new(kind: CacheType, heads: usize, dim: usize) -> Self {
        assert!(kind != CacheType::Q8_0 || dim.is_multiple_of(Q8_BLOCK), "heads of {dim} numbers in q8_0");
        Cache { kind, heads, dim, tiles: Vec::new() }
    }

    /// Allocates tiles for `positions`.
    pub fn reserve(&mut self, positions: usize) {
        let len = self.heads * self.dim * TILE;
        while self.tiles.len() * TILE < positions {
            let numbers = || match self.kind {
                CacheType::F32 => Numbers::F32(vec![0.0; len]),
                CacheType::F16 => Numbers::F16(vec![f16::ZERO; len]),
                CacheType::Q8_0 => Numbers::Q8 { codes: vec![0; len], scales: vec![f16::ZERO; len / Q8_BLOCK] },
            };
            self.tiles.push([numbers(), numbers()]);
        }
    }

    /// Bytes of all tiles.
    pub fn bytes(&self) -> usize {
        self.tiles.len() * TILE * bytes_per_position(self.kind, self.heads, self.dim)
    }

    /// Stores keys and values of consecutive positions from `first` on; `k`, `v`: `[positions, heads * dim]`.
    pub fn store(&mut self, first: usize, k: &[f32], v: &[f32]) {
        let width = self.heads * self.dim;
        self.reserve(first + k.len() / width);
        for (i, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
            let (tile, column) = ((first + i) / TILE, (first + i) % TILE);
            let [keys, values] = &mut self.tiles[tile];
            for head in 0..self.heads {
                let row = head * self.dim..(head + 1) * self.dim;
                store(keys, Axis::Keys, self.dim, head, column, &k[row.clone()]);
                store(values, Axis::Values, self.dim, head, column, &v[row]);
            }
        }
    }

    /// A head's keys of a tile as `[dim][TILE]`; `buffer` holds them if they are not stored as f32.
    pub fn keys<'a>(&'a self, tile: usize, head: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        self.read(&self.tiles[tile][0], Axis::Keys, head, buffer)
    }

    /// A head's values of a tile as `[TILE][dim]`.
    pub fn values<'a>(&'a self, tile: usize, head: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        self.read(&self.tiles[tile][1], Axis::Values, head, buffer)
    }

    fn read<'a>(&'a self, numbers: &'a Numbers, axis: Axis, head: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let len = self.dim * TILE;
        let range = head * len..(head + 1) * len;
        match numbers {
            Numbers::F32(x) => return &x[range],
            Numbers::F16(x) => {
                buffer.resize(len, 0.0);
                x[range].convert_to_f32_slice(buffer);
            }
            Numbers::Q8 { codes, scales } => {
                buffer.resize(len, 0.0);
                let groups = self.dim / Q8_BLOCK;
                let scales = &scales[head * groups * TILE..(head + 1) * groups * TILE];
                let mut wide = [0.0_f32; TILE];
                match axis {
                    Axis::Keys => {
                        let rows = buffer.chunks_exact_mut(TILE).zip(codes[range].chunks_exact(TILE)).enumerate();
                        for (d, (out, codes)) in rows {
                            if d % Q8_BLOCK == 0 {
                                scales[d / Q8_BLOCK * TILE..][..TILE].convert_to_f32_slice(&mut wide);
                            }
                            for ((o, c), s) in out.iter_mut().zip(codes).zip(&wide) {
                                *o = f32::from(*c) * s;
                            }
                        }
                    }
                    Axis::Values => {
                        for (g, scales) in scales.chunks_exact(TILE).enumerate() {
                            scales.convert_to_f32_slice(&mut wide);
                            for (p, scale) in wide.iter().enumerate() {
                                let at = p * self.dim + g * Q8_BLOCK;
                                let codes = &codes[range.start + at..][..Q8_BLOCK];
                                for (o, c) in buffer[at..at + Q8_BLOCK].iter_mut().zip(codes) {
                                    *o = f32::from(*c) * scale;
                                }
                            }
                        }
                    }
                }
            }
        }
        buffer
    }
}

/// Where number `d` of the position in `column` lies.
fn place(axis: Axis, dim: usize, head: usize, column: usize, d: usize) -> usize {
    head * dim * TILE
        + match axis {
            Axis::Keys => d * TILE + column,
            Axis::Values => column * dim + d,
        }
}

fn store(numbers: &mut Numbers, axis: Axis, dim: usize, head: usize, column: usize, x: &[f32]) {
    match numbers {
        Numbers::F32(to) => x.iter().enumerate().for_each(|(d, &x)| to[place(axis, dim, head, column, d)] = x),
        Numbers::F16(to) => {
            x.iter().enumerate().for_each(|(d, &x)| to[place(axis, dim, head, column, d)] = f16::from_f32(x));
        }
        Numbers::Q8 { codes, scales } => {
            for (g, x) in x.chunks_exact(Q8_BLOCK).enumerate() {
                // As ggml: the scale is rounded to half precision after the codes have been chosen.
                let scale = x.iter().fold(0.0, |m: f32, x| m.max(x.abs())) / 127.0;
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                scales[(head * dim / Q8_BLOCK + g) * TILE + column] = f16::from_f32(scale);
                for (i, x) in x.iter().enumerate() {
                    codes[place(axis, dim, head, column, g * Q8_BLOCK + i)] = (x * inverse).round() as i8;
                }
            }
        }
    }
}

/// Bytes of one position's keys and values.
pub(super) fn bytes_per_position(kind: CacheType, heads: usize, dim: usize) -> usize {
    let numbers = 2 * heads * dim;
    match kind {
        CacheType::F32 => 4 * numbers,
        CacheType::F16 => 2 * numbers,
        CacheType::Q8_0 => numbers + 2 * numbers / Q8_BLOCK,
    }
}
