//! `aurora-quant eval`: what the options mean, the run, and its table.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::args::{Common, Eval};
use super::open::{self, Opened};
use super::progress::Progress;
use super::{signals, ui};
use crate::eval::divergence::divergence;
use crate::eval::logits::LogitsFile;
use crate::eval::perplexity::{self, Chunks, Scores};
use crate::eval::{Scorer, Sequence, text};
use crate::record::{Estimate, EvalRecord, Record, Tool};
use crate::runtime::{Attention, Engine, Options};
use crate::text::{Special, Tokenizer, read_file};
use crate::weights::Weights;
use crate::{Error, Result};

/// Tokens in a chunk, unless asked otherwise: what published figures use.
const CONTEXT: usize = 512;

/// Runs the command.
pub fn run(args: &Eval, common: &Common) -> Result<()> {
    let (text_name, text) = text_of(args)?;
    let opened = Opened::open(&args.model)?;
    let reference = args.reference.as_deref().map(Opened::open).transpose()?;
    let tokenizer = Tokenizer::open(opened.source.as_ref())?;
    let tokens = tokenizer.encode(text::scored(&text), Special::TEXT)?;
    if let Some(reference) = &reference {
        same_tokens(&tokenizer, &tokens, reference, text::scored(&text))?;
    }
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let context = opened.context(args.context, CONTEXT);
    let chunks = Chunks::new(&tokens, context, bos, args.chunks.map(Into::into))?;

    let (cache_type, cache) = open::cache_type(&args.cache_type);
    let options = Options { context, exact: args.exact, cache, attention: Attention::Flash };
    let weights = Weights::bind(opened.source.as_ref(), &opened.model.graph)?;
    let engine = Engine::new(&opened.model, &weights, options)?;
    let mut model = Sequence::new(&engine);

    let mut stop = Arc::new(AtomicBool::new(false));
    let mut file = None;
    if let Some(path) = &args.save_logits {
        // A half-written temporary file must go; without one, Ctrl-C may end the process at once.
        stop = signals::stop_flag()?;
        file = Some(LogitsFile::begin(path, &chunks, model.vocab())?);
    }
    let watch = Progress::new(common, stop, [&opened].into_iter().chain(&reference).map(|model| &model.files));
    let started = Instant::now();
    let scores = match &reference {
        None => perplexity::alone(&mut model, &chunks, file.as_mut(), &watch)?,
        Some(reference) => {
            let weights = Weights::bind(reference.source.as_ref(), &reference.model.graph)?;
            let engine = Engine::new(&reference.model, &weights, options)?;
            perplexity::beside(&mut model, &mut Sequence::new(&engine), &chunks, file.as_mut(), &watch)?
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    drop(watch);
    file.map_or(Ok(()), LogitsFile::finish)?;

    let record = EvalRecord {
        tool: Tool::this(),
        model: args.model.display().to_string(),
        architecture: opened.model.arch.gguf.to_owned(),
        file_bytes: opened.files.bytes(),
        reference: args.reference.as_deref().map(|p| p.display().to_string()),
        text: text_name,
        context,
        chunks: chunks.count(),
        tokens_scored: scores.count(),
        exact: args.exact,
        cache_type: cache_type.to_owned(),
        threads: rayon::current_num_threads(),
        seconds,
        tokens_per_second: chunks.tokens().len() as f64 / seconds,
        perplexity: scores.perplexity().into(),
        nll: scores.nll().into(),
        divergence: match &scores {
            Scores::Alone(_) => None,
            Scores::Beside(all) => Some(divergence(all)),
        },
    };
    match common.json {
        true => ui::print_json(&Record::Eval(Box::new(record))),
        false => ui::print(&table(&record)),
    }
}

fn text_of(args: &Eval) -> Result<(String, String)> {
    let Some(path) = &args.text else {
        return Ok((text::HELDOUT_NAME.to_owned(), text::HELDOUT.to_owned()));
    };
    Ok((path.display().to_string(), read_file(path, "score")?))
}

/// The reference must read the text as the model does, or its probabilities are of other events.
fn same_tokens(tokenizer: &Tokenizer, tokens: &[u32], reference: &Opened, text: &str) -> Result<()> {
    let other = Tokenizer::open(reference.source.as_ref())?;
    let others = other.encode(text, Special::TEXT)?;
    if others == tokens && other.adds_bos() == tokenizer.adds_bos() {
        return Ok(());
    }
    let at = tokens.iter().zip(&others).take_while(|(a, b)| a == b).count();
    let show = |t: &Tokenizer, ids: &[u32]| match ids.get(at) {
        Some(&id) => format!("{id} {:?}", t.token(id).unwrap_or_default()),
        None => "the end".to_owned(),
    };
    Err(Error::unsupported(format!(
        "{} splits the text into other tokens than the model does ({} against {}; token {at} is {}, the model's {}); only \
         models of one vocabulary can be compared",
        Path::new(reference.source.path()).display(),
        others.len(),
        tokens.len(),
        show(&other, &others),
        show(tokenizer, tokens),
    )))
}

fn table(r: &EvalRecord) -> String {
    let figure = |e: Estimate, digits: usize| format!("{:.digits$} +- {:.digits$}", e.value, e.error);
    let percent = |e: Estimate| format!("{:.3} +- {:.3} %", 100.0 * e.value, 100.0 * e.error);
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
            ("right token", format!("mean shift {}, RMS {}", percent(d.dp), percent(d.dp_rms))),
            ("  range", format!("{} to {}", p(d.dp_quantiles.min), p(d.dp_quantiles.max))),
        ]);
    }
    let took = ui::duration(Duration::from_secs_f64(r.seconds));
    rows.push(("speed", format!("{:.1} tokens/s, {took} on {} threads", r.tokens_per_second, r.threads)));
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    ui::table(&rows, &[0, 1])
}
