//! YaRN: short waves stay, long ones are stretched, with a ramp between; and sine and cosine grow.
//!
//! "Short" is what turns `beta_fast` times within the original context, "long" what turns `beta_slow` times.

use std::f64::consts::PI;

use super::section::Section;
use crate::Result;

/// Turns within the original context, from which on a wave stays as it is.
pub(crate) const FAST: f32 = 32.0;
/// Turns below which it is stretched in full.
pub(crate) const SLOW: f32 = 1.0;

/// The settings of a stretched rotary embedding, but for what sine and cosine are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// By how much long waves are stretched; at least one.
    pub factor: f32,
    /// Context that the model was first trained with.
    pub original_context: usize,
    /// Turns within that context, from which on a wave stays as it is.
    pub beta_fast: f32,
    /// Turns below which it is stretched in full.
    pub beta_slow: f32,
    /// Whether the ends of the ramp are at whole pairs of dimensions.
    pub whole: bool,
}

impl Yarn {
    /// What the frequency of pair `i` of `dims` rotating numbers is divided by.
    pub fn divisor(&self, base: f32, dims: usize, i: usize) -> f64 {
        let [low, high] = self.ramp(base, dims);
        let stretched = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        1.0 / (stretched / f64::from(self.factor) + (1.0 - stretched))
    }

    /// The pairs at which the ramp begins and ends.
    fn ramp(&self, base: f32, dims: usize) -> [f64; 2] {
        // Not f64::ln, which is the system's: factors may be written to files.
        let pair = |turns: f32| {
            let waves = self.original_context as f64 / (f64::from(turns) * 2.0 * PI);
            dims as f64 * libm::log(waves) / (2.0 * libm::log(f64::from(base)))
        };
        let (low, high) = (pair(self.beta_fast), pair(self.beta_slow));
        let (low, high) = if self.whole { (low.floor(), high.ceil()) } else { (low, high) };
        [low.max(0.0), high.min(dims as f64 - 1.0)]
    }

    /// Whether all that decides the ramp is what llama.cpp takes for granted: for most architectures it reads no key.
    pub(crate) fn is_usual(&self) -> bool {
        self.whole && self.beta_fast == FAST && self.beta_slow == SLOW
    }

    /// Says what is wrong with settings that stretch nothing sensibly.
    pub(crate) fn check(&self, base: f32, dims: usize) -> Result<(), (&'static str, String)> {
        if self.factor.is_nan() || self.factor < 1.0 {
            return Err(("factor", format!("must be at least one, found {}", self.factor)));
        }
        if base <= 1.0 {
            return Err(("factor", format!("waves of base {base} cannot be stretched")));
        }
        let [low, high] = self.ramp(base, dims);
        if low > high {
            let what = format!("{} is too short for {dims} rotating dimensions of base {base}", self.original_context);
            return Err(("original_max_position_embeddings", what));
        }
        Ok(())
    }
}

/// How much sine and cosine grow with a factor, unless a model says otherwise.
pub(crate) fn magnitude(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * libm::log(factor) + 1.0 }
}

/// What config.json says, and what sine and cosine are multiplied by.
pub(super) fn read(s: &Section<'_>, original: usize, context: usize) -> Result<(Yarn, f64)> {
    let factor = match s.map.get("factor") {
        // A factor of null is how a configuration leaves it to the contexts.
        Some(v) if v.is_null() => context as f64 / original as f64,
        _ => s.number("factor")?,
    };
    let own = |name: &str| Ok::<_, crate::Error>(s.opt_number(name)?.filter(|&x| x != 0.0));
    let grown = match (s.opt_number("attention_factor")?, own("mscale")?, own("mscale_all_dim")?) {
        (Some(x), ..) if x > 0.0 => x,
        (Some(x), ..) => return Err(s.error("attention_factor", format!("must be above zero, found {x}"))),
        (None, Some(over), Some(under)) => magnitude(factor, over) / magnitude(factor, under),
        (None, ..) => magnitude(factor, 1.0),
    };
    let whole = match s.map.get("truncate").filter(|v| !v.is_null()) {
        None => true,
        Some(v) => v.as_bool().ok_or_else(|| s.error("truncate", format!("must be true or false, found {v}")))?,
    };
    let turns = |name: &str, usual: f32| match own(name)? {
        None => Ok(usual),
        Some(x) if x > 0.0 => Ok(x as f32),
        Some(x) => Err(s.error(name, format!("must be above zero, found {x}"))),
    };
    let yarn = Yarn {
        factor: factor as f32,
        original_context: original,
        beta_fast: turns("beta_fast", FAST)?,
        beta_slow: turns("beta_slow", SLOW)?,
        whole,
    };
    Ok((yarn, grown))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QWEN: Yarn = Yarn { factor: 4.0, original_context: 32768, beta_fast: FAST, beta_slow: SLOW, whole: true };

    /// The frequencies that transformers 5.24 computes for heads of 128 numbers, base 1e6.
    #[test]
    fn divisors_are_those_of_transformers() {
        let divisor = |i| QWEN.divisor(1e6, 128, i);
        assert_eq!((divisor(0), divisor(23), divisor(40), divisor(63)), (1.0, 1.0, 4.0, 4.0));
        // 24 is the second of the 17 steps from 23 to 40.
        assert!((divisor(24) - 1.0 / (1.0 - 0.75 / 17.0)).abs() < 1e-12, "{}", divisor(24));
    }

    #[test]
    fn what_stretches_nothing_sensibly_is_said() {
        assert!(QWEN.check(1e6, 128).is_ok());
        assert_eq!(Yarn { factor: 0.5, ..QWEN }.check(1e6, 128).unwrap_err().0, "factor");
        let short = Yarn { original_context: 1, ..QWEN };
        assert_eq!(short.check(1e6, 128).unwrap_err().0, "original_max_position_embeddings");
    }
}
