//! Parameters in the form in which ops use them: matrices as they are stored, vectors as f32.

use std::borrow::Cow;
use std::ops::Range;

use aurora_quantizers::{Scales, Spec, formats};
use rayon::prelude::*;

use super::blocks::Overrides;
use super::kernels::{self, Matrix};
use crate::Result;
use crate::model::{Import, ModelGraph, Op, ParamId};
use crate::weights::{Kept, Stored, Weights};

/// Rows that are rearranged at a time where a matrix cannot be used as it is stored.
const ROWS_AT_A_TIME: usize = 512;

/// One parameter.
#[derive(Default)]
struct Prepared<'a> {
    /// One per expert.
    matrices: Vec<Matrix<'a>>,
    /// Their bytes, all together.
    bytes: usize,
    vector: Option<Vec<f32>>,
}

/// All parameters that ops use other than by single rows.
pub(super) struct Params<'a> {
    params: Vec<Prepared<'a>>,
}

impl<'a> Params<'a> {
    /// Prepares what some ops of `graph` use; values in `overrides` take the place of stored ones.
    ///
    /// # Errors
    /// If a matrix's type has no kernel.
    pub fn new<'g>(
        graph: &ModelGraph,
        weights: &Weights<'a>,
        ops: impl IntoIterator<Item = &'g Op>,
        overrides: Option<&'a Overrides<'a>>,
    ) -> Result<Self> {
        let mut params: Vec<Prepared> = graph.params.iter().map(|_| Prepared::default()).collect();
        for op in ops {
            let (matrix, vectors) = match op {
                Op::Linear { weight, bias, .. } => (Some(*weight), [*bias, None]),
                Op::Norm { weight, bias, .. } => (None, [Some(*weight), *bias]),
                Op::Rope { factors, long, .. } => (None, [*factors, long.map(|l| l.factors)]),
                _ => continue,
            };
            if let Some(id) = matrix
                && params[id.0].matrices.is_empty()
            {
                (params[id.0].matrices, params[id.0].bytes) = match overrides.and_then(|o| o.get(id)) {
                    Some((spec, bytes)) => replaced(graph, weights, id, spec, bytes)?,
                    None => matrices(graph, weights, id)?,
                };
                for (expert, spec, bytes) in overrides.into_iter().flat_map(|o| o.experts(id)) {
                    let (rows, cols) = matrix_shape(graph, id);
                    params[id.0].matrices[expert] = Matrix::new(spec, rows, cols, bytes.into(), None);
                }
            }
            for id in vectors.into_iter().flatten() {
                params[id.0].vector.get_or_insert_with(|| {
                    let param = graph.param(id);
                    let mut vector = vec![0.0; param.len()];
                    match overrides.and_then(|o| o.get(id)) {
                        Some((spec, bytes)) => {
                            let format = formats::by_ggml_id(spec.ggml_id).expect("a format that was written");
                            format.decode(bytes, &mut vector);
                        }
                        None => weights.rows(id, 0..param.rows(), &mut vector),
                    }
                    vector
                });
            }
        }
        Ok(Params { params })
    }

    /// The matrix of a linear, or of one of its experts.
    pub fn matrix(&self, id: ParamId, expert: usize) -> &Matrix<'a> {
        &self.params[id.0].matrices[expert]
    }

    /// A norm's factors, a bias, rotary factors; of several experts, one after the other.
    pub fn vector(&self, id: ParamId) -> &[f32] {
        self.params[id.0].vector.as_deref().expect("prepared for the op that asks")
    }

    /// Stored bytes of all matrices of a linear.
    pub fn matrix_bytes(&self, id: ParamId) -> usize {
        self.params[id.0].bytes
    }
}

/// The matrices of a value that is not the stored one.
fn replaced<'a>(
    graph: &ModelGraph,
    weights: &Weights<'a>,
    id: ParamId,
    spec: &'static Spec,
    bytes: &'a [u8],
) -> Result<(Vec<Matrix<'a>>, usize)> {
    let param = graph.param(id);
    let (rows, cols) = matrix_shape(graph, id);
    known(spec, weights, id)?;
    let all = param.rows() / rows;
    assert!(bytes.len().is_multiple_of(all), "{}: {} bytes for {all} matrices", param.name, bytes.len());
    let matrices = bytes.chunks(bytes.len() / all).map(|bytes| Matrix::new(spec, rows, cols, bytes.into(), None));
    Ok((matrices.collect(), bytes.len()))
}

/// Rows and columns of a parameter's matrix, or of each of its experts'.
fn matrix_shape(graph: &ModelGraph, id: ParamId) -> (usize, usize) {
    let param = graph.param(id);
    (param.shape[param.shape.len() - 2], param.cols())
}

/// Whether a type can be multiplied with.
fn known(spec: &Spec, weights: &Weights<'_>, id: ParamId) -> Result<()> {
    if kernels::supported(spec) {
        return Ok(());
    }
    let known = formats::FORMATS.iter().map(|f| f.spec()).filter(|s| kernels::supported(s));
    let known: Vec<_> = known.map(|s| s.name).collect();
    let what = format!("type {} cannot be run; there are kernels for {}", spec.name, known.join(", "));
    Err(weights.error(id, what))
}

