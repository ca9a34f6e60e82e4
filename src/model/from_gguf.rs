//! The numbers of a model from a GGUF header: the same keys for every architecture, behind its prefix.
//!
//! What a header leaves unsaid (biases, tied embeddings) is read off the tensor list; keys of one architecture, and what
//! only llama.cpp knows by heart, are left to [`super::Arch::complete`].

use std::collections::BTreeMap;

use super::rope::yarn;
use super::{Experts, Hyper, Rope, RopeScaling, Yarn, unread};
use crate::Result;
use crate::checkpoint::config::GgufConfig;
use crate::error::printable;
use crate::gguf::{Value, whole};

/// Keys that change what is computed in ways the ops do not express, unless they have the value given.
const REFUSED: &[(&str, f64)] = &[
    ("expert_shared_feed_forward_length", 0.0),
    ("expert_shared_count", 0.0),
    ("expert_group_count", 0.0),
    ("leading_dense_block_count", 0.0),
    ("expert_gating_func", 1.0),
    ("expert_weights_scale", 1.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("rope.scaling.alpha", 0.0),
    ("rope.scaling.yarn_ext_factor", 1.0),
    ("attention.output_scale", 1.0),
    ("attention.temperature_scale", 0.0),
    ("router_logit_softcapping", 0.0),
    ("nextn_predict_layers", 0.0),
];

/// Keys under one prefix.
struct Keys<'a> {
    config: &'a GgufConfig,
    prefix: &'a str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.config.size(&self.key(key))
    }

    /// Zero is how some converters spell "none".
    fn opt_size(&self, key: &str) -> Result<Option<usize>> {
        let key = self.key(key);
        match self.config.metadata.get(&key).and_then(whole) {
            Some(0) => Ok(None),
            _ => self.config.opt_size(&key),
        }
    }

    /// A number; zero and integers included.
    fn opt_number(&self, key: &str) -> Result<Option<f32>> {
        let key = self.key(key);
        match self.config.metadata.get(&key).and_then(whole) {
            Some(n) => Ok(Some(n as f32)),
            None => Ok(self.config.opt_number(&key)?.map(|x| x as f32)),
        }
    }

    /// A number above zero; zero counts as absent.
    fn opt_factor(&self, key: &str) -> Result<Option<f32>> {
        match self.opt_number(key)? {
            Some(x) if x < 0.0 => Err(self.error(key, format!("must be above zero, found {x}"))),
            x => Ok(x.filter(|&x| x > 0.0)),
        }
    }

    /// Whether a key of the file is of those that change results, and nothing reads it.
    fn unread(&self, key: &str) -> bool {
        let own = key.strip_prefix(self.prefix).and_then(|key| key.strip_prefix('.'));
        let known = |key: &str| {
            READ.contains(&key)
                || REFUSED.iter().any(|(name, _)| *name == key)
                || YARN.iter().any(|(name, ..)| *name == key)
        };
        own.is_some_and(|key| unread::in_families(key) && !known(key))
    }

    fn error(&self, key: &str, what: impl Into<String>) -> crate::Error {
        self.config.error(&self.key(key), what.into())
    }

    fn unsupported(&self, key: &str, what: impl Into<String>) -> crate::Error {
        self.config.unsupported(&self.key(key), what)
    }
}

