//! The importances that a conversion rounds with: where they come from, and which tensors they serve.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aurora_quantizers::spec::Kind;

use crate::Result;
use crate::calibrate::imatrix::{Imatrix, Importances};
use crate::checkpoint::TensorSource;
use crate::cli::args::{Common, Convert};
use crate::cli::calibrate;
use crate::model::{Model, ModelGraph};
use crate::plan::{self, Plan};
use crate::record::ImportanceRecord;
use crate::weights::Weights;

/// The statistics that were asked for, and what they say of this model. A dry run makes none.
pub(super) fn importance(
    args: &Convert,
    source: &dyn TensorSource,
    model: &Model,
    weights: &Weights,
    common: &Common,
    stop: &Arc<AtomicBool>,
) -> Result<Option<(Imatrix, Importances)>> {
    let file = match &args.imatrix {
        Some(path) => Imatrix::open(path)?,
        None if args.calibrate && !args.dry_run => {
            calibrate::on_the_fly(&args.sampling, source, model, weights, common, Arc::clone(stop))?
        }
        None => return Ok(None),
    };
    let found = file.importances(&model.graph)?;
    Ok(Some((file, found)))
}

/// Which tensors of the plan are rounded with importances.
pub(super) fn weigh(
    args: &Convert,
    plan: &Plan,
    graph: &ModelGraph,
    file: &Imatrix,
    found: &Importances,
    notes: &mut Vec<String>,
) -> ImportanceRecord {
    let blocks = plan.tensors.iter().filter(|t| t.actual.kind == Kind::Block);
    let (used, uniform): (Vec<_>, Vec<_>) = blocks.partition(|t| found.values.contains_key(&t.param));
    let names = |tensors: Vec<&plan::TensorPlan>| tensors.into_iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    let (used, uniform) = (names(used), names(uniform));
    if !uniform.is_empty() {
        notes.push(format!("no importances for {}: all columns count alike", uniform.join(", ")));
    }
    for (id, expert) in &found.idle {
        let name = &graph.param(*id).name;
        notes.push(format!("{name}: expert {expert} saw no token; its columns count alike"));
    }
    ImportanceRecord {
        file: args.imatrix.as_ref().map(|p| p.display().to_string()),
        datasets: file.origin.datasets.clone(),
        entries: file.entries.len(),
        chunks: file.origin.chunks,
        used,
        uniform,
    }
}
