//! What a run did and measured, tensor by tensor: the machine-readable truth behind every summary.

use serde::Serialize;

use crate::plan::{Plan, TensorPlan};

/// Version of this document's layout; a field that changes its meaning raises it.
pub const SCHEMA: u32 = 1;

/// One conversion.
#[derive(Debug, Clone, Serialize)]
pub struct RunRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name and version of this program.
    pub tool: String,
    /// The checkpoint as it was named.
    pub input: String,
    /// Architecture, as in the output's header.
    pub architecture: String,
    /// The output's path.
    pub output: String,
    /// Whether nothing was written because only the plan was asked for.
    pub dry_run: bool,
    /// Method chain.
    pub method: String,
    /// File type.
    #[serde(rename = "type")]
    pub file_type: String,
    /// Numbers in all tensors.
    pub weights: u64,
    /// Size of the output file in bytes.
    pub file_bytes: u64,
    /// Storage bits per weight over all tensors (header and padding left out).
    pub bits_per_weight: f64,
    /// How many tensors did not get the type that was asked for.
    pub fallbacks: usize,
    /// Threads used.
    pub threads: usize,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Things the user should know.
    pub notes: Vec<String>,
    /// Every tensor.
    pub tensors: Vec<TensorRecord>,
}

/// One tensor of a conversion.
#[derive(Debug, Clone, Serialize)]
pub struct TensorRecord {
    /// Name in the output.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Type that the rules asked for.
    pub requested: &'static str,
    /// Type that was written.
    #[serde(rename = "type")]
    pub actual: &'static str,
    /// Why the two differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Size in the output in bytes, without padding.
    pub bytes: u64,
}

impl From<&TensorPlan> for TensorRecord {
    fn from(t: &TensorPlan) -> Self {
        TensorRecord {
            name: t.name.clone(),
            shape: t.shape.clone(),
            requested: t.requested.name,
            actual: t.actual.name,
            reason: t.reason.clone(),
            bytes: t.bytes,
        }
    }
}

/// The records of a plan's tensors.
pub fn tensors(plan: &Plan) -> Vec<TensorRecord> {
    plan.tensors.iter().map(TensorRecord::from).collect()
}
