//! Perplexity by the protocol of llama-perplexity.
//!
//! The whole text becomes tokens (with a begin mark where the model wants one) and is cut into chunks of `context`
//! tokens; what is left at the end is dropped. In every chunk the begin mark takes the place of the first token, again
//! where the model wants one. Only tokens with at least half a context before them are scored: logits of positions
//! `context / 2 ..= context - 2` against the tokens that follow them. Perplexity is exp of the mean NLL.

use std::ops::Range;

use aurora_quantizers::metrics::{self, Comparison, Estimate};
use rayon::prelude::*;

use super::Scorer;
use super::logits::LogitsFile;
use crate::{Error, Result};

/// Fewest tokens of a chunk: with fewer, none has half a chunk before it and one after it.
pub const SHORTEST: usize = 4;

/// Numbers of the reference's logits that are kept at a time: 64 MiB of them.
const KEPT: usize = 16 << 20;

/// A text cut into chunks.
#[derive(Debug)]
pub struct Chunks<'a> {
    tokens: &'a [u32],
    context: usize,
    bos: Option<u32>,
}

impl<'a> Chunks<'a> {
    /// Cuts `tokens` into whole chunks of `context` tokens, at most `most` of them. `bos` replaces the first token of each.
    ///
    /// # Errors
    /// If the text is empty or does not fill one chunk: how long it is, what to ask for.
    pub fn new(tokens: &'a [u32], context: usize, bos: Option<u32>, most: Option<usize>) -> Result<Self> {
        if context < SHORTEST {
            return Err(Error::unsupported(format!("--context {context}: scoring needs at least {SHORTEST} tokens")));
        }
        // A begin mark alone is no text.
        if tokens.is_empty() || (tokens.len() == 1 && tokens.first().copied() == bos) {
            return Err(Error::unsupported("the text is empty; there is nothing to score"));
        }
        let whole = tokens.len() / context;
        if whole == 0 {
            let advice = match tokens.len() {
                n if n < SHORTEST => "name a longer text".to_owned(),
                n => format!("name a longer text or use --context {n} or less"),
            };
            return Err(Error::unsupported(format!(
                "the text has {} tokens, one chunk of --context {context} needs {context}; {advice}",
                tokens.len()
            )));
        }
        let count = most.map_or(whole, |n| n.min(whole));
        Ok(Chunks { tokens: &tokens[..count * context], context, bos })
    }

    /// How many chunks there are.
    pub fn count(&self) -> usize {
        self.tokens.len() / self.context
    }

    /// Tokens of a chunk.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Tokens scored in every chunk.
    pub fn scored(&self) -> usize {
        self.rows().len()
    }

    /// The tokens of all chunks, as they are in the text.
    pub fn tokens(&self) -> &'a [u32] {
        self.tokens
    }

    /// Positions whose logits are scored.
    fn rows(&self) -> Range<usize> {
        self.context / 2..self.context - 1
    }

    /// The tokens that the model sees of chunk `i`: all but the last, which is only predicted.
    fn input(&self, i: usize) -> Vec<u32> {
        let mut input = self.tokens[i * self.context..(i + 1) * self.context - 1].to_vec();
        if let Some(bos) = self.bos {
            input[0] = bos;
        }
        input
    }

    /// The token that follows position `at` of chunk `i`.
    fn target(&self, i: usize, at: usize) -> usize {
        self.tokens[i * self.context + at + 1] as usize
    }
}

/// Told after every chunk.
pub trait Watch {
    /// `done` chunks are scored; `so_far` is the perplexity of those. An error ends the run.
    ///
    /// # Errors
    /// If the run must not go on (interrupted, a file changed).
    fn chunk(&mut self, done: usize, so_far: Estimate) -> Result<()>;
}

/// Scores of every token, in the order of the text.
#[derive(Debug, Clone, PartialEq)]
pub enum Scores {
    /// -ln p of each, nats.
    Alone(Vec<f64>),
    /// Beside a reference.
    Beside(Vec<Comparison>),
}

