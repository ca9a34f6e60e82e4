//! A checkpoint seen through a model: every parameter's rows in canonical form, as F32.
//!
//! Binding checks names, shapes and types of everything first and reports all faults in one error; reading then
//! cannot meet a tensor that does not fit. [`Weights`] is a view: [`Weights::edited`] gives another one of the same
//! tensors with [`Edits`] on top, and nobody who reads rows can tell edited weights from those of a checkpoint.
//! Used by whoever needs weights: the pipeline, the passes, the runtime, inspection.
//!
//! ```no_run
//! use aurora_quant::model::{Opened, ParamId};
//! use aurora_quant::weights::{Edit, Edits, LowRankTerm, Weights};
//! use ndarray::Array2;
//!
//! # fn main() -> aurora_quant::Result<()> {
//! let opened = Opened::open("Llama-3.2-1B".as_ref())?;
//! let weights = Weights::bind(opened.source.as_ref(), &opened.model.graph)?;
//! let id = ParamId(1);
//! let (rows, cols) = weights.dim(id);
//!
//! // An adapter of rank 8, merged.
//! let (b, a) = (Array2::zeros((rows, 8)), Array2::zeros((8, cols)));
//! let mut edits = Edits::new();
//! edits.push(id, None, Edit::Add(LowRankTerm { scale: 0.5, b, a }));
//! let merged = weights.edited(&edits)?;
//!
//! // The first 16 rows of it, into an array of the caller's.
//! let mut some = Array2::zeros((16, cols));
//! merged.rows(id, 0..16, some.view_mut());
//! # Ok(())
//! # }
//! ```

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{Packed, TensorInfo, TensorSource};
use crate::model::{Import, ModelGraph, Param, ParamId, Reader, Role};
use crate::{Error, Result};

mod act_order;
mod bind;
mod cut;
mod edit;
mod edited;
mod edits;
mod keep;
mod read;
mod saved;
mod step;

use bind::{Bound, Numbers};
pub use edit::{Edit, Gather, LowRankTerm, Scale, Side};
use edited::Edited;
pub use edits::Edits;
pub use keep::Kept;
pub use read::Stored;

/// A source whose tensors have been matched with a model's parameters, and what was edited since. Cheap to clone: the
/// match and the edits themselves are shared.
#[derive(Clone)]
pub struct Weights<'a> {
    source: &'a dyn TensorSource,
    graph: &'a ModelGraph,
    bound: Arc<[Arc<Bound<'a>>]>,
    /// Of every parameter that is not as the checkpoint has it, what became of it.
    edited: Vec<Option<Arc<Edited>>>,
    /// All edits since the source was bound.
    edits: Edits,
}

impl<'a> Weights<'a> {
    /// Finds every parameter of `graph` in `source`.
    ///
    /// # Errors
    /// One error that lists every tensor that is missing, has another shape, holds something else than weights, or
    /// belongs to no parameter.
    pub fn bind(source: &'a dyn TensorSource, graph: &'a ModelGraph) -> Result<Self> {
        let bound = bind::bind(source, graph)?.into_iter().map(Arc::new).collect();
        let edited = vec![None; graph.params.len()];
        Ok(Weights { source, graph, bound, edited, edits: Edits::new() })
    }

