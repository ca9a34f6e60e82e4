//! A checkpoint seen through a model: every parameter's rows in canonical form, as F32.
//!
//! Binding checks names, shapes and types of everything first and reports all faults in one error; reading then
//! cannot meet a tensor that does not fit. Used by whoever needs weights: the pipeline, the runtime, inspection.

use std::ops::Range;
use std::path::Path;

use aurora_quantizers::spec::Kind;
use aurora_quantizers::{Store, formats};

use crate::checkpoint::{Config, Packed, TensorInfo, TensorSource};
use crate::error::printable;
use crate::model::{Import, ModelGraph, Param, ParamId, Part, Role};
use crate::{Error, Result};

mod keep;
mod reorder;

pub use keep::Kept;
use reorder::Moves;

/// Most problems that one error lists in full.
const MOST_PROBLEMS: usize = 200;

/// A source whose tensors have been matched with a model's parameters.
pub struct Weights<'a> {
    source: &'a dyn TensorSource,
    graph: &'a ModelGraph,
    bound: Vec<Bound<'a>>,
    /// How each parameter was rearranged, beyond its import.
    moves: Vec<Moves>,
}

/// Where one parameter's numbers are.
struct Bound<'a> {
    /// What is left to do; nothing for a GGUF file.
    import: &'a Import,
    runs: Vec<Run<'a>>,
}

/// A run of rows of one source tensor, in the tensor's own layout.
struct Run<'a> {
    tensor: &'a TensorInfo,
    numbers: Numbers<'a>,
    first_row: usize,
    rows: usize,
}

/// How a tensor's rows are read.
#[derive(Clone, Copy)]
enum Numbers<'a> {
    /// They lie one after the other.
    Stored(&'static dyn Store),
    /// They are put together from codes and scales.
    Packed(&'a Packed),
}

/// Stored rows of one tensor, as they lie in the mapped file.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// How the numbers are stored.
    pub store: &'static dyn Store,
    /// The bytes of these rows and of no others.
    pub bytes: &'a [u8],
    /// How many rows they are.
    pub rows: usize,
}

impl<'a> Weights<'a> {
    /// Finds every parameter of `graph` in `source`.
    ///
    /// # Errors
    /// One error that lists every tensor that is missing, has another shape, holds something else than weights, or
    /// belongs to no parameter.
    pub fn bind(source: &'a dyn TensorSource, graph: &'a ModelGraph) -> Result<Self> {
        let mut binder = Binder { source, used: vec![false; source.tensors().len()], problems: Vec::new() };
        let bound: Vec<Option<Bound>> = graph.params.iter().map(|p| binder.bind(p)).collect();
        binder.report_unused(graph);
        if !binder.problems.is_empty() {
            let mut problems = binder.problems;
            if problems.len() > MOST_PROBLEMS {
                let more = problems.len() - MOST_PROBLEMS;
                problems.truncate(MOST_PROBLEMS);
                problems.push(format!("and {more} more"));
            }
            return Err(Error::Checkpoint { path: source.path().to_owned(), problems });
        }
        let moves = vec![Moves::default(); graph.params.len()];
        Ok(Weights { source, graph, bound: bound.into_iter().flatten().collect(), moves })
    }

