//! The matrix products of a 1.1B Llama (hidden 2048, ffn 8192, keys and values 512, 16 layers, 32000 tokens), from
//! memory larger than any cache: tokens/s, GB/s and GFLOP/s to hold beside llama.cpp's `llama-bench`.
//!
//! `cargo bench --bench matmul -- [TYPE...]`; the rayon pool takes RAYON_NUM_THREADS. A plain program, since one
//! pass over all matrices takes seconds in a batch of 512.

use std::borrow::Cow;
use std::time::Instant;

use aurora_quant::runtime::kernels::{Acts, Dense, matmul};
use aurora_quantizers::{Scales, formats, view};
use rayon::prelude::*;

const LAYERS: usize = 16;
const HEAD: usize = 32000;
/// Rows and columns of a layer's matrices; those beside each other read the same input.
const LAYER: [&[(usize, usize)]; 4] =
    [&[(2048, 2048), (512, 2048), (512, 2048)], &[(2048, 2048)], &[(8192, 2048), (8192, 2048)], &[(2048, 8192)]];
const BATCH: usize = 512;

fn noise(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut one = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| one()).collect()
}

/// The same noise in every row: what it holds does not matter to time.
fn matrix(name: &str, rows: usize, cols: usize) -> Dense<'static> {
    let format = formats::by_name(name).expect("a type");
    let mut row = vec![0; format.spec().bytes_for(cols).expect("whole blocks")];
    let scales = if format.has_reference() { Scales::Reference } else { Scales::Search(None) };
    format.encode(&noise(cols), scales, &mut row);
    Dense::new(format, rows, cols, Cow::Owned(row.repeat(rows)), None)
}

/// Seconds of one pass over all layers, and over the head with the last token alone, as a prompt needs.
fn pass(layers: &[Vec<Vec<Dense>>], head: &Dense, x: &[f32], tokens: usize, exact: bool) -> f64 {
    let mut out = vec![0.0; tokens * 8192.max(HEAD / tokens + 1)];
    let start = Instant::now();
    for layer in layers {
        for group in layer {
            let cols = group[0].cols();
            let acts = Acts::new(view::matrix(&x[..tokens * cols], cols));
            for w in group {
                matmul(w, &acts, exact, view::matrix_mut(&mut out[..tokens * w.rows()], w.rows()));
            }
        }
    }
    let last = Acts::new(view::matrix(&x[..head.cols()], head.cols()));
    matmul(head, &last, exact, view::matrix_mut(&mut out[..HEAD], HEAD));
    start.elapsed().as_secs_f64()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let exact = args.iter().any(|a| a == "exact");
    let named: Vec<&str> = args.iter().map(String::as_str).filter(|a| formats::by_name(a).is_some()).collect();
    let types = if named.is_empty() { vec!["q4_0", "q8_0", "bf16"] } else { named };
    let batches: Vec<usize> = args.iter().filter_map(|a| a.parse().ok()).collect();
    let batches = if batches.is_empty() { vec![1, BATCH] } else { batches };
    read_speed();
    let x = noise(8192 * batches.iter().max().expect("one"));
    for name in types {
        let layers: Vec<Vec<Vec<Dense>>> = (0..LAYERS)
            .map(|_| LAYER.iter().map(|g| g.iter().map(|&(r, c)| matrix(name, r, c)).collect()).collect())
            .collect();
        let head = matrix(name, HEAD, 2048);
        let all = || layers.iter().flatten().flatten().chain([&head]);
        let bytes: usize = all().map(|w| w.stored().len()).sum();
        for &tokens in &batches {
            let runs = if tokens < 32 { 10 } else { 2 };
            let before = processor_time();
            // The caller is a thread of the pool, as in the executor.
            let mut times: Vec<f64> =
                (0..runs).map(|_| rayon_install(|| pass(&layers, &head, &x, tokens, exact))).collect();
            let busy = processor_time().zip(before).map_or(f64::NAN, |(now, before)| (now - before) as f64 / 1e9);
            let alone = runs as f64 * rayon::current_num_threads() as f64 / busy;
            times.sort_by(f64::total_cmp);
            let (best, median) = (times[0], times[times.len() / 2]);
            let body: usize = all().map(|w| w.rows() * w.cols()).sum::<usize>() - HEAD * 2048;
            let flop = 2.0 * (body * tokens + HEAD * 2048) as f64;
            println!(
                "{name:5} {tokens:4} tokens: {:8.1} tokens/s, {:7.1} GFLOP/s, {:6.1} GB/s (best {:.1}, by processor time {:.1} tokens/s)",
                tokens as f64 / median,
                flop / median / 1e9,
                bytes as f64 / median / 1e9,
                tokens as f64 / best,
                tokens as f64 * alone,
            );
        }
    }
}

/// Nanoseconds that all threads of this process have run; nothing where the system does not say.
///
/// On a machine with other work, tokens per second of processor time say more than tokens per second of the clock.
fn processor_time() -> Option<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        sum += text.split(' ').next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}

fn rayon_install<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| f())
}

/// How fast all threads together read memory: the ceiling of generation.
fn read_speed() {
    let buffer = vec![1u64; 192 << 20];
    let read = || {
        let start = Instant::now();
        let sum: u64 = buffer.par_chunks(1 << 17).map(|c| c.iter().fold(0u64, |a, b| a.wrapping_add(*b))).sum();
        assert_eq!(sum, buffer.len() as u64);
        size_of_val(&buffer[..]) as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    let mut speeds: Vec<f64> = (0..6).map(|_| read()).collect();
    speeds.sort_by(f64::total_cmp);
    println!(
        "reading: {:.1} GB/s (median; best {:.1}), {} threads",
        speeds[3],
        speeds[5],
        rayon::current_num_threads()
    );
}
