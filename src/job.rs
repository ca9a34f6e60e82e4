//! A conversion from its recipe to its record: what the command line, a program or a worker runs.
//!
//! [`prepare`] opens the checkpoint, describes the model, looks up everything that the recipe names, plans every tensor
//! and lays the output out to the byte. Whatever can be wrong with the inputs is an error there, before any work.
//! [`Job::run`] then calibrates, solves, rounds and writes.
//!
//! | file | what it answers |
//! |---|---|
//! | `asked` | what a recipe's words stand for, and whether they go together |
//! | `requantize` | whether what is rounded already may be rounded again |
//! | `statistics` | what errors are weighed by, and what the header says of it |
//! | `small` | what is said of matrices that are too small for their type |
//! | `resume` | what the bytes of a run depend on |
//! | `hashes` | SHA-256 of the files that were read and written |

use std::path::{Path, PathBuf};
use std::time::Instant;

use aurora_quantizers::Care;

use crate::calibrate::dataset::Dataset;
use crate::calibrate::imatrix::Imatrix;
use crate::checkpoint::Guard;
use crate::export::{self, Assigned, Contents, Exporter, Sink};
use crate::model::Opened;
use crate::pipeline::resume::Resume;
use crate::pipeline::{self, AfterBlocks, Rounding};
use crate::plan::{Plan, TensorPlan};
use crate::recipe::{Importance, Recipe};
use crate::record::{RunRecord, TensorRecord, Tool};
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Result, memory};

mod asked;
mod hashes;
mod requantize;
mod resume;
mod small;
mod statistics;

pub use asked::dataset;

use asked::Asked;
use statistics::Statistics;

/// Samples that passes are calibrated on, unless a recipe says otherwise.
const SAMPLES: usize = 128;

/// A conversion that is ready to run.
pub struct Job {
    recipe: Recipe,
    opened: Opened,
    exporter: &'static dyn Exporter,
    asked: Asked,
    assigned: Assigned,
    plan: Plan,
    statistics: Option<Statistics>,
    data: Option<Dataset>,
    record: RunRecord,
}

/// Where the output goes, and what may be done there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Destination {
    /// File, or folder of formats that are folders; [`Job::default_output`] if it is not named.
    pub path: Option<PathBuf>,
    /// Whether a file that is there may be replaced.
    pub replace: bool,
    /// Whether what is done is kept beside the output after every block, and an earlier run that was stopped is gone on
    /// from.
    pub resume: bool,
    /// Whether a matrix that is too small for its type is an error, and not a note in the record.
    pub strict: bool,
    /// Whether all files that are read and written are hashed for the record.
    pub hash: bool,
}

/// Opens, describes, binds, plans and checks everything that a recipe asks for.
///
/// # Errors
/// Whatever is wrong with the checkpoint, the texts, the statistics, the recipe, or what they have to do with each
/// other.
pub fn prepare(recipe: &Recipe) -> Result<Job> {
    let asked = Asked::of(recipe)?;
    let exporter = export::by_name(&recipe.format.name)?;
    let opened = Opened::open(&recipe.model)?;
    let (source, model) = (opened.source.as_ref(), &opened.model);
    let bound = Weights::bind(source, &model.graph)?;
    let assigned = export::assign(exporter, &asked.request, source, &bound)?;
    let weights = bound.edited(&assigned.edits)?;
    let mut plan = Plan::keeping(model, &assigned.rules, &assigned.kept)?;
    // Passes may change weights, or choose codes anew.
    let untouched = asked.passes.is_empty();
    if untouched {
        requantize::copy(&weights, &mut plan);
    }
    requantize::refuse(source, &weights, &plan, (untouched, recipe.allow_requantize))?;
    pipeline::check(&plan, Rounding { reference: asked.reference, ..Rounding::default() })?;
    let data = match asked.reads_text(recipe) {
        true => Some(dataset(&recipe.text, asked.solves.then_some(SAMPLES), source, model)?),
        false => None,
    };
    let mut prepared =
        exporter.prepare(Contents { source, model, weights: &weights, plan: &plan, request: &asked.request })?;
    let mut notes = prepared.notes().to_vec();
    let statistics = Statistics::of(recipe, &model.graph, &plan, data.as_ref(), &mut notes)?;
    if let Some(statistics) = &statistics {
        prepared.weighed(&statistics.record)?;
    }
    notes.extend(assigned.warning.clone());
    let tensors = plan.tensors.iter().map(|t| TensorRecord {
        permuted: weights.edits().about(t.param).map(str::to_owned),
        packed: weights.packed(t.param).next().map(|(_, packed)| packed.describe(source)),
        ..TensorRecord::from(t)
    });
    let record = RunRecord {
        tool: Tool::this(),
        input: recipe.model.display().to_string(),
        recipe: recipe.clone(),
        architecture: model.arch.gguf.to_owned(),
        output: String::new(),
        dry_run: true,
        method: asked.method.clone(),
        file_type: assigned.name.clone(),
        weights: plan.weights(),
        file_bytes: prepared.bytes(),
        bits_per_weight: plan.bits_per_weight(),
        fallbacks: plan.fallbacks().count(),
        threads: rayon::current_num_threads(),
        seconds: 0.0,
        peak_memory_bytes: None,
        notes,
        inputs: Vec::new(),
        outputs: Vec::new(),
        importance: statistics.as_ref().map(|s| s.record.clone()),
        tensors: tensors.collect(),
        passes: Vec::new(),
    };
    drop(prepared);
    drop(weights);
    Ok(Job { recipe: recipe.clone(), opened, exporter, asked, assigned, plan, statistics, data, record })
}

