//! Which tensors a parameter's numbers are in: names, shapes and types of everything are checked before anything is
//! read.

use std::ops::Range;

use aurora_quantizers::spec::Kind;
use aurora_quantizers::{Store, formats};

use crate::checkpoint::{Config, Packed, SparseMatrix, TensorInfo, TensorSource};
use crate::error::{Misfit, TensorFault, printable};
use crate::model::{Import, ModelGraph, Param, Part, Role};
use crate::{Error, Result};

/// What names of classifiers' heads start with.
const CLASSIFIERS: [&str; 5] = ["score.", "classifier.", "qa_outputs.", "v_head.", "cls."];

/// Where one parameter's numbers are.
pub(super) struct Bound<'a> {
    /// The parameter as the checkpoint has it: a smaller model's may have fewer rows and columns.
    pub(super) param: &'a Param,
    /// What is left to do; nothing for a GGUF file.
    pub(super) import: &'a Import,
    pub(super) runs: Vec<Run<'a>>,
}

/// A run of rows of one source tensor, in the tensor's own layout.
pub(super) struct Run<'a> {
    pub(super) tensor: &'a TensorInfo,
    pub(super) numbers: Numbers<'a>,
    pub(super) first_row: usize,
    pub(super) rows: usize,
}

/// How a tensor's rows are read.
#[derive(Clone, Copy)]
pub(super) enum Numbers<'a> {
    /// They lie one after the other.
    Stored(&'static dyn Store),
    /// They are put together from codes and scales.
    Packed(&'a Packed),
    /// Zeros are left out.
    Sparse(&'a SparseMatrix),
}

/// Finds every parameter of `graph` in `source`.
pub(super) fn bind<'a>(source: &'a dyn TensorSource, graph: &'a ModelGraph) -> Result<Vec<Bound<'a>>> {
    let mut binder = Binder { source, used: vec![false; source.tensors().len()], faults: Vec::new() };
    let bound: Vec<Option<Bound>> = graph.params.iter().map(|p| binder.bind(p)).collect();
    binder.report_unused(graph);
    if !binder.faults.is_empty() {
        let types = binder.faults.iter().any(|fault| matches!(fault.misfit, Misfit::Type { .. }));
        let advice = match source.config() {
            _ if types => "",
            Config::Gguf(_) => "header and tensors of this file do not fit together: download it or make it again",
            Config::HuggingFace(_) => "config.json and the weights do not fit together: get both from one place again",
        };
        return Err(Error::Tensors { path: source.path().to_owned(), faults: binder.faults, advice });
    }
    Ok(bound.into_iter().flatten().collect())
}

impl<'a> Bound<'a> {
    /// Calls `f(run, first stored row, rows)` for the runs that canonical rows `rows` fall into, in order.
    pub(super) fn for_each(&self, rows: Range<usize>, mut f: impl FnMut(&Run<'a>, usize, usize)) {
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
    faults: Vec<TensorFault>,
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
        Some(Bound { param, import: &Import::AsIs, runs: vec![run] })
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
        let transposed =
            param.import == Import::Transpose && runs.iter().any(|r| matches!(r.numbers, Numbers::Packed(_)));
        Some(Bound { param, import: if transposed { &Import::AsIs } else { &param.import }, runs })
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
            let mut hint = if names[0] == param.name { String::new() } else { format!(" (for {})", param.name) };
            if let Some((name, file)) = names.iter().find_map(|n| Some((n, self.source.promised().get(n)?))) {
                hint.push_str(&format!("; the index says that {} is in {}", printable(name), printable(file)));
            } else if param.role == Role::Output && matches!(self.source.config(), Config::HuggingFace(_)) {
                hint.push_str("; if the embedding table is also the output matrix, set tie_word_embeddings to true");
            }
            let what = format!("missing tensor {}, shape {shape:?}{hint}", names[0]);
            self.faults.push(TensorFault { tensor: names[0].clone(), misfit: Misfit::Missing, what });
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
            let what = format!("shape {:?}, needed {shape:?}{key}", tensor.shape);
            fault = Some((Misfit::Shape { found: tensor.shape.clone(), needed: shape }, what));
        } else if tensor.packed.is_some() {
            // Only a matrix is ever packed; norms and biases have one dimension.
        } else if tensor.spec.kind == Kind::Int {
            let what = format!("holds {} numbers; weights must be floating point", tensor.spec.name);
            fault = Some((Misfit::Type { found: tensor.spec.name.to_owned() }, what));
        }
        let store = formats::by_name(tensor.spec.name);
        if fault.is_none() && store.is_none() && tensor.packed.is_none() {
            let known: Vec<_> = formats::FORMATS.iter().map(|f| f.spec().name).collect();
            let what = format!("type {} cannot be read yet (known: {})", tensor.spec.name, known.join(", "));
            fault = Some((Misfit::Type { found: tensor.spec.name.to_owned() }, what));
        }
        if let Some((misfit, what)) = fault {
            let what = format!("tensor {}: {what}", tensor.name);
            self.faults.push(TensorFault { tensor: tensor.name.clone(), misfit, what });
            return None;
        }
        let numbers = match (&tensor.packed, &tensor.sparse) {
            (Some(packed), _) => Numbers::Packed(packed),
            (None, Some(sparse)) => Numbers::Sparse(sparse),
            (None, None) => Numbers::Stored(store?),
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
                let (name, shape) = (printable(&tensor.name), &tensor.shape);
                let why = match CLASSIFIERS.iter().any(|start| tensor.name.starts_with(start)) {
                    true => "a classifier's head, which is not converted; remove it to convert the rest",
                    false => "this architecture has no such parameter",
                };
                let what = format!("unexpected tensor {name}, shape {shape:?}: {why}");
                self.faults.push(TensorFault { tensor: name, misfit: Misfit::Unexpected, what });
            }
        }
    }
}
