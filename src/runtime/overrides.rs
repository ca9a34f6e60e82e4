//! Values that take the place of a checkpoint's, or are added to them, while blocks run.

use std::borrow::Cow;
use std::collections::BTreeMap;

use aurora_quantizers::{Scales, Store, elements, formats};
use ndarray::ArrayView2;

use super::Linear;
use crate::model::ParamId;

/// Values that take the place of stored ones.
#[derive(Default)]
pub struct Overrides<'o> {
    values: BTreeMap<ParamId, Override<'o>>,
    /// Matrices of single experts, as f32.
    experts: BTreeMap<(ParamId, usize), Override<'static>>,
    /// What is added to the products of matrices.
    added: BTreeMap<(ParamId, usize), Vec<Box<dyn Linear + 'o>>>,
}

/// Numbers of a matrix, row after row.
pub(super) struct Override<'o> {
    pub(super) store: &'static dyn Store,
    pub(super) bytes: Cow<'o, [u8]>,
    /// Rows and columns, where they came as numbers.
    dim: Option<(usize, usize)>,
}

impl Override<'_> {
    /// Numbers as a tensor of f32 holds them.
    fn floats(values: ArrayView2<'_, f32>) -> Override<'static> {
        let mut bytes = vec![0; values.len() * size_of::<f32>()];
        formats::F32.encode(elements(values), Scales::Reference, &mut bytes);
        Override { store: &formats::F32, bytes: bytes.into(), dim: Some(values.dim()) }
    }

    /// # Panics
    /// If it came with another shape. `name`: the parameter's.
    pub(super) fn check(&self, name: &str, dim: (usize, usize)) {
        if let Some(found) = self.dim {
            assert_eq!(found, dim, "{name}: shape of the value in its place");
        }
    }
}

impl<'o> Overrides<'o> {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// `bytes`: all rows of the parameter (of all its experts) in canonical order, stored as `store` says.
    pub fn encoded(&mut self, id: ParamId, store: &'static dyn Store, bytes: impl Into<Cow<'o, [u8]>>) {
        self.values.insert(id, Override { store, bytes: bytes.into(), dim: None });
    }

    /// `values`: the parameter, `[rows, cols]` with rows over all outer dimensions; a vector is one row.
    ///
    /// # Panics
    /// If rows do not lie one after the other.
    pub fn floats(&mut self, id: ParamId, values: ArrayView2<'_, f32>) {
        self.values.insert(id, Override::floats(values));
    }

    /// `values`: one expert's matrix, `[rows, cols]`; the other experts keep theirs.
    ///
    /// # Panics
    /// If rows do not lie one after the other.
    pub fn expert(&mut self, id: ParamId, expert: usize, values: ArrayView2<'_, f32>) {
        self.experts.insert((id, expert), Override::floats(values));
    }

    /// Adds `linear`, which has the matrix's shape, to the product of a matrix, or of one of its experts': to what is
    /// stored, and to what was added before.
    pub fn add(&mut self, id: ParamId, expert: Option<usize>, linear: impl Linear + 'o) {
        self.added.entry((id, expert.unwrap_or(0))).or_default().push(Box::new(linear));
    }

    /// The value of a parameter, if it has another one.
    pub(super) fn get(&self, id: ParamId) -> Option<&Override<'o>> {
        self.values.get(&id)
    }

    /// Experts of a parameter whose matrices are other ones, and these.
    pub(super) fn experts(&self, id: ParamId) -> impl Iterator<Item = (usize, &Override<'static>)> {
        let of_it = self.experts.range((id, 0)..=(id, usize::MAX));
        of_it.map(|((_, expert), value)| (*expert, value))
    }

    /// What is added to the product of a matrix, by expert (0 of one without).
    pub(super) fn added(&self, id: ParamId) -> impl Iterator<Item = (usize, &[Box<dyn Linear + 'o>])> {
        let of_it = self.added.range((id, 0)..=(id, usize::MAX));
        of_it.map(|((_, expert), linears)| (*expert, linears.as_slice()))
    }
}
