//! Every kernel against itself: the copy for each instruction set present must give the baseline's bytes.

use super::{FORMATS, block32, floats, superblock};
use super::{iq4_nl::Iq4Nl, iq4_xs::Iq4Xs, mxfp4::Mxfp4, q2_k::Q2K, q3_k::Q3K, q4_k::Q4K, q5_k::Q5K, q6_k::Q6K};
use super::{q4_0::Q4_0, q4_1::Q4_1, q5_0::Q5_0, q5_1::Q5_1, q8_0::Q8_0};
use crate::simd::Isa;
use crate::{Grid, Store};

type Encode = fn(Isa, &[f32], &mut [u8]);
type Decode = fn(Isa, &[u8], &mut [f32]);

fn search_block32<L: block32::Format32>(isa: Isa, x: &[f32], out: &mut [u8]) {
    block32::search_with::<L>(isa, x, &[1.0, 0.5].repeat(16), out);
}

fn search_superblock<L: superblock::Format256>(isa: Isa, x: &[f32], out: &mut [u8]) {
    superblock::search_with::<L>(isa, x, &[1.0, 0.5].repeat(128), out);
}

fn draft_superblock<L: superblock::Format256>(isa: Isa, x: &[f32], out: &mut [u8]) {
    let format = super::by_name(L::NAME).and_then(|f| f.blocks()).expect("a row");
    let none = Grid::single(256, 0.0, 0.0, L::LEVELS);
    let mut grids = vec![none; x.len() / 256];
    superblock::fit_with::<L>(isa, x, &[1.0, 0.5].repeat(128), L::DRAFT, &mut grids);
    let mut codes = [0; 256];
    for ((x, grid), out) in x.chunks_exact(256).zip(&grids).zip(out.chunks_exact_mut(L::BYTES)) {
        grid.nearest_all(x, &mut codes);
        format.pack(grid, &codes, out);
    }
}

/// How many inputs are tried: a search takes a hundred times as long as a formula.
const ROUNDED: u64 = 800;
const SEARCHED: u64 = 80;

/// Where a type has two encoders or searches it has two rows.
static TWINS: &[(&str, u64, Encode, Decode)] = &[
    ("f16", ROUNDED, floats::encode_f16, floats::decode_f16),
    ("bf16", ROUNDED, floats::encode_bf16, floats::decode_bf16),
    ("q8_0", ROUNDED, block32::encode_with::<Q8_0>, block32::decode_with::<Q8_0>),
    ("q8_0", ROUNDED, block32::unsearched_with::<Q8_0>, block32::decode_with::<Q8_0>),
    ("q6_k", SEARCHED, search_superblock::<Q6K>, superblock::decode_with::<Q6K>),
    ("q6_k", SEARCHED, draft_superblock::<Q6K>, superblock::decode_with::<Q6K>),
    ("q5_k", SEARCHED, search_superblock::<Q5K>, superblock::decode_with::<Q5K>),
    ("q4_k", SEARCHED, search_superblock::<Q4K>, superblock::decode_with::<Q4K>),
    ("q4_k", SEARCHED, draft_superblock::<Q4K>, superblock::decode_with::<Q4K>),
    ("q3_k", SEARCHED, search_superblock::<Q3K>, superblock::decode_with::<Q3K>),
    ("q3_k", SEARCHED, draft_superblock::<Q3K>, superblock::decode_with::<Q3K>),
    ("q2_k", SEARCHED, search_superblock::<Q2K>, superblock::decode_with::<Q2K>),
    ("q5_1", ROUNDED, block32::encode_with::<Q5_1>, block32::decode_with::<Q5_1>),
    ("q5_1", SEARCHED, search_block32::<Q5_1>, block32::decode_with::<Q5_1>),
    ("q5_0", ROUNDED, block32::encode_with::<Q5_0>, block32::decode_with::<Q5_0>),
    ("q5_0", SEARCHED, search_block32::<Q5_0>, block32::decode_with::<Q5_0>),
    ("q4_1", ROUNDED, block32::encode_with::<Q4_1>, block32::decode_with::<Q4_1>),
    ("q4_1", SEARCHED, search_block32::<Q4_1>, block32::decode_with::<Q4_1>),
    ("q4_0", ROUNDED, block32::encode_with::<Q4_0>, block32::decode_with::<Q4_0>),
    ("q4_0", SEARCHED, search_block32::<Q4_0>, block32::decode_with::<Q4_0>),
    ("iq4_nl", SEARCHED, search_block32::<Iq4Nl>, block32::decode_with::<Iq4Nl>),
    ("iq4_xs", SEARCHED, search_superblock::<Iq4Xs>, superblock::decode_with::<Iq4Xs>),
    ("mxfp4", ROUNDED, block32::encode_with::<Mxfp4>, block32::decode_with::<Mxfp4>),
    ("mxfp4", SEARCHED, search_block32::<Mxfp4>, block32::decode_with::<Mxfp4>),
];

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

#[test]
fn every_instruction_set_gives_the_same() {
    for (name, seeds, encode, decode) in TWINS {
        let format = super::by_name(name).expect("a row");
        for seed in 0..*seeds {
            let x = input(seed, format);
            let size = format.spec().bytes_for(x.len()).expect("whole blocks");
            let (mut bytes, mut values) = (vec![0; size], vec![0.0f32; x.len()]);
            encode(Isa::BASELINE, &x, &mut bytes);
            for isa in Isa::present() {
                let mut twin = vec![0xa5; size];
                encode(isa, &x, &mut twin);
                assert_eq!(twin, bytes, "{name}: {isa:?} encodes otherwise than the baseline, seed {seed}");
            }
            // Half of the decoded blocks are noise, which holds infinities, NaN and codes no encoder writes.
            let mut random = Random(!seed);
            for b in &mut bytes[size / 2..] {
                *b = random.next() as u8;
            }
            decode(Isa::BASELINE, &bytes, &mut values);
            for isa in Isa::present() {
                let mut twin = vec![f32::NAN; x.len()];
                decode(isa, &bytes, &mut twin);
                let same =
                    twin.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
                assert!(same, "{name}: {isa:?} decodes otherwise than the baseline, seed {seed}");
            }
        }
    }
}

#[test]
fn every_format_with_kernels_has_its_twins_compared() {
    let mut tested: Vec<&str> = TWINS.iter().map(|(name, ..)| *name).collect();
    tested.dedup();
    // F32 and F64 are plain copies, compiled once.
    let all: Vec<&str> = FORMATS.iter().map(|f| f.spec().name).filter(|n| !["f32", "f64"].contains(n)).collect();
    assert_eq!(tested, all);
}
