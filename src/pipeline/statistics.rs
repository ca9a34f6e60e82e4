//! A calibration: a visitor of the walk that only observes, and hands over the statistics of every feed.

use aurora_quantizers::SiteStats;
use aurora_quantizers::tree::Place;

use super::walk::{Each, Head, Samples, Stop, Visit, walk};
use crate::Result;
use crate::calibrate::Wanted;
use crate::calibrate::observe::{Feed, Observer, feeds};
use crate::calibrate::shard::{self, Shard};
use crate::model::Site;
use crate::runtime::BlockRunner;
use crate::watch::Watch;

/// Receives the statistics of a feed: the sums of a shard's nodes, or a single one over all samples.
pub type Receive<'s> = &'s mut dyn FnMut(&Feed, Vec<(Place, SiteStats)>) -> Result<()>;

/// Runs all samples and hands over the statistics of every feed, in execution order.
///
/// # Errors
/// If a token does not fit the model, a value is not finite (the error names block and tensor), or `sink` or `watch`
/// fail.
pub fn collect(
    runner: &BlockRunner<'_>,
    samples: &[Vec<u32>],
    wanted: Wanted,
    sink: &mut dyn FnMut(&Feed, SiteStats) -> Result<()>,
    watch: &dyn Watch,
) -> Result<()> {
    let shard = Shard::whole(samples.len(), runner.options().context);
    let mut whole =
        |feed: &Feed, nodes: Vec<(Place, SiteStats)>| nodes.into_iter().try_for_each(|(_, stats)| sink(feed, stats));
    collect_shard(runner, samples, &shard, wanted, &mut whole, watch)
}

/// Like [`collect`], for a shard. `samples`: the shard's own.
///
/// # Errors
/// As [`collect`].
///
/// # Panics
/// If the number of samples is not the shard's, or the runner's context implies another leaf size.
pub fn collect_shard(
    runner: &BlockRunner<'_>,
    samples: &[Vec<u32>],
    shard: &Shard,
    wanted: Wanted,
    sink: Receive<'_>,
    watch: &dyn Watch,
) -> Result<()> {
    assert_eq!(samples.len(), shard.samples().len(), "samples of the shard");
    assert_eq!(shard::leaf(runner.options().context), shard.leaf, "samples of a leaf");
    let graph = &runner.model().graph;
    watch.begin((samples.len() * (graph.blocks.len() + 1)) as u64);
    let mut visit = Collect { sites: graph.sites(), shard, wanted, sink, watch };
    walk(runner, Samples::Tokens(samples), 0..graph.blocks.len(), &mut visit)?;
    watch.advance("calibrating", samples.len() as u64);
    watch.go_on()
}

struct Collect<'c> {
    sites: Vec<Site>,
    shard: &'c Shard,
    wanted: Wanted,
    sink: Receive<'c>,
    watch: &'c dyn Watch,
}

impl Collect<'_> {
    fn observer(&self, block: Option<usize>) -> Observer {
        Observer::new(feeds(&self.sites, block), self.wanted.gram, self.shard)
    }

    fn hand_over(&mut self, observer: Observer) -> Result<()> {
        observer.nodes().try_for_each(|(feed, nodes)| (self.sink)(&feed, nodes))
    }
}

impl Visit for Collect<'_> {
    fn block(&mut self, stop: &mut Stop<'_, '_>) -> Result<()> {
        let mut observer = self.observer(Some(stop.index()));
        let (watch, mut before) = (self.watch, 0);
        let each: Each<'_> = &mut |done| {
            watch.advance("calibrating", (done - before) as u64);
            before = done;
            watch.go_on()
        };
        stop.observe_through(&mut observer, each)?;
        self.hand_over(observer)
    }

    fn head(&mut self, head: &Head<'_, '_>) -> Result<()> {
        if !self.wanted.output {
            return Ok(());
        }
        let mut observer = self.observer(None);
        head.observe(&mut observer, &mut |_| self.watch.go_on())?;
        self.hand_over(observer)
    }
}
