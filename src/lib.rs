//! aurora-quant: Hugging Face checkpoints in, small GGUF files out.
//!
//! Data flows one way: checkpoint -> plan -> pipeline -> export. `docs/architecture.md` shows the house.
//!
//! | module | what it answers |
//! |---|---|
//! | [`error`] | why a run stopped, and where |
//! | [`gguf`] | the GGUF header: keys, values, alignment (the seam to gguf-rs-lib) |
//! | [`checkpoint`] | where tensors, configuration and tokenizer come from |
//! | [`model`] | what the model computes: its parameters and ops, described once |
//! | [`weights`] | a checkpoint seen through a model: canonical rows of every parameter |

pub mod checkpoint;
pub mod error;
pub mod gguf;
pub mod model;
pub mod weights;

pub use error::{Error, Result};
