//! Sparse products beside dense ones: matrix times vector with the shapes of a 1.1B Llama, from memory larger than any
//! cache, in turn.
//!
//! `cargo bench --bench sparse -- [TYPE:PACKING:PERCENT...] [TOKENS...]`, as `f16:bitmask:50` or `q8_0:2:4:50`; the
//! percentage is that of zeros. The rayon pool takes RAYON_NUM_THREADS. A plain program: runs of both kinds alternate,
//! since other work on the machine disturbs both alike then.

use std::borrow::Cow;
use std::time::Instant;

use aurora_quant::runtime::Linear;
use aurora_quant::runtime::kernels::{Acts, Dense, Sparse};
use aurora_quantizers::sparse::{Packing, SparseLayout, SparseParts, SparseView};
use aurora_quantizers::{Scales, formats, view};

/// Rows and columns: attention, up and gate, down.
const SHAPES: [(usize, usize); 3] = [(2048, 2048), (5632, 2048), (2048, 5632)];
/// Bytes of dense matrices that a pass reads at least.
const BYTES: usize = 160 << 20;
const ROUNDS: usize = 15;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 11
}

/// Rows of noise, `zeros` percent of which are zero; of four weights in turn two, if `quads`.
fn weights(rows: usize, cols: usize, zeros: u64, quads: bool) -> Vec<f32> {
    let mut state = 88_172_645_463_325_252;
    let mut weights = Vec::with_capacity(rows * cols);
    for _ in 0..rows * cols / 4 {
        let first = (random(&mut state) % 4) as usize;
        let second = (first + 1 + (random(&mut state) % 3) as usize) % 4;
        for i in 0..4 {
            let zero = if quads { i != first && i != second } else { random(&mut state) % 100 < zeros };
            let value = 0.5 + (random(&mut state) % 1024) as f32 / 1024.0;
            weights.push(if zero {
                0.0
            } else {
                value * if random(&mut state).is_multiple_of(2) { 1.0 } else { -1.0 }
            });
        }
    }
    weights
}

fn pass(all: &[Box<dyn Linear + '_>], x: &[f32], tokens: usize, out: &mut [f32]) -> f64 {
    let start = Instant::now();
    for w in all {
        let (rows, cols) = w.shape();
        let acts = Acts::new(view::matrix(&x[..tokens * cols], cols));
        w.forward(&acts, false, view::matrix_mut(&mut out[..tokens * rows], rows));
    }
    start.elapsed().as_secs_f64()
}

fn compare(name: &str, packing: Packing, zeros: u64, batches: &[usize]) {
    let store = formats::by_name(name).expect("a type");
    for (rows, cols) in SHAPES {
        let values = weights(rows, cols, zeros, packing == Packing::TwoFour);
        let mut bytes = vec![0; store.spec().bytes_for(values.len()).expect("whole blocks")];
        store.encode(&values, Scales::Reference, &mut bytes);
        let layout = SparseLayout::new(packing, store, cols).expect("blocks that divide a row");
        let mut parts = SparseParts::default();
        layout.pack(&bytes, &mut parts).expect("rows that can be packed");
        let copies = BYTES.div_ceil(bytes.len());
        let parts: Vec<_> = (0..copies).map(|_| parts.clone()).collect();
        let sparse: Vec<Box<dyn Linear + '_>> = parts
            .iter()
            .map(|parts| SparseView::new(layout, rows, parts.as_slices()).expect("sound parts"))
            .map(|view| Box::new(Sparse::new(view, None)) as Box<dyn Linear>)
            .collect();
        let dense: Vec<Box<dyn Linear + '_>> = (0..copies)
            .map(|_| Box::new(Dense::new(store, rows, cols, Cow::Owned(bytes.clone()), None)) as Box<dyn Linear>)
            .collect();
        for &tokens in batches {
            let x: Vec<f32> = (0..tokens * cols).map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 1.0).collect();
            let mut out = vec![0.0; tokens * rows];
            let mut times = [Vec::new(), Vec::new()];
            rayon::scope(|_| {
                for _ in 0..if tokens > 8 { ROUNDS / 3 } else { ROUNDS } {
                    times[0].push(pass(&dense, &x, tokens, &mut out));
                    times[1].push(pass(&sparse, &x, tokens, &mut out));
                }
            });
            let figures = |times: &mut Vec<f64>, all: &[Box<dyn Linear + '_>]| {
                times.sort_by(f64::total_cmp);
                let (best, median) = (times[0], times[times.len() / 2]);
                let bytes: usize = all.iter().map(|w| w.bytes()).sum();
                let blocks = (copies * rows * cols / 32 * tokens) as f64;
                let text = format!("{:5.1} GB/s {:5.2} ns/32", bytes as f64 / best / 1e9, best / blocks * 1e9);
                (best, median, bytes, text)
            };
            let [dense_times, sparse_times] = &mut times;
            let (d, s) = (figures(dense_times, &dense), figures(sparse_times, &sparse));
            println!(
                "{name:5} {:7} {zeros:2} % [{rows}, {cols}] x {tokens}: dense {}, sparse {}; \
                 ratio {:.2} best, {:.2} median (bytes {:.2})",
                packing.name(),
                d.3,
                s.3,
                d.0 / s.0,
                d.1 / s.1,
                d.2 as f64 / s.2 as f64
            );
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let batches: Vec<usize> = args.iter().filter_map(|a| a.parse().ok()).collect();
    let batches = if batches.is_empty() { vec![1] } else { batches };
    let cases: Vec<&String> = args.iter().filter(|a| a.contains(':')).collect();
    let all = ["f16:bitmask:50", "q8_0:bitmask:50", "f16:2:4:50", "q8_0:2:4:50"];
    let all = all.map(String::from);
    let cases = if cases.is_empty() { all.iter().collect() } else { cases };
    println!("{} threads", rayon::current_num_threads());
    for case in cases {
        let (name, rest) = case.split_once(':').expect("TYPE:PACKING:PERCENT");
        let (packing, zeros) = rest.rsplit_once(':').expect("TYPE:PACKING:PERCENT");
        let packing = if packing == "2:4" { Packing::TwoFour } else { Packing::Bitmask };
        compare(name, packing, zeros.parse().expect("a percentage"), &batches);
    }
}
