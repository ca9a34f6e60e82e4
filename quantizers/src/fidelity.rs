//! How much of weights is left once they are stored, and what their being small costs.
//!
//! Half precision ends at 2^-24: below a certain size no scale is fine enough, and a type loses more of the same
//! numbers than it would if all were larger by a power of two. How much more is measured, not derived: they are stored
//! so too.

use crate::simd::{Isa, dispatch};
use crate::{Scales, Store};

/// Sums over weights of a matrix. All are squares; sums of parts add up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Fidelity {
    /// Of the weights that were looked at.
    pub square: f64,
    /// Of their errors as they were stored.
    pub error: f64,
    /// Of small ones' errors if each is rounded to the nearest.
    pub nearest: f64,
    /// The same if they were larger by a power of two.
    pub usual: f64,
    /// At least so much of weights that nobody looked at.
    pub beside: f64,
}

/// A matrix that is too small for its type has lost this many times the square that it would if it were larger: its
/// root, 19 % more error, is what a quarter of a bit less per weight does.
const TOO_MUCH: f64 = std::f64::consts::SQRT_2;

impl Fidelity {
    /// Of weights and what was stored of them.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn of(x: &[f32], stored: &[f32]) -> Fidelity {
        assert_eq!(x.len(), stored.len(), "weights and what was stored of them");
        let (square, error) = sums(Isa::best(), x, stored);
        Fidelity { square, error, ..Fidelity::default() }
    }

    /// Of weights that nobody looked at. `max_abs`: their largest magnitude.
    pub fn unseen(max_abs: f32) -> Fidelity {
        Fidelity { beside: f64::from(max_abs).powi(2), ..Fidelity::default() }
    }

    /// The same with what a type makes of these very weights on their own and of larger ones; as it was if they are
    /// [large enough](crate::Spec::fine). `x`: whole rows, `max_abs`: their largest magnitude.
    ///
    /// # Panics
    /// As [`Store::encode`].
    pub fn compared(self, store: &dyn Store, x: &[f32], max_abs: f32, scales: Scales) -> Fidelity {
        if max_abs == 0.0 || max_abs >= store.spec().fine {
            return self;
        }
        let mut bytes = vec![0; store.spec().bytes_for(x.len()).expect("whole blocks")];
        let (mut larger, mut back) = (x.to_vec(), vec![0.0; x.len()]);
        let mut lost = |x: &[f32]| {
            store.encode(x, scales, &mut bytes);
            store.decode(&bytes, &mut back);
            sums(Isa::best(), x, &back)
        };
        let (_, nearest) = lost(x);
        // Two powers of two, since one may be more than an F32 holds.
        let up = (-max_abs.log2().floor() / 2.0).ceil().exp2();
        larger.iter_mut().for_each(|v| *v = *v * up * up);
        let (square, error) = lost(&larger);
        let usual = if square > 0.0 { error / square * self.square } else { 0.0 };
        Fidelity { nearest: self.nearest + nearest, usual: self.usual + usual, ..self }
    }

    /// Of both.
    pub fn and(self, other: Fidelity) -> Fidelity {
        Fidelity {
            square: self.square + other.square,
            error: self.error + other.error,
            nearest: self.nearest + other.nearest,
            usual: self.usual + other.usual,
            beside: self.beside + other.beside,
        }
    }

    /// Root of the mean squared error of what was looked at, in units of the root mean square of all weights; at most
    /// so much, where some were not looked at.
    pub fn relative(&self) -> f64 {
        self.share(self.error)
    }

    /// If the weights are too small for the type, the relative errors that rounding to nearest makes of them, and
    /// would make of larger ones.
    pub fn too_small(&self) -> Option<(f64, f64)> {
        (self.nearest > TOO_MUCH * self.usual).then(|| (self.share(self.nearest), self.share(self.usual)))
    }

    fn share(&self, error: f64) -> f64 {
        let whole = self.square + self.beside;
        if whole > 0.0 { (error / whole).sqrt() } else { 0.0 }
    }
}

