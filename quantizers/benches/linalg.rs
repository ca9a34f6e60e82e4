//! X^T X and the Cholesky factorisation, on all cores, beside what the machine's multipliers can do: multiply-adds
//! counted, so that figures of several widths can be compared.
//!
//! The peak is that of the instructions that this program was compiled for: build it with `RUSTFLAGS="-C
//! target-cpu=native"`.

use std::hint::black_box;

use aurora_quantizers::{SiteStats, cholesky, matrix};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use rayon::prelude::*;

/// Sums that run side by side: as many registers of eight as AVX2 has, but for four that hold the factors.
const SUMS: usize = 12;
/// Steps of each thread.
const STEPS: usize = 1 << 20;

/// Pseudo-random numbers between -0.5 and 0.5.
fn numbers(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

/// Multiply-adds that never leave the registers.
fn multiply(factor: f32, step: f32) -> f32 {
    let mut sums = [[step; 8]; SUMS];
    for _ in 0..STEPS {
        for sums in &mut sums {
            for sum in sums {
                // Without the instruction this would be a call, and no peak of anything.
                *sum = if cfg!(target_feature = "fma") { sum.mul_add(factor, step) } else { *sum * factor + step };
            }
        }
    }
    sums.iter().flatten().sum()
}

fn peak(c: &mut Criterion) {
    let mut group = c.benchmark_group("peak");
    let threads = rayon::current_num_threads();
    group.sample_size(20);
    for threads in if threads > 1 { vec![1, threads] } else { vec![1] } {
        group.throughput(Throughput::Elements((threads * STEPS * SUMS * 8) as u64));
        let each = |_: usize| multiply(black_box(0.999), black_box(1e-3));
        group.bench_function(format!("{threads} threads"), |b| {
            b.iter(|| (0..threads).into_par_iter().with_max_len(1).map(each).sum::<f32>());
        });
    }
    group.finish();
}

/// Tokens as they come from a run of the model: a thousand at a time.
fn gram(c: &mut Criterion) {
    const TOKENS: usize = 1024;
    let mut group = c.benchmark_group("gram");
    group.sample_size(20);
    for width in [256, 768, 2048, 8192] {
        let x = numbers(TOKENS * width);
        let mut stats = SiteStats::new(width, true);
        group.throughput(Throughput::Elements((TOKENS * width * (width + 1) / 2) as u64));
        group.bench_function(format!("{width}"), |b| {
            b.iter(|| stats.add(black_box(matrix(&x, width))).expect("finite"))
        });
    }
    group.finish();
}

fn factor(c: &mut Criterion) {
    let mut group = c.benchmark_group("cholesky");
    group.sample_size(10);
    for n in [256, 768, 2048] {
        let x = numbers(n);
        // Diagonally dominant, hence positive definite.
        let at = |i: usize| f64::from(x[i % n] * x[i / n]) + if i % n == i / n { n as f64 } else { 0.0 };
        let a = Array2::from_shape_fn((n, n), |(i, j)| at(i * n + j));
        group.throughput(Throughput::Elements((n * n * n / 6) as u64));
        group.bench_function(format!("{n}"), |b| {
            b.iter_batched_ref(|| a.clone(), |a| cholesky::factor(a.view_mut()), criterion::BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group!(benches, peak, gram, factor);
criterion_main!(benches);
