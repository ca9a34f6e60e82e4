//! What preparing a Hessian and solving a linear cost, on all cores: multiply-adds counted, so that figures of several
//! widths can be compared with what the machine can do.

use std::hint::black_box;

use aurora_quantizers::gptq::{Hessian, Order, SolveOptions, solve};
use aurora_quantizers::{formats, matrix};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const WIDTH: usize = 1024;
const ROWS: usize = 1024;

/// Pseudo-random numbers between -0.5 and 0.5.
fn numbers() -> impl FnMut() -> f32 {
    let mut state = 1u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    }
}

/// A diagonal of sizes that differ, and sixteen directions that channels share.
fn hessian(n: usize) -> Vec<f32> {
    const SHARED: usize = 16;
    let mut number = numbers();
    let size: Vec<f32> = (0..n).map(|_| (number() * 2.0).exp()).collect();
    let mix: Vec<f32> = (0..n * SHARED).map(|_| number() * 2.0).collect();
    let mut h = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            let shared: f32 = (0..SHARED).map(|s| mix[i * SHARED + s] * mix[j * SHARED + s]).sum();
            h[i * n + j] = size[i] * size[j] * (shared + f32::from(u8::from(i == j)));
        }
    }
    h
}

fn gptq(c: &mut Criterion) {
    let h = hessian(WIDTH);
    let mut number = numbers();
    let w: Vec<f32> = (0..ROWS * WIDTH).map(|_| (number() + number() + number()) * 0.05).collect();
    let (n, rows) = (WIDTH as u64, ROWS as u64);
    let mut group = c.benchmark_group("gptq");
    group.sample_size(10);
    group.throughput(Throughput::Elements(n.pow(3) / 6));
    group.bench_function("prepare", |b| b.iter(|| Hessian::prepare(black_box(matrix(&h, WIDTH)), 0.01, Order::Static)));
    let hessian = Hessian::prepare(matrix(&h, WIDTH), 0.01, Order::Static).expect("positive definite");
    for name in ["q4_k", "q4_0"] {
        let format = formats::by_name(name).and_then(|f| f.blocks()).expect("a block format");
        let mut out = vec![0; format.spec().bytes_for(w.len()).expect("whole blocks")];
        for sweeps in [0, 4] {
            // One pass over the columns and the losses of two roundings: rows * n^2 / 2 each.
            group.throughput(Throughput::Elements(3 * rows * n * n / 2));
            let options = SolveOptions { sweeps, ..SolveOptions::default() };
            group.bench_function(format!("{name} {sweeps} sweeps"), |b| {
                b.iter(|| solve(format, black_box(matrix(&w, WIDTH)), None, &hessian, options, &mut out));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, gptq);
criterion_main!(benches);
