//! aurora-quant: Hugging Face checkpoints in, small GGUF files out.
//!
//! A conversion is a [`recipe::Recipe`]: everything that decides the bytes. [`job::prepare`] opens the checkpoint and
//! checks everything before any work; the job then calibrates, solves, rounds and writes.
//!
//! ```no_run
//! use aurora_quant::eval::Evaluation;
//! use aurora_quant::job::{self, Destination};
//! use aurora_quant::recipe::{PassSpec, Recipe};
//! use aurora_quant::watch::Unwatched;
//!
//! # fn main() -> aurora_quant::Result<()> {
//! // Codes chosen by GPTQ, calibrated on the embedded text, in llama.cpp's Q4_K_M.
//! let mut recipe = Recipe::new("Llama-3.2-1B");
//! recipe.file_type = Some("q4_k_m".to_owned());
//! recipe.passes = vec![PassSpec::new("gptq")];
//! let job = job::prepare(&recipe)?;
//! let to = Destination { path: Some("small.gguf".into()), ..Destination::default() };
//! let record = job.run(&to, &Unwatched)?;
//! println!("{} bytes, {:.2} bits per weight", record.file_bytes, record.bits_per_weight);
//!
//! // What that cost, on a held-out text.
//! let evaluation = Evaluation { reference: Some("Llama-3.2-1B".into()), ..Evaluation::new("small.gguf") };
//! let scores = evaluation.run(&Unwatched)?;
//! println!("perplexity {:.2}, KL divergence {:.5}", scores.perplexity.value, scores.divergence.unwrap().kl.value);
//! # Ok(())
//! # }
//! ```
//!
//! Matrices are `[rows, cols]` = `[out, in]`, or `[tokens, width]`, and cross as arrays and views of [ndarray]: one of
//! another shape is refused even where its length would fit. A view's rows must lie one after the other
//! ([`aurora_quantizers::view`]); vectors are slices.
//!
//! Work that takes long tells a [`watch::Watch`] how far it is, and asks it whether to go on. Errors are [`Error`]: a
//! kind for each cause that a caller would treat differently, with the file, the tensor, what was found and what to
//! try. Lower errors are kept as sources; [`Error::explain`] tells the whole story.
//!
//! Without the feature `cli` (on by default), this is only a library: no command line, no progress bars, no signal
//! handlers.
//!
//! Data flows one way: checkpoint -> model -> weights -> plan -> pipeline -> export. See `docs/architecture.md`.
//!
//! | module | what it answers |
//! |---|---|
//! | [`error`] | why a run stopped, and where |
//! | [`watch`] | what long work tells, and where it asks whether to go on |
//! | [`recipe`] | everything that decides the bytes of a conversion |
//! | [`options`] | what can be set of a method or a format: names, values, defaults |
//! | [`gguf`] | the GGUF header: keys, values, tensor table (the seam to gguf-rs-lib) |
//! | [`checkpoint`] | where tensors, configuration, tokenizer and model card come from |
//! | [`model`] | what the model computes: its parameters and ops, described once |
//! | [`weights`] | a checkpoint seen through a model: canonical rows of every parameter |
//! | [`runtime`] | the model's ops, executed, and the choice of the next token |
//! | [`calibrate`] | statistics of the inputs of every linear layer over a text |
//! | [`text`] | text to tokens and back: tokenizers, chat templates |
//! | [`plan`] | type and bytes of every tensor, before any work |
//! | [`export`] | the output: laid out to the byte, complete or not there at all |
//! | [`passes`] | the methods: what each does to a block with its statistics |
//! | [`pipeline`] | rows streamed to their formats; the block loop |
//! | [`job`] | a conversion, from its recipe to its record |
//! | [`eval`] | how good and how fast a written model is |
//! | [`record`] | what a run did, as JSON |
//! | `cli` | the command line |

pub mod calibrate;
pub mod checkpoint;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod error;
pub mod eval;
pub mod export;
pub(crate) mod files;
pub mod gguf;
pub mod job;
mod memory;
pub mod model;
pub mod options;
pub mod passes;
mod paths;
pub mod pipeline;
pub mod plan;
pub mod recipe;
pub mod record;
pub mod runtime;
pub mod text;
pub mod watch;
pub mod weights;

pub use error::{Error, Result};