    /// The model that the source was bound to.
    pub fn graph(&self) -> &'a ModelGraph {
        self.graph
    }

    /// The checkpoint directory or file.
    pub fn path(&self) -> &'a Path {
        self.source.path()
    }

    /// The checkpoint tensors behind a parameter (none if it is computed).
    pub fn tensors(&self, id: ParamId) -> impl Iterator<Item = &'a TensorInfo> + '_ {
        self.bound[id.0].runs.iter().map(|r| r.tensor)
    }

    /// The runs of rows that a parameter consists of, in order: tensor, first stored row (as
    /// [`Part`](crate::model::Part) counts), rows.
    pub fn pieces(&self, id: ParamId) -> impl Iterator<Item = (&'a TensorInfo, usize, usize)> + '_ {
        self.bound[id.0].runs.iter().map(|r| (r.tensor, r.first_row, r.rows))
    }

    /// A parameter as the checkpoint has it, where this model may have less of it, or under another name.
    pub(crate) fn stored_param(&self, id: ParamId) -> &'a Param {
        self.bound[id.0].param
    }

    /// What is done to a parameter's numbers on the way in.
    pub fn import(&self, id: ParamId) -> &'a Import {
        self.bound[id.0].import
    }

    /// Whether any of its rows are put together from codes and scales.
    pub fn is_packed(&self, id: ParamId) -> bool {
        self.bound[id.0].runs.iter().any(|run| matches!(run.numbers, Numbers::Packed(_)))
    }

    /// The packed matrices behind a parameter.
    pub fn packed(&self, id: ParamId) -> impl Iterator<Item = (&TensorInfo, &Packed)> {
        self.bound[id.0].runs.iter().filter_map(|run| match run.numbers {
            Numbers::Packed(packed) => Some((run.tensor, packed)),
            Numbers::Stored(_) | Numbers::Sparse(_) => None,
        })
    }

    /// The same tensors with more edits, after those that there are already.
    ///
    /// # Errors
    /// [`Error::Bug`] if an edit does not fit its parameter: which, what was found and what was needed.
    pub fn edited(&self, edits: &Edits) -> Result<Weights<'a>, Error> {
        let mut view = self.clone();
        for id in edits.params() {
            if id.0 >= self.graph.params.len() {
                let (path, all) = (self.path().display(), self.graph.params.len());
                return Err(Error::bug(format!("{path}: an edit of parameter {}, of {all}", id.0)));
            }
            let mut edited = match &view.edited[id.0] {
                Some(edited) => Edited::clone(edited),
                None => Edited::new(self.bound[id.0].param, self.rows_of_each(id)),
            };
            for (expert, edit) in edits.of(id) {
                edited.add(expert, edit).map_err(|what| self.misfit(id, &what))?;
            }
            edited.finish().map_err(|what| self.misfit(id, &what))?;
            view.edited[id.0] = Some(Arc::new(edited));
        }
        view.edits.append(edits);
        Ok(view)
    }

    /// All edits since the source was bound.
    pub fn edits(&self) -> &Edits {
        &self.edits
    }

    /// Whether a parameter is another one than the checkpoint has.
    pub fn is_edited(&self, id: ParamId) -> bool {
        self.edited[id.0].is_some()
    }

    /// What was done to a parameter beyond permuting its rows and columns, in words: "scaled and masked". `None`: its
    /// weights are those of the checkpoint, wherever they are.
    pub fn changes(&self, id: ParamId) -> Option<String> {
        self.edited[id.0].as_ref().and_then(|edited| edited.changes())
    }

    /// A parameter's shape, outermost first: the graph's, less what was removed.
    pub fn shape(&self, id: ParamId) -> &[usize] {
        match &self.edited[id.0] {
            Some(edited) => edited.shape(),
            None => &self.graph.param(id).shape,
        }
    }

    /// Rows over all outer dimensions of a parameter's [shape](Weights::shape), and columns; a vector is one row.
    pub fn dim(&self, id: ParamId) -> (usize, usize) {
        let shape = self.shape(id);
        let (cols, outer) = shape.split_last().expect("no parameter is a single number");
        (outer.iter().product(), *cols)
    }

    /// Rows and columns of the matrix that a reader is: the parameter, or one expert's share of it.
    pub fn dim_of(&self, reader: Reader) -> (usize, usize) {
        let (rows, cols) = self.dim(reader.weight);
        (reader.expert.map_or(rows, |_| rows / self.shape(reader.weight)[0]), cols)
    }

    /// For errors about a parameter: its file, and its name as the file has it.
    pub fn place(&self, id: ParamId) -> (&'a Path, String) {
        let param = self.graph.param(id);
        match self.tensors(id).next() {
            Some(t) if t.name == param.name => (self.source.file_of(t), t.name.clone()),
            Some(t) => (self.source.file_of(t), format!("{} ({})", t.name, param.name)),
            None => (self.source.path(), param.name.clone()),
        }
    }

    /// An edit that does not fit its parameter.
    fn misfit(&self, id: ParamId, what: &str) -> Error {
        let (path, name) = self.place(id);
        Error::bug(format!("{}: tensor {name}: {what}", path.display()))
    }

    /// Rows of a parameter that belong together: of one expert's matrix, if it has several; of a bias one.
    fn rows_of_each(&self, id: ParamId) -> usize {
        let param = self.bound[id.0].param;
        match param.shape[..] {
            _ if param.role == Role::Bias => 1,
            [_, rows, _] => rows,
            _ => param.rows(),
        }
    }
}
