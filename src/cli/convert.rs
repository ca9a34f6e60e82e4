//! `aurora-quant convert`: what the options mean, the run, and its summary.

use std::path::Path;
use std::time::Instant;

use aurora_quantizers::gptq::Care;
use aurora_quantizers::spec::Kind;
use regex::Regex;

use super::args::{Common, Convert};
use super::packing::{Folder, Packing};
use super::progress::Progress;
use super::{signals, ui};
use crate::checkpoint::{self, Config, TensorSource, quantized};
use crate::eval::speed;
use crate::export::{self, EXPORTERS, Output};
use crate::gguf::Metadata;
use crate::model::{self, Model};
use crate::pipeline::resume::Resume;
use crate::pipeline::{self, Rounding};
use crate::plan::{self, Plan, Rules};
use crate::record::{self, RunRecord};
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Error, Result};

mod destination;
mod importance;
mod method;
mod scales;
mod solved;
mod summary;
mod target;

use destination::default_output;
pub use destination::destination;
use importance::{importance, keys, weigh};
use method::{passes, solve, solves};
use summary::fallback_line;
use target::Target;

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
        record.permuted = weights.edits().about(t.param).map(str::to_owned);
        record.packed = weights.packed(t.param).next().map(|(_, packed)| packed.describe(source));
    }
    if let Some(path) = file {
        let (folder, output) = match &packing {
            None => (None, Output::begin(&path, layout, args.force)?),
            Some(_) => Folder::begin(&path, layout).map(|(folder, output)| (Some(folder), output))?,
        };
        let watch = Progress::new(common, stop, []);
        watch.begin(plan.weights());
        let importances = importance.as_ref().map(|(_, found)| &found.values);
        let solved = passes
            .map(|passes| solve(args, &passes, source, &model, &weights, &plan, &path, &output, &watch))
            .transpose()?;
        let solved_by = solved.as_ref().map(|(solved, _)| solved);
        let nearest = args.codes == CODES[1];
        // Running the model takes far longer than what more care does.
        let care = if args.calibrate { Care::Full } else { Care::Quick };
        let measure = target.packed;
        let rounding = Rounding { reference, nearest, care, importances, solved: solved_by, measure };
        let errors = pipeline::run(&weights, &plan, rounding, &output, &watch)?;
        record.tensors.iter_mut().zip(errors).for_each(|(t, error)| t.largest_error = error);
        watch.stage("flushing to the disk");
        output.finish(&watch)?;
        if let (Some(folder), Some(packing)) = (folder, &packing) {
            record.file_bytes = folder.finish(packing, source, &weights, &plan, &watch)?;
        }
        drop(watch);
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
