//! One conversion: what decided its bytes, what it wrote, and what it found.

use serde::{Deserialize, Serialize};

use super::{PassRecord, Tool};
use crate::recipe::Recipe;

/// One conversion.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunRecord {
    /// What ran.
    #[serde(flatten)]
    pub tool: Tool,
    /// The checkpoint, as named by the user.
    pub input: String,
    /// Everything that decided the bytes.
    pub recipe: Recipe,
    /// Architecture, as in the output's header.
    pub architecture: String,
    /// The output's path.
    pub output: String,
    /// Whether only the plan was requested, so nothing was written.
    pub dry_run: bool,
    /// Method chain.
    pub method: String,
    /// File type.
    #[serde(rename = "type")]
    pub file_type: String,
    /// Number of elements in all tensors.
    pub weights: u64,
    /// Size of the output file in bytes.
    pub file_bytes: u64,
    /// Storage bits per weight over all tensors, without header and padding.
    pub bits_per_weight: f64,
    /// Number of tensors that did not get the requested type.
    pub fallbacks: usize,
    /// Threads used.
    pub threads: usize,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Peak resident memory of this process, including mapped files, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Things the user should know.
    pub notes: Vec<String>,
    /// Files that were read: the checkpoint's, statistics, texts. Empty unless hashes were requested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<FileRecord>,
    /// Files that were written. Empty unless hashes were requested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<FileRecord>,
    /// The importances that errors were weighed by, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importance: Option<ImportanceRecord>,
    /// What is stored without its zeros, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparse: Option<SparseRecord>,
    /// Every tensor. If matrices are stored sparse, bytes are those of the dense ones.
    pub tensors: Vec<TensorRecord>,
    /// What the passes did, place by place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passes: Vec<PassRecord>,
}

/// Matrices that are stored without their zeros.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SparseRecord {
    /// How: "bitmask".
    pub layout: String,
    /// How many they are.
    pub matrices: usize,
    /// Their weights.
    pub weights: u64,
    /// How many of these are stored, with those that only fill a place.
    pub stored: u64,
    /// Bytes of all their parts.
    pub bytes: u64,
    /// Bytes that they would take when dense.
    pub dense_bytes: u64,
    /// Matrices that are stored dense, because that is not larger or their zeros have not the pattern.
    pub dense: Vec<String>,
}

/// The importances that errors were weighed by.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImportanceRecord {
    /// Statistics file; none if they were collected on the fly.
    pub file: Option<String>,
    /// The texts it was made from.
    pub datasets: Vec<String>,
    /// Number of matrices it covers.
    pub entries: usize,
    /// Number of samples it was made from.
    pub chunks: u32,
    /// Tensors that were rounded with importances.
    pub used: Vec<String>,
    /// Quantised tensors in which all columns weighed the same.
    pub uniform: Vec<String>,
}

/// A file that was read or written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Path as named by the user, or within the output folder.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of its contents, in hexadecimal.
    pub sha256: String,
}

/// One tensor of a conversion.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TensorRecord {
    /// Name in the output.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Type that the rules requested.
    pub requested: String,
    /// Type that was written.
    #[serde(rename = "type")]
    pub actual: String,
    /// Why the two differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Size in the output in bytes, without padding.
    pub bytes: u64,
    /// How rows or columns were permuted to undo act order, and along with which other tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permuted: Option<String>,
    /// How a quantised checkpoint stores it: "gptq, 4 bits, groups of 32, symmetric".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<String>,
    /// Whether its codes are the checkpoint's integers, or its bytes those of the GGUF file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub carried: bool,
    /// Largest difference between the written value and the weight, if the checkpoint was quantised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub largest_error: Option<f32>,
    /// Root of the mean squared error in units of the weights' root mean square, where a quantised checkpoint was read,
    /// or all weights are so small that their type might not hold them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f32>,
    /// Of weights that are too small for their type: what rounding to nearest makes of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub too_small: Option<TooSmall>,
}

/// What rounding to nearest makes of weights that are too small for their type. Both are relative errors, as
/// [`TensorRecord::relative_error`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TooSmall {
    /// Of the weights as they are.
    pub error: f32,
    /// What it would be if all were larger by a power of two.
    pub usual: f32,
}
