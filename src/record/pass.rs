//! What a pass did in one place: for a matrix, or for an input that several matrices share.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// Results that only some passes have, by name: numbers, words, lists of them.
pub type Facts = Map<String, Json>;

/// What a pass did in one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassRecord {
    /// Name of the pass; if it left the place to a later one, the name of that.
    pub pass: String,
    /// The transformer block; none after the last block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<usize>,
    /// Names of the matrices in the output: one, or all that share the input in question.
    pub tensors: Vec<String>,
    /// The expert, if the parameter holds several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<usize>,
    /// Calibration tokens that reached this place.
    pub tokens: u64,
    /// Loss without the pass, mean over tokens. Each pass defines its loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    /// The same loss with the pass; never larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<f64>,
    /// Time in seconds.
    pub seconds: f64,
    /// Other results of the pass.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub facts: Facts,
    /// Why nothing was done, or what the user should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl PassRecord {
    /// A record of nothing done yet.
    pub fn new(pass: &str, block: Option<usize>, tensors: Vec<String>) -> Self {
        PassRecord {
            pass: pass.to_owned(),
            block,
            tensors,
            expert: None,
            tokens: 0,
            before: None,
            after: None,
            seconds: 0.0,
            facts: Facts::new(),
            note: None,
        }
    }

    /// Adds a result that only this pass has.
    ///
    /// # Panics
    /// If the value cannot be expressed as JSON (a map with keys that are not strings).
    pub fn fact(&mut self, name: &str, value: impl Serialize) {
        self.facts.insert(name.to_owned(), serde_json::to_value(value).expect("a fact is JSON"));
    }

    /// A fact that is a whole number; 0 if there is none.
    pub fn count(&self, name: &str) -> u64 {
        self.facts.get(name).and_then(Json::as_u64).unwrap_or(0)
    }

    /// The loss with the pass relative to the loss without it.
    pub fn ratio(&self) -> Option<f64> {
        self.after.zip(self.before).filter(|(_, before)| *before > 0.0).map(|(after, before)| after / before)
    }
}
