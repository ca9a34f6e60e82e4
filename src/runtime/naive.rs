//! Attention with every score stored, in f64: the slow twin of [`flash`](super::flash).

use super::cache::{Cache, TILE};
use super::flash::Heads;
use super::maths::in_chunks;

/// As [`flash::attend`](super::flash::attend).
pub(super) fn attend(h: &Heads, q: &[f32], first: usize, cache: &Cache, out: &mut [f32]) {
    let (dim, width) = (h.dim, h.heads * h.dim);
    let tiles = (first + q.len() / width).div_ceil(TILE);
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for head in 0..h.kv_heads {
        let mut buffer = Vec::new();
        keys.push((0..tiles).map(|tile| cache.keys(tile, head, &mut buffer).to_vec()).collect::<Vec<_>>());
        values.push((0..tiles).map(|tile| cache.values(tile, head, &mut buffer).to_vec()).collect::<Vec<_>>());
    }
    in_chunks(out, width, |at, out| {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let position = first + at / width + i;
            let q = &q[at + i * width..][..width];
            for (head, (out, q)) in out.chunks_exact_mut(dim).zip(q.chunks_exact(dim)).enumerate() {
                let kv = head / (h.heads / h.kv_heads);
                let score = |p: usize| {
                    let tile = &keys[kv][p / TILE];
                    let dot = q.iter().enumerate().map(|(d, x)| f64::from(*x) * f64::from(tile[d * TILE + p % TILE]));
                    let score = dot.sum::<f64>() * f64::from(h.scale);
                    h.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                };
                let start = h.start(position);
                let scores: Vec<f64> = (start..=position).map(score).collect();
                let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - best).exp()).sum();
                let mut sums = vec![0.0_f64; dim];
                for (p, s) in (start..=position).zip(&scores) {
                    let weight = (s - best).exp() / total;
                    let values = &values[kv][p / TILE][p % TILE * dim..][..dim];
                    sums.iter_mut().zip(values).for_each(|(s, v)| *s += weight * f64::from(*v));
                }
                out.iter_mut().zip(&sums).for_each(|(o, s)| *o = *s as f32);
            }
        }
    });
}
