//! What a model is: configuration in, [`Hyper`] and [`ModelGraph`] out. One file and one table row per architecture.
//!
//! Knows configurations, never the bytes of weights.

use crate::Result;
use crate::checkpoint::Config;
use crate::checkpoint::config::HfConfig;
use crate::checkpoint::quantized;
use crate::gguf::Metadata;

mod build;
mod conventions;
mod decoder;
mod from_gguf;
mod from_hf;
mod gemma2;
mod gemma3;
mod gpt2;
mod granite;
pub mod graph;
mod keys;
mod limits;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod param;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rope;
pub mod sites;
mod to_hf;

pub use graph::{
    Activation, Import, LongFactors, ModelGraph, NormKind, Op, Param, ParamId, Part, Role, RopeStyle, Slot,
};
pub use sites::{Channels, Lanes, Maker, Producer, Reader, Site};
pub use to_hf::Small;

/// The numbers that fix a model's shape and function, whichever file they came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyper {
    /// Transformer blocks.
    pub blocks: usize,
    /// Longest context the model was made for.
    pub context: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width inside the MLP (of one expert, for a mixture).
    pub ffn: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Numbers per head.
    pub head_dim: usize,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Sliding window of the blocks that have one.
    pub window: Option<usize>,
    /// Every how many blocks one sees the whole context (Gemma 2: 2, Gemma 3: 6); `None`: the window is everywhere.
    pub window_pattern: Option<usize>,
    /// Mixture of experts.
    pub experts: Option<Experts>,
    /// Soft cap on attention scores.
    pub attention_softcap: Option<f32>,
    /// Soft cap on logits.
    pub logit_softcap: Option<f32>,
    /// Factor on attention scores, where it is not 1 / sqrt(head_dim).
    pub attention_scale: Option<f32>,
    /// Factor on embeddings (Granite; Gemma: the root of the width).
    pub embedding_scale: Option<f32>,
    /// Factor on what blocks add to the residual stream (Granite).
    pub residual_scale: Option<f32>,
    /// Logits are divided by this (Granite).
    pub logit_scale: Option<f32>,
    /// Whether query, key and value have biases.
    pub qkv_bias: bool,
    /// Whether the attention output has a bias.
    pub attn_out_bias: bool,
    /// Whether the MLP's matrices have biases.
    pub mlp_bias: bool,
    /// Whether the output matrix is the embedding table.
    pub tied: bool,
}

/// Rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// How many numbers of a head rotate (nothing rotates in models that learn positions).
    pub dims: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Base in blocks with a sliding window, where they have one of their own (Gemma 3); then `scaling` is not theirs.
    pub window_base: Option<f32>,
    /// Stretching to longer contexts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided by the factor.
    Linear(f32),
    /// Per-frequency factors, stored in the GGUF file as `rope_freqs.weight` (Llama 3).
    /// `None` when read from a GGUF file: the tensor has them.
    Factors(Option<Vec<f32>>),
    /// Phi-3's long and short factors, and the magnitude.
    Long {
        /// Factors beyond the original context; `None` when read from a GGUF file.
        long: Option<Vec<f32>>,
        /// Factors within it.
        short: Option<Vec<f32>>,
        /// Context the model was first trained with.
        original_context: usize,
        /// Factor on sine and cosine.
        magnitude: f32,
    },
}

/// Mixture of experts.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many each token uses.
    pub used: usize,
    /// Whether the chosen weights are made to add up to one.
    pub normalize: bool,
}

/// An architecture: how its configuration is read, what it computes, what its GGUF file says of it.
pub struct Arch {
    /// What people call it ("Llama", "Gemma 2").
    pub title: &'static str,
    /// `general.architecture` of its GGUF files, which is also the prefix of its keys.
    pub gguf: &'static str,
    /// Entries of config.json's `architectures`, and its `model_type`, which counts where there are none.
    pub hf: &'static [&'static str],
    /// Reads config.json.
    pub hyper: fn(&HfConfig) -> Result<Hyper>,
    /// Describes the model.
    pub graph: fn(&Hyper) -> ModelGraph,
    /// Adds this architecture's own keys to a GGUF header (all but `general.*` and `tokenizer.*`).
    pub keys: fn(&Hyper, &HfConfig, &mut Metadata),
    /// Writes config.json for the same numbers: class, kind and keys. Says what it cannot express.
    config: fn(&Hyper, &mut to_hf::HfKeys<'_>) -> Result<(), String>,
    /// Fills in what its GGUF files leave unsaid because llama.cpp knows it by heart.
    pub untold: fn(&mut Hyper),
}

