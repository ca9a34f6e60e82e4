//! Codes of four or eight bits with a scale, and a zero if asymmetric, for 32, 64 or 128 weights: the grids of GPTQ's,
//! AWQ's and compressed-tensors' checkpoints. GGUF has no such types (symmetric ones of 32 weights are Q4_0 and Q8_0);
//! exporters take the blocks apart and pack them their own way.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale `s`, F16 |
//! | one, if asymmetric | zero `z`, from 1 |
//! | the rest | codes `q` from 0, at four bits two to a byte, the first in the low half |
//!
//! `value = s * (q - z)`; symmetric grids have `z` in the middle. A zero of 0 is not used, although it could be: GPTQ's
//! first format cannot store it.

use crate::bits::f16_to_f32;
use crate::grid::Levels;
use crate::search::finite_f16;
use crate::store::{check_lengths, columns_of};
use crate::{BlockFormat, Care, Encoders, Grid, Scales, Spec, Store, spec};

/// One width, size of groups and symmetry.
pub(super) struct Grouped {
    spec: &'static Spec,
    bits: u32,
    symmetric: bool,
}

const fn row(name: &'static str, group: usize, bits: u32, symmetric: bool) -> Spec {
    let bytes = 2 + !symmetric as usize + group * bits as usize / 8;
    let top = if symmetric { (1 << (bits - 1)) as f32 } else { 1.0 };
    spec::foreign(name, group, bytes, top)
}

static SPECS: [Spec; 10] = [
    row("int4_g64", 64, 4, true),
    row("int4_g128", 128, 4, true),
    row("int8_g64", 64, 8, true),
    row("int8_g128", 128, 8, true),
    row("uint4_g32", 32, 4, false),
    row("uint4_g64", 64, 4, false),
    row("uint4_g128", 128, 4, false),
    row("uint8_g32", 32, 8, false),
    row("uint8_g64", 64, 8, false),
    row("uint8_g128", 128, 8, false),
];

const fn of(spec: &'static Spec, bits: u32, symmetric: bool) -> Grouped {
    Grouped { spec, bits, symmetric }
}

/// All of them.
pub(super) static ALL: [Grouped; 10] = [
    of(&SPECS[0], 4, true),
    of(&SPECS[1], 4, true),
    of(&SPECS[2], 8, true),
    of(&SPECS[3], 8, true),
    of(&SPECS[4], 4, false),
    of(&SPECS[5], 4, false),
    of(&SPECS[6], 4, false),
    of(&SPECS[7], 8, false),
    of(&SPECS[8], 8, false),
    of(&SPECS[9], 8, false),
];

/// Steps to either side of the scale that maps the largest weight to the end of the codes, in tenths of a code.
const STEPS: i32 = 9;
/// Shares of the range of an asymmetric group that are tried.
const SHRINKS: [f32; 11] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55];

impl Grouped {
    fn top(&self) -> i32 {
        (1 << self.bits) - 1
    }

    /// Codes of the grid are `q + low`, so that eight bits fit.
    fn low(&self) -> i32 {
        if self.symmetric || self.bits == 8 { -(1 << (self.bits - 1)) } else { 0 }
    }

    fn middle(&self) -> i32 {
        1 << (self.bits - 1)
    }

    fn grid(&self, scale: f32, zero: i32) -> Grid {
        let offset = match -self.low() - zero {
            // A format without offsets has a negative zero; so has a group whose zero is in the middle.
            0 => -0.0,
            steps => scale * steps as f32,
        };
        let (low, high) = (self.low() as i8, (self.top() + self.low()) as i8);
        Grid::single(self.spec.block, scale, offset, Levels::Linear { min: low, max: high })
    }

    /// The zero of a grid of this format.
    fn zero(&self, grid: &Grid) -> i32 {
        let (scale, offset) = (grid.scale[0], grid.offset[0]);
        let steps = if scale == 0.0 { 0.0 } else { (offset / scale).round_ties_even() };
        -self.low() - steps as i32
    }

