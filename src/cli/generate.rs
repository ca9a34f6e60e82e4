//! `aurora-quant generate`: continues a text or holds a conversation, token by token.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ndarray::Array2;
use serde_json::json;

use super::args::{Common, Generate};
use super::{signals, ui};
use crate::model::Opened;
use crate::runtime::sampler::{Sampler, SamplerOptions};
use crate::runtime::{Attention, CacheType, Engine, RuntimeOptions, Session};
use crate::text::{ChatTemplate, Control, Decoder, Message, Special, Tokenizer};
use crate::weights::Weights;
use crate::{Error, Result};

/// Default limit on the context. At 128k, keys and values would take gigabytes.
const CONTEXT: usize = 4096;

/// Prompt tokens per forward pass. Ctrl-C is checked between passes.
const BATCH: usize = 512;

/// Set by Ctrl-C while tokens are computed. At other times, Ctrl-C ends the program.
static STOP: AtomicBool = AtomicBool::new(false);
static BUSY: AtomicBool = AtomicBool::new(false);

/// Runs the command.
pub fn run(args: &Generate, common: &Common) -> Result<()> {
    if common.json && args.prompt.is_none() {
        let what = "`json` prints a single document, so it needs a `prompt`";
        return Err(Error::conflict(["json", "prompt"], what));
    }
    let Opened { source, model, .. } = Opened::open(&args.model)?;
    ui::notes(common, &model.notes);
    let source = source.as_ref();
    let weights = Weights::bind(source, &model.graph)?;
    let tokenizer = Tokenizer::open(source)?;
    let template = if args.chat { Some(ChatTemplate::open(&tokenizer)?) } else { None };
    let context = args.context.map_or(model.hyper.context.min(CONTEXT), usize::from);
    let cache = if args.exact { CacheType::F32 } else { CacheType::F16 };
    let options = RuntimeOptions { context, exact: args.exact, cache, attention: Attention::Flash };
    let engine = Engine::new(&model, &weights, options)?;
    signals::on_interrupt(|| {
        STOP.store(true, Ordering::Relaxed);
        if !BUSY.load(Ordering::Relaxed) {
            std::process::exit(0);
        }
    })?;
    let session = engine.session();
    let mut writer =
        Writer { args, common, tokenizer: &tokenizer, engine: &engine, context, session, held: Vec::new() };
    match (&template, &args.prompt) {
        (Some(template), None) => writer.converse(template),
        (template, prompt) => writer.once(template.as_ref(), prompt.as_deref().unwrap_or_default()),
    }
}

/// The result of one generation.
struct Answer {
    text: String,
    ids: Vec<u32>,
    /// "end" (the model ended it), "length" (-n), "context" (full) or "interrupted".
    stop: &'static str,
    prompt_tokens: usize,
    prompt_seconds: f64,
    seconds: f64,
}

struct Writer<'a> {
    args: &'a Generate,
    common: &'a Common,
    tokenizer: &'a Tokenizer,
    engine: &'a Engine<'a>,
    context: usize,
    session: Session,
    /// Tokens whose keys and values the session holds.
    held: Vec<u32>,
}

