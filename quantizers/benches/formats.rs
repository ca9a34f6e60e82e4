//! How fast each format encodes (by formula, by search) and decodes on one core, in bytes of f32 per second.
//!
//! One chunk of [`CHUNK_WEIGHTS`] is worked on again and again: this is the arithmetic, not the memory.

use std::hint::black_box;

use aurora_quantizers::formats::FORMATS;
use aurora_quantizers::par::CHUNK_WEIGHTS;
use aurora_quantizers::{Scales, scan};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Weights as checkpoints have them: about normal, rounded to BF16, so that ties within a block happen.
fn weights() -> Vec<f32> {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut one = || (0..4).map(|_| uniform()).sum::<f32>() * 0.05;
    (0..CHUNK_WEIGHTS).map(|_| f32::from_bits(one().to_bits() & 0xffff_0000)).collect()
}

fn formats(c: &mut Criterion) {
    let x = weights();
    let mut values = vec![0.0; x.len()];
    // Rows of 4096 columns, whose importances span four powers of ten.
    let importance: Vec<f32> = x[..4096].iter().map(|v| 10f32.powf(v * 20.0)).collect();
    for format in FORMATS {
        let spec = format.spec();
        let mut bytes = vec![0; spec.bytes_for(x.len()).expect("whole blocks")];
        let mut group = c.benchmark_group(spec.name);
        group.throughput(Throughput::Bytes(size_of_val(&x[..]) as u64));
        if format.has_reference() {
            group.bench_function("encode", |b| b.iter(|| format.encode(black_box(&x), Scales::Reference, &mut bytes)));
        }
        if format.blocks().is_some() {
            let scales = Scales::Search(Some(&importance));
            group.bench_function("search", |b| b.iter(|| format.encode(black_box(&x), scales, &mut bytes)));
        }
        group.bench_function("decode", |b| b.iter(|| format.decode(black_box(&bytes), &mut values)));
        group.finish();
    }
    let mut group = c.benchmark_group("scan");
    group.throughput(Throughput::Bytes(size_of_val(&x[..]) as u64));
    group.bench_function("finite", |b| b.iter(|| scan(black_box(&x))));
    group.finish();
}

criterion_group!(benches, formats);
criterion_main!(benches);