/// Reads the header of a file whose `general.architecture` is `prefix`.
pub(super) fn hyper(config: &GgufConfig, prefix: &str, has: &dyn Fn(&str) -> bool) -> Result<Hyper> {
    let k = Keys { config, prefix };
    for &(key, harmless) in REFUSED {
        if let Some(found) = k.opt_number(key)?
            && f64::from(found) != harmless
            && found != 0.0
        {
            return Err(k.unsupported(key, format!("{found} is not supported")));
        }
    }
    for (key, harmless) in [("attention.causal", true), ("expert_weights_norm", true), ("rope.scaling.finetuned", true)]
    {
        if config.opt_flag(&k.key(key))?.is_some_and(|found| found != harmless) {
            return Err(k.unsupported(key, format!("{} is not supported", !harmless)));
        }
    }
    let (width, heads) = (k.size("embedding_length")?, k.size("attention.head_count")?);
    let head_dim = match k.opt_size("attention.key_length")? {
        Some(d) => d,
        None if width.is_multiple_of(heads) => width / heads,
        None => {
            let what = format!("embedding_length {width} is not a multiple of {heads} heads");
            return Err(k.error("attention.head_count", what));
        }
    };
    if let Some(d) = k.opt_size("attention.value_length")?
        && d != head_dim
    {
        let what = format!("{d} is not supported, only the {head_dim} of attention.key_length");
        return Err(k.unsupported("attention.value_length", what));
    }
    let ffn = match k.opt_size("expert_feed_forward_length")? {
        Some(n) => n,
        None => k.size("feed_forward_length")?,
    };
    let eps = match k.opt_number("attention.layer_norm_rms_epsilon")? {
        Some(eps) => Some(eps),
        None => k.opt_number("attention.layer_norm_epsilon")?,
    };
    let any = |names: &[&str]| names.iter().any(|n| has(&format!("blk.0.{n}.bias")));
    let context = k.size("context_length")?;
    Ok(Hyper {
        blocks: k.size("block_count")?,
        context,
        width,
        ffn,
        vocab: vocab(&k)?,
        heads,
        kv_heads: k.opt_size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        norm_eps: eps.ok_or_else(|| k.error("attention.layer_norm_rms_epsilon", "missing"))?,
        rope: rope(&k, head_dim, context, has)?,
        window: k.opt_size("attention.sliding_window")?,
        window_pattern: pattern(&k)?,
        experts: match k.opt_size("expert_count")? {
            None => None,
            Some(count) => Some(Experts { count, used: k.size("expert_used_count")?, normalize: true }),
        },
        attention_softcap: k.opt_factor("attn_logit_softcapping")?,
        logit_softcap: k.opt_factor("final_logit_softcapping")?,
        attention_scale: k.opt_factor("attention.scale")?,
        embedding_scale: k.opt_factor("embedding_scale")?,
        residual_scale: k.opt_factor("residual_scale")?,
        logit_scale: k.opt_factor("logit_scale")?,
        qkv_bias: any(&["attn_q", "attn_qkv"]),
        attn_out_bias: any(&["attn_output"]),
        mlp_bias: any(&["ffn_up"]),
        tied: !has("output.weight"),
        own: BTreeMap::new(),
    })
}

/// Keys that are read, here or by an architecture, or that change nothing.
const READ: &[&str] = &[
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.scale",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.value_length",
    "attn_logit_softcapping",
    "embedding_scale",
    "expert_count",
    "expert_feed_forward_length",
    "expert_used_count",
    "expert_weights_norm",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
];

/// Keys of a stretched rotary embedding that llama.cpp reads for none of our architectures, with the value that it
/// takes instead and whether they count here.
const YARN: [(&str, f32, bool); 4] = [
    ("rope.scaling.yarn_beta_fast", yarn::FAST, true),
    ("rope.scaling.yarn_beta_slow", yarn::SLOW, true),
    ("rope.scaling.yarn_log_multiplier", 0.0, true),
    ("rope.scaling.yarn_attn_factor", 1.0, false),
];

/// What the user should know of a header that was read.
pub(super) fn notes(config: &GgufConfig, prefix: &str) -> Vec<String> {
    let k = Keys { config, prefix };
    let found = YARN.iter().filter_map(|&(key, usual, counts)| {
        let value = k.opt_number(key).ok().flatten().filter(|&value| value != usual)?;
        let who = if counts { "is read here, but not by llama.cpp" } else { "is read neither here nor by llama.cpp" };
        Some(format!("{} {value} {who} for this architecture", k.key(key)))
    });
    let mut notes: Vec<String> = match k.config.opt_text(&k.key("rope.scaling.type")) {
        Ok(Some("yarn")) => found.collect(),
        _ => Vec::new(),
    };
    let unread: Vec<&str> = config.metadata.iter().map(|(key, _)| key).filter(|key| k.unread(key)).collect();
    if !unread.is_empty() {
        notes.push(format!("{} not read here; llama.cpp may compute something else", list(&unread)));
    }
    notes
}

/// "a is", "a, b are".
fn list(keys: &[&str]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| printable(key)).collect();
    format!("{} {}", keys.join(", "), if keys.len() == 1 { "is" } else { "are" })
}

/// The length of the token list; as in llama.cpp a `vocab_size` counts only where there is no list.
fn vocab(k: &Keys<'_>) -> Result<usize> {
    let tokens = match k.config.metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(list)) => Some(list.values.len()),
        _ => None,
    };
    match tokens {
        Some(0) => Err(k.config.error("tokenizer.ggml.tokens", "the list is empty")),
        Some(n) => Ok(n),
        None => k.size("vocab_size"),
    }
}

