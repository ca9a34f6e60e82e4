//! Laws that hold for every row of the table, and known answers from ggml (see `tests/data/make.py`).

use std::path::Path;

use proptest::prelude::*;

use super::{FORMATS, by_name};
use crate::gptq::{Hessian, Order, SolveOptions, solve};
use crate::spec::{self, Kind, SPECS};
use crate::{BlockFormat, Encoders, Scales, Store, matrix, scan};

fn data(file: &str) -> Option<Vec<u8>> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file)).ok()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn encode(format: &dyn Store, x: &[f32]) -> Vec<u8> {
    let mut out = vec![0; format.spec().bytes_for(x.len()).expect("whole blocks")];
    format.encode(x, if format.has_reference() { Scales::Reference } else { Scales::Search(None) }, &mut out);
    out
}

fn search(format: &dyn Store, x: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xa5; format.spec().bytes_for(x.len()).expect("whole blocks")];
    format.encode(x, Scales::Search(importance), &mut out);
    out
}

fn decode(format: &dyn Store, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / format.spec().bytes * format.spec().block];
    format.decode(bytes, &mut out);
    out
}

fn blocks() -> impl Iterator<Item = (&'static dyn BlockFormat, &'static str)> {
    FORMATS.iter().filter_map(|f| Some((f.blocks()?, f.spec().name)))
}

fn searched() -> impl Iterator<Item = (&'static dyn BlockFormat, &'static str)> {
    FORMATS.iter().filter(|f| f.has_search()).filter_map(|f| Some((f.blocks()?, f.spec().name)))
}

/// Equal bit for bit; NaN equals NaN, whatever its payload.
fn assert_same(found: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}: number of values");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!(
            f.to_bits() == w.to_bits() || (f.is_nan() && w.is_nan()),
            "{what}: value {i} is {f:e} ({:#010x}), wanted {w:e} ({:#010x})",
            f.to_bits(),
            w.to_bits()
        );
    }
}

#[test]
fn sizes_are_those_of_ggml() {
    let table = String::from_utf8(data("types.txt").expect("types.txt")).expect("text");
    let found: Vec<String> =
        SPECS.iter().map(|s| format!("{} {} {} {}", s.ggml_id.expect("ggml's"), s.name, s.block, s.bytes)).collect();
    assert_eq!(found, table.to_lowercase().lines().collect::<Vec<_>>());
}

#[test]
fn bytes_and_values_are_those_of_ggml() {
    let (input, random) = (floats(&data("input.f32").expect("input.f32")), data("random.bin").expect("random.bin"));
    for format in FORMATS {
        let spec = format.spec();
        // F32 and F64 are copies: every other type of ggml's must come with its answers.
        if spec.ggml_id.is_none() || spec.kind == Kind::Float && spec.bytes >= 4 {
            continue;
        }
        let wanted = data(&format!("{}.bin", spec.name)).unwrap_or_else(|| panic!("{}: no known answers", spec.name));
        // Without a reference there are ggml's bytes to decode, and none to make.
        let mut stored = if format.has_reference() { encode(*format, &input) } else { wanted.clone() };
        let blocks = stored.chunks(spec.bytes).zip(wanted.chunks(spec.bytes)).zip(input.chunks(spec.block));
        for (i, ((ours, ggml), x)) in blocks.enumerate() {
            assert_eq!(ours, ggml, "{}: block {i} of {x:?}", spec.name);
        }
        assert_eq!(stored.len(), wanted.len(), "{}", spec.name);
        stored.extend_from_slice(&random[..random.len() / spec.bytes * spec.bytes]);
        let values = floats(&data(&format!("{}.f32", spec.name)).expect("values beside the bytes"));
        assert_same(&decode(*format, &stored), &values, spec.name);
    }
}

#[test]
fn names_and_ids_find_their_row() {
    for format in FORMATS {
        let spec = format.spec();
        assert_eq!(by_name(&spec.name.to_uppercase()).expect("by name").spec(), spec);
        match spec.ggml_id {
            Some(id) => assert_eq!(spec::by_ggml_id(id).expect("by id"), spec),
            None => assert_eq!(spec::by_name(spec.name), None, "a name of ggml's for something else"),
        }
    }
    assert!(by_name("q9_9").is_none() && spec::by_ggml_id(4).is_none());
}