fn matrices<'a>(graph: &ModelGraph, weights: &Weights<'a>, id: ParamId) -> Result<(Vec<Matrix<'a>>, usize)> {
    let param = graph.param(id);
    let (rows, cols) = matrix_shape(graph, id);
    let stored = weights.storage(id);
    // Once for all experts: it reads every scale.
    let kept = weights.is_packed(id).then(|| weights.kept(id));
    let mut all = 0;
    let matrix = |expert: usize| {
        let range = expert * rows..(expert + 1) * rows;
        let (spec, bytes) = stored
            .as_ref()
            .and_then(|runs| in_place(runs, cols, range.clone()))
            .unwrap_or_else(|| materialised(graph, weights, id, range, kept.as_ref()));
        known(spec, weights, id)?;
        all += bytes.len();
        let order = weights.order(id).map(Vec::into_boxed_slice);
        Ok(Matrix::new(spec, rows, cols, bytes, order))
    };
    let matrices = (0..param.rows() / rows).map(matrix).collect::<Result<_>>()?;
    if stored.is_none() {
        weights.release(id, 0..param.rows());
    }
    Ok((matrices, all))
}

/// Rows that lie in one run, as they are; rows of several runs of one type, joined.
fn in_place<'a>(runs: &[Stored<'a>], cols: usize, rows: Range<usize>) -> Option<(&'static Spec, Cow<'a, [u8]>)> {
    let mut start = 0;
    let mut found: Option<(&'static Spec, Cow<'a, [u8]>)> = None;
    for run in runs {
        let (from, to) = (rows.start.max(start), rows.end.min(start + run.rows));
        if from < to {
            let row = run.spec.bytes_for(cols)?;
            let bytes = &run.bytes[(from - start) * row..(to - start) * row];
            found = match found {
                None => Some((run.spec, Cow::Borrowed(bytes))),
                Some((spec, before)) if spec == run.spec => Some((spec, [&before, bytes].concat().into())),
                Some(_) => return None,
            };
        }
        start += run.rows;
    }
    found
}

/// Rows that are stored in another way, rearranged: in a type that holds them exactly. That is the type they are stored in,
/// or one that takes over a quantiser's integers; if the numbers are changed on the way in, or come in several types, f32.
fn materialised(
    graph: &ModelGraph,
    weights: &Weights<'_>,
    id: ParamId,
    rows: Range<usize>,
    kept: Option<&Kept>,
) -> (&'static Spec, Cow<'static, [u8]>) {
    let param = graph.param(id);
    let cols = param.cols();
    let mut specs = weights.tensors(id).map(|t| t.spec);
    let first = specs.next().filter(|_| param.import == Import::Transpose && !weights.is_edited(id));
    let own = first.filter(|first| specs.all(|s| s == *first)).and_then(|s| formats::by_ggml_id(s.ggml_id));
    if let Some(exact) = kept.and_then(|kept| carried(weights, id, rows.clone(), cols, kept)) {
        return exact;
    }
    let format = own.unwrap_or_else(|| formats::by_name("f32").expect("a row of FORMATS"));
    let row = format.spec().bytes_for(cols).expect("floats have blocks of one");
    let mut bytes = vec![0; rows.len() * row];
    let mut values = Vec::new();
    for (from, bytes) in rows.clone().step_by(ROWS_AT_A_TIME).zip(bytes.chunks_mut(ROWS_AT_A_TIME * row)) {
        let some = from..(from + ROWS_AT_A_TIME).min(rows.end);
        values.resize(some.len() * cols, 0.0);
        weights.rows(id, some, &mut values);
        format.encode(&values, Scales::Reference, bytes);
    }
    (format.spec(), bytes.into())
}

/// The integers of a packed matrix as blocks, if these stand for the very same numbers.
fn carried(
    weights: &Weights<'_>,
    id: ParamId,
    rows: Range<usize>,
    cols: usize,
    kept: &Kept,
) -> Option<(&'static Spec, Cow<'static, [u8]>)> {
    let format = formats::by_ggml_id(kept.spec.ggml_id).filter(|_| kept.integers && kernels::supported(kept.spec))?;
    let row = kept.spec.bytes_for(cols)?;
    let mut bytes = vec![0; rows.len() * row];
    let same = bytes.par_chunks_mut(ROWS_AT_A_TIME * row).enumerate().all(|(i, bytes)| {
        let from = rows.start + i * ROWS_AT_A_TIME;
        let some = from..from + bytes.len() / row;
        let (mut values, mut back) = (vec![0.0; some.len() * cols], vec![0.0; some.len() * cols]);
        weights.carry(id, some, kept.spec, &mut values, bytes);
        format.decode(bytes, &mut back);
        values == back
    });
    if !same {
        return None;
    }
    Some((kept.spec, bytes.into()))
}
