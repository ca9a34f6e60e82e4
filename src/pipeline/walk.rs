//! The one block loop: all samples wait in front of a block, a visitor works there, all samples go through it, and so
//! on to the head.
//!
//! It takes a runner and samples, either as tokens or as the residual streams that an earlier run left; the visitor
//! produces the results. Samples go leaf by leaf ([`shard`]), so which of them go together, and with it every bit, does
//! not depend on where a text was cut. Memory holds the residual streams of all samples and the weights of one block.
//! The loop knows nothing of methods or files.

use std::ops::Range;

use ndarray::Array2;

use crate::calibrate::not_finite;
use crate::calibrate::observe::Observer;
use crate::calibrate::shard;
use crate::runtime::{BlockRunner, LinearInput, Overrides, Tap};
use crate::{Error, Result};

/// What goes through the model.
pub enum Samples<'s> {
    /// Token sequences, each starting at position 0.
    Tokens(&'s [Vec<u32>]),
    /// The residual stream of each in front of the first block of the walk, `[tokens, width]`.
    Residuals(Vec<Array2<f32>>),
}

/// Works at every stop of a walk.
pub trait Visit {
    /// Called when all samples are in front of a block. Those that the visitor leaves there go through it afterwards,
    /// with the stored weights.
    ///
    /// # Errors
    /// Any error ends the walk.
    fn block(&mut self, stop: &mut Stop<'_, '_>) -> Result<()>;

    /// Called when all samples are through the last block of the model.
    ///
    /// # Errors
    /// Any error ends the walk.
    fn head(&mut self, head: &Head<'_, '_>) -> Result<()>;
}

/// Takes the samples through some blocks. If the model's last block is among them, the head is visited too.
///
/// # Errors
/// If a token does not fit the model, a value is not finite (the error names block, op and tensor), or the visitor
/// fails.
///
/// # Panics
/// If there are no such blocks, or a residual stream has another width or not its rows one after the other.
pub fn walk(runner: &BlockRunner<'_>, samples: Samples<'_>, blocks: Range<usize>, visit: &mut dyn Visit) -> Result<()> {
    let mut residuals = match samples {
        Samples::Tokens(samples) => samples.iter().map(|tokens| runner.embed(tokens)).collect::<Result<Vec<_>>>()?,
        Samples::Residuals(residuals) => residuals,
    };
    runner.release(None);
    let last = blocks.end;
    for index in blocks {
        let mut stop = Stop { runner, index, residuals: &mut residuals, through: false };
        visit.block(&mut stop)?;
        if !stop.through {
            stop.through(&Overrides::new(), &mut |_| Ok(()))?;
        }
        runner.release(Some(index));
    }
    if last == runner.model().graph.blocks.len() {
        visit.head(&Head { runner, residuals: &residuals })?;
    }
    Ok(())
}

/// Told how many samples are done, and decides whether to continue.
pub type Each<'e> = &'e mut dyn FnMut(usize) -> Result<()>;

/// All samples in front of one block, or behind it once they have gone through.
pub struct Stop<'w, 'a> {
    runner: &'w BlockRunner<'a>,
    index: usize,
    residuals: &'w mut [Array2<f32>],
    through: bool,
}

impl<'w, 'a> Stop<'w, 'a> {
    /// The block's index.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The runner.
    pub fn runner(&self) -> &'w BlockRunner<'a> {
        self.runner
    }

    /// The residual stream of every sample where it stands now, `[tokens, width]`.
    pub fn residuals(&self) -> &[Array2<f32>] {
        self.residuals
    }

    /// Shows an observer what the block's linear layers read, with the stored weights. The samples stay where they are.
    ///
    /// # Errors
    /// If a value is not finite, or `each` fails.
    pub fn observe(&mut self, observer: &mut Observer, each: Each<'_>) -> Result<()> {
        self.run(&Overrides::new(), Some(observer), false, each)
    }

    /// Like [`Stop::observe`], but the samples go through.
    ///
    /// # Errors
    /// As [`Stop::observe`].
    pub fn observe_through(&mut self, observer: &mut Observer, each: Each<'_>) -> Result<()> {
        self.run(&Overrides::new(), Some(observer), true, each)
    }

    /// Takes all samples through, with other values for some of the block's parameters.
    ///
    /// # Errors
    /// As [`Stop::observe`].
    pub fn through(&mut self, overrides: &Overrides<'_>, each: Each<'_>) -> Result<()> {
        self.run(overrides, None, true, each)
    }

    fn run(
        &mut self,
        overrides: &Overrides<'_>,
        mut observer: Option<&mut Observer>,
        go: bool,
        each: Each<'_>,
    ) -> Result<()> {
        assert!(!self.through, "the samples are through block {} already", self.index);
        let mut block = self.runner.block(self.index, overrides);
        let (leaf, mut done) = (shard::leaf(self.runner.options().context), 0);
        for samples in self.residuals.chunks_mut(leaf) {
            if let Some(observer) = &mut observer {
                observer.begin_leaf(block.at_once(samples));
            }
            let mut rest = samples;
            while !rest.is_empty() {
                let (some, later) = rest.split_at_mut(block.together(rest));
                let tap = observer.as_mut().map(|o| &mut **o as &mut dyn Tap);
                match go {
                    true => block.run_all(some, tap)?,
                    false => block.run_all(&mut some.to_vec(), tap)?,
                }
                if let Some(observer) = &observer {
                    observed(self.runner, observer)?;
                }
                done += some.len();
                each(done)?;
                rest = later;
            }
            if let Some(observer) = &mut observer {
                observer.end_leaf();
            }
        }
        self.through = go;
        Ok(())
    }
}

/// All samples behind the last block.
pub struct Head<'w, 'a> {
    runner: &'w BlockRunner<'a>,
    residuals: &'w [Array2<f32>],
}

impl Head<'_, '_> {
    /// The residual stream of every sample, `[tokens, width]`.
    pub fn residuals(&self) -> &[Array2<f32>] {
        self.residuals
    }

    /// Shows what the output matrix reads to an observer of its feed.
    ///
    /// # Errors
    /// If a value is not finite, or `each` fails.
    pub fn observe(&self, observer: &mut Observer, each: Each<'_>) -> Result<()> {
        let Some(reader) = observer.feeds().next().map(|feed| feed.reader()) else { return Ok(()) };
        let (leaf, mut done) = (shard::leaf(self.runner.options().context), 0);
        for samples in self.residuals.chunks(leaf) {
            observer.begin_leaf(samples.len() == 1);
            for residual in samples {
                let x = self.runner.head_inputs(residual.view())?;
                let input = LinearInput { block: None, weight: reader.weight, expert: reader.expert, x: x.view() };
                observer.linear_input(&input);
                observed(self.runner, observer)?;
                done += 1;
                each(done)?;
            }
            observer.end_leaf();
        }
        Ok(())
    }
}

/// Checks that everything observed is finite.
fn observed(runner: &BlockRunner<'_>, observer: &Observer) -> Result<(), Error> {
    observer.check().map_err(|(feed, e)| not_finite(&runner.model().graph, feed, e))
}
