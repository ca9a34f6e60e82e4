//! The executor: runs the ops of a [`Model`](crate::model::Model) over float weights and over every block format.
//!
//! In go a bound checkpoint (or GGUF file) and tokens, out come logits. Knows nothing of passes, of exporters or of
//! text. Weights stay where they are mapped; what is held in memory is the key-value cache and a batch's slots.
//!
//! | file | what it answers |
//! |---|---|
//! | `loaded` | a model with its weights as ops use them |
//! | `engine` | logits of tokens, with or without an observer |
//! | `blocks` | the same block by block, over many sequences, with weights of the caller's choice |
//! | `probe` | what other weights of a few linears do to the residual stream |
//! | `operator` | [`Linear`]: what a linear multiplies with; matrices as they are stored, low ranks, sums |
//! | `overrides` | values in the place of a checkpoint's |
//! | `prepared` | parameters in the form in which ops use them |
//! | `session`, `cache` | one sequence: keys and values of what came before, in tiles |
//! | `batch` | the ops over one batch's slots; `linear`, `norm`, `rope`, `route` are those that need more than a line |
//! | `flash`, `naive` | attention, and its slow twin |
//! | `maths` | exponentials that vectorise, and loops over threads |
//! | `blame` | which op first gave a value that is not finite |
//! | [`sampler`] | which token comes next |
//! | [`kernels`] | products with stored matrices, one for each type and instruction set |
//!
//! Threads come from rayon's current pool. No sum is split by threads, so logits are the same for any number of them;
//! nor by batches, so in exact mode they are (up to the matrix products' blocking) the same for any split into calls.

mod batch;
mod blame;
mod blocks;
mod cache;
mod engine;
mod flash;
pub mod kernels;
mod linear;
mod loaded;
mod maths;
mod naive;
mod norm;
mod operator;
mod overrides;
mod prepared;
mod rerun;
mod rope;
mod route;
pub mod sampler;
mod session;
mod tap;

pub use blocks::{Block, BlockRunner, TOGETHER};
pub use loaded::Engine;
pub(crate) use operator::floats;
pub use operator::{Linear, LowRank, Sum};
pub use overrides::Overrides;
pub use rerun::{Rerun, Stopped};
pub use session::Session;
pub use tap::{LinearInput, Tap};

/// How to run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RuntimeOptions {
    /// Positions that fit the key-value cache. Also decides between Phi-3's short and long rotary factors: the choice
    /// is one for the whole context, as in llama.cpp.
    pub context: usize,
    /// Keep activations in f32 instead of rounding them to 8 bits for quantised weights.
    pub exact: bool,
    /// How keys and values are stored.
    pub cache: CacheType,
    /// How attention is computed.
    pub attention: Attention,
}

impl RuntimeOptions {
    /// Activations, keys and values as the model defines them: nothing rounded.
    pub fn exact(context: usize) -> RuntimeOptions {
        RuntimeOptions { context, exact: true, cache: CacheType::F32, attention: Attention::Flash }
    }
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheType {
    /// 32-bit floats.
    F32,
    /// Half precision.
    F16,
    /// 8 bits, a scale for 32. Only for heads of a multiple of 32 numbers; others are refused, so that nobody measures
    /// another cache than was asked for.
    Q8_0,
}

impl CacheType {
    /// All of them.
    pub const ALL: [CacheType; 3] = [CacheType::F32, CacheType::F16, CacheType::Q8_0];

    /// Name as users know it.
    pub fn name(self) -> &'static str {
        match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
            CacheType::Q8_0 => "q8_0",
        }
    }
}

/// How attention is computed; both give the same up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Every score is stored, then the softmax taken, in f64: the slow twin.
    Naive,
    /// In tiles with an online softmax; no score matrix.
    Flash,
}

impl Attention {
    /// Both of them.
    pub const ALL: [Attention; 2] = [Attention::Flash, Attention::Naive];

    /// Name as users know it.
    pub fn name(self) -> &'static str {
        match self {
            Attention::Naive => "naive",
            Attention::Flash => "flash",
        }
    }
}
