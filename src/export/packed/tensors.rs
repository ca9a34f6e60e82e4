//! The checkpoint's own tensors, reassembled from the parameters they were split into.

use std::collections::BTreeMap;

use aurora_quantizers::spec::Kind;
use aurora_quantizers::{Store, formats};

use super::super::shards::Entry;
use super::layout::{Codes, PackedLayout};
use crate::plan::Plan;
use crate::weights::Weights;

/// A run of rows of an output tensor, and the rows of the planned tensor that they come from.
pub(super) struct Piece {
    pub tensor: usize,
    /// Row of the planned tensor.
    pub from: usize,
    /// Row of the output's tensor.
    pub to: usize,
    pub rows: usize,
}

/// One tensor of the checkpoint, as it will be written.
pub(super) struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    /// Float type; `None` for a matrix of codes.
    pub floats: Option<&'static dyn Store>,
    pub pieces: Vec<Piece>,
}

/// All tensors, sorted by name.
pub(super) fn all(plan: &Plan, weights: &Weights<'_>) -> Vec<Tensor> {
    let mut found: BTreeMap<&str, Tensor> = BTreeMap::new();
    for (tensor, t) in plan.tensors.iter().enumerate() {
        let mut from = 0;
        for (info, to, rows) in weights.pieces(t.param) {
            let own = match info.spec.name {
                _ if info.packed.is_some() => "f16",
                "f64" => "f32",
                own => own,
            };
            let floats = (t.spec().kind == Kind::Float).then(|| formats::by_name(own).expect("a type of floats"));
            let (name, shape) = (info.name.clone(), info.shape.clone());
            let entry = found.entry(&info.name).or_insert_with(|| Tensor { name, shape, floats, pieces: Vec::new() });
            entry.pieces.push(Piece { tensor, from, to, rows });
            from += rows;
        }
    }
    found.into_values().collect()
}

impl Tensor {
    /// The entries that the output has for it.
    pub fn entries(&self, layout: &dyn PackedLayout, codes: Codes) -> Vec<Entry> {
        match self.floats {
            Some(store) => store.fields(&self.shape).iter().map(|field| Entry::of(&self.name, field)).collect(),
            None => {
                let stem = self.name.strip_suffix(".weight").unwrap_or(&self.name);
                let fields = layout.fields(self.shape[0], self.shape[1], codes);
                let entry = |(end, dtype, shape)| Entry { name: format!("{stem}{end}"), dtype, shape };
                fields.into_iter().map(entry).collect()
            }
        }
    }
}