/// Unpacks every block, checks that packing restores it, and checks the decoder against the grid's own arithmetic.
fn check_blocks(format: &dyn BlockFormat, name: &str, bytes: &[u8]) {
    let spec = format.spec();
    let values = decode(format, bytes);
    let mut codes = vec![0; spec.block];
    for (block, values) in bytes.chunks(spec.bytes).zip(values.chunks(spec.block)) {
        let grid = format.unpack(block, &mut codes);
        let by_grid: Vec<f32> = codes.iter().enumerate().map(|(i, c)| grid.value(i, *c)).collect();
        assert_same(values, &by_grid, name);
        if !grid.scale.iter().chain(&grid.offset).all(|v| v.is_finite()) {
            continue; // nothing that `fit` returns: such a block decodes, and is never packed
        }
        let mut again = vec![0xa5; spec.bytes];
        format.pack(&grid, &codes, &mut again);
        assert_eq!(again, block, "{name}: pack(unpack(block))");
        let mut codes_again = vec![0; spec.block];
        assert_eq!(format.unpack(&again, &mut codes_again), grid, "{name}: unpack(pack(grid))");
        assert_eq!(codes_again, codes, "{name}: unpack(pack(codes))");
    }
}

/// On the grid that the reference used, rounding each weight to the nearest value is never worse than what it wrote.
fn check_nearest(format: &dyn BlockFormat, name: &str, x: &[f32]) {
    let (spec, bytes) = (format.spec(), encode(format, x));
    let mut codes = vec![0; spec.block];
    for (x, block) in x.chunks(spec.block).zip(bytes.chunks(spec.bytes)) {
        let grid = format.unpack(block, &mut codes);
        let error = |i: usize, code: i8| (f64::from(x[i]) - f64::from(grid.value(i, code))).powi(2);
        let encoded: f64 = codes.iter().enumerate().map(|(i, c)| error(i, *c)).sum();
        let nearest: f64 = (0..x.len()).map(|i| error(i, grid.nearest(i, x[i]))).sum();
        // Near ties the two round differently in f32, by about a part in 2^20.
        assert!(nearest <= encoded * (1.0 + 1e-5), "{name}: nearest {nearest:e}, encoded {encoded:e} for {x:?}");
    }
}

/// The searching encoder is `fit`, nearest, `pack`, block by block.
fn check_search(format: &dyn BlockFormat, name: &str, x: &[f32], importance: Option<&[f32]>) {
    let (spec, bytes) = (format.spec(), search(format, x, importance));
    let ones = vec![1.0; spec.block];
    let mut blocks = importance.unwrap_or(&ones).chunks(spec.block).cycle();
    for (x, block) in x.chunks(spec.block).zip(bytes.chunks(spec.bytes)) {
        let grid = format.fit(x, blocks.next().expect("columns"));
        let codes: Vec<i8> = x.iter().enumerate().map(|(i, x)| grid.nearest(i, *x)).collect();
        let mut packed = vec![0x5a; spec.bytes];
        format.pack(&grid, &codes, &mut packed);
        assert_eq!(packed, block, "{name}: pack(nearest(fit(x))) is what encode writes for {x:?}");
    }
}

/// Without a search, `encode` is the reference. Only where a scale is below half precision's normal numbers may a block
/// be another, which is no worse.
fn check_unsearched(format: &dyn Store, x: &[f32], importance: &[f32]) {
    let (spec, found, reference) = (format.spec(), search(format, x, Some(importance)), encode(format, x));
    let blocks = x.chunks(spec.block).zip(found.chunks(spec.bytes).zip(reference.chunks(spec.bytes)));
    for (x, (found, reference)) in blocks.filter(|(_, (found, reference))| found != reference) {
        let blocks = format.blocks().unwrap_or_else(|| panic!("{}: a float has no scale", spec.name));
        let scale = blocks.unpack(reference, &mut vec![0; spec.block]).scale[0];
        assert!(scale < 2f32.powi(-14), "{}: another block than the reference's for {x:?}", spec.name);
        let [found, reference] = [found, reference].map(|block| loss(format, block, x, &[1.0]));
        assert!(found <= reference, "{}: {found:e} instead of {reference:e} for {x:?}", spec.name);
    }
}

