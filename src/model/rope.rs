//! Rotary embeddings as config.json describes them: the old way (`rope_theta`, `rope_scaling`) and that of
//! transformers 5 (`rope_parameters`, which may hold one set per layer type).

use std::f32::consts::PI;

use serde_json::{Map, Value as Json};

use super::usual::Usual;
use super::{Rope, RopeScaling};
use crate::checkpoint::config::HfConfig;
use crate::{Error, Result};

/// One object of rotary settings, and the key it stood under.
struct Section<'a> {
    config: &'a HfConfig,
    key: &'static str,
    map: &'a Map<String, Json>,
}

impl Section<'_> {
    fn error(&self, name: &str, what: impl Into<String>) -> Error {
        self.config.error(&format!("{}.{name}", self.key), what.into())
    }

    fn unsupported(&self, name: &str, what: impl Into<String>) -> Error {
        self.config.unsupported(&format!("{}.{name}", self.key), what)
    }

    fn opt_number(&self, name: &str) -> Result<Option<f64>> {
        match self.map.get(name).filter(|v| !v.is_null()) {
            None => Ok(None),
            Some(v) => match v.as_f64().filter(|x| x.is_finite()) {
                Some(x) => Ok(Some(x)),
                None => Err(self.error(name, format!("must be a number, found {v}"))),
            },
        }
    }

    /// A number above zero.
    fn number(&self, name: &str) -> Result<f64> {
        match self.opt_number(name)? {
            Some(x) if x > 0.0 => Ok(x),
            Some(x) => Err(self.error(name, format!("must be above zero, found {x}"))),
            None => Err(self.error(name, "missing")),
        }
    }

    fn numbers(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let read = |v: &Json| v.as_f64().map(|x| x as f32).filter(|x| x.is_finite() && *x > 0.0);
        let list = self.map.get(name).and_then(Json::as_array);
        let list: Option<Vec<f32>> = list.and_then(|l| l.iter().map(read).collect());
        list.filter(|l| l.len() == len)
            .ok_or_else(|| self.error(name, format!("must be a list of {len} numbers above zero")))
    }

    fn kind(&self) -> Result<&str> {
        match self.map.get("rope_type").or_else(|| self.map.get("type")) {
            Some(v) => v.as_str().ok_or_else(|| self.error("rope_type", format!("must be a string, found {v}"))),
            None if self.map.contains_key("factor") => Err(self.error("rope_type", "missing")),
            None => Ok("default"),
        }
    }
}

/// Reads the rotary embedding of heads of `head_dim` numbers. Where there is a set per layer type, this is the one of
/// `full_attention`; see [`sliding_base`] for the other.
pub(super) fn read(c: &HfConfig, usual: &Usual, head_dim: usize, context: usize) -> Result<Rope> {
    let mut section = None;
    for key in ["rope_parameters", "rope_scaling"] {
        if let Some(map) = c.opt_object(key)? {
            let map = map.get("full_attention").and_then(Json::as_object).unwrap_or(map);
            section = Some(Section { config: c, key, map });
            break;
        }
    }
    let within = |name: &str| section.as_ref().map_or(Ok(None), |s| s.opt_number(name));
    let base = within("rope_theta")?.or(c.opt_number("rope_theta")?).unwrap_or(usual.rope_base);
    if base <= 0.0 {
        return Err(c.error("rope_theta", format!("must be above zero, found {base}")));
    }
    let part = within("partial_rotary_factor")?.or(c.opt_number("partial_rotary_factor")?).unwrap_or(1.0);
    if part != 1.0 && !(usual.partial_rotary && part > 0.0 && part < 1.0) {
        return Err(c.unsupported("partial_rotary_factor", format!("{part} is not supported for this architecture")));
    }
    let dims = (head_dim as f64 * part) as usize;
    if dims == 0 || !dims.is_multiple_of(2) {
        return Err(c.error("head_dim", format!("{dims} rotary dimensions; they rotate in pairs")));
    }
    let mut rope = Rope { dims, base: base as f32, window_base: None, scaling: RopeScaling::None };
    if let Some(s) = section {
        rope.scaling = scaling(&s, usual, &rope, context)?;
    }
    Ok(rope)
}

fn scaling(s: &Section<'_>, usual: &Usual, rope: &Rope, context: usize) -> Result<RopeScaling> {
    // "su" is what the first Phi-3 files call longrope.
    let kind = match s.kind()? {
        "su" => "longrope",
        kind => kind,
    };
    if kind != "default" && !usual.rope_types.contains(&kind) {
        let known = match usual.rope_types {
            [] => "none".to_owned(),
            known => known.join(", "),
        };
        return Err(
            s.unsupported("rope_type", format!("{kind:?} is not supported; this architecture supports {known}"))
        );
    }
    match kind {
        "linear" => Ok(RopeScaling::Linear(s.number("factor")? as f32)),
        "llama3" => Ok(RopeScaling::Factors(Some(llama3_factors(s, rope)?))),
        "longrope" => long_factors(s, rope, context),
        _ => Ok(RopeScaling::None),
    }
}

