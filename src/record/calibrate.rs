//! One calibration.

use serde::{Deserialize, Serialize};

use super::Tool;

/// One calibration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CalibrateRecord {
    /// What ran.
    #[serde(flatten)]
    pub tool: Tool,
    /// The model, as named by the user; none for a merge.
    pub model: Option<String>,
    /// The files that were merged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<String>,
    /// The output's path.
    pub output: String,
    /// Size of the output file in bytes.
    pub file_bytes: u64,
    /// Texts, as named by the user.
    pub datasets: Vec<String>,
    /// Tokens in a sample.
    pub context: u32,
    /// Samples used.
    pub samples: u32,
    /// Samples available in the texts; none for a merge.
    pub available: Option<usize>,
    /// Seed for drawing samples.
    pub seed: u64,
    /// Whether X^T X was kept.
    pub hessian: bool,
    /// Number of matrices with statistics.
    pub entries: usize,
    /// Experts that saw no tokens: "matrix, expert number".
    pub idle_experts: Vec<String>,
    /// Number of columns whose input was always zero.
    pub dead_columns: usize,
    /// Threads used.
    pub threads: usize,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Tokens through the model per second.
    pub tokens_per_second: Option<f64>,
    /// Peak resident memory of this process, including mapped files, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Things the user should know.
    pub notes: Vec<String>,
}
