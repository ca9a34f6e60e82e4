//! The human-readable summary of a conversion.

use std::collections::BTreeMap;

use aurora_quantizers::spec::Kind;

use super::{pruned, removed, scaled, solved};
use crate::cli::args::Common;
use crate::cli::ui;
use crate::plan::{Plan, TensorPlan};
use crate::record::{RunRecord, SparseRecord, TensorRecord};

/// Describes a tensor that did not get the requested type.
pub(super) fn fallback_line(t: &TensorPlan) -> String {
    let reason = t.reason.as_deref().unwrap_or_default();
    format!("{}: {} instead of {} ({reason})", t.name, t.spec().name, t.requested.spec().name)
}

/// The plan as a table.
pub(super) fn plan_text(plan: &Plan, record: &RunRecord) -> String {
    let head = ["tensor", "shape", "requested", "type", "bytes", "why"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(plan.tensors.iter().map(|t| {
        let reason = t.reason.clone().unwrap_or_default();
        let names = [t.requested.spec().name, t.spec().name].map(str::to_owned);
        let [requested, actual] = names;
        vec![t.name.clone(), ui::shape(&t.shape), requested, actual, t.bytes().to_string(), reason]
    }));
    format!("{}\nfile size: {} bytes\n", ui::table(&rows, &[0, 2, 3, 5]), record.file_bytes)
}

/// Written type, requested type, and the reason.
type Why<'p> = (&'p str, &'p str, &'p str);

/// The fallbacks, one line per reason.
fn fallbacks(plan: &Plan) -> Vec<String> {
    let mut groups: Vec<(Why, Vec<String>)> = Vec::new();
    for t in plan.fallbacks() {
        let why = (t.spec().name, t.requested.spec().name, t.reason.as_deref().unwrap_or_default());
        match groups.iter_mut().find(|(known, _)| *known == why) {
            Some((_, names)) => names.push(t.name.clone()),
            None => groups.push((why, vec![t.name.clone()])),
        }
    }
    let line = |((actual, requested, why), names): (Why, Vec<String>)| {
        format!("{actual} instead of {requested} ({why}): {}", solved::list(&names))
    };
    groups.into_iter().map(line).collect()
}

/// What happened to the integers of a quantised checkpoint.
fn errors_line(record: &RunRecord) -> Option<String> {
    let packed: Vec<_> = record.tensors.iter().filter(|t| t.packed.is_some()).collect();
    let (first, carried) = (packed.first()?, packed.iter().filter(|t| t.carried).count());
    let how = first.packed.as_deref().unwrap_or_default();
    let head = format!("checkpoint: {how}; carried over the integers of {carried} of {} matrices", packed.len());
    let worst = |error: fn(&TensorRecord) -> Option<f32>| {
        let measured = packed.iter().filter_map(|t| Some((error(t)?, &t.name)));
        measured.reduce(|a, b| if b.0 > a.0 { b } else { a })
    };
    Some(match (worst(|t| t.largest_error), worst(|t| t.relative_error)) {
        (None, _) => head,
        (Some((0.0, _)), _) => format!("{head}; no weight changed"),
        (Some((error, name)), None) => format!("{head}; largest weight error {error:.2e} ({name})"),
        (Some((error, name)), Some((relative, of))) => {
            let relative = 100.0 * relative;
            format!("{head}; largest weight error {error:.2e} ({name}), largest matrix error {relative:.2} % ({of})")
        }
    })
}

/// Matrices that the GGUF file already has in their type.
fn copied_line(record: &RunRecord) -> Option<String> {
    let copied = record.tensors.iter().filter(|t| t.carried && t.packed.is_none()).count();
    (copied > 0).then(|| format!("copied: {copied} of {} tensors already have their type", record.tensors.len()))
}

/// Matrices whose columns were permuted.
fn permuted_line(record: &RunRecord) -> Option<String> {
    let columns = |t: &&TensorRecord| t.permuted.as_ref().is_some_and(|how| how.starts_with("act order"));
    let names: Vec<String> = record.tensors.iter().filter(columns).map(|t| t.name.clone()).collect();
    let what = "act order: columns sorted by group, along with the rows that produce their inputs";
    (!names.is_empty()).then(|| format!("{what}: {}", solved::list(&names)))
}

/// What is stored without its zeros.
fn sparse_line(record: &RunRecord) -> Option<String> {
    let SparseRecord { layout, matrices, weights, stored, bytes, dense_bytes, dense } = record.sparse.as_ref()?;
    let share = 100.0 * *stored as f64 / (*weights).max(1) as f64;
    let rest = if dense.is_empty() { String::new() } else { format!("; dense: {}", solved::list(dense)) };
    Some(format!(
        "sparse ({layout}): {matrices} of {} matrices, {} instead of {} when dense, {share:.2} % of their weights \
         stored{rest}",
        matrices + dense.len(),
        ui::size(*bytes),
        ui::size(*dense_bytes),
    ))
}

/// Prints what was done.
pub(super) fn print(record: &RunRecord, plan: &Plan, common: &Common) {
    let mut types: BTreeMap<&str, usize> = BTreeMap::new();
    for t in &plan.tensors {
        *types.entry(t.spec().name).or_default() += 1;
    }
    let types: Vec<String> = types.iter().map(|(name, n)| format!("{n} {name}")).collect();
    let took = ui::duration(std::time::Duration::from_secs_f64(record.seconds));
    ui::message(
        common,
        &format!(
            "{} {}: {}, {} weights at {:.2} bits, {took}\ntensors: {}",
            if record.dry_run { "would write" } else { "wrote" },
            record.output,
            ui::size(record.file_bytes),
            ui::count(record.weights),
            record.bits_per_weight,
            types.join(", ")
        ),
    );
    let scales = scaled::lines(&record.passes);
    if !scales.is_empty() {
        ui::message(common, &scales.join("\n"));
    }
    if record.fallbacks > 0 {
        let head = format!("fallbacks: {} of {} tensors", record.fallbacks, plan.tensors.len());
        ui::message(common, &format!("{head}\n  {}", fallbacks(plan).join("\n  ")));
    }
    for line in [errors_line, copied_line, permuted_line, sparse_line].iter().filter_map(|line| line(record)) {
        ui::message(common, &line);
    }
    let grids = plan.tensors.iter().filter(|t| t.spec().kind == Kind::Block);
    let grids: Vec<&str> = grids.map(|t| t.name.as_str()).collect();
    let (gone, rest): (Vec<_>, Vec<_>) = record.passes.iter().cloned().partition(removed::is_one);
    removed::lines(&gone).iter().for_each(|line| ui::message(common, line));
    let (zeros, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(pruned::is_one);
    pruned::lines(&zeros).iter().for_each(|line| ui::message(common, line));
    solved::lines(&record.method, &rest, &grids).iter().for_each(|line| ui::message(common, line));
    ui::notes(common, &record.notes);
    if common.verbose && !record.dry_run {
        for t in &record.tensors {
            let largest = t.largest_error.map_or(String::new(), |e| format!(", largest error {e:e}"));
            let error = t.relative_error.map_or(largest.clone(), |e| format!("{largest}, {:.2} %", 100.0 * e));
            let packed = t.packed.as_ref().map_or(String::new(), |packed| format!(" from {packed}"));
            let shape = ui::shape(&t.shape);
            let permuted = t.permuted.as_ref().map_or(String::new(), |how| format!(", {how}"));
            let line = format!("  {}: {} [{shape}]{packed}, {} bytes{permuted}{error}", t.name, t.actual, t.bytes);
            ui::message(common, &line);
        }
    }
}
