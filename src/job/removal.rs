//! What is removed before anything else, and the model that is left: its sizes are known before anything is run.

use super::asked::Asked;
use crate::checkpoint::TensorSource;
use crate::export;
use crate::model::cut::Smaller;
use crate::model::{Model, Role};
use crate::pipeline::remove::{self, Parts, Removed, Sizes, Task};
use crate::plan::Plan;
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Error, Result};

/// What goes.
pub(super) struct Removal {
    wanted: Parts,
    pub sizes: Sizes,
    /// The model that is left; which blocks it has may change, how many does not.
    pub left: Model,
}

impl Removal {
    /// What was asked for, if anything, in numbers.
    pub fn of(asked: &Asked, source: &dyn TensorSource, whole: &Model, bound: &Weights<'_>) -> Result<Option<Removal>> {
        let Some(wanted) = asked.removal.clone() else { return Ok(None) };
        // Widths are to fit the types that matrices would have.
        let assigned = export::assign(asked.exporter, &asked.request, source, bound)?;
        let plan = Plan::keeping(whole, &assigned.rules, &assigned.kept)?;
        let after_mlp = plan.tensors.iter().filter(|t| whole.graph.param(t.param).role == Role::FfnDown);
        let unit = after_mlp.map(|t| t.spec().block).max().unwrap_or(1);
        let sizes = Sizes::of(&wanted, whole, unit)?;
        let left = left(whole, &sizes.cut)?;
        Ok(Some(Removal { wanted, sizes, left }))
    }

    /// Weights of the right shapes and types, before it is known which parts go.
    pub fn shapes<'a>(&'a self, whole: &Model, bound: &Weights<'a>) -> Result<Weights<'a>> {
        Removed::placeholder(whole, &self.wanted, &self.sizes)?.weights((whole, bound), &self.left)
    }

    /// Finds out what goes, and the model that is left.
    pub fn run(
        &self,
        whole: &Model,
        bound: &Weights<'_>,
        samples: &[Vec<u32>],
        watch: &dyn Watch,
    ) -> Result<(Removed, Model)> {
        let task = Task { model: whole, weights: bound, wanted: &self.wanted, sizes: &self.sizes, samples };
        let removed = remove::run(&task, watch)?;
        let cut = Smaller { blocks: removed.blocks.clone(), ..self.sizes.cut.clone() };
        Ok((removed, left(whole, &cut)?))
    }

    /// Refuses layers whose going changes the types that were planned: a checkpoint may store them differently.
    pub fn same_types(&self, before: &Plan, after: &Plan) -> Result<()> {
        let other = before.tensors.iter().zip(&after.tensors).find(|(a, b)| *a.store != *b.store);
        let Some((a, b)) = other else { return Ok(()) };
        let what = format!(
            "layers of this checkpoint are stored in different types, so that {} would be {} now and not {}, as was \
             planned; name the layers instead of a count, or choose a `type`",
            a.name,
            b.spec().name,
            a.spec().name
        );
        Err(Error::conflict(["remove", "type"], what))
    }
}

fn left(whole: &Model, cut: &Smaller) -> Result<Model> {
    whole.cut(cut).map_err(|what| Error::conflict(["remove", "model"], format!("{}: {what}", whole.arch.title)))
}