    /// The model that the source was bound to.
    pub fn graph(&self) -> &'a ModelGraph {
        self.graph
    }

    /// The checkpoint tensors behind a parameter (none if it is computed).
    pub fn tensors(&self, id: ParamId) -> impl Iterator<Item = &'a TensorInfo> + '_ {
        self.bound[id.0].runs.iter().map(|r| r.tensor)
    }

    /// The runs of rows that a parameter consists of, in order: tensor, first stored row (as [`Part`] counts), rows.
    pub fn pieces(&self, id: ParamId) -> impl Iterator<Item = (&'a TensorInfo, usize, usize)> + '_ {
        self.bound[id.0].runs.iter().map(|r| (r.tensor, r.first_row, r.rows))
    }

    /// What is done to a parameter's numbers on the way in.
    pub fn import(&self, id: ParamId) -> &'a Import {
        self.bound[id.0].import
    }

    /// Which row of its tensors, counted on from run to run, a canonical row of a matrix (or element of a bias) is.
    pub fn stored_row(&self, id: ParamId, row: usize) -> usize {
        let (param, moves) = (self.graph.param(id), &self.moves[id.0]);
        let vector = param.shape.len() == 1;
        let total = if vector { param.len() } else { param.rows() };
        let from = if vector { moves.cols_of(0) } else { Some(moves.rows.as_slice()) };
        let row = from.and_then(|from| from.get(row)).map_or(row, |&from| from as usize);
        match self.bound[id.0].import {
            Import::RopePermute { heads } => halved(row, total / heads),
            _ => row,
        }
    }

    /// An error about a parameter, named as its file names it.
    pub fn error(&self, id: ParamId, what: impl Into<String>) -> Error {
        let param = self.graph.param(id);
        match self.tensors(id).next() {
            Some(t) if t.name == param.name => Error::tensor(self.source.file_of(t), &t.name, what),
            Some(t) => Error::tensor(self.source.file_of(t), format!("{} ({})", t.name, param.name), what),
            None => Error::tensor(self.source.path(), &param.name, what),
        }
    }

    /// Reads canonical rows of a parameter. `out`: `rows.len() * cols` numbers, row-major; rows count over all outer
    /// dimensions (a vector is one row).
    ///
    /// # Panics
    /// If `rows` reaches past the parameter or `out` has another length.
    pub fn rows(&self, id: ParamId, rows: Range<usize>, out: &mut [f32]) {
        let param = self.graph.param(id);
        let cols = param.cols();
        assert!(rows.end <= param.rows(), "{}: rows {rows:?} of {}", param.name, param.rows());
        assert_eq!(out.len(), rows.len() * cols, "{}: length of the output", param.name);
        let from = &self.moves[id.0].rows;
        if from.is_empty() {
            self.imported(id, rows.clone(), out);
        } else if self.bound[id.0].runs.iter().all(|run| matches!(run.numbers, Numbers::Packed(_))) {
            let mut rest = &mut *out;
            for piece in self.gather(id, rows.clone()) {
                let (now, later) = std::mem::take(&mut rest).split_at_mut(piece.rows.len() * cols);
                piece.packed.decode(self.source, &piece.rows, now);
                rest = later;
            }
        } else {
            for (&row, out) in from[rows.clone()].iter().zip(out.chunks_exact_mut(cols)) {
                self.imported(id, row as usize..row as usize + 1, out);
            }
        }
        self.move_columns(id, rows.start, out);
    }

    /// The same, as bound: before anything was [reordered](Weights::sort_groups).
    fn imported(&self, id: ParamId, rows: Range<usize>, out: &mut [f32]) {
        let param = self.graph.param(id);
        let cols = param.cols();
        let bound = &self.bound[id.0];
        match bound.import {
            Import::Computed(values) => {
                out.copy_from_slice(&values[rows.start * cols..rows.end * cols]);
            }
            Import::RopePermute { heads } => self.permuted(bound, *heads, param, rows, out),
            Import::Transpose => self.transposed(&bound.runs[0], rows, out),
            Import::AsIs => self.consecutive(bound, cols, rows, out),
            Import::AddOne => {
                self.consecutive(bound, cols, rows, out);
                out.iter_mut().for_each(|v| *v += 1.0);
            }
        }
    }

    /// The runs of stored rows that a parameter consists of, to be used in place: canonical row `r` is row
    /// [`order`](Weights::order)`[r]` of them, counted on from run to run. `None` if the numbers themselves are changed
    /// or rearranged on the way in, or come from several tensors; then only [`rows`](Weights::rows) has them.
    pub fn storage(&self, id: ParamId) -> Option<Vec<Stored<'a>>> {
        let bound = &self.bound[id.0];
        if !matches!(bound.import, Import::AsIs | Import::RopePermute { .. }) || !self.moves[id.0].is_empty() {
            return None;
        }
        let cols = self.graph.param(id).cols();
        let stored = |run: &Run<'a>| {
            let Numbers::Stored(store) = run.numbers else { return None };
            let bytes = |rows: usize| store.spec().bytes_for(rows * cols).expect("whole blocks");
            let range = bytes(run.first_row)..bytes(run.first_row + run.rows);
            Some(Stored { store, bytes: self.source.bytes(run.tensor, range), rows: run.rows })
        };
        bound.runs.iter().map(stored).collect()
    }

    /// Which row of its [`storage`](Weights::storage) each canonical row of a matrix is; `None` if they are in order.
    pub fn order(&self, id: ParamId) -> Option<Vec<u32>> {
        if self.is_packed(id) || !self.moves[id.0].is_empty() {
            return None;
        }
        let Import::RopePermute { heads } = self.bound[id.0].import else { return None };
        let rows = self.graph.param(id).rows();
        Some((0..rows).map(|row| halved(row, rows / heads) as u32).collect())
    }

    /// The checkpoint directory or file.
    pub fn path(&self) -> &'a Path {
        self.source.path()
    }

    /// Whether any of its rows are put together from codes and scales.
    pub fn is_packed(&self, id: ParamId) -> bool {
        self.bound[id.0].runs.iter().any(|run| matches!(run.numbers, Numbers::Packed(_)))
    }

    /// Whether canonical rows are read in the order in which they are stored.
    pub fn in_order(&self, id: ParamId) -> bool {
        let moved = !self.moves[id.0].rows.is_empty();
        !matches!(self.bound[id.0].import, Import::RopePermute { .. } | Import::Transpose)
            && !self.is_packed(id)
            && !moved
    }

    /// Tells the system that rows `rows` will not be read again soon. Of a parameter that is not
    /// [in order](Weights::in_order), all rows at once.
    pub fn release(&self, id: ParamId, rows: Range<usize>) {
        let bound = &self.bound[id.0];
        if !self.in_order(id) {
            return bound.runs.iter().for_each(|run| match run.numbers {
                Numbers::Stored(_) => self.source.release(run.tensor, 0..run.tensor.range.len()),
                Numbers::Packed(packed) => {
                    packed.parts.iter().for_each(|part| self.source.release(part, 0..part.range.len()));
                }
            });
        }
        let cols = self.graph.param(id).cols();
        bound.for_each(rows, |run, first, n| {
            let Numbers::Stored(store) = run.numbers else { unreachable!("packed rows are not in order") };
            let bytes = |rows: usize| store.spec().bytes_for(rows * cols).expect("whole blocks");
            self.source.release(run.tensor, bytes(first)..bytes(first + n));
        });
    }

    fn decode(&self, run: &Run, first_row: usize, cols: usize, out: &mut [f32]) {
        let store = match run.numbers {
            Numbers::Stored(store) => store,
            Numbers::Packed(packed) => {
                let rows: Vec<usize> = (first_row..first_row + out.len() / cols).collect();
                return packed.decode(self.source, &rows, out);
            }
        };
        let spec = store.spec();
        let at = spec.bytes_for(first_row * cols).expect("whole blocks");
        let len = spec.bytes_for(out.len()).expect("whole blocks");
        store.decode(self.source.bytes(run.tensor, at..at + len), out);
    }

    fn consecutive(&self, bound: &Bound, cols: usize, rows: Range<usize>, out: &mut [f32]) {
        let mut rest = out;
        bound.for_each(rows, |run, first, n| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(n * cols);
            self.decode(run, first, cols, now);
            rest = later;
        });
    }

    fn permuted(&self, bound: &Bound, heads: usize, param: &Param, rows: Range<usize>, out: &mut [f32]) {
        let run = &bound.runs[0];
        // A bias: the elements move as the rows of its matrix do.
        let vector = param.shape.len() == 1;
        let (total, cols) = if vector { (param.len(), 1) } else { (param.rows(), param.cols()) };
        let rows = if vector { 0..total } else { rows };
        let dim = total / heads;
        if let Numbers::Packed(packed) = run.numbers {
            let rows: Vec<usize> = rows.map(|row| run.first_row + halved(row, dim)).collect();
            return packed.decode(self.source, &rows, out);
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
            self.decode(run, run.first_row + halved(row, dim), cols, out);
        }
    }

    /// The tensor is stored `[in, out]`: each canonical row is a stored column.
    fn transposed(&self, run: &Run, rows: Range<usize>, out: &mut [f32]) {
        let (inputs, outputs) = (run.tensor.shape[0], run.tensor.shape[1]);
        let Numbers::Stored(store) = run.numbers else { unreachable!("packed matrices are bound as they are") };
        let spec = store.spec();
        let mut segment = vec![0.0; rows.len()];
        for i in 0..inputs {
            let at = spec.bytes_for(i * outputs + rows.start).expect("floats have blocks of one");
            let len = spec.bytes_for(rows.len()).expect("floats have blocks of one");
            store.decode(self.source.bytes(run.tensor, at..at + len), &mut segment);
            for (row, v) in segment.iter().enumerate() {
                out[row * inputs + i] = *v;
            }
        }
    }
}