impl std::fmt::Debug for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arch({})", self.title)
    }
}

/// All architectures, in the order in which help and docs list them. Where several share a GGUF name, the first
/// row reads the GGUF files of all.
pub static ARCHS: &[&Arch] = &[
    &llama::ARCH,
    &mistral::ARCH,
    &mixtral::ARCH,
    &qwen2::ARCH,
    &qwen3::ARCH,
    &qwen3_moe::ARCH,
    &gemma2::ARCH,
    &gemma3::ARCH,
    &phi3::ARCH,
    &granite::ARCH,
    &olmo2::ARCH,
    &gpt2::ARCH,
];

/// Nothing is left unsaid.
fn untold(_: &mut Hyper) {}

/// A described model.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its row in [`ARCHS`].
    pub arch: &'static Arch,
    /// Its numbers.
    pub hyper: Hyper,
    /// Its parameters and ops.
    pub graph: ModelGraph,
}

/// Describes the model that a configuration stands for. `has` says whether the source has a tensor of that name
/// (a GGUF header does not say whether embeddings are tied or biases present; its tensor list does).
///
/// # Errors
/// If the architecture is not in [`ARCHS`] (the error lists those that are), or a key is missing or impossible, or
/// asks for something that the ops or the GGUF format cannot express.
pub fn describe(config: &Config, has: &dyn Fn(&str) -> bool) -> Result<Model> {
    let (arch, hyper) = match config {
        Config::HuggingFace(c) => {
            quantized::understood(c)?;
            let arch = find_hf(c)?;
            (arch, (arch.hyper)(c)?)
        }
        Config::Gguf(c) => {
            let name = c.text("general.architecture")?;
            let found = ARCHS.iter().find(|a| a.gguf == name);
            let arch = found.ok_or_else(|| c.error("general.architecture", unknown(name, |a| a.gguf)))?;
            let mut hyper = from_gguf::hyper(c, name, has)?;
            limits::check(&hyper, config)?;
            (arch.untold)(&mut hyper);
            (*arch, hyper)
        }
    };
    limits::check(&hyper, config)?;
    let graph = (arch.graph)(&hyper);
    Ok(Model { arch, hyper, graph })
}

/// config.json of a model: sizes and settings, without tokens and types. `small` reads small tensors by name.
///
/// # Errors
/// If transformers has no class or key for something; the error says for what.
pub fn hf_config(model: &Model, small: Small<'_>) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    let mut keys = to_hf::HfKeys::new(small);
    (model.arch.config)(&model.hyper, &mut keys)?;
    Ok(keys.finish())
}

fn find_hf(c: &HfConfig) -> Result<&'static Arch> {
    let listed = c.map.get("architectures").and_then(|a| a.get(0)).and_then(|a| a.as_str());
    let (key, name) = match (listed, c.map.get("model_type").and_then(|t| t.as_str())) {
        (Some(name), _) => ("architectures", name),
        (None, Some(name)) => ("model_type", name),
        (None, None) => return Err(c.error("architectures", "missing; it says what kind of model this is")),
    };
    let found = ARCHS.iter().find(|a| a.hf.contains(&name)).copied();
    found.ok_or_else(|| c.error(key, unknown(name, |a| a.hf[0])))
}

fn unknown(name: &str, spell: impl Fn(&Arch) -> &'static str) -> String {
    let mut known: Vec<_> = ARCHS.iter().map(|a| spell(a)).collect();
    known.dedup();
    format!("architecture {name:?} is not supported; known are {}", known.join(", "))
}