    /// The scale that fits a symmetric group best, of those that are tried.
    fn symmetric(&self, x: &[f32], w: &[f32]) -> f32 {
        let largest = x.iter().fold(0.0_f32, |top, v| if v.abs() > top.abs() { *v } else { top });
        if largest == 0.0 {
            return 0.0;
        }
        let half = self.middle() as f32;
        let (mut best, mut gain) = (0.0, -1.0);
        for step in -STEPS..=STEPS {
            let inverse = -(half + 0.1 * step as f32) / largest;
            let (mut along, mut square) = (0.0_f64, 0.0_f64);
            for (x, w) in x.iter().zip(w) {
                let q = f64::from((x * inverse).round_ties_even().clamp(-half, half - 1.0));
                along += f64::from(*w) * f64::from(*x) * q;
                square += f64::from(*w) * q * q;
            }
            // With the scale that is best for these codes, the error falls by this.
            if square > 0.0 && along * along / square > gain {
                (best, gain) = ((along / square) as f32, along * along / square);
            }
        }
        best
    }

    /// Scale and zero that fit an asymmetric group best, of those that are tried.
    fn asymmetric(&self, x: &[f32], w: &[f32]) -> (f32, i32) {
        let (low, high) = x.iter().fold((0.0_f32, 0.0_f32), |(low, high), v| (low.min(*v), high.max(*v)));
        if low == high {
            return (0.0, self.middle());
        }
        let top = self.top() as f32;
        let mut best = (0.0, self.middle());
        let mut least = f64::INFINITY;
        // In proportion, and then the smallest scale with which both ends fit beside it.
        let zero = (-low / (high / top - low / top)).round_ties_even().clamp(1.0, top);
        let whole = (-low / zero).max(if zero < top { high / (top - zero) } else { 0.0 });
        for shrink in SHRINKS {
            let scale = whole * shrink;
            let codes = |x: &f32| f64::from((x / scale + zero).round_ties_even().clamp(0.0, top) - zero);
            let (mut along, mut square) = (0.0_f64, 0.0_f64);
            for (x, w) in x.iter().zip(w) {
                let q = codes(x);
                along += f64::from(*w) * f64::from(*x) * q;
                square += f64::from(*w) * q * q;
            }
            let fitted = if square > 0.0 { along / square } else { f64::from(scale) };
            let error = |(x, w): (&f32, &f32)| f64::from(*w) * (f64::from(*x) - fitted * codes(x)).powi(2);
            let error: f64 = x.iter().zip(w).map(error).sum();
            if error < least {
                (best, least) = ((fitted as f32, zero as i32), error);
            }
        }
        best
    }

    fn find(&self, x: &[f32], importance: &[f32]) -> Grid {
        let ones = vec![1.0; x.len()];
        // Only their ratios matter; weighed down so that sums of them stay finite.
        let most = importance.iter().fold(0.0_f32, |most, w| most.max(*w));
        let weights: Vec<f32> = match most > 0.0 && most.is_finite() {
            true => importance.iter().map(|w| w / most).collect(),
            false => ones,
        };
        let (scale, zero) = match self.symmetric {
            true => (self.symmetric(x, &weights), self.middle()),
            false => self.asymmetric(x, &weights),
        };
        self.grid(self.stored(scale, zero, x, &weights), zero)
    }

    /// The scale that is stored. Where half precision has but a few numbers, the one nearest may not be the best, and
    /// zero is the worst.
    fn stored(&self, scale: f32, zero: i32, x: &[f32], w: &[f32]) -> f32 {
        const LEAST: f32 = 1.0 / (1u32 << 24) as f32;
        let steps = (scale.abs() / LEAST).floor();
        if scale == 0.0 || steps >= 128.0 {
            return finite_f16(scale);
        }
        let loss = |scale: f32| -> f64 {
            let grid = self.grid(scale, zero);
            let mut codes = vec![0; x.len()];
            grid.nearest_all(x, &mut codes);
            let error = |(x, code): (&f32, &i8)| (f64::from(*x) - f64::from(grid.value(0, *code))).powi(2);
            x.iter().zip(&codes).map(error).zip(w).map(|(e, w)| e * f64::from(*w)).sum()
        };
        let [below, above] = [steps.max(1.0), steps + 1.0].map(|steps| (steps * LEAST).copysign(scale));
        if loss(below) <= loss(above) { below } else { above }
    }