impl Job {
    /// Type and bytes of every tensor.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// What [`run`](Job::run) would do: its record, as far as it is known before.
    pub fn dry_run(&self, to: &Destination) -> RunRecord {
        RunRecord { output: self.output(to).display().to_string(), ..self.record.clone() }
    }

    fn output(&self, to: &Destination) -> PathBuf {
        to.path.clone().unwrap_or_else(|| self.default_output())
    }

    /// `<model>-<type>.gguf`, or a folder's name, in the current directory.
    pub fn default_output(&self) -> PathBuf {
        export::usual_output(self.opened.source.as_ref(), &self.assigned.ending)
    }

    /// Calibrates, solves, rounds and writes. The output is there whole at the end, or not at all.
    ///
    /// # Errors
    /// If the destination cannot be written (found out before any work), numbers are not finite or do not fit their
    /// type, the disk fails, or the watch says to stop.
    pub fn run(&self, to: &Destination, watch: &dyn Watch) -> Result<RunRecord> {
        let (started, watch) = (Instant::now(), &Guard::new(watch, [&self.opened.files]));
        let named = self.output(to);
        let path = self.exporter.destination(&named, to.replace)?;
        let (source, model) = (self.opened.source.as_ref(), &self.opened.model);
        let weights = Weights::bind(source, &model.graph)?.edited(&self.assigned.edits)?;
        let mut record = self.record.clone();
        (record.output, record.dry_run) = (named.display().to_string(), false);
        // Whatever takes long comes after this: a disk that is full is an error now.
        let contents = Contents { source, model, weights: &weights, plan: &self.plan, request: &self.asked.request };
        let mut prepared = self.exporter.prepare(contents)?;
        if let Some(statistics) = &self.statistics {
            prepared.weighed(&statistics.record)?;
        }
        let sink = prepared.begin(&path, to.replace)?;
        let importances = match &self.statistics {
            Some(statistics) => Some(statistics.find(model, self.data.as_ref(), &weights, &mut record.notes, watch)?),
            None => None,
        };
        watch.begin(self.plan.weights());
        let (solved, resume) = match self.asked.passes.is_empty() {
            true => (None, None),
            false => self.solve(&weights, &path, to.resume, &*sink, watch).map(|(s, r)| (Some(s), r))?,
        };
        // Running the model takes far longer than what more care does.
        let calibrated = self.recipe.importance == Some(Importance::Calibrate);
        let rounding = Rounding {
            reference: self.asked.reference,
            nearest: self.asked.nearest,
            care: if calibrated { Care::Full } else { Care::Quick },
            importances: importances.as_ref(),
            solved: solved.as_ref(),
            measure: source.tensors().iter().any(|t| t.packed.is_some()),
        };
        let errors = pipeline::run(&weights, &self.plan, rounding, &*sink, watch)?;
        record.tensors.iter_mut().zip(errors).for_each(|(t, errors)| errors.put(t));
        if to.strict {
            let small = |(t, plan): (&TensorRecord, &TensorPlan)| Some((plan.param, small::describe(t, t.too_small?)));
            if let Some((param, what)) = record.tensors.iter().zip(&self.plan.tensors).find_map(small) {
                return Err(weights.error(param, what));
            }
        }
        record.notes.extend(small::note(&record.tensors));
        self.opened.files.check()?;
        watch.stage("flushing to the disk");
        record.file_bytes = sink.finish(watch)?;
        record.passes = solved.map_or_else(Vec::new, |solved| solved.records);
        resume.into_iter().for_each(Resume::remove);
        if to.hash {
            watch.stage("hashing");
            (record.inputs, record.outputs) =
                (hashes::inputs(source, &self.recipe, watch)?, hashes::outputs(&path, watch)?);
        }
        record.seconds = started.elapsed().as_secs_f64();
        record.peak_memory_bytes = memory::peak();
        Ok(record)
    }

