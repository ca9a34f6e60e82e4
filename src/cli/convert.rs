//! `aurora-quant convert`: what the options mean, the run, and its summary.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use aurora_quantizers::spec::Kind;
use indicatif::ProgressBar;
use regex::Regex;

use super::args::{Common, Convert};
use super::packing::{Folder, Packing};
use super::{calibrate, signals, ui};
use crate::calibrate::imatrix::{Imatrix, Importances};
use crate::checkpoint::{self, Config, TensorSource, quantized};
use crate::eval::speed;
use crate::export::{self, EXPORTERS, Output, Watch};
use crate::gguf::{Metadata, Value, string};
use crate::model::{self, Model, ModelGraph};
use crate::passes::{self, Duo, Pass, Settings};
use crate::pipeline::blocks::{Job, Propagate, Solved};
use crate::pipeline::resume::Resume;
use crate::pipeline::{self, Rounding};
use crate::plan::{self, FileType, Plan, Rules};
use crate::record::{self, ImportanceRecord, LinearRecord, RunRecord, ScaleRecord};
use crate::weights::Weights;
use crate::{Error, Result};

mod scales;
mod solved;
mod summary;
mod target;

use summary::fallback_line;
use target::Target;

/// Samples that a method is calibrated on, unless asked otherwise.
const SAMPLES: usize = 128;

/// Ways to find scales that can be asked for.
pub const SCALES: [&str; 2] = ["search", "reference"];

/// The type that carries integers over.
pub const KEEP: &str = "keep";

/// Ways to choose codes once scales are known.
pub const CODES: [&str; 2] = ["joint", "nearest"];

/// Runs the command.
pub fn run(args: &Convert, common: &Common) -> Result<()> {
    let started = Instant::now();
    refuse_idle_options(args)?;
    let source = checkpoint::open(&args.model)?;
    let source = source.as_ref();
    if let Config::HuggingFace(config) = source.config() {
        config.require()?;
    }
    quantized::check(source)?;
    refuse_quantized(source, args.allow_requantize)?;
    let passes = passes(args)?;
    let model = model::describe(source.config(), &|name| source.find(name).is_some())?;
    let mut weights = Weights::bind(source, &model.graph)?;
    let packing = Packing::of(args)?;
    let target = match &packing {
        None => Target::of(args, source, &mut weights)?,
        Some(packing) => Target::packed(packing, source, &weights)?,
    };
    let plan = Plan::keeping(&model, &rules(args, &target)?, &target.kept)?;
    refuse_fallbacks(&plan, args.strict)?;
    let reference = args.scales == SCALES[1];
    pipeline::check(&plan, Rounding { reference, ..Rounding::default() })?;
    let exporter = EXPORTERS[0];
    let path = match &args.output {
        Some(path) => path.clone(),
        None => default_output(source, &target, packing.as_ref().map_or(exporter.name(), |_| "")),
    };
    // Before a calibration, which may take an hour.
    let free = || match &packing {
        None => destination(&path, args.force),
        Some(packing) => packing.destination(&path),
    };
    let file = (!args.dry_run).then(free).transpose()?;
    let stop = signals::stop_flag()?;
    let importance = importance(args, source, &model, &weights, common, &stop)?;
    let (mut metadata, mut notes) = match &packing {
        None => export::metadata::metadata(source, &model, &plan, args.pre.as_deref())?,
        Some(_) => (Metadata::new(), Vec::new()),
    };
    let weighed = importance.as_ref().map(|(file, found)| weigh(args, &plan, &model.graph, file, found, &mut notes));
    if let Some(weighed) = &weighed {
        keys(weighed, &mut metadata);
    }
    notes.extend(target.warning.clone());
    let layout = match &packing {
        None => exporter.layout(&plan, &metadata)?,
        Some(packing) => packing.blocks(&plan),
    };
    if args.output_type.is_some() && model.hyper.tied {
        notes.push(
            "--output-type has no effect: this model's output matrix is its embedding (--embedding-type)".to_owned(),
        );
    }
    let mut record = record(args, &target, &model, &plan, &path, layout.size, notes);
    record.importance = weighed;
    for (t, record) in plan.tensors.iter().zip(&mut record.tensors) {
        record.permuted = weights.reordered(t.param).map(str::to_owned);
        record.packed = weights.packed(t.param).next().map(|(_, packed)| packed.describe(source));
    }
    if let Some(path) = file {
        let (folder, output) = match &packing {
            None => (None, Output::begin(&path, layout, args.force)?),
            Some(_) => Folder::begin(&path, layout).map(|(folder, output)| (Some(folder), output))?,
        };
        let watch = Progress { bar: ui::progress(common, plan.weights()), stop };
        let importances = importance.as_ref().map(|(_, found)| &found.values);
        let solved = passes
            .map(|passes| solve(args, &passes, source, &model, &weights, &plan, &path, &output, &watch))
            .transpose()?;
        let solved_by = solved.as_ref().map(|(solved, _)| solved);
        let nearest = args.codes == CODES[1];
        let rounding = Rounding { reference, nearest, importances, solved: solved_by, measure: target.packed };
        let errors = pipeline::run(&weights, &plan, rounding, &output, &watch)?;
        record.tensors.iter_mut().zip(errors).for_each(|(t, error)| t.largest_error = error);
        watch.bar.set_message("flushing to the disk");
        output.finish(&watch)?;
        if let (Some(folder), Some(packing)) = (folder, &packing) {
            record.file_bytes = folder.finish(packing, source, &weights, &plan, &watch)?;
        }
        watch.bar.finish_and_clear();
        if let Some((solved, resume)) = solved {
            (record.linears, record.scales) = (solved.linears, solved.scales);
            resume.into_iter().for_each(Resume::remove);
        }
    }
    record.seconds = started.elapsed().as_secs_f64();
    record.peak_memory_bytes = speed::peak_memory();
    if common.json {
        return ui::print_json(&record);
    }
    if args.dry_run {
        ui::print(&summary::plan_text(&plan, &record))?;
    }
    summary::print(&record, &plan, common);
    Ok(())
}