    fn read(&self, block: &[u8], i: usize) -> i32 {
        let codes = &block[2 + usize::from(!self.symmetric)..];
        i32::from(match self.bits {
            4 => codes[i / 2] >> (4 * (i % 2)) & 15,
            _ => codes[i],
        })
    }
}

impl Store for Grouped {
    fn spec(&self) -> &'static Spec {
        self.spec
    }

    fn encode(&self, x: &[f32], scales: Scales, out: &mut [u8]) {
        check_lengths(self.spec, x.len(), out.len());
        let Scales::Search(importance) = scales else { panic!("{} has no reference encoder: search", self.spec.name) };
        let columns = columns_of(self.spec, x.len(), importance);
        let blocks = x.chunks_exact(self.spec.block).zip(columns.chunks_exact(self.spec.block).cycle());
        let mut codes = vec![0; self.spec.block];
        for ((x, importance), out) in blocks.zip(out.chunks_exact_mut(self.spec.bytes)) {
            let grid = self.find(x, importance);
            grid.nearest_all(x, &mut codes);
            self.pack(&grid, &codes, out);
        }
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        check_lengths(self.spec, out.len(), bytes.len());
        let mut codes = vec![0; self.spec.block];
        for (block, out) in bytes.chunks_exact(self.spec.bytes).zip(out.chunks_exact_mut(self.spec.block)) {
            let grid = self.unpack(block, &mut codes);
            out.iter_mut().zip(&codes).enumerate().for_each(|(i, (out, code))| *out = grid.value(i, *code));
        }
    }

    fn blocks(&self) -> Option<&dyn BlockFormat> {
        Some(self)
    }
}

impl BlockFormat for Grouped {
    fn encoders(&self) -> Encoders {
        Encoders::Search
    }

    fn fit_many(&self, x: &[f32], importance: &[f32], _: Care, grids: &mut [Grid]) {
        let columns = columns_of(self.spec, x.len(), Some(importance));
        assert_eq!(x.len(), grids.len() * self.spec.block, "{}: weights against grids", self.spec.name);
        let blocks = x.chunks_exact(self.spec.block).zip(columns.chunks_exact(self.spec.block).cycle());
        grids.iter_mut().zip(blocks).for_each(|(grid, (x, importance))| *grid = self.find(x, importance));
    }

    fn with_group(&self, grid: &Grid, g: usize, scale: f32, offset: f32) -> Grid {
        assert_eq!(g, 0, "{}: group of a block that has one", self.spec.name);
        let scale = finite_f16(scale);
        if self.symmetric {
            return self.grid(scale, self.middle());
        }
        let wanted = match scale == 0.0 {
            true => self.zero(grid),
            // Beyond the codes' range a cast saturates.
            false => -self.low() - (offset / scale).round_ties_even().clamp(-1e6, 1e6) as i32,
        };
        self.grid(scale, wanted.clamp(1, self.top()))
    }

    fn pack(&self, grid: &Grid, codes: &[i8], block: &mut [u8]) {
        assert_eq!((codes.len(), block.len()), (self.spec.block, self.spec.bytes), "{}: one block", self.spec.name);
        grid.levels.check(self.spec.name, codes);
        block[..2].copy_from_slice(&super::half::stored(self.spec.name, "scale", grid.scale[0]).to_le_bytes());
        let zero = self.zero(grid);
        if !self.symmetric {
            assert!((0..=self.top()).contains(&zero), "{}: a zero of {zero}", self.spec.name);
            block[2] = zero as u8;
        }
        let packed = &mut block[2 + usize::from(!self.symmetric)..];
        let stored = |code: &i8| (i32::from(*code) - self.low()) as u8;
        match self.bits {
            4 => {
                let pairs = packed.iter_mut().zip(codes.chunks_exact(2));
                pairs.for_each(|(out, pair)| *out = stored(&pair[0]) | stored(&pair[1]) << 4);
            }
            _ => packed.iter_mut().zip(codes).for_each(|(out, code)| *out = stored(code)),
        }
    }

    fn unpack(&self, block: &[u8], codes: &mut [i8]) -> Grid {
        assert_eq!((codes.len(), block.len()), (self.spec.block, self.spec.bytes), "{}: one block", self.spec.name);
        let scale = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
        let zero = if self.symmetric { self.middle() } else { i32::from(block[2]) & self.top() };
        codes.iter_mut().enumerate().for_each(|(i, code)| *code = (self.read(block, i) + self.low()) as i8);
        self.grid(scale, zero)
    }
}

