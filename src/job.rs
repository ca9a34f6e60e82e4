//! A conversion, from its recipe to its record: what the command line, a program or a worker runs.
//!
//! [`prepare`] opens the checkpoint, describes the model, looks up everything that the recipe names, plans every tensor
//! and lays out the output to the byte. Whatever is wrong with the inputs is an error there, before any work.
//! [`Job::run`] then calibrates, solves, rounds and writes.
//!
//! | file | what it answers |
//! |---|---|
//! | `asked` | what a recipe's words stand for, and whether they go together |
//! | `requantize` | what a quantised GGUF file's matrices are copied, and whether others may be rounded again |
//! | `planned` | what becomes of every tensor |
//! | `removal` | what is removed before anything else, and the model that is left |
//! | `statistics` | what errors are weighed by, and what the header says about it |
//! | `small` | what is said about matrices that are too small for their type |
//! | `effort` | how long each tensor takes compared with others |
//! | `resume` | what the bytes of a run depend on |
//! | `survey` | what pruning must know of all matrices first |
//! | `hashes` | SHA-256 of the files that were read and written |

use std::path::{Path, PathBuf};
use std::time::Instant;

use aurora_quantizers::Care;

use crate::calibrate::dataset::Dataset;
use crate::calibrate::imatrix::Imatrix;
use crate::checkpoint::{Guard, TensorSource};
use crate::error::printable;
use crate::export::{self, Assigned, Contents, Prepared, Sink, sparse};
use crate::model::{Model, Opened};
use crate::pipeline::resume::Resume;
use crate::pipeline::{self, AfterBlocks, Rounding};
use crate::plan::{Plan, TensorPlan};
use crate::recipe::{Importance, Recipe};
use crate::record::{RunRecord, TensorRecord, Tool};
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Error, Result, memory};

mod asked;
mod effort;
mod hashes;
mod planned;
mod removal;
mod requantize;
mod resume;
mod small;
mod statistics;
mod survey;
#[cfg(test)]
mod toys;

pub use asked::dataset;

use asked::Asked;
use effort::Weighed;
use planned::{Planned, planned};
use removal::Removal;
use statistics::Statistics;

/// Default number of samples that passes are calibrated on.
const SAMPLES: usize = 128;

/// A conversion that is ready to run.
pub struct Job {
    recipe: Recipe,
    opened: Opened,
    /// What goes, if anything does, and the model that is left.
    removal: Option<Removal>,
    asked: Asked,
    assigned: Assigned,
    plan: Plan,
    prepared: Box<dyn Prepared>,
    statistics: Option<Statistics>,
    data: Option<Dataset>,
    record: RunRecord,
}

/// Where the output goes, and what may be done there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Destination {
    /// File, or folder for formats that are folders; [`Job::default_output`] if not given.
    pub path: Option<PathBuf>,
    /// Whether an existing file may be replaced.
    pub replace: bool,
    /// Whether to save progress beside the output after every block, and continue an earlier run that was stopped.
    pub resume: bool,
    /// Whether a matrix that loses a bit or more of every weight, because it is too small for its type, is an error
    /// instead of a note in the record.
    pub strict: bool,
    /// Whether to hash all files read and written, for the record.
    pub hash: bool,
}

