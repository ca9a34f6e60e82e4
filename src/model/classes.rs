//! Which architecture the classes in config.json stand for.

use super::{Arch, Hyper, ties};
use crate::Result;
use crate::checkpoint::config::HfConfig;
use crate::error::{Fault, printable};

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
pub(super) fn find<'c>(c: &'c HfConfig, archs: &[&'static Arch]) -> Result<Named<'c>> {
    let listed = c.map.get("architectures").and_then(|a| a.get(0)).and_then(|a| a.as_str());
    let (key, name) = match (listed, c.map.get("model_type").and_then(|t| t.as_str())) {
        (Some(name), _) => ("architectures", name),
        (None, Some(name)) => ("model_type", name),
        (None, None) => return Err(c.error("architectures", "missing; it says what kind of model this is")),
    };
    if let Some(arch) = archs.iter().find(|a| a.hf.contains(&name)) {
        return Ok(Named { arch, headless: None });
    }
    if let Some(arch) = archs.iter().find(|a| a.bases.contains(&name)) {
        return Ok(Named { arch, headless: Some(name) });
    }
    let family = OTHER_HEADS.iter().find_map(|end| name.strip_suffix(end));
    let of = |a: &&&Arch| family.is_some_and(|f| a.bases.iter().any(|base| base.strip_suffix("Model") == Some(f)));
    if let Some(arch) = archs.iter().find(of) {
        let what = format!(
            "{} has the head of a classifier, which is not written; convert the language model that it was made from, \
             or, for a score that a model gives as its next token (Qwen3-Reranker), the checkpoint as {}",
            printable(name),
            arch.hf[0]
        );
        return Err(c.unsupported(key, what));
    }
    Err(c.unsupported(key, unknown(name, archs, |a| a.hf[0])))
}

/// What a class without an output matrix stands for: the embedding table takes its place, as in llama.cpp. `class`: its
/// name. Also what the user should know.
pub(super) fn headless(c: &HfConfig, arch: &Arch, class: &str) -> Result<(Hyper, Option<String>)> {
    let mut tied = c.clone();
    ties::tie(&mut tied.map, true);
    let hyper = (arch.hyper)(&tied);
    let hyper = hyper.map_err(|e| {
        let whole = arch.hf[0];
        let what = format!(
            "{class} has no output matrix, and here the embedding table cannot be one; convert a {whole} instead"
        );
        c.error("architectures", Fault::unsupported(what).because(e))
    })?;
    let note = format!(
        "{class} has no output matrix: llama.cpp uses the embedding table instead. The file is for embeddings; next \
         tokens that it predicts mean nothing"
    );
    Ok((hyper, (c.opt_flag(ties::KEY)? != Some(true)).then_some(note)))
}

/// What to say of an architecture that is not known.
pub(super) fn unknown(name: &str, archs: &[&'static Arch], spell: impl Fn(&Arch) -> &'static str) -> String {
    let mut known: Vec<_> = archs.iter().map(|a| spell(a)).collect();
    known.dedup();
    format!("architecture {name:?} is not supported; known: {}", known.join(", "))
}
