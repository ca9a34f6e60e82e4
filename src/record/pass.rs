//! What a pass did in one place: a matrix, or an input that several matrices share.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// What only some passes have to say, by name: numbers, words, lists of them.
pub type Facts = Map<String, Json>;

/// What a pass did in one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassRecord {
    /// Name of the pass; where it left a place to a later one, of that.
    pub pass: String,
    /// The transformer block; none for what comes after the blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<usize>,
    /// Names of the matrices in the output: one, or all that share the input that was worked on.
    pub tensors: Vec<String>,
    /// Which expert's, if a matrix has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<usize>,
    /// Calibration tokens that came to the place.
    pub tokens: u64,
    /// Loss as it would be without the pass, mean over tokens; each pass says what its loss is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    /// The same loss with it; never larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<f64>,
    /// Time in seconds.
    pub seconds: f64,
    /// What else the pass found.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub facts: Facts,
    /// Why nothing was done, or what the user should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl PassRecord {
    /// Nothing done yet.
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

    /// Says something that only this pass has to say.
    ///
    /// # Panics
    /// If the value cannot be JSON (a map without names).
    pub fn fact(&mut self, name: &str, value: impl Serialize) {
        self.facts.insert(name.to_owned(), serde_json::to_value(value).expect("a fact is JSON"));
    }

    /// A fact that is a whole number; 0 if there is none.
    pub fn count(&self, name: &str) -> u64 {
        self.facts.get(name).and_then(Json::as_u64).unwrap_or(0)
    }

    /// The loss with the pass as a share of that without it.
    pub fn ratio(&self) -> Option<f64> {
        self.after.zip(self.before).filter(|(_, before)| *before > 0.0).map(|(after, before)| after / before)
    }
}
