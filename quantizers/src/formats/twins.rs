//! Every row against itself: on each instruction set present it must give the baseline's bytes.

use super::FORMATS;
use crate::grid::Levels;
use crate::simd::{Isa, twin};
use crate::{Care, Grid, Scales, Store};

/// How many inputs are tried: a search takes a hundred times as long as a formula.
const ROUNDED: u64 = 800;
const SEARCHED: u64 = 80;

/// SplitMix64: a seed is enough to repeat a failure.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Blocks of one kind, chosen by the seed; an odd number of them.
fn input(seed: u64, format: &dyn Store) -> Vec<f32> {
    let mut random = Random(seed);
    let (limit, block) = (format.spec().max_abs, format.spec().block);
    let len = block * (1 + 2 * (random.next() % (1280 / block as u64).max(2)) as usize);
    let scale = random.unit();
    let exponent = (random.next() % 160) as f32 - 149.0;
    let mut one = |i: usize| match seed % 8 {
        0 => random.unit() * 0.05,
        1 => random.unit() * exponent.exp2(),
        2 => random.unit() * limit,
        3 => scale,
        4 => [scale, -scale, 0.0, -0.0][(random.next() % 4) as usize], // ties and zeros of both signs
        5 => [1e-38, -1e-38, 1e-45, -1e-45, 3e-39, 0.0][(random.next() % 6) as usize],
        6 => (random.next() % 17) as f32 * 0.5 - 4.0, // halves
        _ => [0.0, -0.0, limit, -limit][i * 5 / 3 % 4],
    };
    (0..len).map(&mut one).collect()
}

/// Importances of a block.
fn importance(format: &dyn Store) -> Vec<f32> {
    (0..format.spec().block).map(|i| [1.0, 0.5][i % 2]).collect()
}

/// What the format makes of `x` in a draft: each block's grid by a quick search, and the nearest codes.
fn draft(format: &dyn Store, x: &[f32], out: &mut [u8]) {
    let (blocks, spec) = (format.blocks().expect("a searched format has blocks"), format.spec());
    let none = Grid::single(spec.block, 0.0, 0.0, Levels::Linear { min: 0, max: 0 });
    let mut grids = vec![none; x.len() / spec.block];
    blocks.fit_many(x, &importance(format), Care::Quick, &mut grids);
    let mut codes = vec![0; spec.block];
    for ((x, grid), out) in x.chunks_exact(spec.block).zip(&grids).zip(out.chunks_exact_mut(spec.bytes)) {
        grid.nearest_all(x, &mut codes);
        blocks.pack(grid, &codes, out);
    }
}

/// Runs `encode` on every instruction set, and decodes what comes of it and noise.
fn compare(format: &dyn Store, seed: u64, encode: impl Fn(&[f32], &mut [u8])) {
    let (x, name) = (input(seed, format), format.spec().name);
    let size = format.spec().bytes_for(x.len()).expect("whole blocks");
    let encoded = |isa| {
        let mut bytes = vec![0xa5; size];
        twin::on(isa, || encode(&x, &mut bytes));
        bytes
    };
    let mut bytes = encoded(Isa::BASELINE);
    for isa in Isa::present() {
        assert_eq!(encoded(isa), bytes, "{name}: {isa:?} encodes otherwise than the baseline, seed {seed}");
    }
    // Half of the decoded blocks are noise, which holds infinities, NaN and codes no encoder writes.
    let mut random = Random(!seed);
    bytes[size / 2..].fill_with(|| random.next() as u8);
    let decoded = |isa| {
        let mut values = vec![f32::NAN; x.len()];
        twin::on(isa, || format.decode(&bytes, &mut values));
        values
    };
    let values = decoded(Isa::BASELINE);
    for isa in Isa::present() {
        let same =
            decoded(isa).iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
        assert!(same, "{name}: {isa:?} decodes otherwise than the baseline, seed {seed}");
    }
}

#[test]
fn every_instruction_set_gives_the_same() {
    for format in FORMATS {
        if format.has_reference() {
            (0..ROUNDED).for_each(|seed| compare(*format, seed, |x, out| format.encode(x, Scales::Reference, out)));
        }
        if !format.has_search() {
            (0..ROUNDED).for_each(|seed| compare(*format, seed, |x, out| format.encode(x, Scales::Search(None), out)));
        }
        if format.has_search() {
            let importance = importance(*format);
            let scales = Scales::Search(Some(&importance));
            (0..SEARCHED).for_each(|seed| compare(*format, seed, |x, out| format.encode(x, scales, out)));
            (0..SEARCHED).for_each(|seed| compare(*format, seed, |x, out| draft(*format, x, out)));
        }
    }
}

/// The comparison above is one only if a kernel runs on what it was told to.
#[test]
fn a_chosen_instruction_set_is_the_one_that_runs() {
    for isa in Isa::present() {
        assert_eq!(twin::on(isa, Isa::best), isa);
    }
}
