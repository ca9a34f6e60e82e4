//! Llama 3's stretching: factors on frequencies, from four settings and back.

use std::f32::consts::PI;

use super::section::Section;
use crate::Result;
use crate::model::Rope;

/// Long waves are stretched by `factor`, short ones not at all, with a ramp between.
pub(super) fn factors(s: &Section<'_>, original: usize, rope: &Rope) -> Result<Vec<f32>> {
    let (factor, low, high) = (s.number("factor")?, s.number("low_freq_factor")?, s.number("high_freq_factor")?);
    Ok(computed([factor, low, high, original as f64], rope))
}

/// The wave length of a pair of rotary dimensions.
fn wave(rope: &Rope, i: usize) -> f32 {
    // Not f32::powf, which is the system's and differs between systems in the last bit.
    let frequency = 1.0 / libm::pow(f64::from(rope.base), f64::from((2 * i) as f32 / rope.dims as f32)) as f32;
    2.0 * PI / frequency
}

/// Computed in f32 step by step as the reference converter does, whose files hold these very numbers. Settings: factor,
/// low and high frequency factor, original context.
fn computed([factor, low, high, original]: [f64; 4], rope: &Rope) -> Vec<f32> {
    let (low_wave, high_wave) = ((original / low) as f32, (original / high) as f32);
    let one = |i: usize| {
        let wave = wave(rope, i);
        if wave < high_wave {
            1.0
        } else if wave > low_wave {
            factor as f32
        } else {
            let smooth = (original as f32 / wave - low as f32) / (high - low) as f32;
            1.0 / ((1.0 - smooth) / factor as f32 + smooth)
        }
    };
    (0..rope.dims / 2).map(one).collect()
}

/// Settings of Llama 3 that give these factors, as [`computed`] takes them: those of published models, which differ in
/// the factor and the original context, or else what the factors between the ends of the ramp say (only ratios of the
/// last three count).
pub(crate) fn llama3_settings(factors: &[f32], rope: &Rope) -> Option<[f64; 4]> {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let gives = |settings: &[f64; 4]| {
        let made = computed(*settings, rope);
        made.len() == factors.len() && made.iter().zip(factors).all(|(a, b)| (a - b).abs() <= 1e-5 * b)
    };
    let published = (4..=24).rev().map(|k| [factor, 1.0, 4.0, f64::from(1 << k)]);
    if let Some(found) = published.into_iter().find(|settings| gives(settings)) {
        return Some(found);
    }
    // On the ramp 1 / f is linear in 1 / wave.
    let share = |f: f32| (1.0 / f64::from(f) - 1.0 / factor) / (1.0 - 1.0 / factor);
    let ramp: Vec<(f64, f64)> = factors
        .iter()
        .enumerate()
        .filter(|(_, f)| **f > 1.0 && f64::from(**f) < factor)
        .map(|(i, f)| (1.0 / f64::from(wave(rope, i)), share(*f)))
        .collect();
    let (first, last) = (ramp.first()?, ramp.last()?);
    let slope = (last.1 - first.1) / (last.0 - first.0);
    let high = 1.0 + 1.0 / (slope * first.0 - first.1);
    let settings = [factor, 1.0, (high * 1e4).round() / 1e4, (slope * (high - 1.0)).round()];
    (settings.iter().all(|x| x.is_finite() && *x > 0.0) && gives(&settings)).then_some(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RopeScaling;

    fn rope(dims: usize, base: f32) -> Rope {
        Rope { dims, base, window_base: None, scaling: RopeScaling::None, magnitude: 1.0 }
    }

    #[test]
    fn settings_are_found_in_the_factors_that_they_give() {
        for (dims, base, settings) in [
            (128, 500_000.0, [8.0, 1.0, 4.0, 8192.0]),
            (64, 500_000.0, [32.0, 1.0, 4.0, 8192.0]),
            (16, 500_000.0, [8.0, 1.0, 4.0, 64.0]),
            (128, 10_000.0, [16.0, 1.0, 3.0, 3000.0]),
        ] {
            let rope = rope(dims, base);
            let factors = computed(settings, &rope);
            let found = llama3_settings(&factors, &rope).expect("settings");
            let again = computed(found, &rope);
            assert!(again.iter().zip(&factors).all(|(a, b)| (a - b).abs() <= 1e-5 * b), "{settings:?}: {found:?}");
        }
        assert!(llama3_settings(&[3.0, 1.0, 2.0, 5.0], &rope(8, 1e4)).is_none());
    }
}
