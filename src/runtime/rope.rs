//! Rotary embeddings: frequencies once per model, sines and cosines once per batch, rotation in place.

use super::maths::in_chunks;
use crate::model::{Op, ParamId, RopeStyle, Yarn};

/// What decides the angles: ops that agree in it share their tables.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Kind {
    dims: usize,
    base: f32,
    linear: f32,
    yarn: Option<Yarn>,
    factors: Option<ParamId>,
    magnitude: f32,
}

impl Kind {
    /// That of a rope op, in a context of `context` positions.
    pub fn of(op: &Op, context: usize) -> Option<Kind> {
        let Op::Rope { dims, base, linear, yarn, factors, long, magnitude, .. } = op else { return None };
        let factors = long.filter(|l| context > l.beyond).map(|l| l.factors).or(*factors);
        Some(Kind { dims: *dims, base: *base, linear: *linear, yarn: *yarn, factors, magnitude: *magnitude })
    }

    /// The parameter that has its factors.
    pub fn factors(&self) -> Option<ParamId> {
        self.factors
    }
}

/// A kind's frequencies.
pub(super) struct Frequencies {
    pub kind: Kind,
    each: Vec<f64>,
}

impl Frequencies {
    /// theta_i = base^(-2i/dims), divided by `linear`, by what YaRN says, and by the factors.
    pub fn new(kind: Kind, factors: Option<&[f32]>) -> Self {
        let one = |i: usize| {
            let plain = f64::from(kind.base).powf(-((2 * i) as f64) / kind.dims as f64);
            let yarn = kind.yarn.map_or(1.0, |yarn| yarn.divisor(kind.base, kind.dims, i));
            plain / f64::from(kind.linear) / yarn / factors.map_or(1.0, |f| f64::from(f[i]))
        };
        Frequencies { kind, each: (0..kind.dims / 2).map(one).collect() }
    }

    /// Cosine and sine of every frequency, for `positions` from `first` on: `[positions, dims / 2]` pairs.
    pub fn table(&self, first: usize, positions: usize) -> Vec<[f32; 2]> {
        let magnitude = f64::from(self.kind.magnitude);
        let pair = |p: usize, f: &f64| {
            let (sin, cos) = (p as f64 * f).sin_cos();
            [(cos * magnitude) as f32, (sin * magnitude) as f32]
        };
        (first..first + positions).flat_map(|p| self.each.iter().map(move |f| pair(p, f))).collect()
    }
}

/// Rotates the first `2 * pairs` numbers of every head of every row; `table`: `[positions, pairs]`, begun anew when it
/// ends.
pub(super) fn rotate(
    x: &mut [f32],
    width: usize,
    head_dim: usize,
    style: RopeStyle,
    positions: usize,
    table: &[[f32; 2]],
) {
    let pairs = table.len() / positions;
    in_chunks(x, width, |at, x| {
        for (row, x) in x.chunks_exact_mut(width).enumerate() {
            let table = &table[(at / width + row) % positions * pairs..][..pairs];
            for head in x.chunks_exact_mut(head_dim) {
                match style {
                    RopeStyle::Interleaved => {
                        for (pair, [cos, sin]) in head.chunks_exact_mut(2).zip(table) {
                            (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
                        }
                    }
                    RopeStyle::Halves => {
                        let (low, high) = head[..2 * pairs].split_at_mut(pairs);
                        for ((a, b), [cos, sin]) in low.iter_mut().zip(high).zip(table) {
                            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                        }
                    }
                }
            }
        }
    });
}
