//! Parameters in the form in which ops use them: matrices as they are stored, vectors as f32.

use std::borrow::Cow;
use std::ops::Range;

use aurora_quantizers::{Scales, Store, elements_mut, formats, matrix_mut};
use ndarray::Array2;
use rayon::prelude::*;

use super::kernels::{Dense, Sparse};
use super::overrides::Override;
use super::{Linear, Overrides, Sum};
use crate::model::{Import, ModelGraph, Op, ParamId};
use crate::weights::{Kept, Stored, Weights};

/// Rows that are rearranged at a time where a matrix cannot be used as it is stored.
const ROWS_AT_A_TIME: usize = 512;

/// A matrix's bytes and how they are stored.
type StoredBytes<'a> = (&'static dyn Store, Cow<'a, [u8]>);

/// One parameter.
#[derive(Default)]
struct Prepared<'a> {
    /// One per expert.
    linears: Vec<Box<dyn Linear + 'a>>,
    vector: Option<Vec<f32>>,
}

/// All parameters that ops use other than by single rows.
pub(super) struct Params<'a> {
    params: Vec<Prepared<'a>>,
}

impl<'a> Params<'a> {
    /// Prepares what some ops of `graph` use; values in `overrides` take the place of stored ones.
    pub fn new<'g>(
        graph: &ModelGraph,
        weights: &Weights<'a>,
        ops: impl IntoIterator<Item = &'g Op>,
        overrides: Option<&'a Overrides<'a>>,
    ) -> Self {
        let mut params: Vec<Prepared> = graph.params.iter().map(|_| Prepared::default()).collect();
        for op in ops {
            let matrix = match op {
                // Tables are read row by row, as they are stored.
                Op::Embed { .. } | Op::AddPosition { .. } => continue,
                Op::Linear { weight, .. } => Some(*weight),
                _ => None,
            };
            let vectors = op.params().into_iter().filter(|id| Some(*id) != matrix);
            if let Some(id) = matrix
                && params[id.0].linears.is_empty()
            {
                params[id.0].linears = linears(graph, weights, id, overrides);
            }
            for id in vectors {
                params[id.0].vector.get_or_insert_with(|| {
                    let param = graph.param(id);
                    let Some(value) = overrides.and_then(|o| o.get(id)) else {
                        return weights.whole(id).into_raw_vec_and_offset().0;
                    };
                    value.check(&param.name, (param.rows(), param.cols()));
                    let mut vector = vec![0.0; param.len()];
                    value.store.decode(&value.bytes, &mut vector);
                    vector
                });
            }
        }
        Params { params }
    }

    /// What a linear, or one of its experts, multiplies with.
    pub fn linear(&self, id: ParamId, expert: usize) -> &dyn Linear {
        &*self.params[id.0].linears[expert]
    }

    /// Stored bytes of all matrices of a linear.
    pub fn matrix_bytes(&self, id: ParamId) -> usize {
        self.params[id.0].linears.iter().map(|linear| linear.bytes()).sum()
    }

    /// A norm's factors, a bias, rotary factors; of several experts, one after the other.
    pub fn vector(&self, id: ParamId) -> &[f32] {
        self.params[id.0].vector.as_deref().expect("prepared for the op that asks")
    }
}

/// What a parameter's matrix, or each of its experts', is multiplied with.
fn linears<'a>(
    graph: &ModelGraph,
    weights: &Weights<'a>,
    id: ParamId,
    overrides: Option<&'a Overrides<'a>>,
) -> Vec<Box<dyn Linear + 'a>> {
    let boxed = |dense: Dense<'a>| Box::new(dense) as Box<dyn Linear>;
    let mut linears: Vec<_> = match overrides.and_then(|o| o.get(id)) {
        Some(value) => replaced(graph, id, value).into_iter().map(boxed).collect(),
        None => {
            sparse(graph, weights, id).unwrap_or_else(|| matrices(graph, weights, id).into_iter().map(boxed).collect())
        }
    };
    let (rows, cols) = matrix_shape(graph, id);
    for (expert, value) in overrides.into_iter().flat_map(|o| o.experts(id)) {
        value.check(&graph.param(id).name, (rows, cols));
        linears[expert] = boxed(Dense::new(value.store, rows, cols, Cow::Borrowed(&value.bytes), None));
    }
    for (expert, added) in overrides.into_iter().flat_map(|o| o.added(id)) {
        let mut terms = vec![linears.remove(expert)];
        terms.extend(added.iter().map(|linear| Box::new(&**linear) as Box<dyn Linear>));
        linears.insert(expert, Box::new(Sum::new(terms)));
    }
    linears
}

/// The matrices of a value that is not the stored one.
fn replaced<'a>(graph: &ModelGraph, id: ParamId, value: &'a Override<'_>) -> Vec<Dense<'a>> {
    let param = graph.param(id);
    value.check(&param.name, (param.rows(), param.cols()));
    let (rows, cols) = matrix_shape(graph, id);
    let (all, bytes) = (param.rows() / rows, &value.bytes);
    assert!(bytes.len().is_multiple_of(all), "{}: {} bytes for {all} matrices", param.name, bytes.len());
    bytes.chunks(bytes.len() / all).map(|bytes| Dense::new(value.store, rows, cols, bytes.into(), None)).collect()
}

/// Rows and columns of a parameter's matrix, or of each of its experts'.
fn matrix_shape(graph: &ModelGraph, id: ParamId) -> (usize, usize) {
    let param = graph.param(id);
    (param.shape[param.shape.len() - 2], param.cols())
}

