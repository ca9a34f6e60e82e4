//! The same tensors as the parameters of a smaller model: what is left of them after rows, columns, experts or whole
//! blocks went.

use std::sync::Arc;

use super::Weights;
use crate::model::{ModelGraph, ParamId};
use crate::{Error, Result};

impl<'a> Weights<'a> {
    /// These weights as those of another graph, whose parameter i is what is now parameter `from[i]`.
    ///
    /// # Errors
    /// [`Error::Bug`] if there is no such parameter, or it has another shape than the graph says.
    pub(crate) fn cut(&self, graph: &'a ModelGraph, from: &[ParamId]) -> Result<Weights<'a>> {
        let (found, needed) = (from.len(), graph.params.len());
        if found != needed || from.iter().any(|id| id.0 >= self.bound.len()) {
            return Err(Error::bug(format!("{}: {found} parameters for {needed}", self.path().display())));
        }
        for (id, param) in from.iter().zip(&graph.params) {
            if self.shape(*id) != param.shape {
                let (found, needed, name) = (self.shape(*id), &param.shape, &self.graph.param(*id).name);
                let what = format!("{name}: {found:?} is left, needed {needed:?} as {}", param.name);
                return Err(Error::bug(format!("{}: {what}", self.path().display())));
            }
        }
        let bound = from.iter().map(|id| Arc::clone(&self.bound[id.0])).collect();
        let edited = from.iter().map(|id| self.edited[id.0].clone()).collect();
        Ok(Weights { source: self.source, graph, bound, edited, edits: self.edits.renumbered(from) })
    }
}
