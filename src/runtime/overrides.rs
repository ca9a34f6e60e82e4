//! Values that take the place of a checkpoint's, or are added to them, while blocks run.

use std::borrow::Cow;
use std::collections::BTreeMap;

use aurora_quantizers::{Scales, Store, formats};

use super::Linear;
use crate::model::ParamId;

/// Values that take the place of stored ones.
#[derive(Default)]
pub struct Overrides<'o> {
    values: BTreeMap<ParamId, (&'static dyn Store, Cow<'o, [u8]>)>,
    /// Matrices of single experts, as f32.
    experts: BTreeMap<(ParamId, usize), Vec<u8>>,
    /// What is added to the products of matrices.
    added: BTreeMap<(ParamId, usize), Vec<Box<dyn Linear + 'o>>>,
}

impl<'o> Overrides<'o> {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// `bytes`: all rows of the parameter (of all its experts) in canonical order, stored as `store` says.
    pub fn encoded(&mut self, id: ParamId, store: &'static dyn Store, bytes: impl Into<Cow<'o, [u8]>>) {
        self.values.insert(id, (store, bytes.into()));
    }

    /// `values`: all numbers of the parameter, row-major.
    pub fn floats(&mut self, id: ParamId, values: &[f32]) {
        self.encoded(id, &formats::F32, bytes_of(values));
    }

    /// `values`: one expert's matrix, row-major; the other experts keep theirs.
    pub fn expert(&mut self, id: ParamId, expert: usize, values: &[f32]) {
        self.experts.insert((id, expert), bytes_of(values));
    }

    /// Adds `linear`, which has the matrix's shape, to the product of a matrix, or of one of its experts': to what is
    /// stored, and to what was added before.
    pub fn add(&mut self, id: ParamId, expert: Option<usize>, linear: impl Linear + 'o) {
        self.added.entry((id, expert.unwrap_or(0))).or_default().push(Box::new(linear));
    }

    /// The value of a parameter, if it has another one.
    pub(super) fn get(&self, id: ParamId) -> Option<(&'static dyn Store, &[u8])> {
        self.values.get(&id).map(|(store, bytes)| (*store, &**bytes))
    }

    /// Experts of a parameter whose matrices are other ones, and these, as f32.
    pub(super) fn experts(&self, id: ParamId) -> impl Iterator<Item = (usize, &[u8])> {
        let of_it = self.experts.range((id, 0)..=(id, usize::MAX));
        of_it.map(|((_, expert), bytes)| (*expert, bytes.as_slice()))
    }

    /// What is added to the product of a matrix, by expert (0 of one without).
    pub(super) fn added(&self, id: ParamId) -> impl Iterator<Item = (usize, &[Box<dyn Linear + 'o>])> {
        let of_it = self.added.range((id, 0)..=(id, usize::MAX));
        of_it.map(|((_, expert), linears)| (*expert, linears.as_slice()))
    }
}

/// Numbers as a tensor of f32 holds them.
fn bytes_of(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(values)];
    formats::F32.encode(values, Scales::Reference, &mut bytes);
    bytes
}
