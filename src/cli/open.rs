//! What the commands that run a model have in common: the words of their options.

use clap::builder::PossibleValuesParser;

use crate::runtime::{Attention, CacheType};

/// The words for [`cache_type`].
pub fn cache_types() -> PossibleValuesParser {
    PossibleValuesParser::new(CacheType::ALL.map(CacheType::name))
}

/// The words for [`attention`].
pub fn attentions() -> PossibleValuesParser {
    PossibleValuesParser::new(Attention::ALL.map(Attention::name))
}

/// What a word that the parser let through stands for.
pub fn cache_type(name: &str) -> CacheType {
    CacheType::ALL.into_iter().find(|t| t.name() == name).expect("clap accepts these words only")
}

/// What a word that the parser let through stands for.
pub fn attention(name: &str) -> Attention {
    Attention::ALL.into_iter().find(|a| a.name() == name).expect("clap accepts these words only")
}
