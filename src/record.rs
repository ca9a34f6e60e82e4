//! What a run did and measured: the machine-readable truth behind every summary.

use aurora_quantizers::metrics;
use serde::{Deserialize, Serialize};

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
    /// Most memory this process has had resident, mapped files included, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Things the user should know.
    pub notes: Vec<String>,
    /// What errors were weighed by, if by anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importance: Option<ImportanceRecord>,
    /// Every tensor.
    pub tensors: Vec<TensorRecord>,
    /// Every linear that a method worked on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub linears: Vec<LinearRecord>,
    /// Every site whose input a method wanted to scale.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scales: Vec<ScaleRecord>,
}

/// What errors were weighed by.
#[derive(Debug, Clone, Serialize)]
pub struct ImportanceRecord {
    /// File of statistics; none if they were made on the fly.
    pub file: Option<String>,
    /// Texts behind it.
    pub datasets: Vec<String>,
    /// Matrices it covers.
    pub entries: usize,
    /// Samples behind it.
    pub chunks: u32,
    /// Tensors that were rounded with importances.
    pub used: Vec<String>,
    /// Tensors with blocks that were rounded with all columns counting alike.
    pub uniform: Vec<String>,
}

/// One calibration.
#[derive(Debug, Clone, Serialize)]
pub struct CalibrateRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name and version of this program.
    pub tool: String,
    /// The model as it was named; none for a merge.
    pub model: Option<String>,
    /// The files that were merged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<String>,
    /// The output's path.
    pub output: String,
    /// Size of the output file in bytes.
    pub file_bytes: u64,
    /// Texts as they were named.
    pub datasets: Vec<String>,
    /// Tokens in a sample.
    pub context: u32,
    /// Samples used.
    pub samples: u32,
    /// Samples that the texts would have given; none for a merge.
    pub available: Option<usize>,
    /// Decided which samples.
    pub seed: u64,
    /// Whether X^T X was kept.
    pub hessian: bool,
    /// Matrices with statistics.
    pub entries: usize,
    /// Experts that saw no token: "matrix, expert number".
    pub idle_experts: Vec<String>,
    /// Columns whose input was always zero.
    pub dead_columns: usize,
    /// Threads used.
    pub threads: usize,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Tokens through the model per second.
    pub tokens_per_second: Option<f64>,
    /// Most memory this process has had resident, mapped files included, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Things the user should know.
    pub notes: Vec<String>,
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
    /// How rows or columns changed places for the sake of act order, and with those of what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permuted: Option<String>,
    /// How a quantised checkpoint stores it: "gptq, 4 bits, groups of 32, symmetric".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed: Option<String>,
    /// Whether the checkpoint's integers became its codes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub carried: bool,
    /// Largest magnitude of written value less weight, where a quantised checkpoint was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest_error: Option<f32>,
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
            permuted: None,
            packed: None,
            carried: t.carried,
            largest_error: None,
        }
    }
}

/// What a method did to one linear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinearRecord {
    /// Name of the matrix in the output.
    pub tensor: String,
    /// Which expert's, if it has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expert: Option<usize>,
    /// What chose its codes.
    pub method: String,
    /// Calibration tokens that it saw.
    pub tokens: u64,
    /// Mean squared change of its outputs over the calibration tokens, summed over outputs; of clipping without what
    /// different blocks of a row do to each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The same if it were rounded to nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_rtn: Option<f64>,
    /// Added to the Hessian's diagonal, as a share of its mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damping: Option<f64>,
    /// Share of the correlations between its inputs that was taken for chance, given the number of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shrinkage: Option<f64>,
    /// How often damping had to be raised.
    pub retries: usize,
    /// Input channels that were always zero.
    pub dead_channels: usize,
    /// Input channels that others predict to within about the damping.
    pub rank_missing: usize,
    /// Rows left rounded to nearest, because the method's codes were worse.
    pub rows_rtn: usize,
    /// Time in seconds.
    pub seconds: f64,
    /// What the user should know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl LinearRecord {
    /// Nothing done yet.
    pub fn new(tensor: &str, expert: Option<usize>, tokens: u64) -> Self {
        LinearRecord {
            tensor: tensor.to_owned(),
            expert,
            method: String::new(),
            tokens,
            loss: None,
            loss_rtn: None,
            damping: None,
            shrinkage: None,
            retries: 0,
            dead_channels: 0,
            rank_missing: 0,
            rows_rtn: 0,
            seconds: 0.0,
            note: None,
        }
    }
}

