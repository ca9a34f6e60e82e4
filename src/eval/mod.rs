//! Scores of a model file: how well it predicts a text, how far it is from a reference, how fast it runs.
//!
//! The inputs are tokens and something that gives logits ([`Scorer`]); the results are figures with standard errors.
//! What is judged is the written file: nothing here sees weights in memory, prints, or knows how a model was made.
//!
//! | file | what it answers |
//! |---|---|
//! | `run` | one evaluation, from its model to its record |
//! | `chunks` | a text cut into chunks |
//! | `scorer` | a model as scoring sees it |
//! | [`perplexity`] | which tokens are scored, and how likely the model found them |
//! | `divergence` | figures of a model compared with a reference |
//! | `logits` | the file of rounded log-probabilities that llama-perplexity reads |
//! | [`speed`] | tokens per second, bytes per token, peak memory |
//! | `text` | the embedded held-out text |
//!
//! Positions are scored in parallel, each on its own, and summed in text order, so the figures are the same for any
//! number of threads.

mod chunks;
pub(crate) mod divergence;
pub(crate) mod logits;
pub mod perplexity;
mod run;
mod scorer;
pub mod speed;
pub(crate) mod text;

pub use chunks::{Chunks, SHORTEST};
pub use run::Evaluation;
pub use scorer::{Receiver, Scorer, Sequence};
