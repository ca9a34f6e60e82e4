//! The command line as typed. Each command works out what it means.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Parser, Subcommand};

use super::formats::FormatFlags;
use super::passes::PassFlags;
use super::wording;
use crate::export::{self, EXPORTERS};
use crate::plan::{self, FILE_TYPES};

/// Quantise Hugging Face checkpoints to GGUF files that llama.cpp, Ollama and LM Studio load.
#[derive(Debug, Parser)]
#[command(
    name = "aurora-quant",
    bin_name = "aurora-quant",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Args {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Flags that every command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Flags that every command takes.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Print a single JSON document to stdout.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Number of threads [default: all cores]. The output does not depend on it.
    #[arg(long, global = true, value_name = "N", help_heading = "Global options",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print only errors and requested output (a plan, JSON).
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: bool,
    /// Print a line for every tensor.
    #[arg(short, long, global = true, action = ArgAction::SetTrue, help_heading = "Global options")]
    pub verbose: bool,
    /// Instruction set for the runtime's kernels, for tests and benchmarks; this machine must have it.
    #[arg(long, global = true, value_name = "NAME", hide = true)]
    pub isa: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Convert(Box<Convert>),
    Calibrate(Calibrate),
    Inspect(Inspect),
    Eval(Eval),
    Bench(Bench),
    Generate(Box<Generate>),
}

/// Convert and quantise a checkpoint.
///
/// MODEL is a Hugging Face directory (config.json, safetensors, tokenizer), a single .safetensors file in such a
/// directory, or an unquantised .gguf file. The output appears under its name only when it is complete.
///
/// A checkpoint that is already quantised (GPTQ, AWQ, compressed-tensors, ...) keeps its integers unless --type
/// names a type. A sparse GGUF file becomes an ordinary one with the same types, unless more is asked for.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  aurora-quant convert Llama-3.2-1B                     Llama-3.2-1B-q8_0.gguf, 8 bits per weight
  aurora-quant convert Llama-3.2-1B --method awq        Llama-3.2-1B-q4_k_m.gguf, scaled by AWQ
  aurora-quant convert Llama-3.2-1B --type q4_0 -o small.gguf
  aurora-quant convert Llama-3.2-1B --type q4_0 --embedding-type q8_0 --dry-run
  aurora-quant convert big-bf16.gguf --type q8_0 --tensor-type 'ffn_down=f16'
  aurora-quant convert Llama-3.2-1B --method sparsegpt --sparse bitmask   without zeros; only aurora-quant reads it
  aurora-quant convert Llama-3.2-1B-f16-sparse.gguf     an ordinary GGUF file of it again
  aurora-quant convert Llama-3.2-1B --remove ffn=25% --remove layers=auto:2 --type q4_0
  aurora-quant convert Llama-3.2-1B --method gptq --record r.json
  aurora-quant convert --recipe r.json -o again.gguf    the same bytes")]
