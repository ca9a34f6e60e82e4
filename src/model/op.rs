//! What an op touches: the slots that it reads and writes, the parameters that it uses, and what it is called in words.
//!
//! Everyone who looks at ops from outside asks here: the search for sites, the preparation of parameters, and the
//! message about a value that is not finite. Only the executor and its slow twin know more of an op, which is what it
//! computes.

use super::graph::{LongFactors, Op, ParamId, Slot};

impl Op {
    /// Slots that it reads, in the order in which its fields name them.
    pub fn reads(&self) -> Vec<Slot> {
        match self {
            Op::Embed { .. } => Vec::new(),
            Op::AddPosition { x, .. }
            | Op::Rope { x, .. }
            | Op::Scale { x, .. }
            | Op::Softcap { x, .. }
            | Op::Norm { x, .. }
            | Op::Act { x, .. }
            | Op::Split { x, .. } => vec![*x],
            Op::Linear { x, experts, .. } => std::iter::once(*x).chain(*experts).collect(),
            Op::Attend { q, k, v, .. } => vec![*q, *k, *v],
            Op::Gate { gate, up, .. } => vec![*gate, *up],
            Op::Add { a, b, .. } => vec![*a, *b],
            Op::Route { logits, .. } => vec![*logits],
            Op::Combine { x, experts, .. } => vec![*x, *experts],
        }
    }

    /// Slots that it writes.
    pub fn writes(&self) -> Vec<Slot> {
        match self {
            Op::AddPosition { x, .. } | Op::Rope { x, .. } | Op::Scale { x, .. } | Op::Softcap { x, .. } => vec![*x],
            Op::Embed { out, .. }
            | Op::Norm { out, .. }
            | Op::Act { out, .. }
            | Op::Linear { out, .. }
            | Op::Attend { out, .. }
            | Op::Gate { out, .. }
            | Op::Add { out, .. }
            | Op::Route { out, .. }
            | Op::Combine { out, .. } => vec![*out],
            Op::Split { parts, .. } => parts.clone(),
        }
    }

    /// Parameters that it uses, its matrix or factors first. A rotary embedding uses both kinds of its factors, though
    /// only one in any context.
    pub fn params(&self) -> Vec<ParamId> {
        match self {
            Op::Embed { table, .. } | Op::AddPosition { table, .. } => vec![*table],
            Op::Norm { weight, bias, .. } | Op::Linear { weight, bias, .. } => {
                std::iter::once(*weight).chain(*bias).collect()
            }
            Op::Rope { factors, long, .. } => {
                let long = long.map(|LongFactors { factors, .. }| factors);
                factors.iter().copied().chain(long).collect()
            }
            Op::Split { .. }
            | Op::Attend { .. }
            | Op::Gate { .. }
            | Op::Act { .. }
            | Op::Add { .. }
            | Op::Route { .. }
            | Op::Combine { .. }
            | Op::Scale { .. }
            | Op::Softcap { .. } => Vec::new(),
        }
    }

    /// What messages call it.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "the embedding",
            Op::AddPosition { .. } => "the position table",
            Op::Norm { .. } => "a norm",
            Op::Linear { .. } => "a linear",
            Op::Split { .. } => "a split",
            Op::Rope { .. } => "the rotary embedding",
            Op::Attend { .. } => "attention",
            Op::Gate { .. } => "the gate of the MLP",
            Op::Act { .. } => "the activation of the MLP",
            Op::Add { .. } => "the addition to the residual stream",
            Op::Route { .. } => "the choice of experts",
            Op::Combine { .. } => "the sum over experts",
            Op::Scale { .. } => "a scaling",
            Op::Softcap { .. } => "a soft cap",
        }
    }
}
