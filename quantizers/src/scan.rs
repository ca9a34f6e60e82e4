//! One look at values before they are stored: is every one finite, and how large is the largest?
//!
//! Costs what reading the values costs. Only where something is not finite are the values counted one by one.

use crate::simd::{Isa, dispatch};
use crate::{NumError, Spec};

/// What was seen in a run of values.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Scan {
    /// How many are NaN.
    pub nan: u64,
    /// How many are infinite.
    pub inf: u64,
    /// Index of the first NaN or infinity.
    pub first: Option<u64>,
    /// Largest magnitude of the finite values; zero if there are none.
    pub max_abs: f32,
}

/// Looks at every value of `x`. The result does not depend on the machine.
pub fn scan(x: &[f32]) -> Scan {
    scan_with(Isa::best(), x)
}

fn scan_with(isa: Isa, x: &[f32]) -> Scan {
    let top = largest_bits(isa, x);
    if top < INFINITY {
        return Scan { max_abs: f32::from_bits(top as u32), ..Scan::default() };
    }
    let mut seen = Scan::default();
    for (i, v) in x.iter().enumerate() {
        if v.is_finite() {
            seen.max_abs = seen.max_abs.max(v.abs());
            continue;
        }
        seen.first.get_or_insert(i as u64);
        if v.is_nan() { seen.nan += 1 } else { seen.inf += 1 }
    }
    seen
}

impl Scan {
    /// What was seen in both: `self` of some values, `other` of later ones that begin at index `offset` of the whole.
    ///
    /// Merging in any order and grouping gives the same, as long as each offset is counted from the same start.
    pub fn merge(self, other: Scan, offset: u64) -> Scan {
        let later = other.first.map(|i| i + offset);
        Scan {
            nan: self.nan + other.nan,
            inf: self.inf + other.inf,
            first: self.first.into_iter().chain(later).min(),
            max_abs: self.max_abs.max(other.max_abs),
        }
    }

    /// Whether these values can be stored in a type and read back finite.
    ///
    /// # Errors
    /// [`NumError::NotFinite`] if a value is NaN or infinite, else [`NumError::NotRepresentable`] if the largest
    /// magnitude exceeds [`Spec::max_abs`].
    pub fn check(&self, spec: &Spec) -> Result<(), NumError> {
        if let Some(first) = self.first {
            return Err(NumError::NotFinite { nan: self.nan, inf: self.inf, first });
        }
        if self.max_abs > spec.max_abs {
            return Err(NumError::NotRepresentable { format: spec.name, found: self.max_abs, limit: spec.max_abs });
        }
        Ok(())
    }
}

/// The bits of infinity. Bits without the sign are in the order of the magnitudes, then infinity, then NaN.
const INFINITY: i32 = 0xff << 23;

// Signed numbers, because SSE2 compares no others; without the sign bit both orders agree.
#[inline(always)]
fn largest_bits_of(x: &[f32]) -> i32 {
    const LANES: usize = 32;
    let bits = |v: f32| (v.to_bits() & 0x7fff_ffff) as i32;
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut top = [0; LANES];
    for chunk in chunks {
        for (top, v) in top.iter_mut().zip(chunk) {
            *top = (*top).max(bits(*v));
        }
    }
    top.into_iter().chain(rest.iter().map(|v| bits(*v))).max().unwrap_or(0)
}

dispatch!(fn largest_bits(x: &[f32]) -> i32 = largest_bits_of);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    #[test]
    fn finds_and_counts_what_is_not_finite_wherever_it_is() {
        for isa in Isa::present() {
            for len in [1, 7, 31, 32, 33, 100] {
                for at in 0..len {
                    let mut x: Vec<f32> = (0..len).map(|i| -(i as f32)).collect();
                    let finite = scan_with(isa, &x);
                    assert_eq!(finite, Scan { max_abs: (len - 1) as f32, ..Scan::default() });
                    x[at] = f32::NEG_INFINITY;
                    x[len - 1] = f32::NAN;
                    let seen = scan_with(isa, &x);
                    let inf = u64::from(at != len - 1);
                    assert_eq!((seen.nan, seen.inf, seen.first), (1, inf, Some(at as u64)), "{isa:?} {len} {at}");
                    assert!(seen.max_abs.is_finite());
                }
            }
        }
    }

    #[test]
    fn merging_parts_is_scanning_the_whole() {
        let mut x: Vec<f32> = (0..100).map(|i| (i as f32 - 30.0) * 1e30).collect();
        for poison in [None, Some(5), Some(40), Some(99)] {
            if let Some(at) = poison {
                x[at] = f32::NAN;
            }
            for cut in [0, 5, 6, 50, 100] {
                let (a, b) = x.split_at(cut);
                assert_eq!(scan(a).merge(scan(b), cut as u64), scan(&x), "cut at {cut}");
            }
        }
        assert_eq!(scan(&[]), Scan::default());
    }

    #[test]
    fn check_names_the_trouble() {
        let f16 = spec::by_name("f16").expect("a row");
        assert_eq!(scan(&[65504.0]).check(f16), Ok(()));
        let large = scan(&[1.0, -65505.0]).check(f16).expect_err("too large");
        assert_eq!(large.to_string(), "magnitude 6.5505e4 is more than f16 can hold (at most 6.5504e4)");
        let nan = scan(&[1.0, f32::NAN, f32::INFINITY]).check(f16).expect_err("not finite");
        assert_eq!(nan, NumError::NotFinite { nan: 1, inf: 1, first: 1 });
    }
}
