//! Option values shared by the commands that run a model.

use clap::builder::PossibleValuesParser;

use crate::runtime::{Attention, CacheType};

/// The values that [`cache_type`] takes.
pub fn cache_types() -> PossibleValuesParser {
    PossibleValuesParser::new(CacheType::ALL.map(CacheType::name))
}

/// The values that [`attention`] takes.
pub fn attentions() -> PossibleValuesParser {
    PossibleValuesParser::new(Attention::ALL.map(Attention::name))
}

/// The meaning of a value that the parser has accepted.
pub fn cache_type(name: &str) -> CacheType {
    CacheType::ALL.into_iter().find(|t| t.name() == name).expect("clap accepts these words only")
}

/// The meaning of a value that the parser has accepted.
pub fn attention(name: &str) -> Attention {
    Attention::ALL.into_iter().find(|a| a.name() == name).expect("clap accepts these words only")
}