/// Whole numbers of 256-weight blocks (the largest there are) of one magnitude, with ties, zeros and outliers.
fn weights() -> impl Strategy<Value = Vec<f32>> {
    let one = prop_oneof![
        6 => -1.0f32..1.0,
        2 => (-8i8..=8).prop_map(|v| f32::from(v) / 8.0),
        1 => Just(0.0f32),
        1 => Just(-0.0f32),
        1 => -50.0f32..50.0,
    ];
    (prop::collection::vec(one, 256..=256), -150i32..10)
        .prop_map(|(x, e)| x.into_iter().map(|v| v * (e as f32).exp2()).collect())
}

/// Importances of a row of 256 columns: ordinary ones, ones of which some or all are zero, huge and tiny ones.
fn importances() -> impl Strategy<Value = Vec<f32>> {
    let one = prop_oneof![6 => 0.0f32..1.0, 1 => Just(0.0f32), 1 => 0.0f32..1e4];
    let scale = prop_oneof![4 => Just(1.0f32), 1 => Just(0.0f32), 1 => Just(1e34f32), 1 => Just(1e-42f32)];
    (prop::collection::vec(one, 256..=256), scale).prop_map(|(v, scale)| v.into_iter().map(|v| v * scale).collect())
}

proptest! {
    #[test]
    fn blocks_keep_their_laws(x in weights()) {
        for (format, name) in blocks() {
            check_blocks(format, name, &encode(format, &x));
            check_nearest(format, name, &x);
        }
    }

    #[test]
    fn searching_is_fit_nearest_pack(x in weights(), importance in importances()) {
        let two_rows = [&x[..], &x.iter().rev().copied().collect::<Vec<_>>()[..]].concat();
        for (format, name) in searched() {
            for importance in [Some(&importance[..]), None] {
                check_search(format, name, &two_rows, importance);
                check_blocks(format, name, &search(format, &two_rows, importance));
            }
        }
        for format in FORMATS.iter().filter(|f| !f.has_search()) {
            check_unsearched(*format, &x, &importance);
        }
    }

    #[test]
    fn arbitrary_bytes_decode_and_repack(bytes in prop::collection::vec(any::<u8>(), 4096)) {
        for (format, name) in blocks() {
            let size = format.spec().bytes;
            check_blocks(format, name, &bytes[..bytes.len() / size * size]);
        }
    }

    #[test]
    fn what_the_spec_allows_stays_finite(x in weights(), sign in prop::bool::ANY) {
        for format in FORMATS {
            let limit = format.spec().max_abs;
            let mut x: Vec<f32> = x.iter().map(|v| (v / 50.0 / 1024.0) * limit).collect();
            x[17] = if sign { limit } else { -limit };
            x[18] = -x[17];
            prop_assert!(scan(&x).check(format.spec()).is_ok());
            for bytes in [encode(*format, &x), search(*format, &x, None)] {
                let values = decode(*format, &bytes);
                prop_assert!(values.iter().all(|v| v.is_finite()), "{}", format.spec().name);
            }
        }
    }

    #[test]
    fn floats_that_a_float_type_holds_come_back(bits in prop::collection::vec(any::<u16>(), 64)) {
        for (name, shift) in [("f16", 0), ("bf16", 0), ("f32", 16), ("f64", 16)] {
            let format = by_name(name).expect("a row");
            let x: Vec<f32> = match shift {
                0 => decode(format, &bits.iter().flat_map(|b| b.to_le_bytes()).collect::<Vec<_>>()),
                _ => bits.iter().map(|b| f32::from_bits(u32::from(*b) << shift)).collect(),
            };
            assert_same(&decode(format, &encode(format, &x)), &x, name);
        }
    }
}

