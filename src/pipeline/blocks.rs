//! The methods on a walk: at each block, the inputs of its linear layers are observed, the passes work on it, and its
//! bytes are written.
//!
//! Memory holds the residual stream of all samples, and the statistics and codes of one block. The order of all sums is
//! fixed, so the bytes are the same for any number of threads.

use std::collections::BTreeMap;

use aurora_quantizers::{SiteStats, Store};

use super::done::Done;
use super::rerun::Rerun;
use super::resume::Resume;
use super::rounding::AfterBlocks;
use super::walk::{Head, Samples, Stop, Visit, walk};
use crate::calibrate::observe::{Feed, Observer, feeds};
use crate::calibrate::shard::Shard;
use crate::export::Sink;
use crate::model::{Model, ModelGraph, ParamId, Reader, Site};
use crate::passes::{self, BlockState, Log, Pass, SiteState, StatsKind};
use crate::plan::Plan;
use crate::recipe::Propagate;
use crate::record::PassRecord;
use crate::runtime::{Attention, BlockRunner, CacheType, Overrides, RuntimeOptions};
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Error, Result};

/// What the block loop should do.
pub struct Chain<'a> {
    /// Token sequences, each run from position 0.
    pub samples: &'a [Vec<u32>],
    /// The passes for every block, in order; the last one leaves no matrix without codes.
    pub passes: &'a [Box<dyn Pass>],
    /// Which inputs to use.
    pub propagate: Propagate,
}

/// Runs the passes over all blocks and the head, and writes what they encode.
///
/// # Errors
/// If a value is not finite (block, op and tensor are named), a matrix cannot be solved, the disk fails, or the watch
/// says to stop.
pub fn run(
    model: &Model,
    weights: &Weights<'_>,
    plan: &Plan,
    chain: &Chain<'_>,
    resume: Option<&Resume>,
    output: &dyn Sink,
    watch: &dyn Watch,
) -> Result<AfterBlocks> {
    let longest = chain.samples.iter().map(Vec::len).max().unwrap_or(0);
    let options = RuntimeOptions { context: longest, exact: true, cache: CacheType::F32, attention: Attention::Flash };
    let runner = BlockRunner::new(model, weights, options)?;
    let mut walked = Walked {
        work: Work::new(model, weights, plan, chain.passes, output, watch),
        chain,
        shard: Shard::whole(chain.samples.len(), longest),
        resume,
    };
    let mut first = 0;
    let mut samples = Samples::Tokens(chain.samples);
    if let Some(state) = resume.map(|resume| resume.load(runner.width())).transpose()?.flatten() {
        (first, samples) = (state.blocks, Samples::Residuals(state.residuals));
        state.done.into_iter().try_for_each(|done| walked.work.keep(done))?;
    }
    walk(&runner, samples, first..model.graph.blocks.len(), &mut walked)?;
    Ok(walked.work.solved)
}

/// The methods, as they visit the blocks of a walk.
struct Walked<'a> {
    work: Work<'a>,
    chain: &'a Chain<'a>,
    shard: Shard,
    resume: Option<&'a Resume>,
}

impl Visit for Walked<'_> {
    fn block(&mut self, stop: &mut Stop<'_, '_>) -> Result<()> {
        let index = stop.index();
        let mut observer = self.observer(Some(index));
        let probes = self.chain.passes.iter().any(|pass| pass.needs().probe);
        let probe = probes.then(|| Rerun::new(stop.runner(), index, stop.residuals()));
        let inputs = format!("block {index}: inputs");
        match self.chain.propagate {
            Propagate::Float => stop.observe_through(&mut observer, &mut self.each(&inputs)?)?,
            Propagate::Quantized => stop.observe(&mut observer, &mut self.each(&inputs)?)?,
        }
        let probe = probe.as_ref().map(|p| p as &dyn passes::Probe);
        let done = self.work.passes(Some(index), &mut seen(&self.work.model.graph, observer), probe)?;
        if self.chain.propagate == Propagate::Quantized {
            stop.through(&self.work.overrides(&done)?, &mut self.each(&format!("block {index}: outputs"))?)?;
        }
        if let Some(resume) = self.resume {
            resume.save(index, &done, stop.residuals())?;
        }
        self.work.keep(done)
    }

    fn head(&mut self, head: &Head<'_, '_>) -> Result<()> {
        let mut observer = self.observer(None);
        head.observe(&mut observer, &mut self.each("output matrix: inputs")?)?;
        let done = self.work.passes(None, &mut seen(&self.work.model.graph, observer), None)?;
        self.work.keep(done)
    }
}

impl Walked<'_> {
    /// An observer for a block, or for the output matrix.
    fn observer(&self, block: Option<usize>) -> Observer {
        let gram = self.chain.passes.iter().any(|p| p.needs().stats == StatsKind::Gram);
        Observer::new(feeds(&self.work.sites, block), gram, &self.shard)
    }

    /// Reports how many samples are done for `what`, and asks whether to continue.
    fn each(&self, what: &str) -> Result<impl FnMut(usize) -> Result<()>> {
        let (watch, all, what) = (self.work.watch, self.chain.samples.len(), what.to_owned());
        let tell = move |done: usize| {
            watch.stage(&format!("{what} {done}/{all}"));
            watch.go_on()
        };
        tell(0)?;
        Ok(tell)
    }
}

