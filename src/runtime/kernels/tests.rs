//! Every kernel against its twins: other instruction sets, a sum in f64, one token at a time, other thread counts.

use super::acts::{Round, Shared, Single, Super};
use super::*;
use aurora_quantizers::formats::{self, FORMATS};
use aurora_quantizers::spec::Kind;
use aurora_quantizers::{Scales, matrix, matrix_mut};
use ndarray::Array2;

/// SplitMix64: a seed is enough to repeat a failure.
pub(super) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Values of one kind, chosen by the seed: small, zero, all equal, of very different sizes, as large as fits.
    fn values(&mut self, kind: u64, n: usize, limit: f32) -> Vec<f32> {
        let level = self.unit();
        (0..n)
            .map(|_| match kind % 6 {
                0 | 1 => self.unit(),
                2 => [level, -level, 0.0, -0.0][self.below(4)],
                3 => self.unit() * (self.below(30) as f32 - 20.0).exp2(),
                4 => [limit, -limit][self.below(2)],
                _ => 0.0,
            })
            .collect()
    }

    /// Random bytes, drawn again until the values are finite and sums of their products stay so.
    fn block(&mut self, format: &dyn Store, block: &mut [u8]) {
        let mut values = vec![f32::NAN; format.spec().block];
        while !values.iter().all(|v| v.abs() < 1e6) {
            block.fill_with(|| self.next() as u8);
            format.decode(block, &mut values);
        }
    }
}

struct Case {
    bytes: Vec<u8>,
    order: Option<Box<[u32]>>,
    rows: usize,
    cols: usize,
    tokens: usize,
    x: Vec<f32>,
}

impl Case {
    /// Odd numbers of rows, tokens and blocks. Weights are encoded values, or blocks of noise, which hold what an
    /// encoder would not write.
    fn new(format: &dyn Store, seed: u64) -> Case {
        let mut random = Random(seed);
        let rows = [1, 7, 8, 9, 33, 65, 131][random.below(7)];
        let tokens = [1, 2, 3, 5, 6, 7, 13, 19, 100][random.below(9)];
        let unit = if format.spec().block == 1 { [1, 7, 8, 31][random.below(4)] } else { format.spec().block };
        let cols = unit * [1, 2, 3, 5, 9, 17, 19][random.below(7)];
        // Sums of `cols` products must stay finite.
        let w = random.values(seed, rows * cols, format.spec().max_abs.min(1e4));
        let x = random.values(seed / 6, tokens * cols, 1e4);
        let mut bytes = vec![0; format.spec().bytes_for(w.len()).expect("whole blocks")];
        if format.spec().kind == Kind::Block && (seed.is_multiple_of(2) || !format.has_reference()) {
            bytes.chunks_exact_mut(format.spec().bytes).for_each(|block| random.block(format, block));
        } else {
            format.encode(&w, Scales::Reference, &mut bytes);
        }
        let order = seed.is_multiple_of(3).then(|| (0..rows as u32).rev().collect());
        Case { bytes, order, rows, cols, tokens, x }
    }

    fn matrix(&self, format: &'static dyn Store) -> Dense<'_> {
        Dense::new(format, self.rows, self.cols, Cow::Borrowed(&self.bytes), self.order.clone())
    }

    fn product(&self, isa: KernelIsa, format: &'static dyn Store, exact: bool) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.tokens * self.rows];
        let acts = Acts::new(matrix(&self.x, self.cols));
        matmul_with(isa, &self.matrix(format), &acts, exact, matrix_mut(&mut out, self.rows));
        out
    }

    /// The product in f64 with these activations, and the sum of magnitudes.
    fn wanted(&self, format: &'static dyn Store, x: &[f32]) -> Vec<(f64, f64)> {
        let mut row = vec![0.0; self.cols];
        let mut out = vec![(0.0, 0.0); self.tokens * self.rows];
        for r in 0..self.rows {
            let stored = self.order.as_ref().map_or(r, |o| o[r] as usize);
            let size = self.bytes.len() / self.rows;
            format.decode(&self.bytes[stored * size..(stored + 1) * size], &mut row);
            for t in 0..self.tokens {
                let products = row.iter().zip(&x[t * self.cols..]).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let magnitude = products.clone().map(f64::abs).sum();
                out[t * self.rows + r] = (products.sum(), magnitude);
            }
        }
        out
    }

    /// The activations as the integer product sees them.
    fn rounded(&self, format: &'static dyn Store) -> Vec<f32> {
        if format.spec().block == 32 { self.rounded_as::<Single>() } else { self.rounded_as::<Super>() }
    }

    fn rounded_as<K: Shared>(&self) -> Vec<f32> {
        let acts = Acts::new(matrix(&self.x, self.cols));
        let rounded = acts.rounded::<K>(KernelIsa::BASELINE);
        let scales = rounded.blocks.iter().flat_map(|b| std::iter::repeat_n(b.scale(), 32 * K::RUNS));
        rounded.codes.iter().zip(scales).map(|(c, s)| f32::from(*c as i8) * s).collect()
    }
}

/// A way of choosing scales that the format has; which does not matter here.
fn scales(format: &dyn Store) -> Scales<'static> {
    if format.has_reference() { Scales::Reference } else { Scales::Search(None) }
}