    /// Runs the passes block by block, and says what is left.
    fn solve(
        &self,
        weights: &Weights<'_>,
        path: &Path,
        resume: bool,
        output: &dyn Sink,
        watch: &dyn Watch,
    ) -> Result<(AfterBlocks, Option<Resume>)> {
        let (plan, passes) = (&self.plan, &self.asked.passes);
        if !self.asked.solves {
            let solved = pipeline::alone::run(&self.opened.model, weights, plan, passes, output, watch)?;
            return Ok((solved, None));
        }
        if let Some(path) = &self.recipe.stats {
            let file = Imatrix::open(path)?;
            let solved = pipeline::stored::run(&self.opened.model, weights, plan, passes, &file, output, watch)?;
            return Ok((solved, None));
        }
        let samples = &self.data.as_ref().expect("passes that solve have a text").samples;
        let resume = match resume {
            true => Some(Resume::open(
                Resume::directory(path),
                &resume::identity(&self.recipe, plan, self.opened.source.as_ref(), samples),
            )?),
            false => None,
        };
        let chain = pipeline::blocks::Chain { samples, passes, propagate: self.recipe.propagate };
        let solved = pipeline::blocks::run(&self.opened.model, weights, plan, &chain, resume.as_ref(), output, watch)?;
        Ok((solved, resume))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{PassSpec, Setting};
    use crate::watch::Unwatched;

    /// What looks at weights alone needs no text, edits what is rounded afterwards, and may be rounded by ggml's
    /// formula.
    #[test]
    fn passes_without_needs_run_without_a_model() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        let dir = tempfile::tempdir().unwrap();
        let mut toy = PassSpec::new("toy");
        toy.options.insert("toy_factor".to_owned(), Setting::Count(4));
        for (name, file_type) in [("stories260k", "f32"), ("tiny-qwen3-moe", "f32"), ("stories260k", "q4_0")] {
            let (plain, edited) = (dir.path().join("plain.gguf"), dir.path().join("edited.gguf"));
            let mut recipe = Recipe::new(models.join(name));
            recipe.file_type = Some(file_type.to_owned());
            recipe.passes = vec![reference()];
            convert(&recipe, &plain);
            recipe.passes = vec![toy.clone(), reference()];
            let record = convert(&recipe, &edited);
            assert_eq!(record.method, "toy");
            let (plain, edited) = (Opened::open(&plain).unwrap(), Opened::open(&edited).unwrap());
            let graph = &plain.model.graph;
            let linears: Vec<_> = graph.sites().into_iter().flat_map(|s| s.readers).map(|r| r.weight).collect();
            assert_eq!(record.passes.len(), linears.len());
            let [before, after] = [&plain, &edited].map(|o| Weights::bind(o.source.as_ref(), &o.model.graph).unwrap());
            for (i, param) in graph.params.iter().enumerate() {
                let id = crate::model::ParamId(i);
                let [mut a, mut b] = [vec![0.0; param.len()], vec![0.0; param.len()]];
                before.rows(id, 0..param.rows(), &mut a);
                after.rows(id, 0..param.rows(), &mut b);
                // A power of two changes no rounding, but of F16's subnormal numbers (2^-24 apart).
                let factor = if linears.contains(&id) { 4.0 } else { 1.0 };
                assert!(
                    a.iter().zip(&b).all(|(a, b)| (a * factor - b).abs() <= 2f32.powi(-22)),
                    "{name} {file_type} {}",
                    param.name
                );
            }
        }
    }

    /// A format is its row: nothing else has to know of it.
    #[test]
    fn a_row_of_exporters_is_a_format() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/stories260k");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bare.bin");
        let mut recipe = Recipe::new(&model);
        (recipe.format.name, recipe.file_type) = ("toy".to_owned(), Some("f32".to_owned()));
        let record = convert(&recipe, &path);
        let written = std::fs::read(&path).unwrap();
        assert_eq!(record.file_bytes, written.len() as u64);
        let opened = Opened::open(&model).unwrap();
        let graph = &opened.model.graph;
        let weights = Weights::bind(opened.source.as_ref(), graph).unwrap();
        let mut expected = Vec::new();
        for (i, param) in graph.params.iter().enumerate() {
            let mut values = vec![0.0; param.len()];
            weights.rows(crate::model::ParamId(i), 0..param.rows(), &mut values);
            expected.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        }
        assert!(written == expected);
        recipe.pure = true;
        let error = prepare(&recipe).err().unwrap().to_string();
        assert!(error.contains("`pure` is for GGUF"), "{error}");
    }

    fn reference() -> PassSpec {
        let mut rtn = PassSpec::new("rtn");
        rtn.options.insert("scales".to_owned(), Setting::Word("reference".to_owned()));
        rtn
    }

    fn convert(recipe: &Recipe, to: &Path) -> RunRecord {
        let to = Destination { path: Some(to.to_owned()), replace: true, ..Destination::default() };
        prepare(recipe).unwrap().run(&to, &Unwatched).unwrap()
    }
}
