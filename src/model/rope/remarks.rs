//! What of the rotary settings in config.json the user should know.

use serde_json::Value as Json;

use super::section::{self, ORIGINAL_CONTEXT, Section};
use crate::checkpoint::config::HfConfig;
use crate::error::printable_json;

/// Settings that Transformers reads, by the kinds that have them. All kinds have those of the first row.
const KNOWN: [(&[&str], &[&str]); 4] = [
    (&["default"], &["rope_type", "type", "rope_theta", "partial_rotary_factor"]),
    (&["linear", "dynamic"], &["factor"]),
    (&["llama3"], &["factor", "low_freq_factor", "high_freq_factor", ORIGINAL_CONTEXT]),
    (
        &["yarn"],
        &[
            "factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
            ORIGINAL_CONTEXT,
        ],
    ),
];

/// The same for factors given one by one, which two names stand for.
const LONG: [&str; 5] = ["factor", "attention_factor", "short_factor", "long_factor", ORIGINAL_CONTEXT];

/// What the configuration alone does not show.
pub(crate) fn remarks(c: &HfConfig, context: usize) -> Vec<String> {
    let Ok(Some(section)) = Section::of(c) else { return Vec::new() };
    let mut notes = Vec::new();
    if let Some((taken, left, settings)) = Section::beside(c) {
        let settings = printable_json(&Json::Object(settings.clone()));
        notes.push(format!("{left} {settings} is not used: beside {taken} Transformers does not read it"));
    }
    // Numbers outside of the settings stand in only for what these leave out.
    let local =
        section::sliding(c).and_then(|set| Some(("rope_local_base_freq", section::SLIDING, set.get("rope_theta")?)));
    let outside = ["rope_theta", "partial_rotary_factor"].map(|key| Some((key, section.key, section.map.get(key)?)));
    for (key, place, inside) in outside.into_iter().chain([local]).flatten().filter(|(.., inside)| !inside.is_null()) {
        if let Some(outside) = c.get(key).filter(|v| v.as_f64() != inside.as_f64()) {
            notes.push(format!(
                "{key} {} is not used: {place} has {}, and Transformers reads that",
                printable_json(outside),
                printable_json(inside)
            ));
        }
    }
    if section.kind().is_ok_and(|kind| kind == "dynamic") {
        notes.push(format!(
            "{} is dynamic: up to {context} tokens it changes nothing; longer contexts, which Transformers stretches, \
             are not stretched here",
            section.key
        ));
    }
    notes
}

/// Settings that nothing reads, with the key that they are under.
pub(crate) fn unread(c: &HfConfig) -> Vec<(String, Json)> {
    let Ok(Some(section)) = Section::of(c) else { return Vec::new() };
    let kind = section.kind().unwrap_or_default();
    let mut known: Vec<&str> = KNOWN[0].1.to_vec();
    known.extend(KNOWN[1..].iter().filter(|(kinds, _)| kinds.contains(&kind)).flat_map(|(_, names)| *names));
    // Phi-3 calls it "yarn", too.
    let long = ["short_factor", "long_factor"].iter().all(|name| section.map.contains_key(*name));
    if long || !KNOWN.iter().any(|(kinds, _)| kinds.contains(&kind)) {
        known.extend(LONG);
    }
    let left = section.map.iter().filter(|(name, value)| !known.contains(&name.as_str()) && !value.is_null());
    let mut left: Vec<_> = left.map(|(name, value)| (format!("{}.{name}", section.key), value.clone())).collect();
    if let Some(set) = section::sliding(c) {
        let known = |name: &str| ["rope_type", "type", "rope_theta"].contains(&name);
        let unread = set.iter().filter(|(name, value)| !known(name) && !value.is_null());
        left.extend(unread.map(|(name, value)| (format!("{}.{name}", section::SLIDING), value.clone())));
    }
    left
}
