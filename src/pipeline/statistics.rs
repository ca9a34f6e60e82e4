//! A calibration: the walk's visitor that only looks on, and hands over the statistics of every feed.

use aurora_quantizers::SiteStats;

use super::walk::{Each, Head, Samples, Stop, Visit, walk};
use crate::Result;
use crate::calibrate::Wanted;
use crate::calibrate::observe::{Feed, Observer, feeds};
use crate::model::Site;
use crate::runtime::BlockRunner;
use crate::watch::Watch;

/// Receives the statistics of a feed.
pub type Sink<'s> = &'s mut dyn FnMut(&Feed, SiteStats) -> Result<()>;

/// Runs all samples and hands over the statistics of every feed, in the order in which the model computes.
///
/// # Errors
/// If a token does not fit the model, a value is not finite (the error names block and tensor), or `sink` or `watch`
/// fail.
pub fn collect(
    runner: &BlockRunner<'_>,
    samples: &[Vec<u32>],
    wanted: Wanted,
    sink: Sink<'_>,
    watch: &dyn Watch,
) -> Result<()> {
    let graph = &runner.model().graph;
    watch.begin((samples.len() * (graph.blocks.len() + 1)) as u64);
    let mut visit = Collect { sites: graph.sites(), wanted, sink, watch };
    walk(runner, Samples::Tokens(samples), 0..graph.blocks.len(), &mut visit)?;
    watch.advance("calibrating", samples.len() as u64);
    watch.go_on()
}

struct Collect<'c> {
    sites: Vec<Site>,
    wanted: Wanted,
    sink: Sink<'c>,
    watch: &'c dyn Watch,
}

impl Visit for Collect<'_> {
    fn block(&mut self, stop: &mut Stop<'_, '_>) -> Result<()> {
        let mut observer = Observer::new(feeds(&self.sites, Some(stop.index())), self.wanted.gram);
        let (watch, mut before) = (self.watch, 0);
        let each: Each<'_> = &mut |done| {
            watch.advance("calibrating", (done - before) as u64);
            before = done;
            watch.go_on()
        };
        stop.observe_through(&mut observer, each)?;
        observer.finish().into_iter().try_for_each(|(feed, stats)| (self.sink)(&feed, stats))
    }

    fn head(&mut self, head: &Head<'_, '_>) -> Result<()> {
        if !self.wanted.output {
            return Ok(());
        }
        let mut observer = Observer::new(feeds(&self.sites, None), self.wanted.gram);
        head.observe(&mut observer, &mut |_| self.watch.go_on())?;
        observer.finish().into_iter().try_for_each(|(feed, stats)| (self.sink)(&feed, stats))
    }
}
