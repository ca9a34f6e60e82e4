//! What was typed. What it means is worked out by each command.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Parser, Subcommand};

use super::passes::PassFlags;
use crate::export::{self, EXPORTERS, packed};
use crate::plan::{self, FILE_TYPES};

/// Turn a Hugging Face checkpoint into a small GGUF file that llama.cpp, Ollama and LM Studio load.
#[derive(Debug, Parser)]
#[command(
    name = "aurora-quant",
    bin_name = "aurora-quant",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every command.
    #[command(flatten)]
    pub common: Common,
}

/// Flags of every command.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Print one JSON document on stdout.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Threads to use [default: all cores]; the output does not depend on it.
    #[arg(long, global = true, value_name = "N", help_heading = "Global options",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print nothing but errors and what was asked for (a plan, JSON).
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: bool,
    /// Print a line for every tensor.
    #[arg(short, long, global = true, action = ArgAction::SetTrue, help_heading = "Global options")]
    pub verbose: bool,
    /// Instruction set of the runtime's kernels, one that this machine has, for tests and benchmarks.
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

/// Write a checkpoint as a GGUF file, in a smaller type if wanted.
///
/// MODEL is a Hugging Face directory (config.json, safetensors, tokenizer), one .safetensors file in such a
/// directory, or a .gguf file of floats. The output appears whole or not at all.
///
/// A checkpoint that is quantised already (GPTQ, AWQ, compressed-tensors, ...) keeps its integers, unless a --type is
/// named.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  aurora-quant convert Llama-3.2-1B                     Llama-3.2-1B-q8_0.gguf, 8 bits per weight
  aurora-quant convert Llama-3.2-1B --method awq        Llama-3.2-1B-q4_k_m.gguf, the best that RTN can do
  aurora-quant convert Llama-3.2-1B --type q4_0 -o small.gguf
  aurora-quant convert Llama-3.2-1B --type q4_0 --embedding-type q8_0 --dry-run
  aurora-quant convert big-bf16.gguf --type q8_0 --tensor-type 'ffn_down=f16'
  aurora-quant convert Llama-3.2-1B --method gptq --record r.json
  aurora-quant convert --recipe r.json -o again.gguf    the same bytes")]
