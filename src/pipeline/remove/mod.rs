//! Whole layers, heads, channels and experts that go: what is left is a smaller model that every reader knows.
//!
//! | file | what it answers |
//! |---|---|
//! | `wanted` | what a recipe asks for |
//! | `sizes` | how many of each go, known before anything is run |
//! | `edits` | which rows and columns go with a channel, a head or an expert |
//! | `task` | what is to be done |
//! | `seen` | what the matrices of a block read |
//! | `experts` | what each expert is worth |
//! | `layers` | which layers matter least |
//! | `blocks` | block by block: what goes, and what the rest becomes |

use crate::model::Model;
use crate::model::cut::{Smaller, period};
use crate::record::PassRecord;
use crate::runtime::{Attention, BlockRunner, CacheType, RuntimeOptions};
use crate::watch::Watch;
use crate::weights::{Edit, Edits, Scale, Weights};
use crate::{Error, Result};

mod blocks;
mod edits;
mod experts;
mod layers;
mod seen;
mod sizes;
mod task;
mod wanted;

pub(crate) use sizes::Sizes;
pub(crate) use task::{GONE, NAME, Task};
pub(crate) use wanted::Parts;

/// What goes, and what the rest becomes.
pub(crate) struct Removed {
    /// The blocks that stay, rising.
    pub blocks: Vec<usize>,
    /// Of the parameters of the whole model.
    pub edits: Edits,
    /// What was done, place by place.
    pub records: Vec<PassRecord>,
}

impl Removed {
    /// Before anything is known but sizes: the same shapes, and the same matrices edited.
    ///
    /// # Errors
    /// If something cannot go because of how the model is made.
    pub fn placeholder(model: &Model, wanted: &Parts, sizes: &Sizes) -> Result<Removed> {
        let (sites, blocks) = (model.graph.sites(), sizes.cut.blocks.clone());
        let mut all = Edits::new();
        for block in blocks.iter().copied() {
            all.append(&edits::placeholder(model, &sites, block, sizes)?);
            for role in blocks::refitted(model, wanted) {
                // A matrix that gets other values is no longer the checkpoint's.
                if let Some(branch) = edits::branch(&model.graph, block, role) {
                    let rows = model.graph.param(branch.reader.weight).rows();
                    all.push(branch.reader.weight, None, Edit::Scale(Scale::of_rows(vec![1.0; rows])));
                }
            }
        }
        Ok(Removed { blocks, edits: all, records: Vec::new() })
    }

    /// The weights of what is left. `cut`: the model that it is.
    ///
    /// # Errors
    /// [`Error::Bug`] if shapes do not fit.
    pub fn weights<'a>(&self, whole: (&Model, &Weights<'a>), cut: &'a Model) -> Result<Weights<'a>> {
        whole.1.edited(&self.edits)?.cut(&cut.graph, &cut.origins(whole.0))
    }
}

/// Finds out what goes and what the rest becomes.
///
/// # Errors
/// If a value is not finite (block and tensor are named), or the watch says to stop.
pub(crate) fn run(task: &Task<'_, '_>, watch: &dyn Watch) -> Result<Removed> {
    if !task.wanted.runs() {
        let removed = Removed::placeholder(task.model, task.wanted, task.sizes)?;
        return Ok(Removed { records: gone(task.model.hyper.blocks, &removed.blocks), ..removed });
    }
    let longest = task.samples.iter().map(Vec::len).max().unwrap_or(0);
    let options = RuntimeOptions { context: longest, exact: true, cache: CacheType::F32, attention: Attention::Flash };
    let runner = BlockRunner::new(task.model, task.weights, options)?;
    let (mut stay, mut records) = (task.sizes.cut.blocks.clone(), Vec::new());
    if let Some(wanted::Layers::Auto(gone)) = task.wanted.layers {
        let run = period(&task.model.hyper).unwrap_or(1);
        (stay, records) = layers::Layers::new(&runner, task.samples)?.choose(gone, run, watch)?;
    }
    if records.is_empty() {
        records = gone(task.model.hyper.blocks, &stay);
    }
    let cut = Smaller { blocks: stay, ..task.sizes.cut.clone() };
    let left = task.model.cut(&cut).map_err(|what| Error::conflict([NAME, "model"], what))?;
    let mut work = blocks::Work::new(task, &runner, &left, cut.blocks.clone())?;
    for at in 0..cut.blocks.len() {
        watch.stage(&format!("removing: layer {}/{}", at + 1, cut.blocks.len()));
        watch.go_on()?;
        work.block(at)?;
    }
    let (edits, more) = work.finish();
    records.extend(more);
    Ok(Removed { blocks: cut.blocks, edits, records })
}

/// Records of the layers that went.
fn gone(all: usize, stay: &[usize]) -> Vec<PassRecord> {
    (0..all).filter(|block| !stay.contains(block)).map(task::layer).collect()
}