pub struct Convert {
    /// Checkpoint: a directory with config.json, a .safetensors file in one, or a .gguf file.
    #[arg(required_unless_present = "recipe")]
    pub model: Option<PathBuf>,
    /// Output file, or folder for formats other than GGUF [default: MODEL-TYPE.gguf in the current directory].
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How to choose codes: one method, or several joined by + (awq+gptq). rtn rounds to nearest (see --codes). gptq
    /// chooses codes so that the errors in a row cancel out on the calibration text. awq first scales input channels so
    /// that those with large inputs are rounded more finely; the file needs no special reader. [default: rtn]
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// Output format, and its settings.
    #[command(flatten)]
    pub format: FormatArgs,
    /// Quantisation type. As in llama-quantize, most types give a few matrices more bits: the output matrix, and those
    /// where errors cost most. With --format safetensors: f32, f16 or bf16, for all tensors. [default: q8_0; q4_k_m
    /// with a --method that calibrates; keep for a quantised checkpoint; the checkpoint's types with --format
    /// safetensors]
    #[arg(long = "type", value_name = "TYPE", ignore_case = true, value_parser = types())]
    pub file_type: Option<String>,
    /// Give every matrix the same type, without the exceptions that --type makes.
    #[arg(long)]
    pub pure: bool,
    /// Type of the tensors whose names match a regular expression, such as 'ffn_down=q8_0' or 'blk\.[01]\.=f16'. May be
    /// repeated; the first match wins. TYPE is f32, f16, bf16, q8_0, q6_k, q5_k, and so on.
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = tensor_type)]
    pub tensor_type: Vec<(String, String)>,
    /// Type of the output matrix [default: set by --type].
    #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = tensor_types(), hide_possible_values = true)]
    pub output_type: Option<String>,
    /// Type of the token embedding, which is also the output matrix in models that tie the two [default: set by
    /// --type].
    #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = tensor_types(), hide_possible_values = true)]
    pub embedding_type: Option<String>,
    /// Weigh rounding errors by an importance matrix: a file from `aurora-quant calibrate` or llama-imatrix (.gguf or
    /// .dat). In matrices that it does not cover, all columns weigh the same.
    #[arg(long, value_name = "FILE", conflicts_with = "calibrate", help_heading = "Importance")]
    pub imatrix: Option<PathBuf>,
    /// Like --imatrix, but collect the statistics now, from the --text files or the embedded text.
    #[arg(long, help_heading = "Importance")]
    pub calibrate: bool,
    /// Calibration text.
    #[command(flatten)]
    pub sampling: TextArgs,
    /// Settings of the methods.
    #[command(flatten)]
    pub solving: Solving,
    /// Remove parts of the model. What is left is a smaller model that every reader of the format runs. layers=3,8-10:
    /// these layers, counted from 0. layers=auto:2: the 2 layers whose removal changes the predictions on the
    /// calibration text least. ffn=25%: channels of every MLP. heads=50%: key-value heads with all their queries, or
    /// equally many queries of each, whichever makes up the share. experts=25%: experts of every layer. May be repeated
    /// for several of them. The parts that cost least are removed, and the weights that are left make up for them on
    /// the calibration text. --method and --type then work on the smaller model.
    #[arg(long, value_name = "PART=HOW MUCH", help_heading = "Removal")]
    pub remove: Vec<String>,
    /// With --remove, keep the weights that are left as they were, instead of having them make up for the removed
    /// parts.
    #[arg(long, help_heading = "Removal")]
    pub no_compensate: bool,
    /// Use these statistics for --method gptq, awq or awq+gptq instead of running the model: a file from `aurora-quant
    /// calibrate --hessian`.
    #[arg(long, value_name = "FILE", help_heading = "Methods",
        conflicts_with_all = ["text", "context", "samples", "imatrix", "calibrate", "resume"])]
    pub stats: Option<PathBuf>,
    /// Name of the pre-tokenizer, if it is not recognised (llama-bpe, qwen2, gpt-2, ...).
    #[arg(long, value_name = "NAME")]
    pub pre: Option<String>,
    /// Read every setting that affects the output from a recipe (TOML or JSON), or from the record of an earlier
    /// conversion. Flags override it. Paths in it are relative to the file.
    #[arg(long, value_name = "FILE", help_heading = "Recipes and records")]
    pub recipe: Option<PathBuf>,
    /// Save the settings as a recipe, in JSON if FILE ends in .json, otherwise in TOML.
    #[arg(long, value_name = "FILE", help_heading = "Recipes and records")]
    pub save_recipe: Option<PathBuf>,
    /// Write a record of the conversion, as --json prints it: the recipe, every tensor, what each pass did, and the
    /// SHA-256 of every file read and written.
    #[arg(long, value_name = "FILE", help_heading = "Recipes and records")]
    pub record: Option<PathBuf>,
    /// Print the plan (type and size of every tensor, exact file size) without writing anything.
    #[arg(long)]
    pub dry_run: bool,
    /// Fail if any tensor cannot have the requested type, or is too small for it.
    #[arg(long)]
    pub strict: bool,
    /// Replace files that exist: the output, the record, the saved recipe.
    #[arg(long)]
    pub force: bool,
    /// Round the matrices of a quantised GGUF file a second time. Those that keep their type are copied, and need no
    /// permission.
    #[arg(long)]
    pub allow_requantize: bool,
}

/// Output format, and its settings.
#[derive(Debug, clap::Args)]
pub struct FormatArgs {
    /// What is written. Folders hold safetensors, for vLLM, Transformers and their like; embeddings and output matrix
    /// are floats in those of codes. [default: gguf]
    #[arg(long, value_name = "FORMAT", value_parser = formats(), help_heading = "Format")]
    pub format: Option<String>,
    /// What each format has of its own.
    #[command(flatten)]
    pub options: FormatFlags,
}

fn formats() -> PossibleValuesParser {
    use clap::builder::PossibleValue;
    let formats = EXPORTERS.iter().map(|e| e.about());
    PossibleValuesParser::new(formats.map(|about| PossibleValue::new(about.name).help(about.summary)))
}

