//! Rotary embeddings as config.json describes them: the old way (`rope_theta`, `rope_scaling`) and that of
//! transformers 5 (`rope_parameters`, which may hold one set per layer type).

use super::usual::Usual;
use super::{Rope, RopeScaling};
use crate::Result;
use crate::checkpoint::config::HfConfig;

mod llama3;
mod remarks;
mod section;
pub(super) mod yarn;

pub(super) use llama3::llama3_settings;
pub(super) use remarks::{remarks, unread};
pub(super) use section::ORIGINAL_CONTEXT;
use section::Section;
pub use yarn::Yarn;

/// Reads the rotary embedding of heads of `head_dim` numbers. Where there is a set per layer type, this is the one of
/// `full_attention`; see [`sliding_base`] for the other.
pub(super) fn read(c: &HfConfig, usual: &Usual, head_dim: usize, context: usize) -> Result<Rope> {
    let section = Section::of(c)?;
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
    let mut rope = Rope { dims, base: base as f32, window_base: None, scaling: RopeScaling::None, magnitude: 1.0 };
    if let Some(s) = section {
        stretch(&s, usual, &mut rope, context)?;
    }
    Ok(rope)
}

/// Reads how it is stretched, if it is.
fn stretch(s: &Section<'_>, usual: &Usual, rope: &mut Rope, context: usize) -> Result<()> {
    let known = |kind: &str| usual.rope_types.contains(&kind);
    let kind = match s.kind()? {
        // "su" is what the first Phi-3 files call longrope, and "yarn" what transformers takes for it there.
        "su" => "longrope",
        "yarn" if !known("yarn") && known("longrope") => "longrope",
        kind => kind,
    };
    if kind != "default" && !known(kind) {
        let known = match usual.rope_types {
            [] => "none".to_owned(),
            known => known.join(", "),
        };
        return Err(
            s.unsupported("rope_type", format!("{kind:?} is not supported; this architecture supports {known}"))
        );
    }
    let original = || s.original_context(usual.original_context, context);
    match kind {
        "linear" => rope.scaling = RopeScaling::Linear(s.number("factor")? as f32),
        "llama3" => rope.scaling = RopeScaling::Factors(Some(llama3::factors(s, original()?, rope)?)),
        "longrope" => long_factors(s, original()?, rope, context)?,
        "yarn" => {
            let (yarn, magnitude) = yarn::read(s, original()?, context)?;
            yarn.check(rope.base, rope.dims).map_err(|(name, what)| s.error(name, what))?;
            rope.magnitude = magnitude as f32;
            rope.scaling = yarn_scaling(s, usual, rope, yarn)?;
        }
        // Up to the context that the model was made for, a dynamic base is the base.
        _ => {}
    }
    Ok(())
}

/// YaRN itself, or, where its ramp is another than llama.cpp's, its factors one by one.
fn yarn_scaling(s: &Section<'_>, usual: &Usual, rope: &Rope, yarn: Yarn) -> Result<RopeScaling> {
    if yarn.is_usual() {
        return Ok(RopeScaling::Yarn(yarn));
    }
    if usual.rope_types.contains(&"llama3") {
        let factors = (0..rope.dims / 2).map(|i| yarn.divisor(rope.base, rope.dims, i) as f32);
        return Ok(RopeScaling::Factors(Some(factors.collect())));
    }
    let (name, found, usual) = match yarn {
        Yarn { whole: false, .. } => ("truncate", "false".to_owned(), "true".to_owned()),
        Yarn { beta_fast, .. } if beta_fast != yarn::FAST => {
            ("beta_fast", beta_fast.to_string(), yarn::FAST.to_string())
        }
        Yarn { beta_slow, .. } => ("beta_slow", beta_slow.to_string(), yarn::SLOW.to_string()),
    };
    let what = format!(
        "{found} is not supported: llama.cpp reads no key for it here and takes {usual}; remove {} to use the model \
         within its original context only",
        s.key
    );
    Err(s.unsupported(name, what))
}

/// How much sine and cosine grow where a context is stretched.
pub(super) fn long_magnitude(stretch: f64, original: usize) -> f64 {
    if stretch > 1.0 { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() } else { 1.0 }
}

/// Given factors per frequency, and sine and cosine grow a little with the stretch.
fn long_factors(s: &Section<'_>, original: usize, rope: &mut Rope, context: usize) -> Result<()> {
    for name in ["short_mscale", "long_mscale"] {
        if s.opt_number(name)?.is_some() {
            return Err(s.unsupported(name, "is not supported"));
        }
    }
    if original < 2 {
        return Err(s.error("original_max_position_embeddings", format!("must be above one, found {original}")));
    }
    let stretch = s.opt_number("factor")?.unwrap_or(context as f64 / original as f64);
    let magnitude = match s.opt_number("attention_factor")? {
        Some(x) if x > 0.0 => x,
        Some(x) => return Err(s.error("attention_factor", format!("must be above zero, found {x}"))),
        None => long_magnitude(stretch, original),
    };
    rope.magnitude = magnitude as f32;
    rope.scaling = RopeScaling::Long {
        long: Some(s.numbers("long_factor", rope.dims / 2)?),
        short: Some(s.numbers("short_factor", rope.dims / 2)?),
        original_context: original,
    };
    Ok(())
}

/// The base in blocks with a sliding window (Gemma 3; transformers' default: 10000).
pub(super) fn sliding_base(c: &HfConfig) -> Result<f32> {
    // Fails if it is no object.
    c.opt_object("rope_parameters")?;
    let base = match section::sliding(c) {
        None => None,
        Some(map) => {
            let s = Section { config: c, key: section::SLIDING, map: map.clone() };
            if s.kind()? != "default" {
                return Err(s.unsupported("rope_type", "only \"default\" is supported in blocks with a sliding window"));
            }
            s.opt_number("rope_theta")?
        }
    };
    Ok(base.or(c.opt_number("rope_local_base_freq")?).unwrap_or(10000.0) as f32)
}
