//! What a model computes: a short list of ops per block, over named parameters.
//!
//! The same ops are executed (runtime, calibration) and analysed (which linears share an input, who can absorb a
//! scale), so the two cannot disagree. Values flow through numbered slots; a slot holds one row of `width` numbers
//! per token (or per token and chosen expert, see [`Op::Route`]). Parameters are in GGUF's conventions: names, row
//! order of rotary heads, norms with the +1 already added, fused matrices as GGUF fuses them.

use super::Yarn;
pub use super::param::{Import, Param, Part, Role};

/// Index into [`ModelGraph::params`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub usize);

/// Index into [`ModelGraph::slots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub usize);

/// Kinds of norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// x / rms(x) * w.
    Rms,
    /// (x - mean) / std * w + b.
    Layer,
}

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// GELU, tanh approximation.
    GeluTanh,
}

/// Which dimensions a rotary embedding pairs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// (0, 1), (2, 3), ...: llama after the permutation.
    Interleaved,
    /// (i, i + dim/2).
    Halves,
}

/// Rotary factors for long contexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongFactors {
    /// Frequencies are divided by these, `[dims / 2]`.
    pub factors: ParamId,
    /// They hold for contexts of more tokens than this; the choice is one for the whole context.
    pub beyond: usize,
}

/// One step of the computation. Every op names the slots that it reads and writes.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// `out` = row of `table` for the token, times `scale`.
    Embed {
        /// Table, `[vocab, width]`.
        table: ParamId,
        /// Written.
        out: Slot,
        /// Factor (Gemma: sqrt of the width; Granite: its multiplier).
        scale: f32,
    },
    /// `x` += row of `table` for the position.
    AddPosition {
        /// Table, `[positions, width]`.
        table: ParamId,
        /// Read and written.
        x: Slot,
    },
    /// Normalises each run of `weight`'s length within the row (a whole row, or each head of it).
    Norm {
        /// Formula.
        kind: NormKind,
        /// Factor per channel.
        weight: ParamId,
        /// Term per channel.
        bias: Option<ParamId>,
        /// Added to the mean square (or variance).
        eps: f32,
        /// Read.
        x: Slot,
        /// Written; may be `x`.
        out: Slot,
    },
    /// `out` = `weight` x + `bias`. With `experts`, one product per chosen expert, with that expert's matrix.
    Linear {
        /// `[out, in]`, or `[expert, out, in]` with `experts`.
        weight: ParamId,
        /// `[out]`, or `[expert, out]`.
        bias: Option<ParamId>,
        /// Read.
        x: Slot,
        /// Written.
        out: Slot,
        /// The slot that a [`Op::Route`] wrote.
        experts: Option<Slot>,
    },
    /// Consecutive runs of `x` go to `parts`, whose widths add up to that of `x`.
    Split {
        /// Read.
        x: Slot,
        /// Written.
        parts: Vec<Slot>,
    },
    /// Rotates each head by its position, in place.
    Rope {
        /// Read and written; heads of `head_dim` numbers.
        x: Slot,
        /// Numbers per head.
        head_dim: usize,
        /// How many of them rotate (the first ones).
        dims: usize,
        /// Pairs.
        style: RopeStyle,
        /// Base of the frequencies: theta_i = base^(-2i/dims).
        base: f32,
        /// Frequencies are divided by this (linear scaling); 1 for none.
        linear: f32,
        /// Frequencies are stretched as this says.
        yarn: Option<Yarn>,
        /// Frequencies are also divided by these, `[dims / 2]`.
        factors: Option<ParamId>,
        /// Taken instead of `factors` when the context is longer than some length (Phi-3).
        long: Option<LongFactors>,
        /// Both sine and cosine are multiplied by this; 1 for none.
        magnitude: f32,
    },
    /// Causal attention: softmax(softcap(q k^T * scale)) v, per head; each key and value head serves
    /// `heads / kv_heads` query heads.
    Attend {
        /// Queries, `heads * head_dim`.
        q: Slot,
        /// Keys, `kv_heads * head_dim`.
        k: Slot,
        /// Values, `kv_heads * head_dim`.
        v: Slot,
        /// Written, `heads * head_dim`.
        out: Slot,
        /// Query heads.
        heads: usize,
        /// Key and value heads.
        kv_heads: usize,
        /// Numbers per head.
        head_dim: usize,
        /// Factor before the softmax.
        scale: f32,
        /// c: scores become c * tanh(score / c).
        softcap: Option<f32>,
        /// A query sees only this many latest positions, itself included.
        window: Option<usize>,
    },
    /// `out` = activation(gate) * up.
    Gate {
        /// Activation of the gate.
        act: Activation,
        /// Read.
        gate: Slot,
        /// Read.
        up: Slot,
        /// Written.
        out: Slot,
    },
    /// `out` = activation(x).
    Act {
        /// Which.
        act: Activation,
        /// Read.
        x: Slot,
        /// Written.
        out: Slot,
    },
    /// `out` = a + scale * b.
    Add {
        /// Read.
        a: Slot,
        /// Read.
        b: Slot,
        /// Factor on b (Granite: its residual multiplier).
        scale: f32,
        /// Written; may be `a`.
        out: Slot,
    },
    /// Chooses experts: softmax of the logits, the `used` largest, divided by their sum if `normalize`.
    Route {
        /// Read, one number per expert.
        logits: Slot,
        /// Written: the chosen experts' indices and weights; slots computed under it hold one row per choice.
        out: Slot,
        /// Experts per token.
        used: usize,
        /// Whether the chosen weights are made to add up to one.
        normalize: bool,
    },
    /// `out` = sum over the chosen experts of weight times row.
    Combine {
        /// Read, one row per choice.
        x: Slot,
        /// The slot that a [`Op::Route`] wrote.
        experts: Slot,
        /// Written.
        out: Slot,
    },
    /// x *= by, in place.
    Scale {
        /// Read and written.
        x: Slot,
        /// Factor.
        by: f32,
    },
    /// x = cap * tanh(x / cap), in place.
    Softcap {
        /// Read and written.
        x: Slot,
        /// Bound.
        cap: f32,
    },
}

/// A model: parameters, and ops in three stretches. The residual stream is the slot that lives across blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelGraph {
    /// All parameters, in the order in which files list them.
    pub params: Vec<Param>,
    /// Width of every slot.
    pub slots: Vec<usize>,
    /// Tokens to residual stream.
    pub embed: Vec<Op>,
    /// One list per transformer block.
    pub blocks: Vec<Vec<Op>>,
    /// Residual stream to logits.
    pub head: Vec<Op>,
    /// The slot that carries the residual stream from block to block.
    pub residual: Slot,
    /// The slot that holds the logits at the end.
    pub logits: Slot,
    /// Checkpoint tensors that may be there and are not used, by their names' ends (rotary tables, causal masks).
    pub ignored: Vec<&'static str>,
    /// The same by their names' starts (vision towers).
    pub ignored_starts: Vec<&'static str>,
}

impl ModelGraph {
    /// The parameter.
    pub fn param(&self, id: ParamId) -> &Param {
        &self.params[id.0]
    }

    /// Whether a checkpoint tensor of that name may be left unused without a complaint.
    pub fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|end| name.ends_with(end))
            || self.ignored_starts.iter().any(|start| name.starts_with(start))
    }
}