/// What can be set of the methods that look at the calibration text.
#[derive(Debug, clap::Args)]
pub struct Solving {
    /// Settings of single methods.
    #[command(flatten)]
    pub options: PassFlags,
    /// AWQ: also clip the range of groups of weights where that lowers the output error.
    #[arg(long, help_heading = "Methods")]
    pub clip: bool,
    /// Calibrate each block on the outputs of the original blocks before it (float), or of those blocks as written
    /// (quantized). [default: float]
    #[arg(long, value_name = "CHAIN", value_parser = ["float", "quantized"], help_heading = "Methods")]
    pub propagate: Option<String>,
    /// Save progress beside the output (FILE.resume) after every block, and continue from there if an earlier run was
    /// stopped. The result is the same, byte for byte.
    #[arg(long, help_heading = "Methods")]
    pub resume: bool,
}

/// Calibration text, and which part of it to use.
#[derive(Debug, clap::Args)]
pub struct TextArgs {
    /// Calibration text in UTF-8, similar to what the model will be used for. In a .jsonl file, each line has a "text"
    /// or the "messages" (and "tools") of a conversation. May be repeated [default: an embedded text of many kinds].
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub text: Vec<PathBuf>,
    /// Tokens per sample [default: 512, or the model's context length if shorter].
    #[arg(short, long, value_name = "N", help_heading = "Calibration")]
    pub context: Option<usize>,
    /// Use at most N samples, drawn from the whole text [default: all; 128 with a --method that calibrates].
    #[arg(long, value_name = "N", help_heading = "Calibration")]
    pub samples: Option<NonZeroUsize>,
    /// Seed for drawing samples [default: 0].
    #[arg(long, value_name = "N", help_heading = "Calibration")]
    pub seed: Option<u64>,
}

/// Collect an importance matrix: statistics of every matrix's inputs, which show which weights matter.
///
/// Runs the model over a text and sums, for every input channel of every linear layer, the squares over all tokens.
/// The larger its inputs, the more harm a badly rounded weight does; `convert --imatrix` takes that into account.
///
/// A few hundred samples of the kind of text the model will see are enough. The model runs one block at a time, so
/// memory holds one block, plus 4 bytes per token and unit of width. llama-quantize --imatrix reads the file too.
///
/// With --shard, a run works on part of the samples, so that several machines can share the work. --merge of all
/// parts gives the file that a single run would have written, byte for byte.
///
/// With --merge, leave out MODEL: the files of other runs (other texts, other machines) are added up.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  aurora-quant calibrate Llama-3.2-1B --text corpus.txt               the whole text
  aurora-quant calibrate Llama-3.2-1B --text chats.jsonl --samples 128 -o chats.gguf
  aurora-quant calibrate Llama-3.2-1B --text corpus.txt --hessian     with X^T X of every input
  aurora-quant calibrate --merge a.gguf b.gguf -o both.gguf
  aurora-quant calibrate Llama-3.2-1B --hessian --samples 512 --shard 0/3 -o part-0.gguf
  aurora-quant calibrate --merge part-0.gguf part-1.gguf part-2.gguf -o stats.gguf
  aurora-quant convert Llama-3.2-1B --type q4_0 --imatrix both.gguf
  aurora-quant convert Llama-3.2-1B --method gptq --stats stats.gguf")]
pub struct Calibrate {
    /// Checkpoint: a directory with config.json, a .safetensors file in one, or a .gguf file.
    #[arg(required_unless_present = "merge", conflicts_with = "merge")]
    pub model: Option<PathBuf>,
    /// Calibration text.
    #[command(flatten)]
    pub sampling: TextArgs,
    /// Also keep X^T X of every input: 2 bytes per pair of input channels (34 MB at a width of 4096).
    #[arg(long, conflicts_with = "merge")]
    pub hessian: bool,
    /// Also collect statistics for the output matrix (llama-imatrix: --process-output).
    #[arg(long, conflicts_with = "merge")]
    pub output_matrix: bool,
    /// Work on part I of N of the samples, counting from 0. --samples is the total over all parts. Text, seed and
    /// options must be the same for every part.
    #[arg(long, value_name = "I/N", value_parser = shard, conflicts_with = "merge")]
    pub shard: Option<(u32, u32)>,
    /// Add up these statistics files instead, or join all shards of a run.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["text", "context", "samples"])]
    pub merge: Vec<PathBuf>,
    /// Output file [default: MODEL-imatrix.gguf in the current directory; imatrix.gguf with --merge].
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the output file if it exists.
    #[arg(long)]
    pub force: bool,
}

fn shard(text: &str) -> Result<(u32, u32), String> {
    let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    numbers.filter(|(i, n)| i < n).ok_or_else(|| "must be I/N with I from 0 to N - 1, such as 0/3".to_owned())
}

