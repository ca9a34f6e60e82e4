//! `aurora-quant convert`: what the options mean, the run, and its summary.

use std::path::Path;
use std::time::Instant;

use aurora_quantizers::gptq::Care;
use aurora_quantizers::spec::Kind;

use super::args::{Common, Convert};
use super::progress::Progress;
use super::{signals, ui};
use crate::checkpoint::{self, Config, TensorSource, quantized};
use crate::eval::speed;
use crate::export::{self, Assigned, Contents};
use crate::model::{self, Model};
use crate::pipeline::resume::Resume;
use crate::pipeline::{self, Rounding};
use crate::plan::Plan;
use crate::record::{self, RunRecord};
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Error, Result};

mod destination;
mod importance;
mod method;
mod request;
mod scales;
mod solved;
mod summary;

use destination::default_output;
use importance::{importance, weigh};
use method::{passes, solve, solves};
use request::request;
use summary::fallback_line;

/// Ways to find scales that can be asked for.
pub const SCALES: [&str; 2] = ["search", "reference"];

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
    let (exporter, request) = (export::by_name(&args.format.format)?, request(args)?);
    let assigned = exporter.assign(&request, source, &mut weights)?;
    let plan = Plan::keeping(&model, &assigned.rules, &assigned.kept)?;
    refuse_fallbacks(&plan, args.strict)?;
    let reference = args.scales == SCALES[1];
    pipeline::check(&plan, Rounding { reference, ..Rounding::default() })?;
    let path = match &args.output {
        Some(path) => path.clone(),
        None => default_output(source, &assigned.ending),
    };
    let file = (!args.dry_run).then(|| exporter.destination(&path, args.force)).transpose()?;
    // Before a calibration, which may take an hour.
    let contents = Contents { source, model: &model, weights: &weights, plan: &plan, request: &request };
    let mut prepared = exporter.prepare(contents)?;
    let stop = signals::stop_flag()?;
    let importance = importance(args, source, &model, &weights, common, &stop)?;
    let mut notes = prepared.notes().to_vec();
    let weighed = importance.as_ref().map(|(file, found)| weigh(args, &plan, &model.graph, file, found, &mut notes));
    if let Some(weighed) = &weighed {
        prepared.weighed(weighed)?;
    }
    notes.extend(assigned.warning.clone());
    let notes = notes.iter().map(|note| ui::flags(note)).collect();
    let mut record = record(args, &assigned, &model, &plan, &path, prepared.bytes(), notes);
    record.importance = weighed;
    for (t, record) in plan.tensors.iter().zip(&mut record.tensors) {
        record.permuted = weights.reordered(t.param).map(str::to_owned);
        record.packed = weights.packed(t.param).next().map(|(_, packed)| packed.describe(source));
    }
    if let Some(path) = file {
        let sink = prepared.begin(&path, args.force)?;
        let watch = Progress::new(common, stop, []);
        watch.begin(plan.weights());
        let importances = importance.as_ref().map(|(_, found)| &found.values);
        let solved = passes
            .map(|passes| solve(args, &passes, source, &model, &weights, &plan, &path, &*sink, &watch))
            .transpose()?;
        let solved_by = solved.as_ref().map(|(solved, _)| solved);
        let nearest = args.codes == CODES[1];
        // Running the model takes far longer than what more care does.
        let care = if args.calibrate { Care::Full } else { Care::Quick };
        let measure = source.tensors().iter().any(|t| t.packed.is_some());
        let rounding = Rounding { reference, nearest, care, importances, solved: solved_by, measure };
        let errors = pipeline::run(&weights, &plan, rounding, &*sink, &watch)?;
        record.tensors.iter_mut().zip(errors).for_each(|(t, error)| t.largest_error = error);
        watch.stage("flushing to the disk");
        record.file_bytes = sink.finish(&watch)?;
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
    assigned: &Assigned,
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
        file_type: assigned.name.clone(),
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
