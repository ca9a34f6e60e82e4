//! Perplexity, computed as llama-perplexity does.
//!
//! The whole text is tokenised (with a BOS token if the model wants one) and cut into chunks of `context` tokens; the
//! rest at the end is dropped. In every chunk, the BOS token replaces the first token, again if the model wants one.
//! Only tokens with at least half a context before them are scored: the logits of positions
//! `context / 2 ..= context - 2`, against the tokens that follow them. Perplexity is exp of the mean NLL.

use aurora_quantizers::elements;
use aurora_quantizers::metrics::{self, Comparison, Estimate};
use ndarray::{Array2, ArrayView1, ArrayView2, aview1};
use rayon::prelude::*;

use super::chunks::Chunks;
use super::logits::LogitsFile;
use super::scorer::Scorer;
use crate::watch::Watch;
use crate::{Error, Result};

/// How many of the reference's logits are held at a time: 64 MiB.
const KEPT: usize = 16 << 20;

/// The scores of all tokens, in text order.
#[derive(Debug, Clone, PartialEq)]
pub enum Scores {
    /// -ln p of each token, in nats.
    Alone(Vec<f64>),
    /// Compared with a reference.
    Beside(Vec<Comparison>),
}

impl Scores {
    /// Perplexity of the model, exp(mean NLL).
    pub fn perplexity(&self) -> Estimate {
        self.nll().exp()
    }

    /// Mean NLL of the model, in nats.
    pub fn nll(&self) -> Estimate {
        match self {
            Scores::Alone(nll) => Estimate::mean(nll.iter().copied()),
            Scores::Beside(all) => Estimate::mean(all.iter().map(|c| c.nll)),
        }
    }

    /// Number of tokens scored.
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
    watch: &dyn Watch,
) -> Result<Scores> {
    watch.begin(chunks.count() as u64);
    let mut scores = Vec::with_capacity(chunks.count() * chunks.scored());
    for i in 0..chunks.count() {
        let mut written = Ok(());
        model.start();
        model.feed(&chunks.input(i), chunks.rows().start, &mut |first, rows| {
            score(rows, &mut scores, |row, logits| metrics::nll(logits, chunks.target(i, first + row)));
            if let Some(file) = file.as_deref_mut().filter(|_| written.is_ok()) {
                written = file.put(rows);
            }
        })?;
        written?;
        tell(watch, Estimate::mean(scores.iter().copied()))?;
    }
    Ok(Scores::Alone(scores))
}

/// Scores `chunks` with `model` and `reference` side by side. Only some rows of the reference's logits are held at a
/// time.
///
/// # Errors
/// If the vocabularies differ in size; those of both models, of the file and of `watch`.
pub fn beside(
    model: &mut dyn Scorer,
    reference: &mut dyn Scorer,
    chunks: &Chunks,
    mut file: Option<&mut LogitsFile>,
    watch: &dyn Watch,
) -> Result<Scores> {
    let vocab = model.vocab();
    if reference.vocab() != vocab {
        let what = format!(
            "the model has a vocabulary of {vocab} tokens, the reference one of {}; only models with the same \
             vocabulary can be compared",
            reference.vocab()
        );
        return Err(Error::conflict(["model", "reference"], what));
    }
    watch.begin(chunks.count() as u64);
    let step = (KEPT / vocab).max(1);
    let mut scores = Vec::with_capacity(chunks.count() * chunks.scored());
    for i in 0..chunks.count() {
        let input = chunks.input(i);
        let mut written = Ok(());
        model.start();
        reference.start();
        // The first piece includes the unscored half.
        let (mut start, mut from) = (0, chunks.rows().start);
        while from < input.len() {
            let end = (from + step).min(input.len());
            let mut base = Vec::with_capacity((end - from) * vocab);
            let each = &mut |_, rows: ArrayView2<'_, f32>| base.extend_from_slice(elements(rows));
            reference.feed(&input[start..end], from - start, each)?;
            let base = Array2::from_shape_vec((end - from, vocab), base).expect("a row for every token");
            model.feed(&input[start..end], from - start, &mut |first, rows| {
                let at = start + first;
                score(rows, &mut scores, |row, logits| {
                    metrics::compare(base.row(at - from + row), logits, chunks.target(i, at + row))
                });
                if let Some(file) = file.as_deref_mut().filter(|_| written.is_ok()) {
                    written = file.put(rows);
                }
            })?;
            (start, from) = (end, end);
        }
        written?;
        tell(watch, Estimate::mean(scores.iter().map(|c: &Comparison| c.nll)))?;
    }
    Ok(Scores::Beside(scores))
}

/// Reports a scored chunk. `nll`: the mean over all chunks so far.
fn tell(watch: &dyn Watch, nll: Estimate) -> Result<()> {
    let so_far = nll.exp();
    watch.advance(&format!("perplexity {:.4} +- {:.4}", so_far.value, so_far.error), 1);
    watch.go_on()
}