/// Canonical row 2j of a head of `dim` rows is stored row j, row 2j + 1 is stored row dim/2 + j.
fn halved(row: usize, dim: usize) -> usize {
    let (head, i) = (row / dim, row % dim);
    head * dim + i / 2 + if i % 2 == 0 { 0 } else { dim / 2 }
}

impl<'a> Bound<'a> {
    /// Calls `f(run, first stored row, rows)` for the runs that canonical rows `rows` fall into, in order.
    fn for_each(&self, rows: Range<usize>, mut f: impl FnMut(&Run<'a>, usize, usize)) {
        let mut start = 0;
        for run in &self.runs {
            let end = start + run.rows;
            let (from, to) = (rows.start.max(start), rows.end.min(end));
            if from < to {
                f(run, run.first_row + (from - start), to - from);
            }
            start = end;
        }
    }
}

struct Binder<'a> {
    source: &'a dyn TensorSource,
    used: Vec<bool>,
    problems: Vec<String>,
}

impl<'a> Binder<'a> {
    fn bind(&mut self, param: &'a Param) -> Option<Bound<'a>> {
        match self.source.config() {
            Config::Gguf(_) => self.bind_gguf(param),
            Config::HuggingFace(_) => self.bind_parts(param),
        }
    }

    /// In a GGUF file, the parameter is the tensor of its name.
    fn bind_gguf(&mut self, param: &'a Param) -> Option<Bound<'a>> {
        let run = self.find(std::slice::from_ref(&param.name), &param.shape, param, 0, param.rows())?;
        Some(Bound { import: &Import::AsIs, runs: vec![run] })
    }

    fn bind_parts(&mut self, param: &'a Param) -> Option<Bound<'a>> {
        let exists = |part: &Part| part.names.iter().any(|n| self.source.find(n).is_some());
        let complete = |parts: &&'a Vec<Part>| parts.iter().all(exists);
        let parts = std::iter::once(&param.parts).chain(&param.alternatives).find(complete).unwrap_or(&param.parts);
        let runs: Vec<_> = parts
            .iter()
            .map(|Part { names, shape, first_row, rows }| self.find(names, shape, param, *first_row, *rows))
            .collect();
        let runs: Vec<Run> = runs.into_iter().collect::<Option<_>>()?;
        // Quantisers store [out, in], also of layers whose floats are [in, out].
        let turned = param.import == Import::Transpose && runs.iter().any(|r| matches!(r.numbers, Numbers::Packed(_)));
        Some(Bound { import: if turned { &Import::AsIs } else { &param.import }, runs })
    }

    fn find(
        &mut self,
        names: &[String],
        shape: &[usize],
        param: &Param,
        first_row: usize,
        rows: usize,
    ) -> Option<Run<'a>> {
        let tensors = self.source.tensors();
        let found = names.iter().find_map(|n| tensors.binary_search_by(|t| t.name.as_str().cmp(n)).ok());
        let Some(index) = found else {
            let hint = if names[0] == param.name { String::new() } else { format!(" (for {})", param.name) };
            self.problems.push(format!("missing tensor {}, shape {shape:?}{hint}", names[0]));
            return None;
        };
        self.used[index] = true;
        let tensor = &tensors[index];
        let mut fault = None;
        let mut shape = shape.to_vec();
        if tensor.packed.is_some() && param.import == Import::Transpose {
            shape.reverse();
        }
        if tensor.shape != shape {
            let key = match (param.role, self.source.config()) {
                (Role::Embedding | Role::Output, Config::HuggingFace(_)) => " (vocab_size, hidden_size in config.json)",
                (_, Config::HuggingFace(_)) => " (from config.json)",
                (_, Config::Gguf(_)) => " (from the header's keys)",
            };
            fault = Some(format!("shape {:?}, needed {shape:?}{key}", tensor.shape));
        } else if tensor.packed.is_some() {
            // Only a matrix is ever packed; norms and biases have one dimension.
        } else if tensor.spec.kind == Kind::Int {
            fault = Some(format!("holds {} numbers; weights must be floating point", tensor.spec.name));
        }
        let store = formats::by_name(tensor.spec.name);
        if fault.is_none() && store.is_none() && tensor.packed.is_none() {
            let known: Vec<_> = formats::FORMATS.iter().map(|f| f.spec().name).collect();
            fault = Some(format!("type {} cannot be read yet (known: {})", tensor.spec.name, known.join(", ")));
        }
        if let Some(fault) = fault {
            self.problems.push(format!("tensor {}: {fault}", tensor.name));
            return None;
        }
        let numbers = match &tensor.packed {
            Some(packed) => Numbers::Packed(packed),
            None => Numbers::Stored(store?),
        };
        Some(Run { tensor, numbers, first_row, rows })
    }

    /// AutoGPTQ stores a bias of zeros beside every matrix, whether or not the model has one.
    fn is_idle_bias(&self, tensor: &TensorInfo) -> bool {
        let Some(stem) = tensor.name.strip_suffix(".bias") else { return false };
        let matrix = self.source.find(&format!("{stem}.weight"));
        matrix.is_some_and(|m| m.packed.is_some())
            && tensor.spec.kind == Kind::Float
            && self.source.bytes(tensor, 0..tensor.range.len()).iter().all(|&byte| byte == 0)
    }

    fn report_unused(&mut self, graph: &ModelGraph) {
        for (tensor, used) in self.source.tensors().iter().zip(&self.used) {
            if !used && !graph.ignores(&tensor.name) && !self.is_idle_bias(tensor) {
                self.problems.push(format!(
                    "unexpected tensor {}, shape {:?}: this architecture has no such parameter",
                    printable(&tensor.name),
                    tensor.shape
                ));
            }
        }
    }
}
