//! What the 256 codes of an eight-bit float stand for (OCP OFP8: E4M3 without infinities, E5M2 as IEEE has it).

use std::sync::Arc;

use super::super::source::TensorInfo;

/// The numbers of a tensor's codes, if it holds eight-bit floats that are known.
pub(super) fn table(tensor: &TensorInfo) -> Option<Arc<[f32]>> {
    match tensor.spec.name {
        "f8_e4m3" => Some((0..=255).map(|code| number(code, 3, true)).collect()),
        "f8_e5m2" => Some((0..=255).map(|code| number(code, 2, false)).collect()),
        _ => None,
    }
}

/// What a code of F8_E8M0 stands for: a power of two (OCP MX, 5.4.1).
pub(super) fn power(exponent: u8) -> f32 {
    match exponent {
        // The smallest, 2^-127, is below the normal numbers of an F32.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        e => f32::from_bits(u32::from(e) << 23),
    }
}

/// `mantissa`: its bits; the exponent has the other seven less those. `finite`: the last exponent holds numbers too,
/// and only its last code is none.
fn number(code: u8, mantissa: u32, finite: bool) -> f32 {
    let (field, fraction) = (i32::from(code & 127) >> mantissa, code & ((1 << mantissa) - 1));
    let last = (1 << (7 - mantissa)) - 1;
    let bias = last / 2;
    let part = f32::from(fraction) / (1 << mantissa) as f32;
    let size = match field {
        0 => part * 2_f32.powi(1 - bias),
        _ if field == last && !finite => match fraction {
            0 => f32::INFINITY,
            _ => f32::NAN,
        },
        _ if code & 127 == 127 && finite => f32::NAN,
        _ => (1.0 + part) * 2_f32.powi(field - bias),
    };
    if code & 128 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two() {
        assert_eq!([power(127), power(128), power(1), power(254)], [1.0, 2.0, 2_f32.powi(-126), 2_f32.powi(127)]);
        assert!(f64::from(power(0)) == 2_f64.powi(-127) && power(255).is_nan());
    }

    /// The rows of OFP8's table of extreme values.
    #[test]
    fn extremes_are_those_of_the_standard() {
        let e4m3 = |code| number(code, 3, true);
        assert_eq!([e4m3(0x7e), e4m3(0x08), e4m3(0x07), e4m3(0x01)], [448.0, 0.015625, 0.013671875, 0.001953125]);
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan() && e4m3(0x80).to_bits() == (-0.0_f32).to_bits());
        let e5m2 = |code| number(code, 2, false);
        assert_eq!(
            [e5m2(0x7b), e5m2(0x04), e5m2(0x01), e5m2(0xfc)],
            [57344.0, 2_f32.powi(-14), 2_f32.powi(-16), f32::NEG_INFINITY]
        );
        assert!(e5m2(0x7d).is_nan() && e5m2(0x7c) == f32::INFINITY);
        assert_eq!([e4m3(0x38), e5m2(0xbc)], [1.0, -1.0]);
    }
}