/// Appends `f(index, row)` of every row, computed in parallel.
fn score<T: Send>(rows: ArrayView2<'_, f32>, scores: &mut Vec<T>, f: impl Fn(usize, ArrayView1<'_, f32>) -> T + Sync) {
    let each = elements(rows).par_chunks(rows.ncols());
    scores.par_extend(each.enumerate().map(|(i, row)| f(i, aview1(row))));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use aurora_quantizers::matrix;

    use super::*;

    const VOCAB: usize = 50;

    /// Logits that depend on the token, on its place, and on the token before: enough to notice a shift by one.
    struct Synthetic {
        seen: Vec<u32>,
        salt: u32,
    }

    fn logits(seen: &[u32], salt: u32) -> Vec<f32> {
        let state =
            seen.iter().rev().take(2).fold(seen.len() as u32 ^ salt, |h, &t| (h ^ t).wrapping_mul(2_654_435_761));
        (0..VOCAB as u32).map(|i| ((state ^ i).wrapping_mul(2_246_822_519) >> 20) as f32 / 512.0).collect()
    }

    impl Scorer for Synthetic {
        fn vocab(&self) -> usize {
            VOCAB
        }

        fn start(&mut self) {
            self.seen.clear();
        }

        fn feed(&mut self, tokens: &[u32], from: usize, each: super::super::scorer::Receiver<'_>) -> Result<()> {
            for (i, &t) in tokens.iter().enumerate() {
                self.seen.push(t);
                if i >= from {
                    each(i, matrix(&logits(&self.seen, self.salt), VOCAB));
                }
            }
            Ok(())
        }
    }

    #[derive(Default)]
    struct Count {
        units: AtomicU64,
        done: AtomicU64,
    }

    impl Watch for Count {
        fn begin(&self, units: u64) {
            self.units.store(units, Ordering::Relaxed);
        }

        fn advance(&self, what: &str, units: u64) {
            assert!(what.starts_with("perplexity ") && !what.contains("NaN"), "{what}");
            self.done.fetch_add(units, Ordering::Relaxed);
        }
    }

    fn text(n: u32) -> Vec<u32> {
        (0..n).map(|i| i.wrapping_mul(2_654_435_761) % VOCAB as u32).collect()
    }

    /// The protocol once more, in the plainest words.
    fn directly(tokens: &[u32], context: usize, bos: Option<u32>) -> Vec<f64> {
        let mut all = Vec::new();
        for chunk in tokens.chunks_exact(context) {
            let mut input = chunk.to_vec();
            input[0] = bos.unwrap_or(input[0]);
            for next in context / 2 + 1..context {
                all.push(metrics::nll(aview1(&logits(&input[..next], 0)), chunk[next] as usize));
            }
        }
        all
    }

    #[test]
    fn the_second_half_of_every_chunk_is_scored() {
        let tokens = text(200);
        for (context, bos) in [(64, Some(3)), (64, None), (33, Some(0)), (4, None), (5, Some(7)), (200, None)] {
            let chunks = Chunks::new(&tokens, context, bos, None).unwrap();
            let watch = Count::default();
            let found = alone(&mut Synthetic { seen: vec![], salt: 0 }, &chunks, None, &watch).unwrap();
            let expected = directly(&tokens, context, bos);
            let counts = [&watch.units, &watch.done].map(|n| n.load(Ordering::Relaxed));
            assert_eq!(counts, [200 / context as u64; 2]);
            assert_eq!(found, Scores::Alone(expected.clone()), "context {context}");
            let mut reference = Synthetic { seen: vec![], salt: 1 };
            let beside =
                beside(&mut Synthetic { seen: vec![], salt: 0 }, &mut reference, &chunks, None, &Count::default())
                    .unwrap();
            let Scores::Beside(all) = &beside else { panic!("beside a reference") };
            assert_eq!(all.iter().map(|c| c.nll).collect::<Vec<_>>(), expected);
            assert_eq!(beside.perplexity(), found.perplexity());
        }
    }

    #[test]
    fn only_as_many_chunks_as_asked() {
        let tokens = text(200);
        let count = |most| Chunks::new(&tokens, 64, None, most).unwrap().count();
        assert_eq!([None, Some(1), Some(9)].map(count), [3, 1, 3]);
    }

    #[test]
    fn a_text_that_fills_no_chunk_is_refused() {
        let error = |tokens: &[u32], bos| Chunks::new(tokens, 64, bos, None).unwrap_err().to_string();
        assert!(error(&[], None).contains("empty") && error(&[1], Some(1)).contains("empty"));
        assert!(error(&[1, 2], None).ends_with("use a longer text"));
        assert!(error(&text(63), None).contains("has 63 tokens, but one chunk of `context` 64 needs 64"));
    }
}