/// Options of a calibration that is not asked for would be ignored.
fn refuse_idle_options(args: &Convert) -> Result<()> {
    let s = &args.sampling;
    let given = !s.text.is_empty() || s.context.is_some() || s.samples.is_some();
    match given && !args.calibrate && !solves(args) {
        true => {
            Err(Error::unsupported("--text, --context and --samples need --calibrate, or a --method that calibrates"))
        }
        false => Ok(()),
    }
}

/// The statistics that were asked for, and what they say of this model. A dry run makes none.
fn importance(
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
fn weigh(
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

/// What llama-quantize writes into the header about importances. Its texts end after 127 bytes; so do these.
fn keys(weighed: &ImportanceRecord, metadata: &mut Metadata) {
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

/// Whether a method other than rounding to nearest is asked for.
fn solves(args: &Convert) -> bool {
    !args.method.eq_ignore_ascii_case("rtn")
}

/// The chain of methods, with what --clip adds.
fn method(args: &Convert) -> Result<String> {
    if !args.solving.clip {
        return Ok(args.method.clone());
    }
    match args.method.eq_ignore_ascii_case("awq") {
        true => Ok(format!("{}+clip", args.method)),
        false => Err(Error::unsupported(format!(
            "--clip belongs to --method awq alone; {} finds its own ranges",
            args.method
        ))),
    }
}

/// The passes of the method, if it is more than rounding to nearest.
fn passes(args: &Convert) -> Result<Option<Vec<Box<dyn Pass>>>> {
    let solving = &args.solving;
    let settings = Settings {
        nearest: args.codes == CODES[1],
        damp: solving.damp,
        act_order: solving.act_order == "static",
        refine: solving.refine,
        grid: usize::from(solving.grid),
        duo: match solving.duo.as_str() {
            "on" => Duo::On,
            "off" => Duo::Off,
            _ => Duo::Both,
        },
    };
    let chain = passes::chain(&method(args)?, &settings)?;
    if !solves(args) {
        return Ok(None);
    }
    let other = [
        (args.imatrix.is_some(), "--imatrix"),
        (args.calibrate, "--calibrate"),
        (args.scales == SCALES[1], "--scales reference"),
    ];
    if let Some((_, option)) = other.iter().find(|(given, _)| *given) {
        let what = format!("--method {} makes its own statistics and scales; leave out {option}", args.method);
        return Err(Error::unsupported(what));
    }
    Ok(Some(chain))
}

/// Runs the passes block by block, and says what is left.
#[allow(clippy::too_many_arguments)] // Everything that a conversion has, once.
fn solve(
    args: &Convert,
    passes: &[Box<dyn Pass>],
    source: &dyn TensorSource,
    model: &Model,
    weights: &Weights,
    plan: &Plan,
    path: &Path,
    output: &Output,
    watch: &Progress,
) -> Result<(Solved, Option<Resume>)> {
    let data = calibrate::dataset(&args.sampling, Some(SAMPLES), source, model)?;
    let propagate = if args.solving.propagate == "float" { Propagate::Float } else { Propagate::Quantized };
    let resume = match args.solving.resume {
        true => Some(Resume::open(Resume::directory(path), &job(args, source, plan, &data.samples))?),
        false => None,
    };
    let job = Job { samples: &data.samples, passes, propagate };
    let solved = pipeline::blocks::run(model, weights, plan, &job, resume.as_ref(), output, watch)?;
    Ok((solved, resume))
}

/// All that the bytes of a run depend on, a line each.
fn job(args: &Convert, source: &dyn TensorSource, plan: &Plan, samples: &[Vec<u32>]) -> String {
    let mut sum = Fnv::new();
    samples.iter().flatten().for_each(|token| sum.add(&token.to_le_bytes()));
    let tokens: usize = samples.iter().map(Vec::len).sum();
    let mut types = Fnv::new();
    plan.tensors.iter().for_each(|t| types.add(format!("{} {}\n", t.name, t.actual.name).as_bytes()));
    let mut tensors = Fnv::new();
    source.tensors().iter().for_each(|t| {
        tensors.add(format!("{} {:?} {}\n", t.name, t.shape, t.spec.name).as_bytes());
        // Some of every tensor's bytes tell one checkpoint from another of its shape without reading it all.
        let head = t.range.len().min(256);
        tensors.add(source.bytes(t, 0..head));
    });
    format!(
        "aurora-quant {}\nmodel {} {:016x}\nmethod {} {} {:?}\ntypes {} {:016x}\ntext {tokens} tokens in {} samples, {:016x}\n",
        env!("CARGO_PKG_VERSION"),
        args.model.display(),
        tensors.0,
        args.method,
        args.codes,
        args.solving,
        plan.file_type,
        types.0,
        samples.len(),
        sum.0
    )
}

/// FNV-1a: tells inputs apart that differ by mistake.
struct Fnv(u64);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

struct Progress {
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
}

impl Watch for Progress {
    fn advance(&self, tensor: &str, weights: u64) {
        if self.bar.message() != tensor {
            self.bar.set_message(tensor.to_owned());
        }
        self.bar.inc(weights);
    }

    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn stage(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
    }

    fn linear(&self, record: &LinearRecord) {
        if let (Some(loss), Some(rtn)) = (record.loss, record.loss_rtn) {
            self.bar.set_message(format!("{}: loss {:.2}x of rounding to nearest", record.tensor, loss / rtn));
        }
    }

    fn scaled(&self, record: &ScaleRecord) {
        if let (Some(loss), Some(before)) = (record.loss, record.loss_before) {
            self.bar.set_message(format!("{}: loss {:.2}x with scales", record.readers[0], loss / before));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // An error message must not end up behind half a bar.
        self.bar.finish_and_clear();
    }
}

fn rules(args: &Convert, target: &Target) -> Result<Rules> {
    let spec = |name: &Option<String>| name.as_deref().map(plan::tensor_type).transpose();
    let overrides = args.tensor_type.iter().map(|(pattern, name)| {
        let regex = Regex::new(pattern).map_err(|e| Error::unsupported(e.to_string()))?;
        Ok((regex, plan::tensor_type(name)?))
    });
    Ok(Rules {
        file_type: target.file_type,
        pure: args.pure,
        calibrated: args.imatrix.is_some() || args.calibrate || solves(args),
        output: spec(&args.output_type)?,
        embedding: spec(&args.embedding_type)?,
        overrides: overrides.collect::<Result<_>>()?,
    })
}

fn refuse_quantized(source: &dyn TensorSource, allowed: bool) -> Result<()> {
    let quantized = source.tensors().iter().find(|t| t.spec.kind == Kind::Block);
    match (source.config(), quantized) {
        (Config::Gguf(_), Some(t)) if !allowed => Err(Error::tensor(
            source.file_of(t),
            ui::safe(&t.name),
            format!(
                "is quantised already ({}); convert the original checkpoint instead, or accept the second rounding \
                 with --allow-requantize",
                t.spec.name
            ),
        )),
        _ => Ok(()),
    }
}

fn refuse_fallbacks(plan: &Plan, strict: bool) -> Result<()> {
    let lines: Vec<String> = plan.fallbacks().map(fallback_line).collect();
    if strict && !lines.is_empty() {
        return Err(Error::unsupported(format!(
            "--strict: {} of {} tensors cannot have the type that was asked for\n  {}",
            lines.len(),
            plan.tensors.len(),
            lines.join("\n  ")
        )));
    }
    Ok(())
}

/// Where the output goes: `path` itself, or what it links to.
///
/// Everything that is known to go wrong is found here, before the work: it may take hours.
pub fn destination(path: &Path, force: bool) -> Result<PathBuf> {
    let refuse = |what: String| Err(Error::unsupported(format!("{}: {what}", path.display())));
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.is_dir() {
        return refuse(format!("directory {} does not exist; create it first", dir.display()));
    }
    let ends_like_a_directory = path.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
    if path.is_dir() || path.file_name().is_none() || ends_like_a_directory {
        return refuse("names a directory; -o needs a file name".to_owned());
    }
    let Ok(found) = path.symlink_metadata() else { return Ok(path.to_owned()) };
    if !force {
        return refuse("exists; use --force to replace it, or another name with -o".to_owned());
    }
    // A link stays a link: what it leads to is replaced.
    let real = if found.is_symlink() {
        path.canonicalize().map_err(|e| Error::io(path, "follow the link", e))?
    } else {
        path.to_owned()
    };
    if !real.is_file() {
        return refuse("is no regular file; it is not replaced".to_owned());
    }
    Ok(real)
}

/// `<model>-<type>.gguf` in the current directory.
fn default_output(source: &dyn TensorSource, target: &Target, extension: &str) -> PathBuf {
    let config = source.config().path();
    let name = match source.config() {
        Config::HuggingFace(_) => {
            let dir = config.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let id = checkpoint::card::directory_id(dir).unwrap_or_else(|| "model".to_owned());
            id.rsplit('/').next().unwrap_or_default().to_owned()
        }
        Config::Gguf(_) => {
            let stem = config.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            // model-bf16.gguf becomes model-q4_0.gguf, not model-bf16-q4_0.gguf.
            let cut = stem.rsplit_once('-').filter(|(_, end)| FileType::by_name(end).is_ok());
            cut.map_or(stem.clone(), |(start, _)| start.to_owned())
        }
    };
    match extension {
        "" => PathBuf::from(format!("{name}-{}", target.name)),
        _ => PathBuf::from(format!("{name}-{}.{extension}", target.file_type.name)),
    }
}

fn record(
    args: &Convert,
    target: &Target,
    model: &Model,
    plan: &Plan,
    path: &Path,
    size: u64,
    notes: Vec<String>,
) -> RunRecord {
    RunRecord {
        schema: record::SCHEMA,
        tool: concat!("aurora-quant ", env!("CARGO_PKG_VERSION")).to_owned(),
        input: args.model.display().to_string(),
        architecture: model.arch.gguf.to_owned(),
        output: path.display().to_string(),
        dry_run: args.dry_run,
        method: args.method.clone(),
        file_type: target.name.clone(),
        weights: plan.weights(),
        file_bytes: size,
        bits_per_weight: plan.bits_per_weight(),
        fallbacks: plan.fallbacks().count(),
        threads: rayon::current_num_threads(),
        seconds: 0.0,
        peak_memory_bytes: None,
        notes,
        importance: None,
        tensors: record::tensors(plan),
        linears: Vec::new(),
        scales: Vec::new(),
    }
}