pub struct Convert {
    /// Checkpoint: directory with config.json, .safetensors file in one, or .gguf file.
    #[arg(required_unless_present = "recipe")]
    pub model: Option<PathBuf>,
    /// Output file, or folder of other formats than GGUF [default: MODEL-TYPE.gguf in the current directory].
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How codes are chosen, one method or several joined by + (awq+gptq): rtn rounds each weight to the nearest; gptq
    /// chooses codes so that the errors of a row cancel on the calibration text; awq scales channels before, so that
    /// those with large inputs are rounded more finely, and leaves no trace in the file.
    /// [default: rtn]
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// Who is to load the output, and what its matrices are like.
    #[command(flatten)]
    pub format: FormatArgs,
    /// Type of the matrices. Most types give a few matrices more bits, as llama-quantize does: the output matrix, and
    /// those where errors cost most. With --format safetensors f32, f16 or bf16, for all tensors [default: q8_0; of a
    /// --method that calibrates q4_k_m; keep for a checkpoint that is quantised; what the checkpoint has for --format
    /// safetensors].
    #[arg(long = "type", value_name = "TYPE", ignore_case = true, value_parser = types())]
    pub file_type: Option<String>,
    /// Give every matrix the same type, without the exceptions that --type has.
    #[arg(long)]
    pub pure: bool,
    /// Type of the tensors whose name matches a regular expression, such as 'ffn_down=q8_0' or 'blk\.[01]\.=f16';
    /// may be given several times, the first match wins. Takes f32, f16, bf16, q8_0, q6_k, q5_k, and so on.
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = tensor_type)]
    pub tensor_type: Vec<(String, String)>,
    /// Type of the output matrix [default: what --type says].
    #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = tensor_types(), hide_possible_values = true)]
    pub output_type: Option<String>,
    /// Type of the token embedding, which is also the output matrix of models that tie them [default: what --type
    /// says].
    #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = tensor_types(), hide_possible_values = true)]
    pub embedding_type: Option<String>,
    /// Weigh errors by how large each weight's inputs are: statistics of `aurora-quant calibrate` or of llama-imatrix
    /// (.gguf or .dat). Matrices that it does not cover are rounded as if all columns counted alike.
    #[arg(long, value_name = "FILE", conflicts_with = "calibrate", help_heading = "Importance")]
    pub imatrix: Option<PathBuf>,
    /// The same with statistics made now, of the texts named with --text or of the embedded one.
    #[arg(long, help_heading = "Importance")]
    pub calibrate: bool,
    /// What it is calibrated on.
    #[command(flatten)]
    pub sampling: TextArgs,
    /// How methods that solve are to do it.
    #[command(flatten)]
    pub solving: Solving,
    /// Statistics for --method gptq, awq or awq+gptq, so that the model is not run: a file of `aurora-quant calibrate
    /// --hessian`.
    #[arg(long, value_name = "FILE", help_heading = "Methods",
        conflicts_with_all = ["text", "context", "samples", "imatrix", "calibrate", "resume"])]
    pub stats: Option<PathBuf>,
    /// Name of the pre-tokenizer, where it is not recognised (llama-bpe, qwen2, gpt-2, ...).
    #[arg(long, value_name = "NAME")]
    pub pre: Option<String>,
    /// Take everything that decides the bytes from a recipe (TOML or JSON), or from the record of an earlier
    /// conversion; flags beside it count more, and paths in it are relative to it.
    #[arg(long, value_name = "FILE", help_heading = "Recipes and records")]
    pub recipe: Option<PathBuf>,
    /// Write what was asked for as a recipe, in TOML, or in JSON for a name that ends so.
    #[arg(long, value_name = "FILE", help_heading = "Recipes and records")]
    pub save_recipe: Option<PathBuf>,
    /// Write the record of the conversion, as --json prints it: recipe, every tensor, what the passes did, SHA-256 of
    /// all files read and written.
    #[arg(long, value_name = "FILE", help_heading = "Recipes and records")]
    pub record: Option<PathBuf>,
    /// Print the plan (type and bytes of every tensor, exact file size) and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Fail if any tensor cannot have the type that was asked for.
    #[arg(long)]
    pub strict: bool,
    /// Replace the output file if it exists.
    #[arg(long)]
    pub force: bool,
    /// Accept a GGUF file that is quantised already; what its rounding lost stays lost.
    #[arg(long)]
    pub allow_requantize: bool,
}

/// What is written, and what belongs to that.
#[derive(Debug, clap::Args)]
pub struct FormatArgs {
    /// What is written. Folders hold safetensors, for vLLM, Transformers and their like; embeddings and output matrix
    /// are floats in those of codes. [default: gguf]
    #[arg(long, value_name = "FORMAT", value_parser = formats(), help_heading = "FormatArgs")]
    pub format: Option<String>,
    /// Bits of a code, 4 or 8 [default: 4].
    #[arg(long, value_name = "N", value_parser = bits, help_heading = "FormatArgs")]
    pub bits: Option<u8>,
    /// Weights that share a scale: 32, 64 or 128 [default: 128].
    #[arg(long, value_name = "N", value_parser = group, help_heading = "FormatArgs")]
    pub group_size: Option<u8>,
    /// Zeros in the middle of the codes [default of gptq and compressed-tensors].
    #[arg(long, conflicts_with = "asym", help_heading = "FormatArgs")]
    pub sym: bool,
    /// A zero for every group [default of awq].
    #[arg(long, help_heading = "FormatArgs")]
    pub asym: bool,
    /// Size of a file of safetensors, at most, such as 5GB or 500MB [default: 5GB].
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "FormatArgs")]
    pub shard_size: Option<u64>,
}

fn formats() -> PossibleValuesParser {
    use clap::builder::PossibleValue;
    let formats = EXPORTERS.iter().map(|e| e.about());
    PossibleValuesParser::new(formats.map(|about| PossibleValue::new(about.name).help(about.summary)))
}

/// "500MB": decimal, as the Hugging Face libraries count; or binary, "500MiB".
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        _ => 0,
    };
    let bytes = number.parse().ok().and_then(|n: u64| n.checked_mul(unit)).filter(|n| *n > 0);
    bytes.ok_or_else(|| "must be a number and KB, MB or GB, such as 5GB".to_owned())
}

