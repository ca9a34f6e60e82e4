//! The speed of one model.

use serde::{Deserialize, Serialize};

use super::{Spread, Tool};

/// The speed of one model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BenchRecord {
    /// What ran.
    #[serde(flatten)]
    pub tool: Tool,
    /// The model, as named by the user.
    pub model: String,
    /// Architecture, as in a GGUF header.
    pub architecture: String,
    /// Size of the model's files in bytes.
    pub file_bytes: u64,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens generated.
    pub generate: usize,
    /// Timed runs of each.
    pub runs: usize,
    /// Threads used.
    pub threads: usize,
    /// Whether activations stayed in f32.
    pub exact: bool,
    /// How keys and values were stored; none without a cache.
    pub cache_type: Option<String>,
    /// How attention was computed.
    pub attention: String,
    /// Prompt tokens per second.
    pub prompt_tokens_per_second: Option<Spread>,
    /// Seconds from a prompt to the logits of the first new token.
    pub first_token_seconds: Option<Spread>,
    /// Generated tokens per second.
    pub generate_tokens_per_second: Option<Spread>,
    /// Bytes of weights, keys and values read for a generated token, on average over the generation.
    pub bytes_per_token: Option<u64>,
    /// Those bytes times the median of generated tokens per second, in 10^9 bytes per second.
    pub gigabytes_per_second: Option<f64>,
    /// Peak resident memory of this process, including mapped files, in bytes.
    pub peak_memory_bytes: Option<u64>,
}
