//! The integer sums within one block of eight rows, for the two kinds of blocks: 32 weights under one scale, and
//! super-blocks. What `blocks` does with them is the same for both.

use super::acts::{RUN, RUNS, Single, Super};
use super::block_type::{Codes, Kind, ROWS, Sums};
use super::codes::scales;
use super::simd::{Simd, unroll8};

/// 32 columns of eight rows: `[8 groups of 4 columns][8 rows][4 columns]`, unsigned codes.
type Columns = [[u8; RUN]; RUN / 4];

/// The codes of run `j` of eight rows, unsigned, columns side by side.
#[inline(always)]
fn columns<S: Simd, L: Codes<N>, const N: usize>(s: S, w: [&[u8; N]; ROWS], j: usize, out: &mut Columns) {
    let mut rows = [L::codes(s, w[0], j); ROWS];
    unroll8!(r, { rows[r] = L::codes(s, w[r], j) });
    let transposed = s.transpose(rows, if L::SIGNED { 0x80 } else { 0 });
    unroll8!(g, { out[g] = s.bytes_to_array(transposed[g]) });
}

impl Kind for Single {
    type Unpacked = Columns;

    #[inline(always)]
    fn stored<S: Simd, L: Codes<N>, const N: usize>(&self, s: S, w: [&[u8; N]; ROWS], codes: &[[u8; RUN]]) -> Sums<S> {
        let codes = s.bytes(&codes[0]);
        let mut sums = [s.int_splat(0); ROWS];
        unroll8!(r, {
            let stored = L::codes(s, w[r], 0);
            sums[r] = if L::SIGNED { s.dot_signed(stored, codes) } else { s.dot(stored, codes) };
        });
        let mut sum = if L::MAX <= 31 { s.totals::<true>(sums) } else { s.totals::<false>(sums) };
        if !L::SIGNED && L::BIAS != 0 {
            sum = s.int_sub(sum, s.int_splat(L::BIAS * self.sum));
        }
        Sums { sum, whole: s.splat(self.scale * self.sum as f32) }
    }

    #[inline(always)]
    fn unpack<S: Simd, L: Codes<N>, const N: usize>(s: S, w: [&[u8; N]; ROWS], out: &mut Columns) {
        columns::<S, L, N>(s, w, 0, out);
    }

    #[inline(always)]
    fn unpacked<S: Simd, L: Codes<N>, const N: usize, const T: usize>(
        s: S,
        w: &Columns,
        codes: [&[[u8; RUN]]; T],
        x: [&Single; T],
    ) -> [Sums<S>; T] {
        let codes = codes.map(|c| &c[0]);
        let sums = match L::MAX {
            ..=15 => s.block::<15, T>(w, codes),
            16..=31 => s.block::<31, T>(w, codes),
            _ => s.block::<255, T>(w, codes),
        };
        let mut out = [Sums { sum: s.int_splat(0), whole: s.splat(0.0) }; T];
        for t in 0..T {
            out[t].sum = if L::BIAS != 0 { s.int_sub(sums[t], s.int_splat(L::BIAS * x[t].sum)) } else { sums[t] };
            out[t].whole = s.splat(x[t].scale * x[t].sum as f32);
        }
        out
    }
}

/// See [`Kind::Unpacked`].
#[derive(Clone, Copy, Default)]
pub(super) struct UnpackedSuper {
    codes: [Columns; RUNS],
    /// Of each run's halves: `[row][twice]`; only the first half's if both have the same.
    scales: [[[i16; 2 * ROWS]; 2]; RUNS],
    /// What the activations' sums are multiplied with, for two runs at a time: `[row][run]`. Factors of the offset, or
    /// of the scale times the bias.
    shifts: [[i16; 2 * ROWS]; RUNS],
}

impl Kind for Super {
    type Unpacked = UnpackedSuper;

    #[inline(always)]
    fn stored<S: Simd, L: Codes<N>, const N: usize>(&self, s: S, w: [&[u8; N]; ROWS], codes: &[[u8; RUN]]) -> Sums<S> {
        let codes: &[[u8; RUN]; RUNS] = codes.first_chunk().expect("the runs of a super-block");
        let halves = s.words_load(&self.halves);
        let mut sums = [s.int_splat(0); ROWS];
        let mut wholes = [s.int_splat(0); ROWS];
        for r in 0..ROWS {
            let factors = L::factors(w[r]);
            let scales = factors_of::<S, L, N>(s, &factors.scales);
            let mut sum = s.int_splat(0);
            if !L::SIGNED && L::BIAS != 0 {
                sum = s.words_dot(s.words_scale(scales, -L::BIAS as i16), halves);
            }
            unroll8!(j, {
                let (stored, codes) = (L::codes(s, w[r], j), s.bytes(&codes[j]));
                let products = if L::SIGNED {
                    s.dot_scaled::<true>(stored, codes, scales, j)
                } else {
                    s.dot_scaled::<false>(stored, codes, scales, j)
                };
                sum = s.int_add(sum, products);
            });
            sums[r] = sum;
            if L::OFFSET {
                wholes[r] = s.words_dot(factors_of::<S, L, N>(s, &factors.offsets), halves);
            }
        }
        let whole = if L::OFFSET { s.totals::<false>(wholes) } else { s.int_splat(0) };
        Sums { sum: s.totals::<false>(sums), whole: s.mul(s.splat(self.scale), s.to_float(whole)) }
    }

