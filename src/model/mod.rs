//! What a model is: configuration in, [`Hyper`] and [`ModelGraph`] out. One file and one table row per architecture.
//!
//! Knows configurations, never the bytes of weights.

use crate::Result;
use crate::checkpoint::Config;
use crate::checkpoint::quantized;

mod arch;
mod build;
mod classes;
mod conventions;
pub(crate) mod cut;
mod decoder;
mod from_gguf;
mod from_hf;
mod gemma2;
mod gemma3;
mod gpt2;
mod granite;
pub mod graph;
mod hyper;
mod keys;
mod limits;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod op;
mod opened;
mod param;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
#[cfg(test)]
mod reads;
mod rope;
pub mod sites;
mod ties;
mod to_hf;
#[cfg(test)]
mod toy;
mod unread;
mod usual;

use arch::complete;
pub use arch::{Arch, Model};
pub use graph::{
    Activation, Import, LongFactors, ModelGraph, NormKind, Op, Param, ParamId, Part, Role, RopeStyle, Slot,
};
pub use hyper::{Experts, Hyper, Rope, RopeScaling};
pub use opened::Opened;
pub(crate) use opened::of_source;
pub use rope::Yarn;
pub use sites::{Channels, Maker, Movable, Producer, Reader, Site};
pub use to_hf::Small;

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
    #[cfg(test)]
    &toy::ARCH,
];

/// Describes the model that a configuration stands for. `has` says whether the source has a tensor of that name
/// (a GGUF header does not say whether embeddings are tied or biases present; its tensor list does).
///
/// This takes the configuration's word; [`Opened::open`] also looks at what the tensors hold.
///
/// # Errors
/// If the architecture is not in [`ARCHS`] (the error lists those that are), or a key is missing or impossible, or
/// asks for something that the ops or the GGUF format cannot express.
pub fn describe(config: &Config, has: &dyn Fn(&str) -> bool) -> Result<Model> {
    let (arch, hyper, notes) = match config {
        Config::HuggingFace(c) => {
            quantized::understood(c)?;
            let classes::Named { arch, headless } = classes::find(c, ARCHS)?;
            let (hyper, note) = match headless.filter(|_| !ties::HEADS.iter().any(|&name| has(name))) {
                None => ((arch.hyper)(c)?, None),
                Some(class) => classes::headless(c, arch, class)?,
            };
            let notes = unread::notes(c, arch, hyper.context);
            (arch, hyper, note.into_iter().chain(notes).collect())
        }
        Config::Gguf(c) => {
            let name = c.text("general.architecture")?;
            let found = ARCHS.iter().find(|a| a.gguf == name);
            let arch = found
                .ok_or_else(|| c.unsupported("general.architecture", classes::unknown(name, ARCHS, |a| a.gguf)))?;
            let mut hyper = from_gguf::hyper(c, name, has)?;
            limits::check(&hyper, config)?;
            (arch.complete)(&mut hyper, c)?;
            (*arch, hyper, from_gguf::notes(c, name))
        }
    };
    limits::check(&hyper, config)?;
    let graph = (arch.graph)(&hyper);
    Ok(Model { arch, hyper, graph, notes, untied: false, whole: None })
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