/// Matrices whose zeros the file leaves out, as they are mapped; `None` if they are not stored so, are moved or
/// changed on the way in, or are faster dense.
fn sparse<'a>(graph: &ModelGraph, weights: &Weights<'a>, id: ParamId) -> Option<Vec<Box<dyn Linear + 'a>>> {
    let view = weights.sparse(id).filter(|view| Sparse::takes(view.layout().store()))?;
    let (rows, _) = matrix_shape(graph, id);
    let matrix = |i: usize| Box::new(Sparse::new(view.slice(i * rows..(i + 1) * rows), None)) as Box<dyn Linear>;
    Some((0..view.rows() / rows).map(matrix).collect())
}

fn matrices<'a>(graph: &ModelGraph, weights: &Weights<'a>, id: ParamId) -> Vec<Dense<'a>> {
    let param = graph.param(id);
    let (rows, cols) = matrix_shape(graph, id);
    let stored = weights.storage(id);
    // Once for all experts: it reads every scale.
    let kept = weights.is_packed(id).then(|| weights.kept(id));
    let matrix = |expert: usize| {
        let range = expert * rows..(expert + 1) * rows;
        let (store, bytes) = stored
            .as_ref()
            .and_then(|runs| in_place(runs, cols, range.clone()))
            .or_else(|| unpacked(weights, id, range.clone(), cols))
            .unwrap_or_else(|| materialised(graph, weights, id, range, kept.as_ref()));
        let order = weights.order(id).map(Vec::into_boxed_slice);
        Dense::new(store, rows, cols, bytes, order)
    };
    let matrices = (0..param.rows() / rows).map(matrix).collect();
    if stored.is_none() {
        weights.release(id, 0..param.rows());
    }
    matrices
}

/// Rows that lie in one run, as they are; rows of several runs of one type, joined.
fn in_place<'a>(runs: &[Stored<'a>], cols: usize, rows: Range<usize>) -> Option<StoredBytes<'a>> {
    let mut start = 0;
    let mut found: Option<StoredBytes<'a>> = None;
    for run in runs {
        let (from, to) = (rows.start.max(start), rows.end.min(start + run.rows));
        if from < to {
            let row = run.store.spec().bytes_for(cols)?;
            let bytes = &run.bytes[(from - start) * row..(to - start) * row];
            found = match found {
                None => Some((run.store, Cow::Borrowed(bytes))),
                Some((store, before)) if store == run.store => Some((store, [&before, bytes].concat().into())),
                Some(_) => return None,
            };
        }
        start += run.rows;
    }
    found
}

/// Rows whose zeros the file leaves out, dense.
fn unpacked(weights: &Weights<'_>, id: ParamId, rows: Range<usize>, cols: usize) -> Option<StoredBytes<'static>> {
    let store = weights.store(id)?;
    let row = store.spec().bytes_for(cols)?;
    let mut bytes = vec![0; rows.len() * row];
    bytes.par_chunks_mut(ROWS_AT_A_TIME * row).enumerate().for_each(|(i, bytes)| {
        let from = rows.start + i * ROWS_AT_A_TIME;
        weights.copy(id, from..from + bytes.len() / row, bytes);
    });
    Some((store, bytes.into()))
}

/// Rows that are stored in another way, rearranged: in a type that holds them exactly. That is the type they are stored
/// in, or one that takes over a quantiser's integers; if the numbers are changed on the way in, or come in several
/// types, f32.
fn materialised(
    graph: &ModelGraph,
    weights: &Weights<'_>,
    id: ParamId,
    rows: Range<usize>,
    kept: Option<&Kept>,
) -> StoredBytes<'static> {
    let param = graph.param(id);
    let cols = param.cols();
    if let Some(exact) = kept.and_then(|kept| carried(weights, id, rows.clone(), cols, kept)) {
        return exact;
    }
    let mut specs = weights.tensors(id).map(|t| t.spec);
    let first = specs.next().filter(|_| param.import == Import::Transpose && !weights.is_edited(id));
    let own = first.filter(|first| specs.all(|s| s == *first)).and_then(|s| formats::by_name(s.name));
    let store = own.unwrap_or(&formats::F32);
    let row = store.spec().bytes_for(cols).expect("floats have blocks of one");
    let mut bytes = vec![0; rows.len() * row];
    let mut values = Vec::new();
    for (from, bytes) in rows.clone().step_by(ROWS_AT_A_TIME).zip(bytes.chunks_mut(ROWS_AT_A_TIME * row)) {
        let some = from..(from + ROWS_AT_A_TIME).min(rows.end);
        values.resize(some.len() * cols, 0.0);
        weights.rows(id, some, matrix_mut(&mut values, cols));
        store.encode(&values, Scales::Reference, bytes);
    }
    (store, bytes.into())
}

/// The integers of a packed matrix as blocks, if these stand for the very same numbers.
fn carried(
    weights: &Weights<'_>,
    id: ParamId,
    rows: Range<usize>,
    cols: usize,
    kept: &Kept,
) -> Option<StoredBytes<'static>> {
    if !kept.integers {
        return None;
    }
    let row = kept.store.spec().bytes_for(cols)?;
    let mut bytes = vec![0; rows.len() * row];
    let same = bytes.par_chunks_mut(ROWS_AT_A_TIME * row).enumerate().all(|(i, bytes)| {
        let from = rows.start + i * ROWS_AT_A_TIME;
        let some = from..from + bytes.len() / row;
        let (mut values, mut back) = (Array2::zeros((some.len(), cols)), Array2::zeros((some.len(), cols)));
        weights.carry(id, some, kept.store, values.view_mut(), bytes);
        kept.store.decode(bytes, elements_mut(back.view_mut()));
        values == back
    });
    same.then(|| (kept.store, bytes.into()))
}
