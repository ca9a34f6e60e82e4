//! `aurora-quant calibrate`: from options to a run, and its summary.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aurora_quantizers::SiteStats;
use aurora_quantizers::tree::Place;
use flate2::Crc;

use super::args::{Calibrate, Common};
use super::progress::Progress;
use super::{signals, text, ui};
use crate::calibrate::dataset::Dataset;
use crate::calibrate::imatrix::{self, Imatrix, Origin, Run, ShardLabel, Writer};
use crate::calibrate::observe::Feed;
use crate::calibrate::shard::Shard;
use crate::calibrate::{self, Wanted};
use crate::checkpoint::gguf::split;
use crate::checkpoint::{self, Config, Guard, TensorSource};
use crate::job;
use crate::model::{ModelGraph, Opened};
use crate::pipeline::statistics;
use crate::recipe::Text;
use crate::record::{CalibrateRecord, Record, Tool};
use crate::runtime::{BlockRunner, RuntimeOptions};
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Result, files, memory};

/// Runs the command.
pub fn run(args: &Calibrate, common: &Common) -> Result<()> {
    let started = Instant::now();
    let mut record = match &args.model {
        None => merged(args, common)?,
        Some(model) => calibrated(args, model, common)?,
    };
    record.seconds = started.elapsed().as_secs_f64();
    record.peak_memory_bytes = memory::peak();
    if common.json {
        return ui::print_json(&Record::Calibrate(Box::new(record)));
    }
    summary(&record, common);
    Ok(())
}

fn calibrated(args: &Calibrate, path: &Path, common: &Common) -> Result<CalibrateRecord> {
    let opened = Opened::open(path)?;
    let output = args.output.clone().unwrap_or_else(|| default_output(opened.source.as_ref(), args.shard));
    let output = files::destination(&output, "output", args.force)?;
    let stop = signals::stop_flag()?;
    let mut text = Text::default();
    text::calibration(&args.sampling, &mut text);
    let data = job::dataset(&text, None, opened.source.as_ref(), &opened.model)?;
    let weights = Weights::bind(opened.source.as_ref(), &opened.model.graph)?;
    let runner = BlockRunner::new(&opened.model, &weights, RuntimeOptions::exact(data.context))?;
    let wanted = Wanted { gram: args.hessian, output: args.output_matrix };
    let graph = &opened.model.graph;
    let label = args.shard.map(|cut| label(cut, args, &text, &data, opened.source.as_ref())).transpose()?;
    let shard = label.as_ref().map_or(Shard::whole(data.samples.len(), data.context), |label| label.shard);
    let samples = &data.samples[shard.samples()];
    let origin = Origin::of(&data, samples.len());
    let shapes = imatrix::shapes(graph, &calibrate::all_feeds(graph, wanted), wanted.gram);
    let writer = Writer::begin(&output, &origin, label.as_ref(), shapes, args.force)?;
    let mut all = Imatrix::new(origin);
    let watch = Progress::new(common, stop);
    let started = Instant::now();
    let mut sink = |feed: &Feed, nodes: Vec<(Place, SiteStats)>| {
        all.put_nodes(graph, feed, &nodes);
        match (&label, &nodes[..]) {
            (None, [(_, whole)]) => writer.gram(graph, feed, whole),
            _ => writer.nodes(graph, feed, &nodes),
        }
    };
    statistics::collect_shard(&runner, samples, &shard, wanted, &mut sink, &Guard::new(&watch, [&opened.files]))?;
    let seconds = started.elapsed().as_secs_f64();
    watch.stage("flushing to disk");
    writer.finish(&all, &watch)?;
    drop(watch);
    let (idle_experts, dead_columns) = gaps(&all, graph)?;
    Ok(CalibrateRecord {
        model: Some(path.display().to_string()),
        available: Some(data.available),
        seed: text.seed,
        hessian: args.hessian,
        idle_experts,
        dead_columns,
        tokens_per_second: Some((samples.len() * data.context) as f64 / seconds),
        notes: opened
            .model
            .notes
            .iter()
            .cloned()
            .chain(short(&data, args.sampling.samples.map(Into::into)))
            .chain(label.is_some().then(|| cut(&shard)))
            .collect(),
        ..blank(&output, &all)
    })
}

