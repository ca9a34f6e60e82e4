//! A conversion from its recipe to its record: what the command line, a program or a worker runs.
//!
//! [`prepare`] opens the checkpoint, describes the model, looks up everything that the recipe names, plans every tensor and
//! lays the output out to the byte. Whatever can be wrong with the inputs is an error there, before any work. [`Job::run`]
//! then calibrates, solves, rounds and writes.
//!
//! | file | what it answers |
//! |---|---|
//! | `asked` | what a recipe's words stand for, and whether they go together |
//! | `target` | the type of every matrix |
//! | `statistics` | what errors are weighed by, and what the header says of it |
//! | `resume` | what the bytes of a run depend on |
//! | `hashes` | SHA-256 of the files that were read and written |

use std::path::{Path, PathBuf};
use std::time::Instant;

use aurora_quantizers::Care;

use crate::calibrate::dataset::Dataset;
use crate::checkpoint::Guard;
use crate::export::destination::{default_output, destination};
use crate::export::packing::{Folder, Packing};
use crate::export::{self, EXPORTERS, Layout, Output};
use crate::gguf::Metadata;
use crate::model::Opened;
use crate::pipeline::blocks::Solved;
use crate::pipeline::resume::Resume;
use crate::pipeline::{self, Rounding};
use crate::plan::Plan;
use crate::recipe::{Importance, Recipe};
use crate::record::{RunRecord, TensorRecord, Tool};
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Error, Result, memory};

mod asked;
mod hashes;
mod resume;
mod statistics;
mod target;

pub use asked::dataset;
pub use target::KEEP;

use asked::Asked;
use statistics::Statistics;
use target::Target;

/// Samples that passes are calibrated on, unless a recipe says otherwise.
const SAMPLES: usize = 128;

/// A conversion that is ready to run.
pub struct Job {
    recipe: Recipe,
    opened: Opened,
    asked: Asked,
    target: Target,
    packing: Option<Packing>,
    plan: Plan,
    statistics: Option<Statistics>,
    data: Option<Dataset>,
    layout: Layout,
    record: RunRecord,
}

/// Where the output goes, and what may be done there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Destination {
    /// File, or folder of formats that are folders; [`Job::default_output`] if it is not named.
    pub path: Option<PathBuf>,
    /// Whether a file that is there may be replaced.
    pub replace: bool,
    /// Whether what is done is kept beside the output after every block, and an earlier run that was stopped is gone on from.
    pub resume: bool,
    /// Whether all files that are read and written are hashed for the record.
    pub hash: bool,
}