/// Show a checkpoint's architecture, metadata, tensors, types and sizes.
///
/// With --sparsity, all numbers are read, and the list says how many of each tensor are zero, which pattern N:M they
/// follow (at most N of M neighbours in a row are not zero), and how many rows and columns are zero throughout.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// A .gguf or .safetensors file, or a directory with config.json.
    pub path: PathBuf,
    /// Show statistics and a histogram of one tensor instead.
    #[arg(long, value_name = "NAME")]
    pub tensor: Option<String>,
    /// Count zeros: reads all numbers.
    #[arg(long)]
    pub sparsity: bool,
    /// Also show which share of the numbers is below this size, as `convert --threshold` would prune. Implies
    /// --sparsity.
    #[arg(long, value_name = "X", value_parser = above_zero)]
    pub below: Option<f32>,
}

/// Measure a model's perplexity on a text, and its KL divergence from a reference.
///
/// Perplexity is computed as in llama-perplexity: the text is cut into chunks, and the tokens in the second half of
/// each chunk are scored, so that each has at least half a chunk before it. Lower is better. Only figures for the
/// same text, context and vocabulary can be compared.
///
/// With --reference, both models run side by side. The KL divergence from the reference measures what rounding did to
/// all probabilities. It tells files apart even where their perplexities agree within their standard errors.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  aurora-quant eval small-q4_0.gguf                            on the embedded held-out text
  aurora-quant eval small-q4_0.gguf --reference Llama-3.2-1B   what quantising lost
  aurora-quant eval small-q4_0.gguf --text wiki.test.raw --context 512 --json
  aurora-quant eval big-f16.gguf --save-logits base.dat        for llama-perplexity --kl-divergence")]
pub struct Eval {
    /// Model to score: a .gguf file, a directory with config.json, or a .safetensors file in one.
    pub model: PathBuf,
    /// UTF-8 text to score [default: an embedded held-out text, which is never calibrated on].
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Tokens per chunk [default: 512, or the model's context length if shorter].
    #[arg(short, long, value_name = "N")]
    pub context: Option<usize>,
    /// Score only the first N chunks.
    #[arg(long, value_name = "N")]
    pub chunks: Option<NonZeroUsize>,
    /// Model to compare with, usually the one MODEL was made from. Both must have the same vocabulary.
    #[arg(long, value_name = "MODEL")]
    pub reference: Option<PathBuf>,
    /// Write MODEL's log-probabilities, rounded to 16 bits, as llama-perplexity --kl-divergence-base does. Takes 2
    /// bytes per scored token and vocabulary entry.
    #[arg(long, value_name = "FILE")]
    pub save_logits: Option<PathBuf>,
    /// Type of the key-value cache.
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = crate::cli::open::cache_types())]
    pub cache_type: String,
    /// Keep activations in f32. By default, products with quantised weights round them to 8 bits, as in llama.cpp.
    #[arg(long)]
    pub exact: bool,
}

/// Measure how fast a model runs on this machine.
///
/// Times a prompt (all tokens at once) and a generation (token by token, from an empty context), each after a warm-up
/// run. Prompt speed is limited by arithmetic, generation speed by reading every weight once per token; the GB/s figure
/// shows how close that comes to the memory bandwidth.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  aurora-quant bench small-q4_0.gguf --threads 2
  aurora-quant bench small-q4_0.gguf -p 0 -n 64                generation only
  aurora-quant bench small-q4_0.gguf -n 64 --no-kv-cache       what the key-value cache gains
  aurora-quant bench small-q4_0.gguf -p 2048 --attention naive what tiled attention gains")]
pub struct Bench {
    /// Model to time: a .gguf file, a directory with config.json, or a .safetensors file in one.
    pub model: PathBuf,
    /// Prompt length in tokens; 0 skips the prompt [default: 512, or the model's context length if shorter].
    #[arg(short, long, value_name = "N")]
    pub prompt: Option<usize>,
    /// Tokens to generate; 0 skips generation [default: 128, or the model's context length if shorter].
    #[arg(short = 'n', long, value_name = "N")]
    pub generate: Option<usize>,
    /// Timed runs of each.
    #[arg(short, long, value_name = "N", default_value = "5")]
    pub runs: NonZeroUsize,
    /// Recompute all earlier tokens for every token. The work grows with the square of -n, which may be at most 256.
    #[arg(long)]
    pub no_kv_cache: bool,
    /// flash works in tiles and never stores the score matrix; naive stores every score, and is slow.
    #[arg(long, value_name = "HOW", default_value = "flash", value_parser = crate::cli::open::attentions())]
    pub attention: String,
    /// Type of the key-value cache.
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = crate::cli::open::cache_types())]
    pub cache_type: String,
    /// Keep activations in f32. By default, products with quantised weights round them to 8 bits, as in llama.cpp.
    #[arg(long)]
    pub exact: bool,
}