/// The part of the run that `--shard` asks for.
fn label(
    (index, count): (u32, u32),
    args: &Calibrate,
    asked: &Text,
    data: &Dataset,
    source: &dyn TensorSource,
) -> Result<ShardLabel> {
    let mut text = Crc::new();
    data.samples.iter().flatten().for_each(|token| text.update(&token.to_le_bytes()));
    let run = Run {
        seed: asked.seed,
        text: text.sum(),
        model: checkpoint::fingerprint(source),
        gram: args.hessian,
        output: args.output_matrix,
    };
    Ok(ShardLabel { shard: Shard::of(index, count, data.samples.len(), data.context)?, run })
}

fn cut(shard: &Shard) -> String {
    let Shard { index, count, samples: all, .. } = shard;
    let samples = shard.samples();
    format!("shard {index} of {count}: samples {} to {} of {all}", samples.start + 1, samples.end)
}

fn merged(args: &Calibrate, common: &Common) -> Result<CalibrateRecord> {
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from("imatrix.gguf"));
    let output = files::destination(&output, "output", args.force)?;
    let watch = Progress::new(common, signals::stop_flag()?);
    let all = imatrix::merge(&args.merge, &output, args.force, &watch)?;
    let merged = args.merge.iter().map(|p| p.display().to_string()).collect();
    Ok(CalibrateRecord { merged, ..blank(&output, &all) })
}

fn blank(output: &Path, all: &Imatrix) -> CalibrateRecord {
    CalibrateRecord {
        tool: Tool::this(),
        model: None,
        merged: Vec::new(),
        output: output.display().to_string(),
        file_bytes: std::fs::metadata(output).map_or(0, |m| m.len()),
        datasets: all.origin.datasets.clone(),
        context: all.origin.chunk_size,
        samples: all.origin.chunks,
        available: None,
        seed: 0,
        hessian: false,
        entries: all.entries.len(),
        idle_experts: Vec::new(),
        dead_columns: 0,
        threads: rayon::current_num_threads(),
        seconds: 0.0,
        tokens_per_second: None,
        peak_memory_bytes: None,
        notes: Vec::new(),
    }
}

/// Experts that saw no tokens, and the number of columns that were always zero.
fn gaps(all: &Imatrix, graph: &ModelGraph) -> Result<(Vec<String>, usize)> {
    let found = all.importances(graph)?;
    let name = |(id, expert): &(_, usize)| format!("{}, expert {expert}", graph.param(*id).name);
    Ok((found.idle.iter().map(name).collect(), found.dead_columns))
}

fn short(data: &Dataset, asked: Option<usize>) -> Vec<String> {
    match asked {
        Some(n) if n > data.samples.len() => {
            vec![format!("the text has only {} of the {n} samples asked for", data.samples.len())]
        }
        _ => Vec::new(),
    }
}

/// `<model>-imatrix.gguf` in the current directory; for a shard, `<model>-imatrix-0-of-3.gguf`.
fn default_output(source: &dyn TensorSource, shard: Option<(u32, u32)>) -> PathBuf {
    let config = source.config().path();
    let named = match source.config() {
        Config::HuggingFace(_) => config.parent().and_then(|dir| dir.canonicalize().ok()),
        Config::Gguf(_) => Some(config.with_extension("")),
    };
    let name = named.and_then(|p| p.file_name().map(|n| split::without_place(&n.to_string_lossy()).to_owned()));
    let label = shard.map_or(String::new(), |(index, count)| format!("-{index}-of-{count}"));
    PathBuf::from(format!("{}-imatrix{label}.gguf", name.unwrap_or_else(|| "model".to_owned())))
}

fn summary(r: &CalibrateRecord, common: &Common) {
    let took = ui::duration(Duration::from_secs_f64(r.seconds));
    let speed = r.tokens_per_second.map_or(String::new(), |s| format!(", {s:.1} tokens/s"));
    ui::message(
        common,
        &format!(
            "wrote {}: {}, {} matrices, {} samples of {} tokens, {took}{speed}",
            r.output,
            ui::size(r.file_bytes),
            r.entries,
            r.samples,
            r.context
        ),
    );
    if !r.idle_experts.is_empty() {
        let lines = r.idle_experts.join("\n  ");
        let what = "experts that saw no tokens; all their columns will weigh the same (use more text)";
        ui::message(common, &format!("{what}:\n  {lines}"));
    }
    if r.dead_columns > 0 {
        ui::message(common, &format!("{} columns had only zero inputs", r.dead_columns));
    }
    ui::notes(common, &r.notes);
}
