//! Weights that are small: what half precision, in which most types have their scales, leaves of them. And weights that
//! lie on a type's grid already.

use aurora_quantizers::formats::{self, FORMATS};
use aurora_quantizers::spec::Kind;
use aurora_quantizers::{Fidelity, Scales, Store};

/// Every type, with the grids of other programs' checkpoints.
fn stores() -> Vec<&'static dyn Store> {
    let mut all = FORMATS.to_vec();
    for (bits, group, symmetric) in [(4, 64, true), (8, 128, true), (4, 32, false), (4, 128, false), (8, 64, false)] {
        all.push(formats::grouped(bits, group, symmetric).expect("a grid"));
    }
    all
}

/// About normal weights with a standard deviation of `size`.
fn normal(n: usize, size: f64, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5
    };
    (0..n).map(|_| ((0..12).map(|_| uniform()).sum::<f64>() * size) as f32).collect()
}

fn back(store: &dyn Store, x: &[f32], scales: Scales) -> Vec<f32> {
    let mut bytes = vec![0; store.spec().bytes_for(x.len()).expect("whole blocks")];
    let mut y = vec![f32::NAN; x.len()];
    store.encode(x, scales, &mut bytes);
    store.decode(&bytes, &mut y);
    y
}

/// Root of the weighted squared error in units of the weighted square.
fn relative(x: &[f32], y: &[f32], importance: &[f32]) -> f64 {
    let sum = |f: &dyn Fn(usize) -> f64| -> f64 {
        (0..x.len()).map(|i| f64::from(importance[i % importance.len()]) * f(i).powi(2)).sum()
    };
    (sum(&|i| f64::from(x[i]) - f64::from(y[i])) / sum(&|i| f64::from(x[i]))).sqrt()
}

/// Zeros can always be stored: nothing comes out farther from the weights than they are.
#[test]
fn no_row_is_worse_than_zeros() {
    let skewed: Vec<f32> = normal(256, 1.0, 9).iter().map(|v| v.exp()).collect();
    for store in stores() {
        for step in 0..160 {
            let size = 10f64.powf(-9.5 + f64::from(step) * 0.04);
            for (importance, what) in [(None, "alike"), (Some(&skewed[..]), "by importance")] {
                let x = normal(256, size, step as u64);
                let y = back(store, &x, Scales::Search(importance));
                let error = relative(&x, &y, importance.unwrap_or(&[1.0]));
                assert!(error <= 1.0 + 1e-5, "{} at {size:e}, {what}: {error}", store.spec().name);
            }
        }
    }
}

/// A block in which one weight alone can be stored, constant blocks, and blocks between two of the smallest scales.
#[test]
fn no_strange_block_is_worse_than_zeros() {
    let least = f64::from(2f32.powi(-24));
    for store in stores() {
        for step in 0..120 {
            let size = (least * 0.02 * 1.1f64.powi(step)) as f32;
            let kinds: [Vec<f32>; 4] = [
                vec![size; 256],
                (0..256).map(|i| if i % 2 == 0 { size } else { -size }).collect(),
                (0..256).map(|i| if i % 32 == 3 { -size } else { size * 0.01 }).collect(),
                (0..256).map(|i| size * (i % 7) as f32).collect(),
            ];
            for (kind, x) in kinds.iter().enumerate() {
                let error = relative(x, &back(store, x, Scales::Search(None)), &[1.0]);
                assert!(error <= 1.0 + 1e-5, "{} at {size:e}, kind {kind}: {error}", store.spec().name);
            }
        }
    }
}

/// The distance of levels on the smallest scale that a type has, about: what it makes of small numbers at best.
fn smallest_step(store: &dyn Store) -> f64 {
    let spec = store.spec();
    let spacing = match spec.name {
        "iq4_nl" | "iq4_xs" => 13.0,
        _ => 1.0,
    };
    if spec.fine < 1e-20 { 0.0 } else { spacing * f64::from(2f32.powi(-24)) }
}

/// Powers of two change nothing: a matrix loses what it does at ordinary size, or it is too small for the type, which
/// then is said and costs no more than rounding to multiples of the smallest scale does.
#[test]
fn a_power_of_two_changes_nothing_or_is_told() {
    const SIZE: f64 = 0.03;
    let x = normal(256 * 24, SIZE, 3);
    for store in stores() {
        let spec = store.spec();
        let at_one = relative(&x, &back(store, &x, Scales::Search(None)), &[1.0]);
        for power in -60..=15 {
            let scaled: Vec<f32> = x.iter().map(|v| v * 2f32.powi(power)).collect();
            let y = back(store, &scaled, Scales::Search(None));
            let error = relative(&scaled, &y, &[1.0]);
            let max_abs = scaled.iter().fold(0.0_f32, |top, v| top.max(v.abs()));
            let told = Fidelity::of(&scaled, &y).compared(store, &scaled, max_abs, Scales::Search(None)).too_small();
            // 19 % is a quarter of a bit, and where something is said.
            let same = error <= at_one * 1.19;
            assert!(same || told.is_some(), "{} times 2^{power}: {error}, {at_one} at one", spec.name);
            if let Some((found, usual)) = told {
                assert!((found / error - 1.0).abs() < 1e-6, "{} times 2^{power}: {found} {error}", spec.name);
                assert!((usual / at_one - 1.0).abs() < 0.1, "{} times 2^{power}: {usual} {at_one}", spec.name);
            }
            // A number that is anywhere between two levels is a twelfth of the square of their distance off.
            let coarse = smallest_step(store) / 12f64.sqrt() / (SIZE * f64::from(2f32.powi(power)));
            let best = at_one.hypot(coarse).min(1.0);
            assert!(error <= best * 1.25, "{} times 2^{power}: {error}, could be {best}", spec.name);
        }
    }
}