/// Opens, describes, binds, plans and checks everything that a recipe asks for.
///
/// # Errors
/// If anything is wrong with the checkpoint, the texts, the statistics or the recipe, or they do not fit together.
pub fn prepare(recipe: &Recipe) -> Result<Job> {
    let asked = Asked::of(recipe)?;
    let opened = Opened::open(&recipe.model)?;
    let (source, whole) = (opened.source.as_ref(), &opened.model);
    let bound = Weights::bind(source, &whole.graph)?;
    let removal = Removal::of(&asked, source, whole, &bound)?;
    let model = removal.as_ref().map_or(whole, |removal| &removal.left);
    let bound = match &removal {
        Some(removal) => removal.shapes(whole, &bound)?,
        None => bound,
    };
    let Planned { assigned, weights, plan } = planned(&asked, source, model, bound)?;
    requantize::refuse(source, &weights, &plan, (asked.passes.is_empty(), recipe.allow_requantize))?;
    pipeline::check(&plan, Rounding { reference: asked.reference, ..Rounding::default() })?;
    asked.check_pruning(&model.graph, &plan)?;
    asked.refuse_idle(recipe, &assigned.name, &model.graph, &plan)?;
    let data = match asked.reads_text(recipe) {
        true => {
            let usual = (asked.solves || removal.is_some()).then_some(SAMPLES);
            Some(dataset(&recipe.text, usual, source, model)?)
        }
        false => None,
    };
    let mut notes = model.notes.clone();
    notes.extend(removal.iter().flat_map(|removal| removal.sizes.notes.clone()));
    let statistics = Statistics::of(recipe, &model.graph, &plan, data.as_ref(), &mut notes)?;
    let importance = statistics.as_ref().map(|s| &s.record);
    let contents = Contents { source, model, weights: &weights, plan: &plan, request: &asked.request, importance };
    let prepared = asked.exporter.prepare(contents)?;
    notes.extend_from_slice(prepared.notes());
    notes.extend(assigned.warning.clone());
    notes.extend(not_needed(source));
    notes.extend(idle(source));
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
        importance: importance.cloned(),
        sparse: None,
        tensors: tensors.collect(),
        passes: Vec::new(),
    };
    drop(weights);
    Ok(Job { recipe: recipe.clone(), opened, removal, asked, assigned, plan, prepared, statistics, data, record })
}

/// A model whose rows can be written, and how.
#[derive(Clone, Copy)]
struct Ready<'r> {
    model: &'r Model,
    weights: &'r Weights<'r>,
    plan: &'r Plan,
    prepared: &'r dyn Prepared,
}

/// Says which tensors an index lists that no file has. The model does without them, or it would not be bound.
fn not_needed(source: &dyn TensorSource) -> Option<String> {
    let (name, file) = source.promised().first_key_value()?;
    let listed = and_more(&format!("{} ({})", printable(name), printable(file)), source.promised().len());
    Some(format!("the index lists {listed}, which no file has; the model does not need it"))
}

/// Says which tensors of the checkpoint are not weights.
fn idle(source: &dyn TensorSource) -> Option<String> {
    let scales = and_more(&printable(source.idle().first()?), source.idle().len());
    Some(format!(
        "left out, because weights do not need it: {scales} (scales of a key-value cache or of 8-bit attention)"
    ))
}

