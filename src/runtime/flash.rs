//! Attention in tiles with an online softmax: no score matrix, keys and values read once per group of query heads.
//!
//! The unit of work is one key-value head and a run of tokens: the queries of all heads of its group are the rows of
//! two small matrix products per tile of keys. A running maximum and sum per row make the softmax come out as if all
//! scores had been there at once (Milakov and Gimelshein 2018; Dao et al. 2022). Tiles that no row may see are skipped.

use rayon::prelude::*;

use super::cache::{Cache, TILE};
use super::kernels::tile::product;
use super::maths::{exp, softcap};

/// Query rows that share a pass over the keys: enough to make unpacking a tile cheap, few enough for a near cache.
const ROWS: usize = 64;
/// Products below which handing work to other threads costs more than it gains.
const SMALL: usize = 64 * 1024;

/// An attention op's numbers.
pub(super) struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub window: Option<usize>,
}

impl Heads {
    /// The first position that a query at `position` sees.
    pub fn start(&self, position: usize) -> usize {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))
    }
}

/// A run of tokens under one key-value head.
struct Item<'o> {
    kv_head: usize,
    /// Row of the first token within the batch.
    row: usize,
    /// Where each token's outputs go, all query heads of the group.
    out: Vec<&'o mut [f32]>,
}

/// What one thread needs, used again from item to item.
#[derive(Default)]
struct Scratch {
    q: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
    best: Vec<f32>,
    total: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// `out` = attention of `q`, both `[tokens, heads * dim]`; the first row stands at position `first`, and keys and
/// values of all rows' positions are in `cache` already.
pub(super) fn attend(h: &Heads, q: &[f32], first: usize, cache: &Cache, out: &mut [f32]) {
    let group = h.heads / h.kv_heads;
    let width = h.heads * h.dim;
    let tokens = (ROWS / group).max(1);
    let work = q.len() * (first + q.len() / width);
    let mut items: Vec<Item> = Vec::new();
    for (i, rows) in out.chunks_mut(tokens * width).enumerate() {
        let at = items.len();
        items.extend((0..h.kv_heads).map(|kv_head| Item { kv_head, row: i * tokens, out: Vec::new() }));
        for row in rows.chunks_exact_mut(width) {
            row.chunks_exact_mut(group * h.dim).zip(&mut items[at..]).for_each(|(o, item)| item.out.push(o));
        }
    }
    let run = |scratch: &mut Scratch, item| one(h, q, first, cache, item, scratch);
    if work < SMALL {
        let mut scratch = Scratch::default();
        items.into_iter().for_each(|item| run(&mut scratch, item));
    } else {
        items.into_par_iter().with_max_len(1).for_each_init(Scratch::default, run);
    }
}

fn one(h: &Heads, q: &[f32], first: usize, cache: &Cache, item: Item, s: &mut Scratch) {
    let (dim, group) = (h.dim, h.heads / h.kv_heads);
    let rows = item.out.len() * group;
    s.q.clear();
    for token in 0..item.out.len() {
        let at = (item.row + token) * h.heads * dim + item.kv_head * group * dim;
        s.q.extend(q[at..at + group * dim].iter().map(|x| x * h.scale));
    }
    s.scores.resize(rows * TILE, 0.0);
    s.sums.clear();
    s.sums.resize(rows * dim, 0.0);
    s.best.clear();
    s.best.resize(rows, f32::NEG_INFINITY);
    s.total.clear();
    s.total.resize(rows, 0.0);

    let position = first + item.row;
    let (start, end) = (h.start(position), position + item.out.len());
    for tile in start / TILE..end.div_ceil(TILE) {
        let base = tile * TILE;
        // What at least one row sees; beyond it there may be anything.
        let seen = start.max(base) - base..end.min(base + TILE) - base;
        let keys = cache.keys(tile, item.kv_head, &mut s.keys);
        product(&s.q, dim, 0..dim, keys, TILE, &mut s.scores, false);
        for row in 0..rows {
            let position = position + row / group;
            let from = (h.start(position).max(base) - base).min(TILE);
            let to = (position + 1).clamp(base, base + TILE) - base;
            let scores = &mut s.scores[row * TILE..(row + 1) * TILE];
            if from >= to {
                scores[seen.clone()].fill(0.0);
                continue;
            }
            scores[seen.start..from].fill(0.0);
            scores[to..seen.end].fill(0.0);
            let scores = &mut scores[from..to];
            if let Some(cap) = h.softcap {
                softcap(scores, cap);
            }
            let best = scores.iter().fold(s.best[row], |m, &x| if x > m { x } else { m });
            let shrink = exp(s.best[row] - best);
            if shrink != 1.0 {
                s.sums[row * dim..(row + 1) * dim].iter_mut().for_each(|x| *x *= shrink);
            }
            scores.iter_mut().for_each(|x| *x = exp(*x - best));
            s.total[row] = s.total[row] * shrink + sum(scores);
            s.best[row] = best;
        }
        let values = cache.values(tile, item.kv_head, &mut s.values);
        product(&s.scores, TILE, seen, values, dim, &mut s.sums, true);
    }
    for (token, out) in item.out.into_iter().enumerate() {
        for (g, out) in out.chunks_exact_mut(dim).enumerate() {
            let row = token * group + g;
            let scale = 1.0 / s.total[row];
            out.iter_mut().zip(&s.sums[row * dim..]).for_each(|(o, x)| *o = x * scale);
        }
    }
}

/// In lanes, in a fixed order.
fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let runs = x.chunks_exact(8);
    let tail: f32 = runs.remainder().iter().sum();
    for run in runs {
        lanes.iter_mut().zip(run).for_each(|(l, x)| *l += x);
    }
    lanes.iter().sum::<f32>() + tail
}
