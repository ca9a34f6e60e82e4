//! What can be asked of a model that runs: logits of tokens, with or without an observer.

use aurora_quantizers::{elements, matrix};
use ndarray::{Array2, ArrayView2};

use super::batch::{Batch, finite};
use super::cache::{self, Cache};
use super::loaded::{BATCH, Engine, check_tokens, heads};
use super::session::Session;
use super::{Tap, blame};
use crate::model::{ModelGraph, Op};
use crate::{Error, Result};

/// Rows whose logits are computed together: 64 of 256,000 numbers are 64 MB.
const HEAD_ROWS: usize = 64;

/// Receives logits: the index of the first token, and a row for it and each of those that follow, `[tokens, vocab]`.
type Receiver<'f> = &'f mut (dyn FnMut(usize, ArrayView2<'_, f32>) + Send);

impl Engine<'_> {
    /// An empty sequence.
    pub fn session(&self) -> Session {
        let cache = |(heads, dim)| Cache::new(self.options.cache, heads, dim);
        Session { used: 0, caches: heads(self.model.graph.blocks.iter().flatten()).map(cache).collect() }
    }

    /// Runs `tokens` after what the session holds and returns the logits of those from index `from` on,
    /// `[tokens.len() - from, vocab]`. `from` may be `tokens.len()`: then the session is filled, no more.
    /// After an error the session holds what it held before.
    ///
    /// # Errors
    /// If the tokens do not fit the context, a token is outside the vocabulary, or a value is not finite (the error
    /// names the first op and tensor).
    ///
    /// # Panics
    /// If `from` is past the end, or the session is another engine's.
    pub fn forward(&self, session: &mut Session, tokens: &[u32], from: usize) -> Result<Array2<f32>> {
        self.collect(session, tokens, from, None)
    }

    /// As [`Engine::forward`], but hands over logits some rows at a time, so that those of a long text need not be in
    /// memory together: `each(index of the first token, rows)`, the rows `[tokens, vocab]`, one after the other.
    ///
    /// # Errors
    /// As [`Engine::forward`]. What has been handed over by then is valid.
    pub fn forward_each(
        &self,
        session: &mut Session,
        tokens: &[u32],
        from: usize,
        each: &mut (dyn FnMut(usize, ArrayView2<'_, f32>) + Send),
    ) -> Result<()> {
        self.run(session, tokens, from, None, each)
    }

    /// As [`Engine::forward`], with an observer of the inputs of every linear.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_tapped(
        &self,
        session: &mut Session,
        tokens: &[u32],
        from: usize,
        tap: &mut dyn Tap,
    ) -> Result<Array2<f32>> {
        self.collect(session, tokens, from, Some(tap))
    }

    /// Bytes that generating one token reads when `used` positions are filled: all matrices that it is multiplied with
    /// (of a mixture, the share of experts that it uses), and the keys and values that it sees.
    pub fn bytes_per_token(&self, used: usize) -> u64 {
        let graph = &self.model.graph;
        let mut bytes = 0;
        for op in graph.embed.iter().chain(graph.blocks.iter().flatten()).chain(&graph.head) {
            bytes += match op {
                Op::Linear { weight, experts: None, .. } => self.params.matrix_bytes(*weight),
                Op::Linear { weight, experts: Some(route), .. } => {
                    self.params.matrix_bytes(*weight) / graph.param(*weight).shape[0] * graph.slots[route.0]
                }
                Op::Attend { kv_heads, head_dim, window, .. } => {
                    let seen = window.map_or(used, |w| used.min(w));
                    seen * cache::bytes_per_position(self.options.cache, *kv_heads, *head_dim)
                }
                _ => 0,
            } as u64;
        }
        bytes
    }

    fn collect(
        &self,
        session: &mut Session,
        tokens: &[u32],
        from: usize,
        tap: Option<&mut dyn Tap>,
    ) -> Result<Array2<f32>> {
        let mut logits = Vec::new();
        self.run(session, tokens, from, tap, &mut |_, rows| logits.extend_from_slice(elements(rows)))?;
        let graph = &self.model.graph;
        let shape = (tokens.len() - from, graph.slots[graph.logits.0]);
        Ok(Array2::from_shape_vec(shape, logits).expect("a row for every token"))
    }

    fn run(
        &self,
        session: &mut Session,
        tokens: &[u32],
        from: usize,
        mut tap: Option<&mut dyn Tap>,
        each: Receiver<'_>,
    ) -> Result<()> {
        assert!(from <= tokens.len(), "logits from token {from} of {}", tokens.len());
        let attentions = heads(self.model.graph.blocks.iter().flatten()).count();
        assert_eq!(session.caches.len(), attentions, "the session is this engine's");
        let (before, context) = (session.used, self.options.context);
        if tokens.len() > context - before {
            let what = format!("{} tokens after {before} do not fit a context of {context}", tokens.len());
            return Err(Error::text(what));
        }
        check_tokens(self.model, tokens, context)?;
        // On a thread of the pool, so that handing work to it needs no waking and waiting from outside.
        let result = rayon::scope(|_| {
            for (i, batch) in tokens.chunks(BATCH).enumerate() {
                let at = i * BATCH;
                let skip = from.saturating_sub(at).min(batch.len());
                // The reborrow shortens the observer's lifetime to this batch.
                let tap = tap.as_mut().map(|t| &mut **t as &mut dyn Tap);
                self.batch(session, batch, skip, tap, &mut |first, rows| each(at + first, rows))?;
                session.used += batch.len();
            }
            Ok(())
        });
        if result.is_err() {
            session.used = before;
        }
        result
    }

    /// At most [`BATCH`] tokens; logits of those from `skip` on.
    fn batch(
        &self,
        session: &mut Session,
        tokens: &[u32],
        skip: usize,
        tap: Option<&mut dyn Tap>,
        each: Receiver<'_>,
    ) -> Result<()> {
        let graph = &self.model.graph;
        let (first, keep) = (session.used, tokens.len() - skip);
        let mut batch = Batch::new(self, tokens, first, keep);
        batch.tap = tap;
        let caches = &mut session.caches;
        let looked = batch.body(caches).and_then(|()| batch.head(graph, caches, &mut |at, x| each(skip + at, x)));
        debug_assert!(looked.is_ok(), "nothing is looked at in the first run");
        if batch.finite {
            return Ok(());
        }
        // Something went wrong: once more, looking at every op's output.
        let mut batch = Batch::new(self, tokens, first, keep);
        batch.suspicious = true;
        match batch.body(caches).and_then(|()| batch.head(graph, caches, &mut |_, _| {})) {
            Err(culprit) => Err(blame::error(&batch, &culprit)),
            Ok(()) => Err(blame::unknown(&batch)),
        }
    }
}

impl Batch<'_, '_, '_> {
    /// Residual stream to logits, some rows at a time.
    fn head(
        &mut self,
        graph: &ModelGraph,
        caches: &mut [Cache],
        each: Receiver<'_>,
    ) -> std::result::Result<(), super::batch::Culprit> {
        let width = graph.slots[graph.residual.0];
        let all = std::mem::take(&mut self.slots[graph.residual.0]);
        for (i, rows) in all.chunks(HEAD_ROWS * width).enumerate() {
            self.slots[graph.residual.0] = rows.to_vec();
            self.stretch(&graph.head, caches)?;
            let logits = &self.slots[graph.logits.0];
            if !finite(logits) {
                self.finite = false;
                return Ok(());
            }
            each(i * HEAD_ROWS, matrix(logits, graph.slots[graph.logits.0]));
        }
        Ok(())
    }
}