fn weights() -> impl Iterator<Item = &'static dyn Store> {
    FORMATS.iter().copied().filter(|f| f.spec().kind != Kind::Int)
}

/// n roundings of relative size 2^-24 each, of terms that add up to `magnitude`: the textbook bound, plus what
/// subnormal products lose.
fn close(got: f32, (want, magnitude): (f64, f64), n: usize) -> bool {
    let allowed = (n as f64 + 4.0) * f64::from(f32::EPSILON) * magnitude + 1e-30;
    (f64::from(got) - want).abs() <= allowed
}

#[test]
fn every_product_is_right_on_every_instruction_set() {
    for format in weights() {
        let name = format.spec().name;
        for seed in 0..150 {
            let case = Case::new(format, seed);
            for exact in [false, true] {
                let integer = !exact && INTEGERS.iter().any(|row| row.0 == name);
                let wanted =
                    if integer { case.wanted(format, &case.rounded(format)) } else { case.wanted(format, &case.x) };
                let plain = case.product(KernelIsa::BASELINE, format, exact);
                for isa in KernelIsa::present() {
                    let got = case.product(isa, format, exact);
                    let place = format!(
                        "{name} exact {exact} {isa:?} seed {seed}: {} rows, {} columns, {} tokens",
                        case.rows, case.cols, case.tokens
                    );
                    if integer {
                        assert_eq!(got, plain, "{place}: other bits than the baseline");
                    }
                    for (i, (&got, &want)) in got.iter().zip(&wanted).enumerate() {
                        // The codes' sums are exact, but a bias or an offset cancels: up to 3 times the magnitude.
                        let n = if integer { case.cols / 32 * 3 * 32 } else { case.cols };
                        assert!(close(got, want, n), "{place}: sum {i} is {got}, wanted {want:?}");
                    }
                }
            }
        }
    }
}