/// The format of this width, size of groups and symmetry.
pub(super) fn find(bits: u32, group: usize, symmetric: bool) -> Option<&'static Grouped> {
    ALL.iter().find(|f| f.bits == bits && f.spec.block == group && f.symmetric == symmetric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(n: usize, shift: f32) -> Vec<f32> {
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (0..4).map(|_| next()).sum::<f32>() * 0.1 + shift).collect()
    }

    fn loss(x: &[f32], y: &[f32], w: &[f32]) -> f64 {
        x.iter().zip(y).zip(w.iter().cycle()).map(|((x, y), w)| f64::from(*w) * f64::from(x - y).powi(2)).sum()
    }

    #[test]
    fn blocks_come_back_and_importances_count() {
        for format in &ALL {
            let spec = format.spec();
            for shift in [0.0, 0.05, 0.4, -0.3] {
                let x = weights(spec.block * 16, shift);
                let mut w = vec![0.01; spec.block];
                w[..spec.block / 2].fill(1.0);
                let run = |importance: Option<&[f32]>| {
                    let (mut bytes, mut y) = (vec![0; 16 * spec.bytes], vec![0.0; x.len()]);
                    format.encode(&x, Scales::Search(importance), &mut bytes);
                    format.decode(&bytes, &mut y);
                    for (block, y) in bytes.chunks(spec.bytes).zip(y.chunks(spec.block)) {
                        let mut codes = vec![0; spec.block];
                        let grid = format.unpack(block, &mut codes);
                        let mut again = vec![0; spec.bytes];
                        format.pack(&grid, &codes, &mut again);
                        assert_eq!(again, block, "{}", spec.name);
                        assert_eq!(format.with_group(&grid, 0, grid.scale[0], grid.offset[0]), grid);
                        let values: Vec<f32> = codes.iter().enumerate().map(|(i, c)| grid.value(i, *c)).collect();
                        assert_eq!(values, y);
                        // value = s * (q - z), with exact integers.
                        let zero = format.zero(&grid);
                        for (i, y) in y.iter().enumerate() {
                            assert_eq!(*y, grid.scale[0] * (format.read(block, i) - zero) as f32);
                        }
                    }
                    y
                };
                let (plain, weighed) = (run(None), run(Some(&w)));
                assert!(loss(&x, &weighed, &w) <= loss(&x, &plain, &w), "{} at {shift}", spec.name);
                // Rounding to the nearest of the codes between the extremes, the plainest of fits.
                let top = f64::from(format.top());
                let plainest = |x: &[f32]| {
                    let (low, high) =
                        x.iter().fold((0.0_f64, 0.0_f64), |(a, b), v| (a.min((*v).into()), b.max((*v).into())));
                    let step = if format.symmetric { high.max(-low) * 2.0 / top } else { (high - low) / top };
                    x.iter().map(|v| (f64::from(*v) - (f64::from(*v) / step).round() * step).powi(2)).sum::<f64>()
                };
                let plainest: f64 = x.chunks(spec.block).map(plainest).sum();
                // Without a zero of 0, one code less where all weights are positive.
                let less = if shift > 0.0 && !format.symmetric { (top / (top - 1.0)).powi(2) } else { 1.0 };
                assert!(loss(&x, &plain, &[1.0]) <= plainest * 1.05 * less, "{} at {shift}", spec.name);
            }
        }
    }

    #[test]
    fn zeros_and_extremes_stay_finite() {
        for format in &ALL {
            let spec = format.spec();
            for fill in [0.0, 1e-30, spec.max_abs, -spec.max_abs] {
                let mut x = vec![fill; spec.block];
                x[0] = -fill;
                let (mut bytes, mut y) = (vec![0; spec.bytes], vec![0.0; x.len()]);
                format.encode(&x, Scales::Search(None), &mut bytes);
                format.decode(&bytes, &mut y);
                assert!(y.iter().all(|v| v.is_finite()), "{} of {fill}", spec.name);
            }
        }
    }
}