/// Llama 3: long waves are stretched by `factor`, short ones not at all, with a ramp between.
fn llama3_factors(s: &Section<'_>, rope: &Rope) -> Result<Vec<f32>> {
    let (factor, low, high) = (s.number("factor")?, s.number("low_freq_factor")?, s.number("high_freq_factor")?);
    let original = s.number("original_max_position_embeddings")?;
    Ok(llama3([factor, low, high, original], rope))
}

/// The wave length of a pair of rotary dimensions.
fn wave(rope: &Rope, i: usize) -> f32 {
    // Not f32::powf, which is the system's and differs between systems in the last bit.
    let frequency = 1.0 / libm::pow(f64::from(rope.base), f64::from((2 * i) as f32 / rope.dims as f32)) as f32;
    2.0 * PI / frequency
}

/// Computed in f32 step by step as the reference converter does, whose files hold these very numbers. Settings: factor,
/// low and high frequency factor, original context.
fn llama3([factor, low, high, original]: [f64; 4], rope: &Rope) -> Vec<f32> {
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

/// Settings of Llama 3 that give these factors, as [`llama3`] takes them: those of published models, which differ in
/// the factor and the original context, or else what the factors between the ends of the ramp say (only ratios of the
/// last three count).
pub(super) fn llama3_settings(factors: &[f32], rope: &Rope) -> Option<[f64; 4]> {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let gives = |settings: &[f64; 4]| {
        let made = llama3(*settings, rope);
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

/// How much sine and cosine grow where a context is stretched.
pub(super) fn long_magnitude(context: usize, original: usize) -> f64 {
    let stretch = context as f64 / original as f64;
    if stretch > 1.0 { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() } else { 1.0 }
}

/// Phi-3: given factors per frequency, and sine and cosine grow a little with the stretch.
fn long_factors(s: &Section<'_>, rope: &Rope, context: usize) -> Result<RopeScaling> {
    let original = original_context(s.config)?;
    let (stretch, magnitude) = (context as f64 / original as f64, long_magnitude(context, original));
    for (name, ours) in [("attention_factor", magnitude), ("factor", stretch)] {
        if let Some(found) = s.opt_number(name)?
            && (found - ours).abs() > 1e-6 * ours
        {
            let what = format!("{found} is not supported, only {ours}, which follows from the context lengths");
            return Err(s.unsupported(name, what));
        }
    }
    for name in ["short_mscale", "long_mscale"] {
        if s.opt_number(name)?.is_some() {
            return Err(s.unsupported(name, "is not supported"));
        }
    }
    Ok(RopeScaling::Long {
        long: Some(s.numbers("long_factor", rope.dims / 2)?),
        short: Some(s.numbers("short_factor", rope.dims / 2)?),
        original_context: original,
        magnitude: magnitude as f32,
    })
}

/// The context Phi-3 was first trained with (transformers' default: 4096).
pub(super) fn original_context(c: &HfConfig) -> Result<usize> {
    let key = "original_max_position_embeddings";
    for section in ["rope_parameters", "rope_scaling"] {
        if let Some(v) = c.opt_object(section)?.and_then(|m| m.get(key)) {
            let read = v.as_u64().filter(|&n| n > 1 && n <= u64::from(u32::MAX)).map(|n| n as usize);
            return read.ok_or_else(|| c.error(key, format!("must be an integer above one, found {v}")));
        }
    }
    Ok(c.opt_size(key)?.unwrap_or(4096).max(2))
}

/// The base in blocks with a sliding window (Gemma 3; transformers' default: 10000).
pub(super) fn sliding_base(c: &HfConfig) -> Result<f32> {
    let nested = c.opt_object("rope_parameters")?.and_then(|m| m.get("sliding_attention")).and_then(Json::as_object);
    let base = match nested {
        None => c.opt_number("rope_local_base_freq")?,
        Some(map) => {
            let s = Section { config: c, key: "rope_parameters.sliding_attention", map };
            if s.kind()? != "default" {
                return Err(s.unsupported("rope_type", "only \"default\" is supported in blocks with a sliding window"));
            }
            s.opt_number("rope_theta")?
        }
    };
    Ok(base.unwrap_or(10000.0) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_in_the_factors_that_they_give() {
        for (dims, base, settings) in [
            (128, 500_000.0, [8.0, 1.0, 4.0, 8192.0]),
            (64, 500_000.0, [32.0, 1.0, 4.0, 8192.0]),
            (16, 500_000.0, [8.0, 1.0, 4.0, 64.0]),
            (128, 10_000.0, [16.0, 1.0, 3.0, 3000.0]),
        ] {
            let rope = Rope { dims, base, window_base: None, scaling: RopeScaling::None };
            let factors = llama3(settings, &rope);
            let found = llama3_settings(&factors, &rope).expect("settings");
            let again = llama3(found, &rope);
            assert!(again.iter().zip(&factors).all(|(a, b)| (a - b).abs() <= 1e-5 * b), "{settings:?}: {found:?}");
        }
        let rope = Rope { dims: 8, base: 1e4, window_base: None, scaling: RopeScaling::None };
        assert!(llama3_settings(&[3.0, 1.0, 2.0, 5.0], &rope).is_none());
    }
}