/// About normal weights, a thousandth of them large.
fn normal(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut one = |i: usize| (0..6).map(|_| uniform()).sum::<f32>() * if i % 1000 == 7 { 0.2 } else { 0.03 };
    (0..n).map(&mut one).collect()
}

/// Sum of the weighted squared errors of `bytes`; column `i` counts `importance[i % len]`.
fn loss(format: &dyn Store, bytes: &[u8], x: &[f32], importance: &[f32]) -> f64 {
    let errors = decode(format, bytes).into_iter().zip(x).map(|(y, x)| (f64::from(y) - f64::from(*x)).powi(2));
    errors.zip(importance.iter().cycle()).map(|(e, w)| e * f64::from(*w)).sum()
}

#[test]
fn a_search_does_better_than_the_formula_and_heeds_the_importance() {
    let x = normal(64 * 1024);
    let (ones, half) = ([1.0], [[1.0f32; 16], [0.01; 16]].concat().repeat(8));
    for (format, name) in searched() {
        let (plain, weighted) = (search(format, &x, None), search(format, &x, Some(&half)));
        if format.encoders() == Encoders::Both {
            let formula = encode(format, &x);
            assert!(loss(format, &plain, &x, &ones) < loss(format, &formula, &x, &ones), "{name}");
            assert!(loss(format, &weighted, &x, &half) < loss(format, &formula, &x, &half), "{name}");
        }
        assert!(loss(format, &plain, &x, &ones) < loss(format, &weighted, &x, &ones), "{name}: without importance");
        assert!(loss(format, &weighted, &x, &half) < loss(format, &plain, &x, &half), "{name}: with importance");
    }
}

#[test]
fn an_importance_that_says_nothing_is_none() {
    let x = normal(1024);
    for (format, name) in blocks() {
        let none = search(format, &x, None);
        for v in [0.0, 1.0, 1e-40, 3e38, f32::INFINITY] {
            assert_eq!(search(format, &x, Some(&[v; 256])), none, "{name}: importances of {v:e}");
        }
    }
}

/// Codes that make up for each other's errors are never worse for the outputs than the nearest ones.
#[test]
fn solved_codes_are_not_worse_than_the_nearest() {
    const INPUTS: usize = 256;
    let w = normal(8 * INPUTS);
    // E[x x^T] of inputs next to each other that go together.
    let h: Vec<f32> = (0..INPUTS * INPUTS).map(|i| 0.9f32.powi((i / INPUTS).abs_diff(i % INPUTS) as i32)).collect();
    let hessian = Hessian::prepare(matrix(&h, INPUTS), 0.01, Order::default()).expect("positive definite");
    let error = |format: &dyn Store, bytes: &[u8]| -> f64 {
        let errors: Vec<f64> = decode(format, bytes).iter().zip(&w).map(|(y, x)| f64::from(y - x)).collect();
        let along =
            |e: &[f64], i: usize| -> f64 { e.iter().zip(&h[i * INPUTS..]).map(|(e, h)| e * f64::from(*h)).sum() };
        errors.chunks(INPUTS).map(|e| (0..INPUTS).map(|i| e[i] * along(e, i)).sum::<f64>()).sum()
    };
    for (format, name) in blocks() {
        let (nearest, mut solved) =
            (search(format, &w, None), vec![0; format.spec().bytes_for(w.len()).expect("blocks")]);
        solve(format, matrix(&w, INPUTS), None, &hessian, SolveOptions::default(), &mut solved)
            .expect("finite weights");
        let (nearest, solved) = (error(format, &nearest), error(format, &solved));
        assert!(solved < nearest, "{name}: solved {solved:e}, nearest {nearest:e}");
    }
}

#[test]
#[should_panic(expected = "q4_k: 512 weights against importances of 300 columns")]
fn importances_of_other_columns_are_refused() {
    let format = by_name("q4_k").expect("a row");
    format.encode(&[0.0; 512], Scales::Search(Some(&[1.0; 300])), &mut [0; 288]);
}

#[test]
#[should_panic(expected = "q8_0: 31 weights against 34 bytes")]
fn a_partial_block_is_refused() {
    by_name("q8_0").expect("a row").encode(&[0.0; 31], Scales::Reference, &mut [0; 34]);
}