impl Writer<'_> {
    fn sampling(&self) -> SamplerOptions {
        let a = self.args;
        SamplerOptions {
            temperature: a.temperature,
            top_k: a.top_k,
            top_p: a.top_p,
            min_p: a.min_p,
            repeat_penalty: a.repeat_penalty,
            seed: a.seed,
            ..SamplerOptions::default()
        }
    }

    /// The start of a conversation: the system prompt, if there is one.
    fn opening(&self) -> Vec<Message> {
        self.args.system.iter().map(|text| Message::new("system", text)).collect()
    }

    /// Answers a single prompt.
    fn once(&mut self, template: Option<&ChatTemplate>, prompt: &str) -> Result<()> {
        let ids = match template {
            Some(template) => {
                let mut messages = self.opening();
                messages.push(Message::new("user", prompt));
                self.tokenizer.encode(&template.render(&messages, true)?, Special::RENDERED)?
            }
            None => self.tokenizer.encode(prompt, Special { add: true, parse: true })?,
        };
        let mut sampler = Sampler::new(self.sampling());
        let answer = self.generate(&ids, &mut sampler, !self.common.json)?;
        if self.common.json {
            return self.document(prompt, &ids, &answer);
        }
        ui::print("\n")?;
        self.summary(&answer);
        Ok(())
    }

    /// Reads user turns from stdin until it ends.
    fn converse(&mut self, template: &ChatTemplate) -> Result<()> {
        let mut messages = self.opening();
        // One stream of random numbers for the whole conversation: the same question twice may get two answers.
        let mut sampler = Sampler::new(self.sampling());
        let prompting = io::stdin().is_terminal() && !self.common.quiet;
        for line in self.lines(prompting) {
            let line = line.map_err(|e| Error::io(Path::new("stdin"), "read", e))?;
            if line.trim().is_empty() {
                continue;
            }
            messages.push(Message::new("user", line));
            let ids = self.tokenizer.encode(&template.render(&messages, true)?, Special::RENDERED)?;
            let answer = self.generate(&ids, &mut sampler, true)?;
            ui::print("\n")?;
            self.summary(&answer);
            messages.push(Message::new("assistant", answer.text.trim()));
        }
        Ok(())
    }

    fn lines(&self, prompting: bool) -> impl Iterator<Item = io::Result<String>> + use<> {
        let mut input = io::stdin().lock().lines();
        std::iter::from_fn(move || {
            if prompting {
                // A terminal that cannot be written to is no reason not to read from it.
                let mut terminal = io::stderr();
                let _ = terminal.write_all(b"> ").and_then(|()| terminal.flush());
            }
            input.next()
        })
    }

    /// Runs the new part of `ids` through the model, then generates. `show`: write the text as it is generated.
    fn generate(&mut self, ids: &[u32], sampler: &mut Sampler, show: bool) -> Result<Answer> {
        if ids.is_empty() {
            let what = "the prompt is empty, and the model has no beginning-of-text token; give a longer `prompt`";
            return Err(Error::text(what));
        }
        if ids.len() >= self.context {
            return Err(Error::text(format!(
                "the prompt has {} tokens, which leaves no room in a context of {}; shorten it or raise `context`",
                ids.len(),
                self.context
            )));
        }
        BUSY.store(true, Ordering::Relaxed);
        STOP.store(false, Ordering::Relaxed);
        let answer = self.run(ids, sampler, show);
        BUSY.store(false, Ordering::Relaxed);
        answer
    }

    fn run(&mut self, ids: &[u32], sampler: &mut Sampler, show: bool) -> Result<Answer> {
        let started = Instant::now();
        // A rendered conversation usually starts with the previous one. The last token is always run, for its logits.
        let same = self.held.iter().zip(&ids[..ids.len() - 1]).take_while(|(a, b)| a == b).count();
        self.session.truncate(same);
        self.held.truncate(same);
        let mut answer = Answer {
            text: String::new(),
            ids: Vec::new(),
            stop: "length",
            prompt_tokens: ids.len() - self.held.len(),
            prompt_seconds: 0.0,
            seconds: 0.0,
        };
        ids.iter().for_each(|&id| sampler.accept(id));
        let mut logits = Array2::zeros((0, 0));
        for batch in ids[self.held.len()..].chunks(BATCH) {
            if STOP.load(Ordering::Relaxed) {
                answer.stop = "interrupted";
                return Ok(answer);
            }
            let last = self.held.len() + batch.len() == ids.len();
            logits = self.forward(batch, batch.len() - usize::from(last))?;
        }
        answer.prompt_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let mut decoder = Decoder::new(self.tokenizer, Control::Hide);
        while answer.ids.len() < self.args.tokens {
            if STOP.load(Ordering::Relaxed) {
                answer.stop = "interrupted";
                break;
            }
            let id = sampler.sample(logits.row(0));
            if self.tokenizer.eos().contains(&id) {
                answer.stop = "end";
                break;
            }
            sampler.accept(id);
            answer.ids.push(id);
            let text = self.known(id).map_or_else(|| Ok(String::new()), |id| decoder.push(id))?;
            if show && !text.is_empty() {
                ui::print(&text)?;
            }
            answer.text.push_str(&text);
            if answer.ids.len() == self.args.tokens {
                break;
            }
            // The last token needs no place in the session, but is one of the context.
            if self.held.len() + 1 == self.context {
                answer.stop = "context";
                break;
            }
            logits = self.forward(&[id], 0)?;
        }
        let rest = decoder.finish();
        if show && !rest.is_empty() {
            ui::print(&rest)?;
        }
        answer.text.push_str(&rest);
        answer.seconds = started.elapsed().as_secs_f64();
        Ok(answer)
    }

    /// Embedding tables may have more rows than the tokenizer has tokens; those have no text.
    fn known(&self, id: u32) -> Option<u32> {
        Some(id).filter(|&id| (id as usize) < self.tokenizer.vocab())
    }

    /// Logits behind `tokens[from..]`, a row for each.
    fn forward(&mut self, tokens: &[u32], from: usize) -> Result<Array2<f32>> {
        let logits = self.engine.forward(&mut self.session, tokens, from)?;
        self.held.extend_from_slice(tokens);
        Ok(logits)
    }

    fn document(&self, prompt: &str, ids: &[u32], answer: &Answer) -> Result<()> {
        let s = self.sampling();
        ui::print_json(&json!({
            "model": self.args.model.display().to_string(),
            "prompt": prompt,
            "prompt_ids": ids,
            "text": answer.text,
            "ids": answer.ids,
            "stop": answer.stop,
            "seed": s.seed,
            "sampling": {
                "temperature": s.temperature,
                "top_k": s.top_k,
                "top_p": s.top_p,
                "min_p": s.min_p,
                "repeat_penalty": s.repeat_penalty,
                "repeat_window": s.repeat_window,
            },
            "timings": {
                "prompt_tokens": answer.prompt_tokens,
                "prompt_seconds": answer.prompt_seconds,
                "generated_tokens": answer.ids.len(),
                "generation_seconds": answer.seconds,
                "tokens_per_second": rate(answer.ids.len(), answer.seconds),
            },
        }))
    }

    fn summary(&self, answer: &Answer) {
        let stop = match answer.stop {
            "end" => "",
            "length" => "; stopped at -n",
            "context" => "; the context is full",
            _ => "; interrupted",
        };
        let text = format!(
            "{} prompt tokens ({:.1} tokens/s), {} generated ({:.1} tokens/s){stop}",
            answer.prompt_tokens,
            rate(answer.prompt_tokens, answer.prompt_seconds),
            answer.ids.len(),
            rate(answer.ids.len(), answer.seconds),
        );
        ui::message(self.common, &text);
    }
}

/// Tokens per second, or 0 if no time has passed.
fn rate(tokens: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 }
}