    #[inline(always)]
    fn unpack<S: Simd, L: Codes<N>, const N: usize>(s: S, w: [&[u8; N]; ROWS], out: &mut UnpackedSuper) {
        for (j, out) in out.codes.iter_mut().enumerate() {
            columns::<S, L, N>(s, w, j, out);
        }
        for (r, block) in w.into_iter().enumerate() {
            let factors = L::factors(block);
            let scales = factors.scales.map(|f| i16::from(f as i8));
            let shifts = if L::OFFSET {
                factors.offsets.map(|f| i16::from(f as i8))
            } else {
                scales.map(|f| f * L::BIAS as i16)
            };
            for j in 0..RUNS {
                if L::HALVES {
                    for half in 0..2 {
                        out.scales[j][half][2 * r] = scales[2 * j + half];
                        out.scales[j][half][2 * r + 1] = scales[2 * j + half];
                        out.shifts[j / 2 + RUNS / 2 * half][2 * r + j % 2] = shifts[2 * j + half];
                    }
                } else {
                    out.scales[j][0][2 * r] = scales[j];
                    out.scales[j][0][2 * r + 1] = scales[j];
                    out.shifts[j / 2][2 * r + j % 2] = shifts[j];
                }
            }
        }
    }

    #[inline(always)]
    fn unpacked<S: Simd, L: Codes<N>, const N: usize, const T: usize>(
        s: S,
        w: &UnpackedSuper,
        codes: [&[[u8; RUN]]; T],
        x: [&Super; T],
    ) -> [Sums<S>; T] {
        let codes: [&[[u8; RUN]; RUNS]; T] = codes.map(|c| c.first_chunk().expect("the runs of a super-block"));
        let mut sums = [s.int_splat(0); T];
        for j in 0..RUNS {
            let (columns, scales, x) = (&w.codes[j], &w.scales[j], codes.map(|c| &c[j]));
            let run = match (L::MAX, L::HALVES) {
                (..=15, false) => s.block_scaled::<15, false, T>(columns, scales, x),
                (..=15, true) => s.block_scaled::<15, true, T>(columns, scales, x),
                (16..=31, false) => s.block_scaled::<31, false, T>(columns, scales, x),
                (16..=63, true) => s.block_scaled::<63, true, T>(columns, scales, x),
                (_, false) => s.block_scaled::<255, false, T>(columns, scales, x),
                (_, true) => s.block_scaled::<255, true, T>(columns, scales, x),
            };
            for t in 0..T {
                sums[t] = s.int_add(sums[t], run[t]);
            }
        }
        let mut out = [Sums { sum: s.int_splat(0), whole: s.splat(0.0) }; T];
        for t in 0..T {
            let mut shift = s.int_splat(0);
            if L::OFFSET || L::BIAS != 0 {
                let pairs = if L::HALVES { x[t].halves.as_chunks().0 } else { x[t].wholes.as_chunks().0 };
                for (pair, shifts) in pairs.iter().zip(&w.shifts) {
                    shift = s.int_add(shift, s.words_dot(s.words_pair(*pair), s.words_load(shifts)));
                }
            }
            out[t].sum = if L::OFFSET { sums[t] } else { s.int_sub(sums[t], shift) };
            out[t].whole = s.mul(s.splat(x[t].scale), s.to_float(shift));
        }
        out
    }
}

#[inline(always)]
fn factors_of<S: Simd, L: Codes<N>, const N: usize>(s: S, factors: &[u8; 16]) -> S::H {
    if L::HALVES { s.words::<true>(factors) } else { s.words::<false>(factors) }
}

/// Eight blocks' scales and offsets (zeros where there are none).
#[inline(always)]
pub(super) fn floats<S: Simd, L: Codes<N>, const N: usize>(s: S, w: [&[u8; N]; ROWS]) -> (S::F, S::F) {
    let (mut scale, mut shift) = ([0; ROWS], [0; ROWS]);
    unroll8!(r, {
        scale[r] = L::scale(w[r]);
        if L::OFFSET {
            shift[r] = L::offset(w[r]);
        }
    });
    (scales::<S, L, N>(s, scale), s.f16_bits(shift))
}