/// The first of some tensors, and how many more there are.
fn and_more(first: &str, count: usize) -> String {
    match count {
        1 => first.to_owned(),
        n => format!("{first} and {} more tensors", n - 1),
    }
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

    /// The record of what [`run`](Job::run) would do, as far as it is known beforehand.
    pub fn dry_run(&self, to: &Destination) -> RunRecord {
        let mut record = RunRecord { output: self.first_file(&self.output(to)), ..self.record.clone() };
        record.notes.extend(sparse::wanted(&self.asked.request).then(|| sparse::BOUND.to_owned()));
        record
    }

    /// Where the output goes, as it was named.
    pub fn output(&self, to: &Destination) -> PathBuf {
        to.path.clone().unwrap_or_else(|| self.default_output())
    }

    /// What a reader of the output begins with: of several files the first.
    fn first_file(&self, output: &Path) -> String {
        self.prepared.files(output)[0].display().to_string()
    }

    /// `<model>-<type>.gguf`, or a folder's name, in the current directory.
    pub fn default_output(&self) -> PathBuf {
        export::usual_output(self.opened.source.as_ref(), &self.assigned.ending)
    }

    /// Calibrates, solves, rounds and writes. In the end, the output is there complete or not at all.
    ///
    /// # Errors
    /// If the destination cannot be written (checked before any work), numbers are not finite or do not fit their type,
    /// the disk fails, or the watch says to stop.
    pub fn run(&self, to: &Destination, watch: &dyn Watch) -> Result<RunRecord> {
        let (started, watch) = (Instant::now(), &Guard::new(watch, [&self.opened.files]));
        let named = self.output(to);
        let path = self.asked.exporter.destination(&named, to.replace)?;
        let (source, whole) = (self.opened.source.as_ref(), &self.opened.model);
        let bound = Weights::bind(source, &whole.graph)?;
        let mut record = self.record.clone();
        (record.output, record.dry_run) = (self.first_file(&named), false);
        let Some(removal) = &self.removal else {
            let weights = bound.edited(&self.assigned.edits)?;
            let ready = Ready { model: whole, weights: &weights, plan: &self.plan, prepared: &*self.prepared };
            return self.write(ready, &path, to, record, started, watch);
        };
        let shapes = removal.shapes(whole, &bound)?.edited(&self.assigned.edits)?;
        let ready = Ready { model: &removal.left, weights: &shapes, plan: &self.plan, prepared: &*self.prepared };
        // A disk that is full is an error now.
        drop(ready.prepared.begin(self.contents(ready), &path, to.replace)?);
        let samples = self.data.as_ref().map_or(&[][..], |data| &data.samples);
        let (removed, left) = removal.run(whole, &bound, samples, watch)?;
        let cut = removed.weights((whole, &bound), &left)?;
        let Planned { assigned: _, weights, plan } = planned(&self.asked, source, &left, cut)?;
        removal.same_types(&self.plan, &plan)?;
        let prepared = self.asked.exporter.prepare(Contents {
            model: &left,
            weights: &weights,
            plan: &plan,
            ..self.contents(ready)
        })?;
        record.passes = removed.records;
        let ready = Ready { model: &left, weights: &weights, plan: &plan, prepared: &*prepared };
        self.write(ready, &path, to, record, started, watch)
    }

    fn contents<'r>(&'r self, ready: Ready<'r>) -> Contents<'r> {
        Contents {
            source: self.opened.source.as_ref(),
            model: ready.model,
            weights: ready.weights,
            plan: ready.plan,
            request: &self.asked.request,
            importance: self.statistics.as_ref().map(|s| &s.record),
        }
    }

    /// Solves, rounds and writes.
    fn write(
        &self,
        ready: Ready<'_>,
        path: &Path,
        to: &Destination,
        mut record: RunRecord,
        started: Instant,
        watch: &dyn Watch,
    ) -> Result<RunRecord> {
        let Ready { model, weights, plan, prepared } = ready;
        let source = self.opened.source.as_ref();
        // Whatever takes long comes after this: a disk that is full is an error now.
        let sink = prepared.begin(self.contents(ready), path, to.replace)?;
        let importances = match &self.statistics {
            Some(statistics) => Some(statistics.find(model, self.data.as_ref(), weights, &mut record.notes, watch)?),
            None => None,
        };
        self.survey(model, weights, watch)?;
        let tokens = self.data.as_ref().map_or(0, |data| data.samples.iter().map(Vec::len).sum::<usize>() as u64);
        let tokens = self.asked.solves.then_some(tokens);
        let watch = &Weighed::new(watch, plan, &model.graph, tokens, self.asked.prunes);
        watch.begin(watch.all());
        let (solved, resume) = match self.asked.passes.is_empty() {
            true => (None, None),
            false => self.solve(ready, path, to.resume, &*sink, watch).map(|(s, r)| (Some(s), r))?,
        };
        // Compared with running the model, more care costs little.
        let calibrated = self.recipe.importance == Some(Importance::Calibrate);
        let rounding = Rounding {
            reference: self.asked.reference,
            nearest: self.asked.nearest,
            care: if calibrated { Care::Full } else { Care::Quick },
            importances: importances.as_ref(),
            solved: solved.as_ref(),
            measure: source.tensors().iter().any(|t| t.packed.is_some()),
        };
        let errors = pipeline::run(weights, plan, rounding, &*sink, watch)?;
        record.tensors.iter_mut().zip(errors).for_each(|(t, errors)| errors.put(t));
        if to.strict {
            let small = |(t, plan): (&TensorRecord, &TensorPlan)| Some((plan.param, small::lost(t)?));
            if let Some((param, what)) = record.tensors.iter().zip(&plan.tensors).find_map(small) {
                let (path, tensor) = weights.place(param);
                return Err(Error::Numbers { path: Some(path.to_owned()), tensor, what, source: None });
            }
        }
        record.notes.extend(small::note(&record.tensors));
        self.opened.files.check()?;
        watch.stage("flushing to disk");
        record.file_bytes = sink.finish(watch)?;
        if sparse::wanted(&self.asked.request) {
            sparse::record::look(path, &mut record)?;
        }
        record.passes.extend(solved.into_iter().flat_map(|solved| solved.records));
        resume.into_iter().for_each(Resume::remove);
        if to.hash {
            watch.stage("hashing");
            (record.inputs, record.outputs) =
                (hashes::inputs(source, &self.recipe, watch)?, hashes::outputs(prepared.files(path), watch)?);
        }
        record.seconds = started.elapsed().as_secs_f64();
        record.peak_memory_bytes = memory::peak();
        Ok(record)
    }

    /// Runs the passes block by block, and returns what is left to do.
    fn solve(
        &self,
        Ready { model, weights, plan, .. }: Ready<'_>,
        path: &Path,
        resume: bool,
        output: &dyn Sink,
        watch: &dyn Watch,
    ) -> Result<(AfterBlocks, Option<Resume>)> {
        let passes = &self.asked.passes;
        if !self.asked.solves {
            let solved = pipeline::alone::run(model, weights, plan, passes, output, watch)?;
            return Ok((solved, None));
        }
        if let Some(path) = &self.recipe.stats {
            let file = Imatrix::open(path)?;
            let solved = pipeline::stored::run(model, weights, plan, passes, &file, output, watch)?;
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
        let solved = pipeline::blocks::run(model, weights, plan, &chain, resume.as_ref(), output, watch)?;
        Ok((solved, resume))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use aurora_quantizers::spec::Kind;

    use super::*;
    use crate::recipe::{Format, PassSpec, Setting, TensorType};
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
                let [a, b] = [before.whole(id), after.whole(id)];
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

    /// Floats take passes that change weights, and none that would only look for codes.
    #[test]
    fn floats_refuse_passes_for_codes_and_take_others() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/stories260k");
        let mut recipe = Recipe::new(&model);
        for (format, file_type) in [("safetensors", None), ("safetensors", Some("f16")), ("gguf", Some("bf16"))] {
            (recipe.format.name, recipe.file_type) = (format.to_owned(), file_type.map(str::to_owned));
            recipe.passes = vec![PassSpec::new("toy"), PassSpec::new("rtn")];
            assert!(prepare(&recipe).is_ok(), "{format} {file_type:?}");
            for name in ["gptq", "awq", "clip"] {
                recipe.passes = vec![PassSpec::new("toy"), PassSpec::new(name)];
                let error = prepare(&recipe).err().unwrap().to_string();
                let words = [&format!("`method` {name} is about codes"), file_type.unwrap_or(format), "`format`"];
                assert!(words.iter().all(|word| error.contains(word)), "{error}");
            }
            recipe.passes.clear();
            recipe.importance = Some(Importance::Calibrate);
            let error = prepare(&recipe).err().unwrap().to_string();
            assert!(error.contains("`importance.calibrate` is about codes"), "{error}");
            recipe.importance = None;
        }
        // One linear with codes is enough.
        let pattern = "blk.0.attn_q".to_owned();
        recipe.tensor_types = vec![TensorType { pattern, name: "q8_0".to_owned() }];
        recipe.passes = vec![PassSpec::new("gptq")];
        assert!(prepare(&recipe).is_ok());
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
        for i in 0..graph.params.len() {
            let values = weights.whole(crate::model::ParamId(i));
            expected.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        }
        assert!(written == expected);
        // So is an option of it, which its own file alone names.
        recipe.format.options.insert("toy_gap".to_owned(), Setting::Count(8));
        convert(&recipe, &path);
        assert!(std::fs::read(&path).unwrap() == [vec![0; 8], expected].concat());
        recipe.format.options.insert("toy_gap".to_owned(), Setting::Count(65));
        let error = prepare(&recipe).err().unwrap().to_string();
        assert!(error.contains("`toy_gap` 65: must be a whole number from 0 to 64"), "{error}");
        let format = Format { options: recipe.format.options.clone(), ..Format::default() };
        let error = prepare(&Recipe { format, ..Recipe::new(&model) }).err().unwrap().to_string();
        assert!(error.contains("`toy_gap` is only for Toy; `format` gguf takes"), "{error}");
        recipe.format.options.clear();
        recipe.pure = true;
        let error = prepare(&recipe).err().unwrap().to_string();
        assert!(error.contains("`pure` is only for GGUF"), "{error}");
    }

    #[derive(Default)]
    struct Units(Mutex<u64>);

    impl Watch for Units {
        fn advance(&self, _: &str, units: u64) {
            *self.0.lock().unwrap() += units;
        }
    }

    /// Blocks take minutes, a table of as many weights a second: the time that is left follows from the units at any
    /// moment.
    #[test]
    fn a_table_that_is_only_rounded_is_not_half_of_the_work() {
        let mut recipe = Recipe::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/stories260k"));
        recipe.file_type = Some("q4_0".to_owned());
        recipe.passes = vec![PassSpec::new("gptq")];
        let mut job = prepare(&recipe).unwrap();
        let graph = &job.opened.model.graph;
        // As in a small model with the words of many languages.
        let table = job.plan.tensors.iter_mut().find(|t| t.name == "token_embd.weight").unwrap();
        table.shape[0] *= 20;
        let table = table.weights();
        assert!(table * 2 > job.plan.weights());
        let tokens = 65_536;
        // Seconds: rounding a weight 1e-7; running a token through it 1e-10; solving it 4e-10 for each column.
        let seconds = |i: usize| {
            let (t, block) = (&job.plan.tensors[i], graph.params[i].block);
            let solved = t.spec().kind == Kind::Block && block.is_some();
            let each = 1e-7 + if solved { 1e-10 * tokens as f64 + 4e-10 * t.cols() as f64 } else { 0.0 };
            t.weights() as f64 * each
        };
        let whole: f64 = (0..graph.params.len()).map(seconds).sum();
        let units = Units::default();
        let weighed = Weighed::new(&units, &job.plan, graph, Some(tokens), false);
        // Blocks come first, whatever their place in the file.
        let (solved, rest): (Vec<_>, Vec<_>) = (0..graph.params.len()).partition(|&i| graph.params[i].block.is_some());
        let mut elapsed = 0.0;
        for i in solved.into_iter().chain(rest) {
            let t = &job.plan.tensors[i];
            weighed.advance(&t.name, t.weights());
            elapsed += seconds(i);
            let done = *units.0.lock().unwrap();
            let left = elapsed * (weighed.all() as f64 / done as f64 - 1.0);
            let off = (left - (whole - elapsed)).abs();
            assert!(off < 0.15 * whole, "{}: {left} left, in fact {}", t.name, whole - elapsed);
        }
        assert_eq!(*units.0.lock().unwrap(), weighed.all());
        // Where nothing is solved every weight is one.
        assert_eq!(Weighed::new(&units, &job.plan, graph, None, false).all(), job.plan.weights());
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
