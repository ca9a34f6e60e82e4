//! aurora-quant: Hugging Face checkpoints in, small GGUF files out.
//!
//! Data flows one way: checkpoint -> model -> weights -> plan -> pipeline -> export. `docs/architecture.md` shows the
//! house.
//!
//! | module | what it answers |
//! |---|---|
//! | [`error`] | why a run stopped, and where |
//! | [`watch`] | what long work tells, and where it asks whether to go on |
//! | [`recipe`] | everything that decides the bytes of a conversion |
//! | [`gguf`] | the GGUF header: keys, values, tensor table (the seam to gguf-rs-lib) |
//! | [`checkpoint`] | where tensors, configuration, tokenizer and model card come from |
//! | [`model`] | what the model computes: its parameters and ops, described once |
//! | [`weights`] | a checkpoint seen through a model: canonical rows of every parameter |
//! | [`runtime`] | the model's ops, executed, and the choice of the next token |
//! | [`calibrate`] | statistics of what every linear multiplies, over a text |
//! | [`text`] | what turns text into tokens and back: tokenizers, chat templates |
//! | [`plan`] | type and bytes of every tensor, before any work |
//! | [`export`] | the output: laid out to the byte, there whole or not at all |
//! | [`passes`] | the methods: what each does to a block with its statistics |
//! | [`pipeline`] | rows streamed to their formats; the block loop |
//! | [`job`] | a conversion, from its recipe to its record |
//! | [`eval`] | how good and how fast a written model is |
//! | [`record`] | what a run did, as JSON |
//! | [`cli`] | the command line |

pub mod calibrate;
pub mod checkpoint;
pub mod cli;
pub mod error;
pub mod eval;
pub mod export;
pub mod gguf;
pub mod job;
mod memory;
pub mod model;
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
