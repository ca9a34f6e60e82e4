//! `aurora-quant bench`: from options to timed runs, and their table.

use super::args::{Bench, Common};
use super::open;
use super::ui;
use crate::eval::speed::{self, Workload};
use crate::model::Opened;
use crate::record::{BenchRecord, Record, Spread, Tool};
use crate::runtime::{Engine, RuntimeOptions};
use crate::weights::Weights;
use crate::{Result, memory};

/// Default lengths of prompt and generation in tokens: those of llama-bench.
const PROMPT: usize = 512;
const GENERATE: usize = 128;

/// Runs the command.
pub fn run(args: &Bench, common: &Common) -> Result<()> {
    let opened = Opened::open(&args.model)?;
    ui::notes(common, &opened.model.notes);
    let workload = Workload {
        prompt: opened.context(args.prompt, PROMPT),
        generate: opened.context(args.generate, GENERATE),
        runs: args.runs.get(),
        cache: !args.no_kv_cache,
    };
    let cache = open::cache_type(&args.cache_type);
    let attention = open::attention(&args.attention);
    let weights = Weights::bind(opened.source.as_ref(), &opened.model.graph)?;
    let context = workload.prompt.max(workload.generate).max(1);
    let engine = Engine::new(&opened.model, &weights, RuntimeOptions { context, exact: args.exact, cache, attention })?;
    let bar = ui::spinner(common);
    let times = speed::time(&engine, &workload, &mut |what| bar.set_message(what.to_owned()));
    bar.finish_and_clear();
    let times = times?;
    opened.files.check()?;

    let rates = |seconds: &[f64], tokens: usize| Spread::of(seconds.iter().map(|s| tokens as f64 / s).collect());
    let generated = rates(&times.generate, workload.generate);
    // With a cache, token i reads the keys and values of i tokens: on average, as many as the middle token.
    let bytes = generated.filter(|_| workload.cache).map(|_| engine.bytes_per_token(workload.generate / 2));
    let record = BenchRecord {
        tool: Tool::this(),
        model: args.model.display().to_string(),
        architecture: opened.model.arch.gguf.to_owned(),
        file_bytes: opened.files.bytes(),
        prompt: workload.prompt,
        generate: workload.generate,
        runs: workload.runs,
        threads: rayon::current_num_threads(),
        exact: args.exact,
        cache_type: workload.cache.then(|| cache.name().to_owned()),
        attention: attention.name().to_owned(),
        prompt_tokens_per_second: rates(&times.prompt, workload.prompt),
        first_token_seconds: Spread::of(times.prompt),
        generate_tokens_per_second: generated,
        bytes_per_token: bytes,
        gigabytes_per_second: bytes.zip(generated).map(|(bytes, rate)| bytes as f64 * rate.median / 1e9),
        peak_memory_bytes: memory::peak(),
    };
    match common.json {
        true => ui::print_json(&Record::Bench(Box::new(record))),
        false => ui::print(&table(&record)),
    }
}

fn table(r: &BenchRecord) -> String {
    let spread = |s: Spread, unit: &str, digits: usize| {
        format!("{:.digits$} {unit} ({:.digits$} to {:.digits$})", s.median, s.min, s.max)
    };
    let cache = r.cache_type.as_ref().map_or("no key-value cache".to_owned(), |t| format!("{t} cache"));
    let exact = if r.exact { ", f32 activations" } else { "" };
    let mut rows = vec![
        ("model", format!("{} ({}, {})", r.model, r.architecture, ui::size(r.file_bytes))),
        ("runs", format!("{} on {} threads, {cache}, {} attention{exact}", r.runs, r.threads, r.attention)),
    ];
    if let Some((rate, first)) = r.prompt_tokens_per_second.zip(r.first_token_seconds) {
        rows.push(("prompt", format!("{} of {} tokens", spread(rate, "tokens/s", 2), r.prompt)));
        rows.push(("first token", spread(first, "s", 3)));
    }
    if let Some(rate) = r.generate_tokens_per_second {
        rows.push(("generation", format!("{} of {} tokens", spread(rate, "tokens/s", 2), r.generate)));
    }
    if let Some((bytes, rate)) = r.bytes_per_token.zip(r.gigabytes_per_second) {
        rows.push(("reads", format!("{} per token, {rate:.1} GB/s", ui::size(bytes))));
    }
    if let Some(bytes) = r.peak_memory_bytes {
        rows.push(("peak memory", format!("{} (including the mapped file)", ui::size(bytes))));
    }
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    ui::table(&rows, &[0, 1])
}
