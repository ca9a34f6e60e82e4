//! What was typed. What it means is worked out by each command.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Parser, Subcommand};

use crate::plan::FILE_TYPES;

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
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Convert(Convert),
    Inspect(Inspect),
}

/// Write a checkpoint as a GGUF file, in a smaller type if wanted.
///
/// MODEL is a Hugging Face directory (config.json, safetensors, tokenizer), one .safetensors file in such a
/// directory, or a .gguf file of floats. The output appears whole or not at all.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  aurora-quant convert Llama-3.2-1B                     Llama-3.2-1B-q8_0.gguf, 8 bits per weight
  aurora-quant convert Llama-3.2-1B --type q4_0 -o small.gguf
  aurora-quant convert Llama-3.2-1B --type q4_0 --embedding-type q8_0 --dry-run
  aurora-quant convert big-bf16.gguf --type q8_0 --tensor-type 'ffn_down=f16'")]
pub struct Convert {
    /// Checkpoint: directory with config.json, .safetensors file in one, or .gguf file.
    pub model: PathBuf,
    /// Output file [default: MODEL-TYPE.gguf in the current directory].
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How weights are rounded.
    #[arg(long, default_value = "rtn", value_parser = PossibleValuesParser::new(crate::cli::convert::METHODS))]
    pub method: String,
    /// Type of the matrices.
    #[arg(long = "type", value_name = "TYPE", default_value = "q8_0", ignore_case = true, value_parser = types())]
    pub file_type: String,
    /// Type of the tensors whose name matches a regular expression, such as 'ffn_down=q8_0' or 'blk\.[01]\.=f16';
    /// may be given several times, the first match wins.
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = tensor_type)]
    pub tensor_type: Vec<(String, String)>,
    /// Type of the output matrix [default: TYPE].
    #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = types(), hide_possible_values = true)]
    pub output_type: Option<String>,
    /// Type of the token embedding, which is also the output matrix of models that tie them [default: TYPE].
    #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = types(), hide_possible_values = true)]
    pub embedding_type: Option<String>,
    /// Name of the pre-tokenizer, where it is not recognised (llama-bpe, qwen2, gpt-2, ...).
    #[arg(long, value_name = "NAME")]
    pub pre: Option<String>,
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

/// Show what is in a checkpoint: architecture, metadata, tensors, types and sizes.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// .gguf or .safetensors file, or a directory with config.json.
    pub path: PathBuf,
    /// Show statistics and a histogram of one tensor instead.
    #[arg(long, value_name = "NAME")]
    pub tensor: Option<String>,
}

fn types() -> PossibleValuesParser {
    PossibleValuesParser::new(FILE_TYPES.iter().map(|t| clap::builder::PossibleValue::new(t.name).help(t.about)))
}

fn tensor_type(text: &str) -> Result<(String, String), String> {
    // The last '=' separates: a pattern may contain one, a type cannot.
    let (pattern, name) = text.rsplit_once('=').ok_or("needs the form PATTERN=TYPE, such as ffn_down=q8_0")?;
    regex::Regex::new(pattern).map_err(|e| e.to_string())?;
    crate::plan::FileType::by_name(name).map_err(|e| e.to_string())?;
    Ok((pattern.to_owned(), name.to_ascii_lowercase()))
}