/// Continue a prompt, or chat.
///
/// Writes the text to stdout as it is generated, and the speed to stderr. With --chat, the prompt goes through the
/// model's chat template; without --prompt, each line of stdin is a user turn, until the end of input. Ctrl-C stops
/// generating and keeps the text so far. The same options and seed give the same text.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  aurora-quant generate model.gguf --prompt 'Once upon a time' --temperature 0
  aurora-quant generate Llama-3.2-1B-Instruct --chat
  aurora-quant generate model.gguf --chat --prompt 'Why is the sky blue?' --seed 7 --json

Sampling steps, in order: repeat penalty, top-k, top-p, min-p, temperature, draw.")]
pub struct Generate {
    /// Checkpoint: a directory with config.json, a .safetensors file in one, or a .gguf file.
    pub model: PathBuf,
    /// Text to continue; with --chat, the only user turn.
    #[arg(short, long, value_name = "TEXT", required_unless_present = "chat")]
    pub prompt: Option<String>,
    /// Maximum number of tokens to generate; the model may stop earlier.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256)]
    pub tokens: usize,
    /// Apply the model's chat template.
    #[arg(long)]
    pub chat: bool,
    /// System prompt for the conversation.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Flatten (above 1) or sharpen (below 1) the distribution; 0 always takes the most probable token.
    #[arg(long, value_name = "X", default_value_t = 0.8, value_parser = at_least_zero, help_heading = "Sampling")]
    pub temperature: f32,
    /// Choose among the N most probable tokens; 0: all.
    #[arg(long, value_name = "N", default_value_t = 40, help_heading = "Sampling")]
    pub top_k: usize,
    /// Choose among the most probable tokens that together have this probability; 1: all.
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = probability, help_heading = "Sampling")]
    pub top_p: f32,
    /// Leave out tokens less probable than this times the most probable one; 0: none.
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = probability, help_heading = "Sampling")]
    pub min_p: f32,
    /// Make tokens of the last 64 less probable (above 1); 1: off.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = above_zero, help_heading = "Sampling")]
    pub repeat_penalty: f32,
    /// Where the random numbers begin.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Sampling")]
    pub seed: u64,
    /// Maximum length of prompt and answer together, in tokens [default: the model's context length, at most 4096].
    #[arg(long, value_name = "N")]
    pub context: Option<NonZeroUsize>,
    /// Use 32-bit activations, keys and values: slower, for comparing weights.
    #[arg(long)]
    pub exact: bool,
}

fn number(text: &str, need: &str, good: impl Fn(f32) -> bool) -> Result<f32, String> {
    text.parse().ok().filter(|&x| good(x)).ok_or_else(|| format!("must be {need}"))
}

fn at_least_zero(text: &str) -> Result<f32, String> {
    number(text, "a number of at least 0", |x| x.is_finite() && x >= 0.0)
}

fn above_zero(text: &str) -> Result<f32, String> {
    number(text, "a number above 0", |x| x.is_finite() && x > 0.0)
}

fn probability(text: &str) -> Result<f32, String> {
    number(text, "between 0 and 1", |x| (0.0..=1.0).contains(&x))
}

fn types() -> PossibleValuesParser {
    use clap::builder::PossibleValue;
    let kept = "for a quantised checkpoint: each matrix in the smallest type that holds its integers unchanged";
    let keep = PossibleValue::new(export::KEEP).help(kept);
    let types = FILE_TYPES.iter().map(|t| PossibleValue::new(t.name).aliases(t.aliases).help(t.about));
    PossibleValuesParser::new(types.chain([keep]))
}

fn tensor_types() -> PossibleValuesParser {
    PossibleValuesParser::new(plan::tensor_types().into_iter().map(|s| s.spec().name))
}

fn tensor_type(text: &str) -> Result<(String, String), String> {
    // The last '=' separates: a pattern may contain one, a type cannot.
    let (pattern, name) = text.rsplit_once('=').ok_or("must be PATTERN=TYPE, such as ffn_down=q8_0")?;
    regex::Regex::new(pattern).map_err(|e| e.to_string())?;
    plan::tensor_type("tensor_types", name).map_err(|e| wording::flags(&e.explain()).into_owned())?;
    Ok((pattern.to_owned(), name.to_ascii_lowercase()))
}
