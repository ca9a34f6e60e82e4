//! The importances that a conversion rounds with: where they come from, which tensors they serve, and what the header says of
//! them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aurora_quantizers::spec::Kind;

use crate::Result;
use crate::calibrate::imatrix::{Imatrix, Importances};
use crate::checkpoint::TensorSource;
use crate::cli::args::{Common, Convert};
use crate::cli::calibrate;
use crate::gguf::{Metadata, Value, string};
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
    let blocks = plan.tensors.iter().filter(|t| t.spec().kind == Kind::Block);
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

/// What llama-quantize writes into the header about importances. Its texts end after 127 bytes; so do these.
pub(super) fn keys(weighed: &ImportanceRecord, metadata: &mut Metadata) {
    const LONGEST: usize = 127;
    let text = |s: &str| {
        let end = (0..=s.len().min(LONGEST)).rev().find(|&end| s.is_char_boundary(end)).unwrap_or(0);
        string(&s[..end])
    };
    let number = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    if let Some(file) = &weighed.file {
        metadata.set("quantize.imatrix.file", text(file));
    }
    if let Some(dataset) = weighed.datasets.first() {
        metadata.set("quantize.imatrix.dataset", text(dataset));
    }
    metadata.set("quantize.imatrix.entries_count", number(weighed.entries));
    if weighed.chunks > 0 {
        metadata.set("quantize.imatrix.chunks_count", Value::U32(weighed.chunks));
    }
}