/// Opens, describes, binds, plans and checks everything that a recipe asks for.
///
/// # Errors
/// Whatever is wrong with the checkpoint, the texts, the statistics, the recipe, or what they have to do with each other.
pub fn prepare(recipe: &Recipe) -> Result<Job> {
    let asked = Asked::of(recipe)?;
    let opened = Opened::open(&recipe.model)?;
    let (source, model) = (opened.source.as_ref(), &opened.model);
    target::refuse_quantized(source, recipe.allow_requantize)?;
    let mut weights = Weights::bind(source, &model.graph)?;
    let packing = Packing::of(recipe)?;
    let target = match &packing {
        None => Target::of(recipe, &asked, source, &mut weights)?,
        Some(packing) => Target::packed(packing, source, &weights)?,
    };
    let plan = Plan::keeping(model, &asked.rules(recipe, target.file_type), &target.kept)?;
    pipeline::check(&plan, Rounding { reference: asked.reference, ..Rounding::default() })?;
    let data = match asked.reads_text(recipe) {
        true => Some(dataset(&recipe.text, asked.solves.then_some(SAMPLES), source, model)?),
        false => None,
    };
    let (mut metadata, mut notes) = match &packing {
        None => export::metadata::metadata(source, model, &plan, recipe.pre.as_deref())?,
        Some(_) => (Metadata::new(), Vec::new()),
    };
    let statistics = Statistics::of(recipe, &model.graph, &plan, data.as_ref(), &mut notes)?;
    if let Some(statistics) = &statistics {
        statistics.keys(&mut metadata);
    }
    notes.extend(target.warning.clone());
    if recipe.output_type.is_some() && model.hyper.tied {
        notes.push(
            "`output_type` has no effect: this model's output matrix is its embedding (`embedding_type`)".to_owned(),
        );
    }
    let layout = match &packing {
        None => EXPORTERS[0].layout(&plan, &metadata)?,
        Some(packing) => packing.blocks(&plan),
    };
    let tensors = plan.tensors.iter().map(|t| TensorRecord {
        permuted: weights.reordered(t.param).map(str::to_owned),
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
        file_type: target.name.clone(),
        weights: plan.weights(),
        file_bytes: layout.size,
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
    drop(weights);
    let recipe = recipe.clone();
    Ok(Job { recipe, opened, asked, target, packing, plan, statistics, data, layout, record })
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
        let extension = if self.packing.is_some() { "" } else { EXPORTERS[0].name() };
        default_output(self.opened.source.as_ref(), &self.target.name, self.target.file_type.name, extension)
    }

    /// Calibrates, solves, rounds and writes. The output is there whole at the end, or not at all.
    ///
    /// # Errors
    /// If the destination cannot be written (found out before any work), numbers are not finite or do not fit their type, the
    /// disk fails, or the watch says to stop.
    pub fn run(&self, to: &Destination, watch: &dyn Watch) -> Result<RunRecord> {
        let (started, watch) = (Instant::now(), &Guard::new(watch, [&self.opened.files]));
        let named = self.output(to);
        let path = match &self.packing {
            None => destination(&named, to.replace)?,
            Some(packing) => packing.destination(&named)?,
        };
        let mut weights = Weights::bind(self.opened.source.as_ref(), &self.opened.model.graph)?;
        if self.target.sorted {
            weights.sort_groups();
        }
        let mut record = self.record.clone();
        (record.output, record.dry_run) = (named.display().to_string(), false);
        // Whatever takes long comes after this: a disk that is full is an error now.
        let (folder, output) = match &self.packing {
            None => (None, Output::begin(&path, self.layout.clone(), to.replace)?),
            Some(_) => Folder::begin(&path, self.layout.clone()).map(|(folder, output)| (Some(folder), output))?,
        };
        let importances = match &self.statistics {
            Some(statistics) => Some(statistics.find(self, &weights, &mut record.notes, watch)?),
            None => None,
        };
        watch.begin(self.plan.weights());
        let (solved, resume) = match self.asked.solves {
            true => self.solve(&weights, &path, to.resume, &output, watch).map(|(s, r)| (Some(s), r))?,
            false => (None, None),
        };
        // Running the model takes far longer than what more care does.
        let calibrated = self.recipe.importance == Some(Importance::Calibrate);
        let rounding = Rounding {
            reference: self.asked.reference,
            nearest: self.asked.nearest,
            care: if calibrated { Care::Full } else { Care::Quick },
            importances: importances.as_ref(),
            solved: solved.as_ref(),
            measure: self.target.packed,
        };
        let errors = pipeline::run(&weights, &self.plan, rounding, &output, watch)?;
        record.tensors.iter_mut().zip(errors).for_each(|(t, error)| t.largest_error = error);
        watch.stage("flushing to the disk");
        output.finish(watch)?;
        if let (Some(folder), Some(packing)) = (folder, &self.packing) {
            record.file_bytes = folder.finish(packing, self.opened.source.as_ref(), &weights, &self.plan, watch)?;
        }
        record.passes = solved.map_or_else(Vec::new, |solved| solved.records);
        resume.into_iter().for_each(Resume::remove);
        if to.hash {
            watch.stage("hashing");
            (record.inputs, record.outputs) = (self.hash_inputs(watch)?, hashes::outputs(&path, watch)?);
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
        output: &Output,
        watch: &dyn Watch,
    ) -> Result<(Solved, Option<Resume>)> {
        let samples = &self.data.as_ref().expect("passes that solve have a text").samples;
        let resume = match resume {
            true => Some(Resume::open(Resume::directory(path), &resume::identity(self, samples))?),
            false => None,
        };
        let job = pipeline::blocks::Job { samples, passes: &self.asked.passes, propagate: self.recipe.propagate };
        let solved =
            pipeline::blocks::run(&self.opened.model, weights, &self.plan, &job, resume.as_ref(), output, watch)?;
        Ok((solved, resume))
    }
}

/// An error about a setting or two. Names of settings stand in backticks, as recipes spell them.
fn refuse<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::setting(what))
}