fn one_of<N: ToString>(text: &str, numbers: &[N]) -> Result<u8, String> {
    let found = numbers.iter().any(|n| n.to_string() == text).then(|| text.parse().ok()).flatten();
    let words = || numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("must be one of {}", words()))
}

fn group(text: &str) -> Result<u8, String> {
    one_of(text, &packed::GROUPS)
}

fn bits(text: &str) -> Result<u8, String> {
    one_of(text, &packed::BITS)
}

/// What can be set of the methods that look at the calibration text.
#[derive(Debug, clap::Args)]
pub struct Solving {
    /// What each method has of its own.
    #[command(flatten)]
    pub options: PassFlags,
    /// AWQ: also cut the range of groups of weights where that lowers the error of the outputs.
    #[arg(long, help_heading = "Methods")]
    pub clip: bool,
    /// Whose outputs the next block is calibrated on: those of the original model, or of the blocks as written.
    /// [default: float]
    #[arg(long, value_name = "CHAIN", value_parser = ["float", "quantized"], help_heading = "Methods")]
    pub propagate: Option<String>,
    /// Keep what is done beside the output (FILE.resume) after every block, and go on from there if an earlier run was
    /// stopped; the result is the same, byte for byte.
    #[arg(long, help_heading = "Methods")]
    pub resume: bool,
}

/// Which part of which text a model is calibrated on.
#[derive(Debug, clap::Args)]
pub struct TextArgs {
    /// UTF-8 text to calibrate on, like what the model will be used for; a .jsonl file has a "text" or the "messages"
    /// (and "tools") of a conversation in every line. May be given several times [default: an embedded text of many
    /// kinds].
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub text: Vec<PathBuf>,
    /// Tokens in a sample [default: 512, or the model's context if that is shorter].
    #[arg(short, long, value_name = "N", help_heading = "Calibration")]
    pub context: Option<usize>,
    /// Use at most N samples, drawn from the whole text [default: all; 128 for a --method that calibrates].
    #[arg(long, value_name = "N", help_heading = "Calibration")]
    pub samples: Option<NonZeroUsize>,
    /// Which samples are drawn [default: 0].
    #[arg(long, value_name = "N", help_heading = "Calibration")]
    pub seed: Option<u64>,
}

/// Collect statistics of what every matrix multiplies, for rounding that knows which weights matter.
///
/// Runs the model over a text and keeps, for every input channel of every linear, the sum of squares over tokens. A
/// weight whose input is large does more harm when it is rounded badly; `convert --imatrix` takes that into account.
///
/// A few hundred samples of the kind of text that the model will see are enough. The model runs block by block, so
/// memory holds one block, and 4 bytes for every token and unit of width. The file is also what llama-quantize
/// --imatrix reads.
///
/// With --shard a run works on a part of the samples, so that several machines can share them; --merge of all parts is
/// the file that one run would have written, byte for byte.
///
/// With --merge MODEL is left out: files of other runs (other texts, other machines) are added up.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  aurora-quant calibrate Llama-3.2-1B --text corpus.txt               all of the text
  aurora-quant calibrate Llama-3.2-1B --text chats.jsonl --samples 128 -o chats.gguf
  aurora-quant calibrate Llama-3.2-1B --text corpus.txt --hessian     with X^T X of every input
  aurora-quant calibrate --merge a.gguf b.gguf -o both.gguf
  aurora-quant calibrate Llama-3.2-1B --hessian --samples 512 --shard 0/3 -o part-0.gguf
  aurora-quant calibrate --merge part-0.gguf part-1.gguf part-2.gguf -o stats.gguf
  aurora-quant convert Llama-3.2-1B --type q4_0 --imatrix both.gguf
  aurora-quant convert Llama-3.2-1B --method gptq --stats stats.gguf")]
