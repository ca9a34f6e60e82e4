//! F32, F16, BF16 and F64: one number each, no blocks. Rounding is to nearest, ties to even.

use crate::simd::{Isa, dispatch};
use crate::store::check_lengths;
use crate::{BlockFormat, Scales, Spec, Store, bits, spec};

/// 32-bit floating point: nothing is lost.
pub struct F32;
/// IEEE half precision: 11 significant bits, at most 65504.
pub struct F16;
/// The upper half of an F32: 8 significant bits, the same range. Subnormals are kept, as ggml's reference does.
pub struct BF16;
/// 64-bit floating point: read from checkpoints, rounded to F32 at once.
pub struct F64;

impl Store for F32 {
    fn spec(&self) -> &'static Spec {
        const { spec::known("f32") }
    }

    fn encode(&self, x: &[f32], _: Scales, out: &mut [u8]) {
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

    fn blocks(&self) -> Option<&dyn BlockFormat> {
        None
    }
}

#[inline(always)]
fn encode_halves(x: &[f32], out: &mut [u8], narrow: impl Fn(f32) -> u16) {
    for (o, v) in out.as_chunks_mut().0.iter_mut().zip(x) {
        *o = narrow(*v).to_le_bytes();
    }
}

#[inline(always)]
fn decode_halves(bytes: &[u8], out: &mut [f32], widen: impl Fn(u16) -> f32) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks().0) {
        *o = widen(u16::from_le_bytes(*b));
    }
}

dispatch!(fn encode_f16(x: &[f32], out: &mut [u8]) = |x, out| encode_halves(x, out, bits::f16_from_f32));
dispatch!(fn decode_f16(b: &[u8], out: &mut [f32]) = |b, out| decode_halves(b, out, bits::f16_to_f32));
dispatch!(fn encode_bf16(x: &[f32], out: &mut [u8]) = |x, out| encode_halves(x, out, bits::bf16_from_f32));
dispatch!(fn decode_bf16(b: &[u8], out: &mut [f32]) = |b, out| decode_halves(b, out, bits::bf16_to_f32));

impl Store for F16 {
    fn spec(&self) -> &'static Spec {
        const { spec::known("f16") }
    }

    fn encode(&self, x: &[f32], _: Scales, out: &mut [u8]) {
        check_lengths(self.spec(), x.len(), out.len());
        encode_f16(Isa::best(), x, out);
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        check_lengths(self.spec(), out.len(), bytes.len());
        decode_f16(Isa::best(), bytes, out);
    }

    fn blocks(&self) -> Option<&dyn BlockFormat> {
        None
    }
}

impl Store for BF16 {
    fn spec(&self) -> &'static Spec {
        const { spec::known("bf16") }
    }

    fn encode(&self, x: &[f32], _: Scales, out: &mut [u8]) {
        check_lengths(self.spec(), x.len(), out.len());
        encode_bf16(Isa::best(), x, out);
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        check_lengths(self.spec(), out.len(), bytes.len());
        decode_bf16(Isa::best(), bytes, out);
    }

    fn blocks(&self) -> Option<&dyn BlockFormat> {
        None
    }
}

impl Store for F64 {
    fn spec(&self) -> &'static Spec {
        const { spec::known("f64") }
    }

    fn encode(&self, x: &[f32], _: Scales, out: &mut [u8]) {
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

    fn blocks(&self) -> Option<&dyn BlockFormat> {
        None
    }
}