impl Scores {
    /// Perplexity of the model, exp(mean NLL).
    pub fn perplexity(&self) -> Estimate {
        self.nll().exp()
    }

    /// Mean NLL of the model, nats.
    pub fn nll(&self) -> Estimate {
        match self {
            Scores::Alone(nll) => Estimate::mean(nll.iter().copied()),
            Scores::Beside(all) => Estimate::mean(all.iter().map(|c| c.nll)),
        }
    }

    /// Tokens scored.
    pub fn count(&self) -> usize {
        match self {
            Scores::Alone(nll) => nll.len(),
            Scores::Beside(all) => all.len(),
        }
    }
}

/// Scores `chunks` with `model`, writing its log-probabilities to `file` if there is one.
///
/// # Errors
/// Those of the model, of the file and of `watch`.
pub fn alone(
    model: &mut dyn Scorer,
    chunks: &Chunks,
    mut file: Option<&mut LogitsFile>,
    watch: &mut dyn Watch,
) -> Result<Scores> {
    let vocab = model.vocab();
    let mut scores = Vec::with_capacity(chunks.count() * chunks.scored());
    for i in 0..chunks.count() {
        let mut written = Ok(());
        model.start();
        model.feed(&chunks.input(i), chunks.rows().start, &mut |first, rows| {
            score(rows, vocab, &mut scores, |row, logits| metrics::nll(logits, chunks.target(i, first + row)));
            if let Some(file) = file.as_deref_mut().filter(|_| written.is_ok()) {
                written = file.put(rows);
            }
        })?;
        written?;
        watch.chunk(i + 1, Estimate::mean(scores.iter().copied()).exp())?;
    }
    Ok(Scores::Alone(scores))
}

/// Scores `chunks` with `model` and `reference` side by side: of the reference's logits only some rows are held at a time.
///
/// # Errors
/// If the vocabularies differ in size; those of both models, of the file and of `watch`.
pub fn beside(
    model: &mut dyn Scorer,
    reference: &mut dyn Scorer,
    chunks: &Chunks,
    mut file: Option<&mut LogitsFile>,
    watch: &mut dyn Watch,
) -> Result<Scores> {
    let vocab = model.vocab();
    if reference.vocab() != vocab {
        return Err(Error::unsupported(format!(
            "the model has a vocabulary of {vocab} tokens, the reference one of {}; only models of one vocabulary can be \
             compared",
            reference.vocab()
        )));
    }
    let step = (KEPT / vocab).max(1);
    let mut scores = Vec::with_capacity(chunks.count() * chunks.scored());
    for i in 0..chunks.count() {
        let input = chunks.input(i);
        let mut written = Ok(());
        model.start();
        reference.start();
        // The first piece brings the unscored half with it.
        let (mut start, mut from) = (0, chunks.rows().start);
        while from < input.len() {
            let end = (from + step).min(input.len());
            let mut base = Vec::with_capacity((end - from) * vocab);
            reference.feed(&input[start..end], from - start, &mut |_, rows| base.extend_from_slice(rows))?;
            model.feed(&input[start..end], from - start, &mut |first, rows| {
                let at = start + first;
                let base = &base[(at - from) * vocab..];
                score(rows, vocab, &mut scores, |row, logits| {
                    metrics::compare(&base[row * vocab..][..vocab], logits, chunks.target(i, at + row))
                });
                if let Some(file) = file.as_deref_mut().filter(|_| written.is_ok()) {
                    written = file.put(rows);
                }
            })?;
            (start, from) = (end, end);
        }
        written?;
        watch.chunk(i + 1, Estimate::mean(scores.iter().map(|c: &Comparison| c.nll)).exp())?;
    }
    Ok(Scores::Beside(scores))
}

/// Appends `f(index, row)` of every row, computed in parallel.
fn score<T: Send>(rows: &[f32], vocab: usize, scores: &mut Vec<T>, f: impl Fn(usize, &[f32]) -> T + Sync) {
    scores.par_extend(rows.par_chunks(vocab).enumerate().map(|(i, row)| f(i, row)));
}
