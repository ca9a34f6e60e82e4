//! The accuracy of one model, alone or beside a reference.

use serde::{Deserialize, Serialize};

use super::{Measured, Quantiles, Tool};

/// A model's predictions beside those of a reference. Probabilities are fractions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Perplexity of the reference.
    pub reference_perplexity: Measured,
    /// ln of the model's perplexity over the reference's, nats.
    pub log_perplexity_ratio: Measured,
    /// The model's perplexity over the reference's.
    pub perplexity_ratio: Measured,
    /// The model's perplexity less the reference's.
    pub perplexity_difference: Measured,
    /// Correlation of both models' NLL over tokens; none if one of them is constant.
    pub correlation: Option<f64>,
    /// KL divergence from the reference, nats per token.
    pub kl: Measured,
    /// Its spread.
    pub kl_quantiles: Quantiles,
    /// Share of positions where both think the same token most likely.
    pub same_top: Measured,
    /// Mean shift of the right token's probability.
    pub dp: Measured,
    /// Root mean square of that shift.
    pub dp_rms: Measured,
    /// Its spread.
    pub dp_quantiles: Quantiles,
}

/// The accuracy of one model on one text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EvalRecord {
    /// What ran.
    #[serde(flatten)]
    pub tool: Tool,
    /// The model as it was named.
    pub model: String,
    /// Architecture, as in a GGUF header.
    pub architecture: String,
    /// Size of the model's files in bytes.
    pub file_bytes: u64,
    /// The reference as it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The text as it was named.
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
    /// Seconds for scoring, both models together.
    pub seconds: f64,
    /// Tokens of text (scored or context) per second.
    pub tokens_per_second: f64,
    /// exp(mean NLL).
    pub perplexity: Measured,
    /// Mean negative log-likelihood per token, nats.
    pub nll: Measured,
    /// Beside the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
}
