//! `aurora-quant eval`: from flags to an evaluation, and its table.

use std::sync::Arc;
use std::time::Duration;

use super::args::{Common, Eval};
use super::progress::Progress;
use super::{open, signals, ui};
use crate::Result;
use crate::eval::Evaluation;
use crate::record::{EvalRecord, Measured, Record};

/// Runs the command.
pub fn run(args: &Eval, common: &Common) -> Result<()> {
    let evaluation = Evaluation {
        model: args.model.clone(),
        reference: args.reference.clone(),
        text: args.text.clone(),
        context: args.context,
        chunks: args.chunks.map(Into::into),
        cache: open::cache_type(&args.cache_type),
        exact: args.exact,
        save_logits: args.save_logits.clone(),
    };
    // A half-written temporary file must be removed. Without one, Ctrl-C may end the process at once.
    let stop = if args.save_logits.is_some() { signals::stop_flag()? } else { Arc::default() };
    let record = evaluation.run(&Progress::new(common, stop))?;
    ui::notes(common, &record.notes);
    match common.json {
        true => ui::print_json(&Record::Eval(Box::new(record))),
        false => ui::print(&table(&record)),
    }
}

fn table(r: &EvalRecord) -> String {
    let figure = |e: Measured, digits: usize| format!("{:.digits$} +- {:.digits$}", e.value, e.error);
    let percent = |e: Measured| format!("{:.3} +- {:.3} %", 100.0 * e.value, 100.0 * e.error);
    let mut rows = vec![
        ("model", format!("{} ({}, {})", r.model, r.architecture, ui::size(r.file_bytes))),
        ("text", format!("{}, {} chunks of {} tokens, {} scored", r.text, r.chunks, r.context, r.tokens_scored)),
        ("perplexity", figure(r.perplexity, 4)),
    ];
    if let Some(d) = &r.divergence {
        let q = &d.kl_quantiles;
        let p = |v: f64| format!("{:.3} %", 100.0 * v);
        rows.extend([
            ("reference", r.reference.clone().unwrap_or_default()),
            ("  perplexity", figure(d.reference_perplexity, 4)),
            ("  ratio", figure(d.perplexity_ratio, 6)),
            ("  difference", figure(d.perplexity_difference, 4)),
            ("KL divergence", format!("{} nats", figure(d.kl, 6))),
            (
                "  quantiles",
                format!("median {:.6}  90% {:.6}  99% {:.6}  99.9% {:.6}", q.median, q.p90, q.p99, q.p99_9),
            ),
            ("  range", format!("{:.6} to {:.6}", q.min, q.max)),
            ("same top token", percent(d.same_top)),
            ("correct token", format!("mean shift {}, RMS {}", percent(d.dp), percent(d.dp_rms))),
            ("  range", format!("{} to {}", p(d.dp_quantiles.min), p(d.dp_quantiles.max))),
        ]);
    }
    let took = ui::duration(Duration::from_secs_f64(r.seconds));
    rows.push(("speed", format!("{:.1} tokens/s, {took} on {} threads", r.tokens_per_second, r.threads)));
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    ui::table(&rows, &[0, 1])
}