/// What a method found for the inputs of some linears that read the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScaleRecord {
    /// The transformer block; none for what comes after the blocks.
    pub block: Option<usize>,
    /// Names of the matrices in the output.
    pub readers: Vec<String>,
    /// What absorbs the scales; none if nothing can.
    pub into: Option<String>,
    /// Mean squared change of the attention's or the MLP's output by rounding to nearest, summed over its width, without
    /// scales.
    pub loss_before: Option<f64>,
    /// The same with them; never larger.
    pub loss: Option<f64>,
    /// The exponents of activations and of weights; none where no scales were better than none.
    pub exponents: Option<[f64; 2]>,
    /// Whether they are powers of two, which change no digit of what absorbs them.
    pub powers_of_two: bool,
    /// What the losses are, if not those of the block's outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_by: Option<String>,
    /// The smallest and the largest.
    pub range: Option<(f32, f32)>,
    /// Time in seconds.
    pub seconds: f64,
    /// Why there are none, or what the user should know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl ScaleRecord {
    /// Nothing found yet.
    pub fn new(block: Option<usize>, readers: Vec<String>, into: Option<String>) -> Self {
        ScaleRecord {
            block,
            readers,
            into,
            loss_before: None,
            loss: None,
            exponents: None,
            powers_of_two: false,
            judged_by: None,
            range: None,
            seconds: 0.0,
            note: None,
        }
    }
}

/// The records of a plan's tensors.
pub fn tensors(plan: &Plan) -> Vec<TensorRecord> {
    plan.tensors.iter().map(TensorRecord::from).collect()
}

/// A figure and its standard error, both in the figure's unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl From<metrics::Estimate> for Estimate {
    fn from(e: metrics::Estimate) -> Self {
        Estimate { value: e.value, error: e.error }
    }
}

/// How a figure is spread over tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)] // Each name is the share of tokens below it, in percent.
pub struct Quantiles {
    pub min: f64,
    pub p1: f64,
    pub p10: f64,
    pub median: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

/// A model's predictions beside those of a reference. Probabilities are fractions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    /// Perplexity of the reference.
    pub reference_perplexity: Estimate,
    /// ln of the model's perplexity over the reference's, nats.
    pub log_perplexity_ratio: Estimate,
    /// The model's perplexity over the reference's.
    pub perplexity_ratio: Estimate,
    /// The model's perplexity less the reference's.
    pub perplexity_difference: Estimate,
    /// Correlation of both models' NLL over tokens; none if one of them is constant.
    pub correlation: Option<f64>,
    /// KL divergence from the reference, nats per token.
    pub kl: Estimate,
    /// Its spread.
    pub kl_quantiles: Quantiles,
    /// Share of positions where both think the same token most likely.
    pub same_top: Estimate,
    /// Mean shift of the right token's probability.
    pub dp: Estimate,
    /// Root mean square of that shift.
    pub dp_rms: Estimate,
    /// Its spread.
    pub dp_quantiles: Quantiles,
}

/// The accuracy of one model on one text.
#[derive(Debug, Clone, Serialize)]
pub struct EvalRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name and version of this program.
    pub tool: String,
    /// The model as it was named.
    pub model: String,
    /// Architecture, as in a GGUF header.
    pub architecture: String,
    /// Size of the model's files in bytes.
    pub file_bytes: u64,
    /// The reference as it was named.
    #[serde(skip_serializing_if = "Option::is_none")]
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
    pub cache_type: &'static str,
    /// Threads used.
    pub threads: usize,
    /// Seconds for scoring, both models together.
    pub seconds: f64,
    /// Tokens of text (scored or context) per second.
    pub tokens_per_second: f64,
    /// exp(mean NLL).
    pub perplexity: Estimate,
    /// Mean negative log-likelihood per token, nats.
    pub nll: Estimate,
    /// Beside the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
}

/// Figures of several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of some figures; none of none.
    pub fn of(mut figures: Vec<f64>) -> Option<Spread> {
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        Some(Spread { median: metrics::quantile(&figures, 0.5), min, max })
    }
}

/// The speed of one model.
#[derive(Debug, Clone, Serialize)]
pub struct BenchRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name and version of this program.
    pub tool: String,
    /// The model as it was named.
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
    pub cache_type: Option<&'static str>,
    /// How attention was computed.
    pub attention: &'static str,
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
    /// Most memory this process has had resident, mapped files included, in bytes.
    pub peak_memory_bytes: Option<u64>,
}
