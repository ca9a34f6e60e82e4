//! Which layers matter least: one after the other, each time the one without which the model's distribution over
//! the next token changes least, with those gone that went before.

use aurora_quantizers::metrics;
use ndarray::{Array2, Axis, s};
use rayon::prelude::*;

use super::task::layer;
use crate::Result;
use crate::record::PassRecord;
use crate::runtime::{BlockRunner, Overrides};
use crate::watch::Watch;

/// Tokens that it is measured on: the mean of so many tells layers apart, and the model is run on them for every layer.
const TOKENS: usize = 4096;

/// Rows of logits at a time.
const ROWS: usize = 64;

/// Measures layers on some of the text.
pub(super) struct Layers<'l, 'a> {
    runner: &'l BlockRunner<'a>,
    /// In front of the first block.
    start: Vec<Array2<f32>>,
    /// Behind the last.
    end: Vec<Array2<f32>>,
}

impl<'l, 'a> Layers<'l, 'a> {
    /// Runs the whole model.
    ///
    /// # Errors
    /// Those of the runner.
    pub fn new(runner: &'l BlockRunner<'a>, samples: &[Vec<u32>]) -> Result<Layers<'l, 'a>> {
        let each = samples.iter().map(Vec::len).max().unwrap_or(1).max(1);
        let some = &samples[..samples.len().min((TOKENS / each).max(1))];
        let start = some.iter().map(|tokens| runner.embed(tokens)).collect::<Result<Vec<_>>>()?;
        let mut layers = Layers { runner, end: start.clone(), start };
        let mut end = layers.start.clone();
        (0..runner.model().graph.blocks.len()).try_for_each(|block| layers.through(block, &mut end))?;
        layers.end = end;
        Ok(layers)
    }

    fn through(&self, block: usize, samples: &mut [Array2<f32>]) -> Result<()> {
        self.runner.block(block, &Overrides::new()).run_all(samples, None)?;
        self.runner.release(Some(block));
        Ok(())
    }

    /// Mean KL divergence from the whole model if the last block leaves `ends`.
    fn divergence(&self, ends: &[Array2<f32>]) -> f64 {
        let (mut sum, mut count) = (0.0, 0);
        for (whole, cut) in self.end.iter().zip(ends) {
            for from in (0..whole.nrows()).step_by(ROWS) {
                let rows = s![from..whole.nrows().min(from + ROWS), ..];
                let (base, found) = (self.runner.logits(whole.slice(rows)), self.runner.logits(cut.slice(rows)));
                let each = (0..base.nrows()).into_par_iter();
                let each =
                    each.map(|i| metrics::compare(base.index_axis(Axis(0), i), found.index_axis(Axis(0), i), 0).kl);
                // Collected first, because parallel sums have an order of their own.
                let each: Vec<f64> = each.collect();
                sum += each.iter().sum::<f64>();
                count += each.len();
            }
        }
        sum / count.max(1) as f64
    }

    /// Removes `gone` of the blocks, `run` neighbours at a time, and says what each step cost.
    ///
    /// # Errors
    /// If a value is not finite, or the watch says to stop.
    pub fn choose(&self, gone: usize, run: usize, watch: &dyn Watch) -> Result<(Vec<usize>, Vec<PassRecord>)> {
        let mut blocks: Vec<usize> = (0..self.runner.model().graph.blocks.len()).collect();
        let (mut records, mut before) = (Vec::new(), 0.0);
        for step in 0..gone / run {
            watch.stage(&format!("removing layers: {}/{gone}", (step + 1) * run));
            let mut stream = self.start.clone();
            let mut least: Option<(f64, usize)> = None;
            for at in 0..=blocks.len() - run {
                watch.go_on()?;
                let mut ends = stream.clone();
                blocks[at + run..].iter().try_for_each(|block| self.through(*block, &mut ends))?;
                let cost = self.divergence(&ends);
                if least.is_none_or(|(found, _)| cost < found) {
                    least = Some((cost, at));
                }
                self.through(blocks[at], &mut stream)?;
            }
            let (cost, at) = least.expect("blocks are left");
            for block in blocks.drain(at..at + run) {
                let mut record = layer(block);
                record.tokens = self.start.iter().map(|sample| sample.nrows() as u64).sum();
                record.fact("kl_before", before);
                record.fact("kl", cost);
                records.push(record);
            }
            before = cost;
        }
        Ok((blocks, records))
    }
}
