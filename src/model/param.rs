//! Parameters in GGUF's conventions, and how to get each from a Hugging Face checkpoint: which rows of which tensors,
//! and what is done to the numbers. Descriptions only; the bytes are read elsewhere.

/// The part that a parameter plays. Formats are chosen by it, never by a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embedding table, `[vocab, width]`; also the output matrix when the model ties them.
    Embedding,
    /// Learned position table, `[positions, width]`.
    Position,
    /// Output matrix, `[vocab, width]`.
    Output,
    /// Attention query rows.
    AttnQ,
    /// Attention key rows.
    AttnK,
    /// Attention value rows.
    AttnV,
    /// Query, key and value rows in one matrix.
    AttnQkv,
    /// Attention output matrix.
    AttnOut,
    /// Gate of the MLP (the branch that goes through the activation).
    FfnGate,
    /// Up branch of the MLP; for a fused gate and up, both, gate rows first.
    FfnUp,
    /// Down matrix of the MLP.
    FfnDown,
    /// Router of a mixture of experts, `[experts, width]`.
    Router,
    /// Weight or bias of a norm.
    Norm,
    /// Bias of a linear.
    Bias,
    /// Rotary frequency factors.
    RopeFactors,
}

impl Role {
    /// Whether this role's matrix is a candidate for quantisation; the others stay F32, as in llama.cpp's files.
    pub fn quantizable(self) -> bool {
        !matches!(self, Role::Position | Role::Router | Role::Norm | Role::Bias | Role::RopeFactors)
    }
}

/// One parameter in canonical form, and how to get it from a Hugging Face checkpoint.
/// (From a GGUF file it is the tensor called `name`, as it is.)
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// GGUF name (`blk.3.attn_q.weight`).
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Block it belongs to; `None` for embeddings, output and the like.
    pub block: Option<usize>,
    /// Canonical shape, outermost first: `[out, in]`, `[expert, out, in]` or `[n]`.
    pub shape: Vec<usize>,
    /// Where its rows come from in a Hugging Face checkpoint, in order. Empty if `import` is [`Import::Computed`].
    pub parts: Vec<Part>,
    /// Other ways to put it together (experts fused into one tensor by newer libraries), for checkpoints that lack a
    /// tensor of `parts`: the first list whose tensors all exist is taken; if none does, `parts` names what is missing.
    pub alternatives: Vec<Vec<Part>>,
    /// What is done to the numbers on the way in.
    pub import: Import,
}

impl Param {
    /// Row length: the innermost dimension.
    pub fn cols(&self) -> usize {
        *self.shape.last().expect("a parameter has at least one dimension")
    }

    /// Rows over all outer dimensions (experts times rows each; 1 for a vector).
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// Numbers in all.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A run of rows of one checkpoint tensor; a parameter is its parts' rows, one part after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Names the tensor may have, the usual one first.
    pub names: Vec<String>,
    /// The shape that the whole tensor must have in the checkpoint, as stored (before a transposition).
    pub shape: Vec<usize>,
    /// First row taken, counting over all outer dimensions, after a transposition.
    pub first_row: usize,
    /// Rows taken.
    pub rows: usize,
}

/// What is done to a checkpoint's numbers to get GGUF's conventions.
#[derive(Debug, Clone, PartialEq)]
pub enum Import {
    /// Nothing.
    AsIs,
    /// Rotary halves become interleaved pairs: within each of `heads` equal runs of rows (of length d), canonical row
    /// 2j is checkpoint row j, and canonical row 2j + 1 is checkpoint row d/2 + j. (Also for biases: elements.)
    RopePermute {
        /// Heads in this matrix.
        heads: usize,
    },
    /// One is added to every number (Gemma's norms).
    AddOne,
    /// The checkpoint stores `[in, out]` (GPT-2's Conv1D).
    Transpose,
    /// Not in the checkpoint: computed from the configuration.
    Computed(Vec<f32>),
}
