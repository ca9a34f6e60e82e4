//! What errors are weighed by: importances from a file or collected now, the tensors they cover, and what the header
//! says about them.

use std::collections::BTreeSet;

use aurora_quantizers::spec::Kind;

use crate::Result;
use crate::calibrate::Wanted;
use crate::calibrate::dataset::Dataset;
use crate::calibrate::imatrix::{Imatrix, Origin};
use crate::model::{Model, ModelGraph, ParamId};
use crate::pipeline::{self, ColumnImportances};
use crate::plan::{Plan, TensorPlan};
use crate::recipe::{Importance, Recipe};
use crate::record::ImportanceRecord;
use crate::runtime::{BlockRunner, RuntimeOptions};
use crate::watch::Watch;
use crate::weights::Weights;

/// Importances for a conversion.
pub(super) struct Statistics {
    /// What the record says about them.
    pub record: ImportanceRecord,
    /// The importances from a file; `None` if a calibration has yet to find them.
    found: Option<ColumnImportances>,
}

impl Statistics {
    /// Reads the file that a recipe names, or finds out what a calibration will cover. Adds notes about what is not
    /// covered.
    pub fn of(
        recipe: &Recipe,
        graph: &ModelGraph,
        plan: &Plan,
        data: Option<&Dataset>,
        notes: &mut Vec<String>,
    ) -> Result<Option<Statistics>> {
        let Some(importance) = &recipe.importance else { return Ok(None) };
        let (origin, entries, found, covered, path) = match importance {
            Importance::File(path) => {
                let file = Imatrix::open(path)?;
                let all = file.importances(graph)?;
                notes.extend(idle(graph, &all.idle));
                let covered: BTreeSet<ParamId> = all.values.keys().copied().collect();
                (file.origin.clone(), file.entries.len(), Some(all.values), covered, Some(path.as_path()))
            }
            Importance::Calibrate => {
                let within = graph.sites().into_iter().filter(|site| site.block.is_some());
                let covered: BTreeSet<ParamId> = within.flat_map(|site| site.readers).map(|r| r.weight).collect();
                (
                    {
                        let data = data.expect("calibrations have a text");
                        Origin::of(data, data.samples.len())
                    },
                    covered.len(),
                    None,
                    covered,
                    None,
                )
            }
        };
        let blocks = plan.tensors.iter().filter(|t| t.spec().kind == Kind::Block && !t.carried);
        let (used, uniform): (Vec<_>, Vec<_>) = blocks.partition(|t| covered.contains(&t.param));
        let names = |tensors: Vec<&TensorPlan>| tensors.into_iter().map(|t| t.name.clone()).collect::<Vec<_>>();
        let (used, uniform) = (names(used), names(uniform));
        if !uniform.is_empty() {
            notes.insert(0, format!("no importances for {}: all columns weigh the same", uniform.join(", ")));
        }
        let record = ImportanceRecord {
            file: path.map(|p| p.display().to_string()),
            datasets: origin.datasets,
            entries,
            chunks: origin.chunks,
            used,
            uniform,
        };
        Ok(Some(Statistics { record, found }))
    }

    /// The importances. If they are to be collected now, this runs the model.
    pub fn find(
        &self,
        model: &Model,
        data: Option<&Dataset>,
        weights: &Weights<'_>,
        notes: &mut Vec<String>,
        watch: &dyn Watch,
    ) -> Result<ColumnImportances> {
        if let Some(found) = &self.found {
            return Ok(found.clone());
        }
        let (graph, data) = (&model.graph, data.expect("calibrations have a text"));
        let runner = BlockRunner::new(model, weights, RuntimeOptions::exact(data.context))?;
        let mut all = Imatrix::new(Origin::of(data, data.samples.len()));
        let mut sink = |feed: &_, stats| {
            all.put(graph, feed, &stats);
            Ok(())
        };
        pipeline::statistics::collect(&runner, &data.samples, Wanted::default(), &mut sink, watch)?;
        let found = all.importances(graph)?;
        notes.extend(idle(graph, &found.idle));
        Ok(found.values)
    }
}

fn idle<'g>(graph: &'g ModelGraph, found: &'g [(ParamId, usize)]) -> impl Iterator<Item = String> + 'g {
    found.iter().map(|(id, expert)| {
        let name = &graph.param(*id).name;
        format!("{name}: expert {expert} saw no tokens; all its columns weigh the same")
    })
}
