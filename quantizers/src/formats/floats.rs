//! F32, F16, BF16 and F64: one number each, no blocks. Rounding is to nearest, ties to even.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::format::check_lengths;
use crate::{Format, Spec, spec};

/// 32-bit floating point: nothing is lost.
pub struct F32;
/// IEEE half precision: 11 significant bits, at most 65504.
pub struct F16;
/// The upper half of an F32: 8 significant bits, the same range.
pub struct BF16;
/// 64-bit floating point: read from checkpoints, rounded to F32 at once.
pub struct F64;

fn named(name: &str) -> &'static Spec {
    spec::by_name(name).expect("a row of SPECS")
}

impl Format for F32 {
    fn spec(&self) -> &'static Spec {
        named("f32")
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        check_lengths(self.spec(), x.len(), out.len());
        for (o, v) in out.as_chunks_mut().0.iter_mut().zip(x) {
            *o = v.to_le_bytes();
        }
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        check_lengths(self.spec(), out.len(), bytes.len());
        for (o, b) in out.iter_mut().zip(bytes.as_chunks().0) {
            *o = f32::from_le_bytes(*b);
        }
    }
}

/// Numbers converted at a time: a buffer that stays in the first-level cache.
const CHUNK: usize = 1024;

impl Format for F16 {
    fn spec(&self) -> &'static Spec {
        named("f16")
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        check_lengths(self.spec(), x.len(), out.len());
        let mut buf = [f16::ZERO; CHUNK];
        for (x, out) in x.chunks(CHUNK).zip(out.chunks_mut(2 * CHUNK)) {
            let buf = &mut buf[..x.len()];
            buf.convert_from_f32_slice(x);
            for (o, v) in out.as_chunks_mut().0.iter_mut().zip(buf.iter()) {
                *o = v.to_le_bytes();
            }
        }
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        check_lengths(self.spec(), out.len(), bytes.len());
        let mut buf = [f16::ZERO; CHUNK];
        for (bytes, out) in bytes.chunks(2 * CHUNK).zip(out.chunks_mut(CHUNK)) {
            let buf = &mut buf[..out.len()];
            for (v, b) in buf.iter_mut().zip(bytes.as_chunks().0) {
                *v = f16::from_le_bytes(*b);
            }
            buf.convert_to_f32_slice(out);
        }
    }
}

impl Format for BF16 {
    fn spec(&self) -> &'static Spec {
        named("bf16")
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        check_lengths(self.spec(), x.len(), out.len());
        for (o, v) in out.as_chunks_mut().0.iter_mut().zip(x) {
            *o = bf16::from_f32(*v).to_le_bytes();
        }
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        check_lengths(self.spec(), out.len(), bytes.len());
        for (o, b) in out.iter_mut().zip(bytes.as_chunks().0) {
            *o = bf16::from_le_bytes(*b).to_f32();
        }
    }
}

impl Format for F64 {
    fn spec(&self) -> &'static Spec {
        named("f64")
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        check_lengths(self.spec(), x.len(), out.len());
        for (o, v) in out.as_chunks_mut().0.iter_mut().zip(x) {
            *o = f64::from(*v).to_le_bytes();
        }
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        check_lengths(self.spec(), out.len(), bytes.len());
        for (o, b) in out.iter_mut().zip(bytes.as_chunks().0) {
            *o = f64::from_le_bytes(*b) as f32;
        }
    }
}
