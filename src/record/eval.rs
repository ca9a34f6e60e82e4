//! The accuracy of one model, on its own or relative to a reference.

use serde::{Deserialize, Serialize};

use super::{Measured, Quantiles, Tool};

/// A model's predictions compared with those of a reference. Probabilities are fractions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Perplexity of the reference.
    pub reference_perplexity: Measured,
    /// ln of the ratio of the model's perplexity to the reference's, in nats.
    pub log_perplexity_ratio: Measured,
    /// The ratio of the model's perplexity to the reference's.
    pub perplexity_ratio: Measured,
    /// The model's perplexity minus the reference's.
    pub perplexity_difference: Measured,
    /// Correlation of the two models' NLLs over tokens; none if one of them is constant.
    pub correlation: Option<f64>,
    /// KL divergence from the reference, nats per token.
    pub kl: Measured,
    /// Its quantiles.
    pub kl_quantiles: Quantiles,
    /// Share of positions where both models rank the same token first.
    pub same_top: Measured,
    /// Mean shift in the correct token's probability.
    pub dp: Measured,
    /// Root mean square of that shift.
    pub dp_rms: Measured,
    /// Its quantiles.
    pub dp_quantiles: Quantiles,
}

/// The accuracy of one model on one text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EvalRecord {
    /// What ran.
    #[serde(flatten)]
    pub tool: Tool,
    /// The model, as named by the user.
    pub model: String,
    /// Architecture, as in a GGUF header.
    pub architecture: String,
    /// Size of the model's files in bytes.
    pub file_bytes: u64,
    /// The reference, as named by the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The text, as named by the user.
    pub text: String,
    /// Tokens in a chunk.
    pub context: usize,
    /// Chunks scored.
    pub chunks: usize,
    /// Tokens scored.
    pub tokens_scored: usize,
    /// Whether activations stayed in f32.
    pub exact: bool,
    /// How keys and values were stored.
    pub cache_type: String,
    /// Threads used.
    pub threads: usize,
    /// Seconds for scoring, for both models together.
    pub seconds: f64,
    /// Tokens of text (scored or context) per second.
    pub tokens_per_second: f64,
    /// exp(mean NLL).
    pub perplexity: Measured,
    /// Mean negative log-likelihood per token, nats.
    pub nll: Measured,
    /// Comparison with the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// What the user should know of how the models were understood.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