pub struct Calibrate {
    /// Checkpoint: directory with config.json, .safetensors file in one, or .gguf file.
    #[arg(required_unless_present = "merge", conflicts_with = "merge")]
    pub model: Option<PathBuf>,
    /// What it is calibrated on.
    #[command(flatten)]
    pub sampling: TextArgs,
    /// Keep X^T X of every input too, which takes 2 bytes for every pair of input channels (a width of 4096: 34 MB).
    #[arg(long, conflicts_with = "merge")]
    pub hessian: bool,
    /// Observe the output matrix too (llama-imatrix: --process-output).
    #[arg(long, conflicts_with = "merge")]
    pub output_matrix: bool,
    /// Work on part I of N of the samples, I from 0. --samples is how many all parts have together; text, seed and
    /// options must be the same for every part.
    #[arg(long, value_name = "I/N", value_parser = shard, conflicts_with = "merge")]
    pub shard: Option<(u32, u32)>,
    /// Add up these files of statistics instead, or put all shards of a run together.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["text", "context", "samples"])]
    pub merge: Vec<PathBuf>,
    /// Output file [default: MODEL-imatrix.gguf in the current directory, imatrix.gguf for --merge].
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

/// Show what is in a checkpoint: architecture, metadata, tensors, types and sizes.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// .gguf or .safetensors file, or a directory with config.json.
    pub path: PathBuf,
    /// Show statistics and a histogram of one tensor instead.
    #[arg(long, value_name = "NAME")]
    pub tensor: Option<String>,
}

/// Measure how well a model predicts a text, and how far it is from a reference.
///
/// MODEL is what is judged: a .gguf file, or a checkpoint directory. Perplexity follows llama-perplexity: the text is
/// cut into chunks, and tokens in the second half of each are scored, so that every one has half a chunk before it.
/// Lower is better; only figures on the same text, context and vocabulary can be compared.
///
/// With --reference both models run side by side. The KL divergence from the reference says what rounding did to all
/// probabilities, and tells files apart whose perplexities lie within each other's errors.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  aurora-quant eval small-q4_0.gguf                            on the embedded held-out text
  aurora-quant eval small-q4_0.gguf --reference Llama-3.2-1B   what was lost by quantising
  aurora-quant eval small-q4_0.gguf --text wiki.test.raw --context 512 --json
  aurora-quant eval big-f16.gguf --save-logits base.dat        for llama-perplexity --kl-divergence")]
pub struct Eval {
    /// Model to score: .gguf file, directory with config.json, or .safetensors file in one.
    pub model: PathBuf,
    /// UTF-8 text to score [default: an embedded text that nothing is calibrated on].
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Tokens in a chunk [default: 512, or the model's context if that is shorter].
    #[arg(short, long, value_name = "N")]
    pub context: Option<usize>,
    /// Score only the first chunks.
    #[arg(long, value_name = "N")]
    pub chunks: Option<NonZeroUsize>,
    /// Model to compare with, usually the one that MODEL was made from; both must have one vocabulary.
    #[arg(long, value_name = "MODEL")]
    pub reference: Option<PathBuf>,
    /// Write MODEL's log-probabilities, rounded to 16 bits, as llama-perplexity --kl-divergence-base does: 2 bytes for
    /// every scored token and entry of the vocabulary.
    #[arg(long, value_name = "FILE")]
    pub save_logits: Option<PathBuf>,
    /// How keys and values are stored.
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = crate::cli::open::cache_types())]
    pub cache_type: String,
    /// Keep activations in f32. Otherwise those that meet quantised weights are rounded to 8 bits, as in llama.cpp.
    #[arg(long)]
    pub exact: bool,
}

/// Measure how fast a model runs on this machine.
///
/// Times a prompt (all tokens at once) and a generation (one token after the other, from an empty context), each after
/// one run that does not count. A prompt is bound by arithmetic, a generation by reading every weight once a token:
/// GB/s says how near that comes to the memory's bandwidth.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  aurora-quant bench small-q4_0.gguf --threads 2
  aurora-quant bench small-q4_0.gguf -p 0 -n 64                generation only
  aurora-quant bench small-q4_0.gguf -n 64 --no-kv-cache       what the key-value cache is worth
  aurora-quant bench small-q4_0.gguf -p 2048 --attention naive what tiled attention is worth")]