/// The types whose levels are whole numbers, and the lowest and highest of them.
const WHOLE: [(&str, i32, i32); 9] = [
    ("q8_0", -127, 127),
    ("q6_k", -32, 31),
    ("q5_k", 0, 31),
    ("q4_k", 0, 15),
    ("q3_k", -4, 3),
    ("q5_1", 0, 31),
    ("q5_0", -16, 15),
    ("q4_1", 0, 15),
    ("q4_0", -8, 7),
];

/// Blocks `d * q` in which both ends of the levels occur.
fn on_grid(low: i32, high: i32, scale: impl Fn(usize) -> f32, group: usize) -> Vec<f32> {
    let mut state = 12_345_u32;
    (0..256 * 8)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let any = low + (state >> 8) as i32 % (high - low + 1);
            let level = [low, high].get(i % group).copied().unwrap_or(any);
            scale(i / group) * level as f32
        })
        .collect()
}

/// What quantisation-aware training leaves, or another program's rounding: weights that a type holds come back as they
/// are, on any scale.
#[test]
fn weights_on_a_grid_stay_there() {
    for (name, low, high) in WHOLE {
        let store = formats::by_name(name).expect("a row");
        // Super-blocks have whole numbers of one step as scales; groups of 16 fit into those of 32.
        let group = if store.spec().block == 32 { 32 } else { 16 };
        let steps = |g: usize| if group == 32 { 1.0 + (g % 13) as f32 / 13.0 } else { [31.0, 7.0, 19.0, 1.0][g % 4] };
        let group = if matches!(name, "q4_k" | "q5_k") { 32 } else { group };
        for size in [0.25, 1.0 / 1024.0, 3.0 / 65536.0] {
            let half = |v: f32| half::f16::from_f32(v).to_f32();
            let scale = |g: usize| {
                if group == 32 && store.spec().block == 32 { half(steps(g) * size) } else { steps(g) * half(size) }
            };
            let x = on_grid(low, high, scale, group);
            let y = back(store, &x, Scales::Search(None));
            let wrong: Vec<_> = x.iter().zip(&y).enumerate().filter(|(_, (a, b))| a != b).collect();
            assert_eq!(wrong, [], "{name}, scales about {size}: weights that moved");
        }
    }
}

/// Constant weights come out as near as half precision has a scale, as by ggml's formula.
#[test]
fn constant_blocks_are_as_exact_as_half_precision() {
    for store in stores().into_iter().filter(|s| s.spec().kind == Kind::Block && s.spec().name != "mxfp4") {
        // No two of IQ4's levels are opposites, and none is zero.
        let uneven = store.spec().name.starts_with("iq4");
        for i in 0..200 {
            let c = 0.001 + 0.002 * i as f32;
            let one = |at: usize| if at == i { c } else { 0.0 };
            let kinds: [(&str, Vec<f32>); 3] = [
                ("constant", vec![c; 256]),
                ("both signs", (0..256).map(|at| if at * 7 % 3 == 0 { c } else { -c }).collect()),
                ("one", (0..256).map(one).collect()),
            ];
            for (what, x) in kinds.into_iter().take(if uneven { 1 } else { 3 }) {
                let error = relative(&x, &back(store, &x, Scales::Search(None)), &[1.0]);
                // Scale and offset are rounded, each by one part in 2048 at most, and the scale counts twice where the
                // offset is that of the lowest weight.
                assert!(error <= 2.5 / 2048.0, "{} {what} {c}: {error}", store.spec().name);
            }
        }
    }
}

/// Rounding what was rounded once more changes nothing, where a block says enough of its grid.
#[test]
fn a_second_rounding_to_the_same_type_is_nearly_none() {
    let x = normal(256 * 64, 0.05, 21);
    for (name, most) in [("q4_0", 0.0), ("q8_0", 0.0), ("q2_k", 0.0), ("q3_k", 0.002), ("mxfp4", 0.0)] {
        let store = formats::by_name(name).expect("a row");
        let once = back(store, &x, Scales::Search(None));
        let twice = back(store, &once, Scales::Search(None));
        let error = relative(&once, &twice, &[1.0]);
        assert!(error <= most, "{name}: {error}");
    }
}