/// What the executor looks for must not get lost where activations become integers.
#[test]
fn activations_that_are_not_finite_reach_every_output_of_their_token() {
    for format in weights().filter(|format| INTEGERS.iter().any(|row| row.0 == format.spec().name)) {
        for (seed, bad) in (0..40).zip([f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().cycle()) {
            let mut case = Case::new(format, seed);
            let at = Random(seed).below(case.x.len());
            case.x[at] = bad;
            for isa in KernelIsa::present() {
                let got = case.product(isa, format, false);
                for (i, y) in got.iter().enumerate() {
                    let finite = i / case.rows != at / case.cols;
                    assert_eq!(y.is_finite(), finite, "{} {isa:?} seed {seed}: {bad} gave {y}", format.spec().name);
                }
            }
        }
    }
}

#[test]
fn a_batch_gives_the_integer_products_of_its_tokens() {
    for format in weights() {
        let integer = INTEGERS.iter().any(|row| row.0 == format.spec().name);
        for seed in 0..60 {
            let case = Case::new(format, seed);
            let all = case.product(KernelIsa::best(), format, false);
            for t in 0..case.tokens {
                let mut one = vec![f32::NAN; case.rows];
                let x = &case.x[t * case.cols..(t + 1) * case.cols];
                let acts = Acts::new(matrix(x, case.cols));
                matmul(&case.matrix(format), &acts, false, matrix_mut(&mut one, case.rows));
                if integer {
                    assert_eq!(one, all[t * case.rows..][..case.rows], "{} seed {seed}", format.spec().name);
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for format in weights() {
        let (rows, cols) = (1029, 256);
        let mut random = Random(7);
        let w = random.values(0, rows * cols, 1.0);
        let mut bytes = vec![0; format.spec().bytes_for(w.len()).expect("whole blocks")];
        format.encode(&w, scales(format), &mut bytes);
        let w = Dense::new(format, rows, cols, Cow::Owned(bytes), None);
        for tokens in [1, 3, 300] {
            let x = random.values(0, tokens * cols, 1.0);
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                let mut out = Array2::from_elem((tokens, rows), f32::NAN);
                pool.install(|| matmul(&w, &Acts::new(matrix(&x, cols)), false, out.view_mut()));
                out
            };
            assert_eq!(run(1), run(3), "{} {tokens} tokens", format.spec().name);
        }
    }
}

#[test]
fn empty_products_are_empty_or_zero() {
    let f32 = &formats::F32;
    let product = |rows, cols, tokens| {
        let w = Dense::new(f32, rows, cols, Cow::Owned(vec![0; 4 * rows * cols]), None);
        let (x, mut out) = (Array2::ones((tokens, cols)), Array2::ones((tokens, rows)));
        matmul(&w, &Acts::new(x.view()), false, out.view_mut());
        out
    };
    assert!(product(3, 0, 1) == Array2::<f32>::zeros((1, 3)));
    assert!(product(0, 2, 1).is_empty() && product(1, 2, 0).is_empty());
}

/// As many numbers as are needed, but rows and tokens the other way round.
#[test]
#[should_panic(expected = "shape of the products")]
fn products_of_another_shape_are_refused() {
    let w = Dense::new(&formats::F32, 3, 1, Cow::Owned(vec![0; 12]), None);
    matmul(&w, &Acts::new(matrix(&[1.0; 2], 1)), false, matrix_mut(&mut [0.0; 6], 2));
}

#[test]
fn activations_round_as_q8_0_does() {
    let q8_0 = formats::by_name("q8_0").expect("a row");
    for seed in 0..400 {
        let mut random = Random(seed);
        let n = 32 * (1 + random.below(9));
        let x = random.values(seed, n, 6e4);
        let mut bytes = vec![0; q8_0.spec().bytes_for(n).expect("whole blocks")];
        q8_0.encode(&x, Scales::Reference, &mut bytes);
        for isa in KernelIsa::present() {
            let (mut codes, mut blocks) = (vec![0; n], vec![Single::default(); n / 32]);
            isa.run(Round { x: &x, codes: &mut codes, blocks: &mut blocks });
            for (i, want) in bytes.chunks_exact(34).enumerate() {
                let codes = &codes[32 * i..][..32];
                assert_eq!(codes, &want[2..], "{isa:?} seed {seed} block {i}");
                let scale = half::f16::from_le_bytes([want[0], want[1]]).to_f32();
                let sum = codes.iter().map(|c| i32::from(*c as i8)).sum();
                assert_eq!(blocks[i], Single { scale, sum }, "{isa:?} seed {seed} block {i}");
            }
        }
    }
}

#[test]
fn activations_for_super_blocks_keep_one_scale_and_exact_sums() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let n = 256 * (1 + random.below(5));
        let x = random.values(seed, n, 6e4);
        for isa in KernelIsa::present() {
            let (mut codes, mut blocks) = (vec![0; n], vec![Super::default(); n / 256]);
            isa.run(Round { x: &x, codes: &mut codes, blocks: &mut blocks });
            for (b, (x, codes)) in x.chunks(256).zip(codes.chunks(256)).enumerate() {
                let place = format!("{isa:?} seed {seed} block {b}");
                let top = x.iter().fold(0.0, |top: f32, v| top.max(v.abs()));
                assert_eq!(blocks[b].scale, top / 127.0, "{place}");
                for (code, x) in codes.iter().zip(x) {
                    let nearest = f64::from(*x) / f64::from(blocks[b].scale.max(f32::MIN_POSITIVE));
                    // Multiplying with the inverse in f32 may move what lies at a half.
                    assert!(
                        (f64::from(*code as i8) - nearest).abs() <= 0.5 + 127.0 * 2e-7,
                        "{place}: {code} {nearest}"
                    );
                }
                let sum = |codes: &[u8]| codes.iter().map(|c| i16::from(*c as i8)).sum::<i16>();
                for run in 0..8 {
                    let codes = &codes[32 * run..][..32];
                    let got = [blocks[b].halves[run], blocks[b].halves[8 + run], blocks[b].wholes[run]];
                    assert_eq!(got, [sum(&codes[..16]), sum(&codes[16..]), sum(codes)], "{place} run {run}");
                }
            }
        }
    }
}

#[test]
fn row_helpers_agree_with_f64_on_every_instruction_set() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let n = 1 + random.below(100);
        let (x, w) = (random.values(seed, n, 50.0), random.values(0, n, 1.0));
        let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(vec::max(&x), top);
        let total: f64 = x.iter().map(|v| f64::from(v - top).exp()).sum();
        let mut first: Option<(Vec<f32>, f32)> = None;
        for isa in KernelIsa::present() {
            let place = format!("{isa:?} seed {seed}");
            let mut powers = x.clone();
            let sum = vec::exp_sum_with(isa, &mut powers, top);
            assert!((f64::from(sum) - total).abs() <= 1e-6 * total, "{place}: {sum} {total}");
            for i in 0..n {
                let want = f64::from(x[i] - top).exp();
                assert!((f64::from(powers[i]) - want).abs() <= 1e-6 * want + 1e-37, "{place}: {} {want}", powers[i]);
            }
            let first = first.get_or_insert((powers.clone(), sum));
            assert_eq!(*first, (powers, sum), "{place}: other bits than the baseline");
        }
        let mut gated = vec![f32::NAN; n];
        vec::silu_mul(&x, &w, &mut gated);
        for i in 0..n {
            let want = f64::from(x[i]) / (1.0 + (-f64::from(x[i])).exp()) * f64::from(w[i]);
            assert!((f64::from(gated[i]) - want).abs() <= 1e-6 * want.abs() + 1e-30, "{} {want}", gated[i]);
        }
    }
    assert_eq!(vec::max(&[]), f32::NEG_INFINITY);
    let mut ends = [-1e30, f32::NEG_INFINITY, 1e30, f32::INFINITY, 0.0];
    vec::exp_sum(&mut ends, 0.0);
    assert_eq!(ends, [0.0, 0.0, f32::INFINITY, f32::INFINITY, 1.0]);
}