pub struct Bench {
    /// Model to time: .gguf file, directory with config.json, or .safetensors file in one.
    pub model: PathBuf,
    /// Tokens of the prompt; 0 leaves it out [default: 512, or the model's context if that is shorter].
    #[arg(short, long, value_name = "N")]
    pub prompt: Option<usize>,
    /// Tokens to generate; 0 leaves it out [default: 128, or the model's context if that is shorter].
    #[arg(short = 'n', long, value_name = "N")]
    pub generate: Option<usize>,
    /// Timed runs of each.
    #[arg(short, long, value_name = "N", default_value = "5")]
    pub runs: NonZeroUsize,
    /// Compute every generated token from all before it. The work grows with the square of -n, so at most 256 tokens.
    #[arg(long)]
    pub no_kv_cache: bool,
    /// flash: in tiles, without a matrix of scores; naive: every score stored, the slow twin.
    #[arg(long, value_name = "HOW", default_value = "flash", value_parser = crate::cli::open::attentions())]
    pub attention: String,
    /// How keys and values are stored.
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = crate::cli::open::cache_types())]
    pub cache_type: String,
    /// Keep activations in f32. Otherwise those that meet quantised weights are rounded to 8 bits, as in llama.cpp.
    #[arg(long)]
    pub exact: bool,
}

/// Continue a text, or chat.
///
/// Writes the new text to stdout as it comes and a line about speed to stderr. With --chat the prompt goes through
/// the model's own template; without --prompt, lines of stdin are the user's turns, until the input ends. Ctrl-C stops
/// the generation; what was written stays. The same options and seed give the same text.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  aurora-quant generate model.gguf --prompt 'Once upon a time' --temperature 0
  aurora-quant generate Llama-3.2-1B-Instruct --chat
  aurora-quant generate model.gguf --chat --prompt 'Why is the sky blue?' --seed 7 --json

How a token is chosen, in this order: repeat penalty, top-k, top-p, min-p, temperature, draw.")]
pub struct Generate {
    /// Checkpoint: directory with config.json, .safetensors file in one, or .gguf file.
    pub model: PathBuf,
    /// Text to continue, or with --chat the user's only turn.
    #[arg(short, long, value_name = "TEXT", required_unless_present = "chat")]
    pub prompt: Option<String>,
    /// Longest text to write, in tokens; the model may end it earlier.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256)]
    pub tokens: usize,
    /// Apply the model's chat template.
    #[arg(long)]
    pub chat: bool,
    /// What the system says before the conversation.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Flatten (above 1) or sharpen (below 1) the distribution; 0 always takes the most probable token.
    #[arg(long, value_name = "X", default_value_t = 0.8, value_parser = at_least_zero, help_heading = "TextArgs")]
    pub temperature: f32,
    /// Choose among the N most probable tokens; 0: all.
    #[arg(long, value_name = "N", default_value_t = 40, help_heading = "TextArgs")]
    pub top_k: usize,
    /// Choose among the most probable tokens that together have this probability; 1: all.
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = probability, help_heading = "TextArgs")]
    pub top_p: f32,
    /// Leave out tokens less probable than this times the most probable one; 0: none.
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = probability, help_heading = "TextArgs")]
    pub min_p: f32,
    /// Make tokens of the last 64 less probable (above 1); 1: off.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = above_zero, help_heading = "TextArgs")]
    pub repeat_penalty: f32,
    /// Where the random numbers begin.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "TextArgs")]
    pub seed: u64,
    /// Tokens that prompt and answer may have together [default: what the model was made for, at most 4096].
    #[arg(long, value_name = "N")]
    pub context: Option<NonZeroUsize>,
    /// Compute with 32-bit activations, keys and values: slower, for comparing weights.
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
    let kept = "of a quantised checkpoint: each matrix in the smallest type that holds its integers as they are";
    let keep = PossibleValue::new(export::KEEP).help(kept);
    let types = FILE_TYPES.iter().map(|t| PossibleValue::new(t.name).aliases(t.aliases).help(t.about));
    PossibleValuesParser::new(types.chain([keep]))
}

fn tensor_types() -> PossibleValuesParser {
    PossibleValuesParser::new(plan::tensor_types().into_iter().map(|s| s.spec().name))
}

fn tensor_type(text: &str) -> Result<(String, String), String> {
    // The last '=' separates: a pattern may contain one, a type cannot.
    let (pattern, name) = text.rsplit_once('=').ok_or("needs the form PATTERN=TYPE, such as ffn_down=q8_0")?;
    regex::Regex::new(pattern).map_err(|e| e.to_string())?;
    plan::tensor_type(name).map_err(|e| e.to_string())?;
    Ok((pattern.to_owned(), name.to_ascii_lowercase()))
}