/// Hands out the observed statistics, feed by feed.
fn seen<'g>(graph: &'g ModelGraph, observer: Observer) -> impl FnMut(&Feed) -> Result<SiteStats> + 'g {
    let mut seen: BTreeMap<Reader, SiteStats> =
        observer.whole().map(|(feed, stats)| (feed.reader(), stats.as_stored())).collect();
    move |feed| {
        let name = &graph.param(feed.readers[0]).name;
        seen.remove(&feed.reader()).ok_or_else(|| Error::bug(format!("{name}: nothing was seen of its input")))
    }
}

/// What the methods work with, and the results so far.
pub(super) struct Work<'a> {
    model: &'a Model,
    weights: &'a Weights<'a>,
    passes: &'a [Box<dyn Pass>],
    pub stores: Vec<&'static dyn Store>,
    pub sites: Vec<Site>,
    output: &'a dyn Sink,
    watch: &'a dyn Watch,
    pub solved: AfterBlocks,
}

impl<'a> Work<'a> {
    /// Nothing is done yet.
    pub fn new(
        model: &'a Model,
        weights: &'a Weights<'a>,
        plan: &Plan,
        passes: &'a [Box<dyn Pass>],
        output: &'a dyn Sink,
        watch: &'a dyn Watch,
    ) -> Self {
        let stores = plan.tensors.iter().map(|t| t.store).collect();
        let solved = AfterBlocks { written: vec![false; plan.tensors.len()], ..AfterBlocks::default() };
        Work { model, weights, passes, stores, sites: model.graph.sites(), output, watch, solved }
    }

    /// Runs all passes on a block, or on the output matrix. `find`: returns the statistics of a feed.
    pub fn passes(
        &self,
        block: Option<usize>,
        find: &mut dyn FnMut(&Feed) -> Result<SiteStats>,
        probe: Option<&dyn passes::Probe>,
    ) -> Result<Done> {
        let sites = self.sites.iter().filter(|site| site.block == block);
        let states = sites.map(|site| {
            let feeds = feeds(std::slice::from_ref(site), block);
            let stats = feeds.iter().map(|feed| Ok((feed.expert, find(feed)?))).collect::<Result<_>>()?;
            Ok(SiteState { site: site.clone(), stats })
        });
        let states = states.collect::<Result<_>>()?;
        let mut state = BlockState::new(self.weights, &self.stores, probe, states);
        let mut log = Lines { watch: self.watch, records: Vec::new() };
        for pass in self.passes {
            pass.apply(&mut state, &mut log)?;
        }
        let (codes, fidelity, mut edits) = state.finish();
        let mut encoded: BTreeMap<ParamId, Vec<u8>> = BTreeMap::new();
        // Experts come in order: the bytes of a parameter are those of its matrices, one after the other.
        for (reader, bytes) in codes {
            encoded.entry(reader.weight).or_default().extend(bytes);
        }
        edits.retain(|id| !encoded.contains_key(&id));
        Ok(Done { encoded, fidelity, edits, records: log.records })
    }

    /// The block's parameters as they will be written.
    fn overrides<'d>(&self, done: &'d Done) -> Result<Overrides<'d>> {
        let mut overrides = Overrides::new();
        for (id, bytes) in &done.encoded {
            overrides.encoded(*id, self.stores[id.0], bytes.as_slice());
        }
        let edited = self.weights.edited(&done.edits)?;
        for id in done.edits.params() {
            overrides.floats(id, edited.whole(id).view());
        }
        Ok(overrides)
    }

    /// Writes a block's results, and keeps the rest.
    pub fn keep(&mut self, done: Done) -> Result<()> {
        for (id, bytes) in &done.encoded {
            let (param, spec) = (self.model.graph.param(*id), self.stores[id.0].spec());
            if spec.bytes_for(param.len()) != Some(bytes.len()) {
                return Err(Error::bug(format!("{}: {} bytes of some of its matrices", param.name, bytes.len())));
            }
            self.output.put(id.0, 0, 0, bytes)?;
            self.solved.written[id.0] = true;
            self.watch.advance(&param.name, param.len() as u64);
        }
        self.solved.fidelity.extend(done.fidelity);
        self.solved.edits.append(&done.edits);
        self.solved.records.extend(done.records);
        Ok(())
    }
}

/// Forwards what passes report to the user.
struct Lines<'a> {
    watch: &'a dyn Watch,
    records: Vec<PassRecord>,
}

impl Log for Lines<'_> {
    fn done(&mut self, record: PassRecord) {
        if let Some(ratio) = record.ratio() {
            self.watch.stage(&format!("{}: loss {ratio:.2}x with {}", record.tensors[0], record.pass));
        }
        self.records.push(record);
    }

    fn begin(&mut self, tensor: &str) -> Result<()> {
        self.watch.stage(tensor);
        self.watch.go_on()
    }
}