fn rope(k: &Keys<'_>, head_dim: usize, context: usize, has: &dyn Fn(&str) -> bool) -> Result<Rope> {
    let kind = k.config.opt_text(&k.key("rope.scaling.type"))?;
    let factor = match k.opt_factor("rope.scaling.factor")? {
        Some(f) => Some(f),
        None => k.opt_factor("rope.scale_linear")?,
    };
    let dims = k.opt_size("rope.dimension_count")?.unwrap_or(head_dim);
    if dims > head_dim || !dims.is_multiple_of(2) {
        let what = format!("{dims} of a head's {head_dim} numbers cannot rotate in pairs");
        return Err(k.error("rope.dimension_count", what));
    }
    let base = k.opt_factor("rope.freq_base")?.unwrap_or(10000.0);
    let mut magnitude = k.opt_factor("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let original = k.opt_size("rope.scaling.original_context_length")?.unwrap_or(context);
    let kinds = [None, Some("none"), Some("linear"), Some("yarn"), Some("longrope")];
    if let Some(other) = kind.filter(|kind| !kinds.contains(&Some(kind))) {
        let what = format!("{other:?} is not supported; known: none, linear, yarn, longrope");
        return Err(k.unsupported("rope.scaling.type", what));
    }
    let scaling = if has("rope_factors_long.weight") {
        RopeScaling::Long { long: None, short: None, original_context: original }
    } else if has("rope_freqs.weight") {
        if factor.is_some_and(|f| f != 1.0) && kind != Some("none") {
            return Err(
                k.unsupported("rope.scaling.factor", "is not supported beside rope_freqs.weight; one of them must go")
            );
        }
        RopeScaling::Factors(None)
    } else {
        // Without a type a factor is a linear one, as in llama.cpp.
        match (kind, factor) {
            (Some("yarn"), factor) => {
                let yarn = yarn(k, factor.unwrap_or(1.0), original)?;
                yarn.check(base, dims).map_err(|(_, what)| k.error("rope.scaling.type", format!("yarn: {what}")))?;
                magnitude = (f64::from(magnitude) * grown(k, f64::from(yarn.factor))?) as f32;
                RopeScaling::Yarn(yarn)
            }
            (None | Some("linear"), Some(f)) if f != 1.0 => RopeScaling::Linear(f),
            _ => RopeScaling::None,
        }
    };
    Ok(Rope { dims, base, window_base: k.opt_factor("rope.freq_base_swa")?, scaling, magnitude })
}

fn yarn(k: &Keys<'_>, factor: f32, original_context: usize) -> Result<Yarn> {
    let turns = |key: &str, usual: f32| Ok::<_, crate::Error>(k.opt_factor(key)?.unwrap_or(usual));
    Ok(Yarn {
        factor,
        original_context,
        beta_fast: turns("rope.scaling.yarn_beta_fast", yarn::FAST)?,
        beta_slow: turns("rope.scaling.yarn_beta_slow", yarn::SLOW)?,
        whole: true,
    })
}

/// How much sine and cosine grow, but for the factor of their own.
fn grown(k: &Keys<'_>, factor: f64) -> Result<f64> {
    let under = match k.opt_factor("rope.scaling.yarn_log_multiplier")? {
        Some(scale) => yarn::magnitude(factor, f64::from(scale)),
        None => 1.0,
    };
    Ok(yarn::magnitude(factor, 1.0) / under)
}

/// A number, or a list that says for every block whether it slides.
fn pattern(k: &Keys<'_>) -> Result<Option<usize>> {
    let key = k.key("attention.sliding_window_pattern");
    let Some(Value::Array(list)) = k.config.metadata.get(&key) else {
        return k.opt_size("attention.sliding_window_pattern");
    };
    let slides: Vec<bool> =
        list.values.iter().map(|v| v.as_bool().unwrap_or_else(|| whole(v).is_some_and(|n| n > 0))).collect();
    // The first block that does not slide ends the period.
    let period = slides.iter().position(|s| !s).map_or(slides.len() + 1, |i| i + 1);
    match slides.iter().enumerate().all(|(i, &s)| s == (i % period < period - 1)) {
        true => Ok(Some(period)),
        false => {
            Err(k.config.unsupported(&key, "is supported only if every n-th block, and no other, has full attention"))
        }
    }
}
