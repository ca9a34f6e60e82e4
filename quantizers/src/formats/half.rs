//! Half precision numbers of a grid, as blocks store them.

use crate::bits::{f16_from_f32, f16_to_f32};

/// The F16 bits of a grid's number.
///
/// # Panics
/// If it is not an F16: such a grid did not come from this format and would be stored wrong.
pub(super) fn stored(name: &str, what: &str, x: f32) -> u16 {
    let bits = f16_from_f32(x);
    assert_eq!(f16_to_f32(bits).to_bits(), x.to_bits(), "{name}: the grid's {what} is no half-precision number");
    bits
}
