//! F16 and BF16 as integer arithmetic without branches, so that kernels inline and vectorise it.
//!
//! The `half` crate has the same conversions, but its fast ones ask the processor on every call and its portable
//! ones branch; a block has one or two scales and a row of F16 nothing else. Tests hold the two together.
//! Rounding is to nearest, ties to even, subnormals kept: what ggml's conversions do.

/// 2^-14 as f32 bits: the smallest normal F16.
pub(crate) const F16_MIN_NORMAL: u32 = 113 << 23;
/// 2^16 as f32 bits: from here on everything is F16 infinity (65520 rounds to it by carrying).
const F16_OVERFLOW: u32 = 143 << 23;
const F32_INFINITY: u32 = 0xff << 23;
/// Difference of the exponent biases (127 - 15), in place.
const REBIAS: u32 = 112 << 23;

/// -0.0 in F16. As an offset it is the one number that changes no sum, not even -0.0 (+0.0 would make it +0.0).
pub(crate) const F16_NEG_ZERO: u16 = 0x8000;

/// The F16 nearest to `x`. NaN loses its payload, as in ggml.
#[inline(always)]
pub(crate) fn f16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let abs = bits & 0x7fff_ffff;
    let odd = (abs >> 13) & 1;
    let normal = abs.wrapping_sub(REBIAS).wrapping_add(0xfff + odd) >> 13;
    // One unit in the last place of 0.5 is 2^-24, the smallest F16: the addition does the rounding.
    let subnormal = (f32::from_bits(abs) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if abs < F16_MIN_NORMAL { subnormal } else { normal };
    let special = if abs > F32_INFINITY { 0x7e00 } else { 0x7c00 };
    let magnitude = if abs >= F16_OVERFLOW { special } else { finite };
    (magnitude | ((bits >> 16) & 0x8000)) as u16
}

/// The value of an F16. NaN keeps its payload and becomes quiet.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    let h = u32::from(h);
    let abs = (h & 0x7fff) << 13;
    let normal = abs + REBIAS;
    // The fraction of a subnormal beside an exponent of 2^-14, less that 2^-14.
    let subnormal = (f32::from_bits(abs + F16_MIN_NORMAL) - f32::from_bits(F16_MIN_NORMAL)).to_bits();
    let special = (abs + 2 * REBIAS) | if abs > 31 << 23 { 1 << 22 } else { 0 };
    let finite = if abs < 1 << 23 { subnormal } else { normal };
    let magnitude = if abs >= 31 << 23 { special } else { finite };
    f32::from_bits(magnitude | ((h & 0x8000) << 16))
}

/// The BF16 nearest to `x`. NaN stays NaN (its top payload bits, quiet).
#[inline(always)]
pub(crate) fn bf16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let quiet = bits | 1 << 22;
    let nan = bits & 0x7fff_ffff > F32_INFINITY;
    ((if nan { quiet } else { rounded }) >> 16) as u16
}

/// The value of a BF16.
#[inline(always)]
pub(crate) fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_decodes_as_half_does() {
        for h in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(h), half::f16::from_bits(h).to_f32());
            assert_eq!(ours.to_bits(), theirs.to_bits(), "{h:#06x}");
            assert_eq!(bf16_to_f32(h).to_bits() >> 16, u32::from(h));
        }
    }

    #[test]
    fn f32_rounds_as_half_does() {
        // Every exponent and sign with fractions around each rounding boundary, and a stride over everything else.
        let edges = [0u32, 1, 0xffe, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0x1_8000];
        let tops = [0u32, 0x40_0000, 0x7f_0000, 0x7f_e000, 0x12_2000];
        let grid = (0..512u32).flat_map(|e| {
            tops.into_iter().flat_map(move |t| edges.into_iter().map(move |f| (e << 23) | ((t + f) % (1 << 23))))
        });
        for bits in grid.chain((0..u32::MAX).step_by(2503)) {
            let x = f32::from_bits(bits);
            if x.is_nan() {
                assert!(half::f16::from_bits(f16_from_f32(x)).is_nan() && bf16_to_f32(bf16_from_f32(x)).is_nan());
                continue;
            }
            assert_eq!(f16_from_f32(x), half::f16::from_f32(x).to_bits(), "f16 of {x:e} ({bits:#010x})");
            assert_eq!(bf16_from_f32(x), half::bf16::from_f32(x).to_bits(), "bf16 of {x:e} ({bits:#010x})");
        }
    }
}