/// The sums in the order of the fields, for files.
impl From<Fidelity> for [f64; 5] {
    fn from(f: Fidelity) -> [f64; 5] {
        [f.square, f.error, f.nearest, f.usual, f.beside]
    }
}

impl From<[f64; 5]> for Fidelity {
    fn from([square, error, nearest, usual, beside]: [f64; 5]) -> Fidelity {
        Fidelity { square, error, nearest, usual, beside }
    }
}

/// Numbers that are summed beside each other.
const LANES: usize = 8;

/// The sum of squares of `x`, and of its differences from `y`.
#[inline(always)]
fn sums_of(x: &[f32], y: &[f32]) -> (f64, f64) {
    let (mut squares, mut errors) = ([0.0; LANES], [0.0; LANES]);
    let mut one = |l: usize, x: f32, y: f32| {
        let (x, e) = (f64::from(x), f64::from(x) - f64::from(y));
        squares[l] += x * x;
        errors[l] += e * e;
    };
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for l in 0..LANES {
            one(l, x[l], y[l]);
        }
    }
    x_rest.iter().zip(y_rest).for_each(|(x, y)| one(0, *x, *y));
    (squares.iter().sum(), errors.iter().sum())
}

dispatch!(fn sums(x: &[f32], y: &[f32]) -> (f64, f64) = sums_of);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats;

    fn weights(n: usize, size: f32) -> Vec<f32> {
        let mut state = 5_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (0..4).map(|_| next()).sum::<f32>() * size).collect()
    }

    fn stored(name: &str, x: &[f32]) -> Fidelity {
        let store = formats::by_name(name).expect("a row");
        let (mut bytes, mut back) = (vec![0; store.spec().bytes_for(x.len()).unwrap()], vec![0.0; x.len()]);
        store.encode(x, Scales::Search(None), &mut bytes);
        store.decode(&bytes, &mut back);
        let max_abs = x.iter().fold(0.0_f32, |top, v| top.max(v.abs()));
        Fidelity::of(x, &back).compared(store, x, max_abs, Scales::Search(None))
    }

    #[test]
    fn sums_are_those_of_the_definition_in_every_instruction_set() {
        let (x, y) = (weights(1003, 1.0), weights(2006, 3.0)[1003..].to_vec());
        let square: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
        let error: f64 = x.iter().zip(&y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
        for isa in Isa::present() {
            let found = sums(isa, &x, &y);
            assert!((found.0 / square - 1.0).abs() < 1e-12 && (found.1 / error - 1.0).abs() < 1e-12, "{isa:?}");
            assert_eq!(found, sums(Isa::BASELINE, &x, &y));
        }
    }

    #[test]
    fn small_weights_are_told_from_small_enough_ones() {
        for name in ["q4_0", "q6_k", "q8_0", "f16"] {
            let large = stored(name, &weights(1024, 1.0));
            assert_eq!((large.nearest, large.usual, large.too_small()), (0.0, 0.0, None), "{name}");
            let small = stored(name, &weights(1024, 2f32.powi(-26)));
            let (found, usual) = small.too_small().unwrap_or_else(|| panic!("{name}: {small:?}"));
            assert_eq!(found, small.relative(), "{name}: nothing but rounding to nearest was done");
            assert!((usual / large.relative() - 1.0).abs() < 1e-6, "{name}: {usual} and {}", large.relative());
        }
        // Such a type has scales for them.
        let small = stored("mxfp4", &weights(1024, 2f32.powi(-110)));
        assert!(small.usual > 0.0 && small.too_small().is_none(), "{small:?}");
        // Of which the whole does not mind.
        let whole = stored("q6_k", &weights(1024, 2f32.powi(-26))).and(Fidelity::unseen(1.0));
        assert!(whole.too_small().is_some_and(|(found, _)| found < 1e-6), "{whole:?}");
        assert_eq!(Fidelity::default().relative(), 0.0);
    }
}
