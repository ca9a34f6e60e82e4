//! Which architecture the classes in config.json stand for.

use super::{ARCHS, Arch};
use crate::Result;
use crate::checkpoint::config::HfConfig;
use crate::error::printable;

/// Ends of the names of classes with a head of another kind, which GGUF files have no place for.
const OTHER_HEADS: [&str; 4] =
    ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForRewardModel"];

/// An architecture as a configuration names it.
pub(super) struct Named<'c> {
    pub arch: &'static Arch,
    /// The class, if it is one without an output matrix.
    pub headless: Option<&'c str>,
}

/// Finds it.
///
/// # Errors
/// If it is not known (the error lists those that are), or has a head of another kind.
pub(super) fn find(c: &HfConfig) -> Result<Named<'_>> {
    let listed = c.map.get("architectures").and_then(|a| a.get(0)).and_then(|a| a.as_str());
    let (key, name) = match (listed, c.map.get("model_type").and_then(|t| t.as_str())) {
        (Some(name), _) => ("architectures", name),
        (None, Some(name)) => ("model_type", name),
        (None, None) => return Err(c.error("architectures", "missing; it says what kind of model this is")),
    };
    if let Some(arch) = ARCHS.iter().find(|a| a.hf.contains(&name)) {
        return Ok(Named { arch, headless: None });
    }
    if let Some(arch) = ARCHS.iter().find(|a| a.bases.contains(&name)) {
        return Ok(Named { arch, headless: Some(name) });
    }
    let family = OTHER_HEADS.iter().find_map(|end| name.strip_suffix(end));
    let of = |a: &&&Arch| family.is_some_and(|f| a.bases.iter().any(|base| base.strip_suffix("Model") == Some(f)));
    if let Some(arch) = ARCHS.iter().find(of) {
        let what = format!(
            "{} has the head of a classifier, which is not written; convert the language model that it was made from, \
             or, for a score that a model gives as its next token (Qwen3-Reranker), the checkpoint as {}",
            printable(name),
            arch.hf[0]
        );
        return Err(c.unsupported(key, what));
    }
    Err(c.unsupported(key, unknown(name, |a| a.hf[0])))
}

/// What to say of an architecture that is not known.
pub(super) fn unknown(name: &str, spell: impl Fn(&Arch) -> &'static str) -> String {
    let mut known: Vec<_> = ARCHS.iter().map(|a| spell(a)).collect();
    known.dedup();
    format!("architecture {name:?} is not supported; known: {}", known.join(", "))
}
