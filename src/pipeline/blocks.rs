//! The block loop: every sample through one block, what its linears see observed, the passes at work on it, its bytes
//! written, and on to the next.
//!
//! In memory at any time: the residual stream of all samples, one block's statistics and codes. The order of all sums is
//! fixed, so the bytes are the same for any number of threads.

use std::collections::BTreeMap;

use aurora_quantizers::{Format, SiteStats, formats};

use super::probe::Probe;
use super::resume::Resume;
use crate::Result;
use crate::calibrate::not_finite;
use crate::calibrate::observe::{Feed, Observer, feeds};
use crate::export::Output;
use crate::model::{Model, ParamId, Site};
use crate::passes::{self, BlockState, Log, Pass, SiteState, StatsKind};
use crate::plan::{Plan, TensorPlan};
use crate::record::{LinearRecord, ScaleRecord};
use crate::runtime::{Attention, Block, BlockRunner, CacheType, Options, Overrides};
use crate::watch::Watch;
use crate::weights::{Edits, Weights};

/// Which inputs the statistics of a block are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagate {
    /// Those that the original model gives it.
    Float,
    /// Those that the blocks before it give it as they were written.
    Quantized,
}

/// What the block loop is to do.
pub struct Job<'a> {
    /// Token sequences, each run from position 0.
    pub samples: &'a [Vec<u32>],
    /// What is done to every block, in order; the last one leaves no matrix without codes.
    pub passes: &'a [Box<dyn Pass>],
    /// Which inputs count.
    pub propagate: Propagate,
}

/// What the block loop leaves to be done: everything that is not a matrix of a block format, with its edits.
#[derive(Debug, Default)]
pub struct Solved {
    /// Tensors of the plan whose bytes are written.
    pub written: Vec<bool>,
    /// Edits of what is not.
    pub edits: Edits,
    /// Linear by linear, what was done.
    pub linears: Vec<LinearRecord>,
    /// Site by site, which scales were found.
    pub scales: Vec<ScaleRecord>,
}

/// Runs the passes over all blocks and the head, and writes what they encode.
///
/// # Errors
/// If a value is not finite (block, op and tensor are named), a matrix cannot be solved, the disk fails, or the watch says
/// to stop.
pub fn run(
    model: &Model,
    weights: &Weights<'_>,
    plan: &Plan,
    job: &Job<'_>,
    resume: Option<&Resume>,
    output: &Output,
    watch: &dyn Watch,
) -> Result<Solved> {
    let longest = job.samples.iter().map(Vec::len).max().unwrap_or(0);
    let options = Options { context: longest, exact: true, cache: CacheType::F32, attention: Attention::Flash };
    let runner = BlockRunner::new(model, weights, options)?;
    let known = |t: &TensorPlan| formats::by_ggml_id(t.actual.ggml_id).expect("a plan that passed the check");
    let formats: Vec<&'static dyn Format> = plan.tensors.iter().map(known).collect();
    let mut work = Loop {
        model,
        weights,
        runner: &runner,
        job,
        formats: &formats,
        output,
        watch,
        residuals: Vec::new(),
        solved: Solved { written: vec![false; plan.tensors.len()], ..Solved::default() },
    };
    let sites = model.graph.sites();
    let mut first = 0;
    match resume.map(Resume::load).transpose()?.flatten() {
        Some(state) => {
            first = state.blocks;
            work.residuals = state.residuals;
            state.done.into_iter().try_for_each(|done| work.keep(done))?;
        }
        None => work.residuals = job.samples.iter().map(|s| runner.embed(s)).collect::<Result<_>>()?,
    }
    runner.release(None);
    for block in first..model.graph.blocks.len() {
        let done = work.block(block, sites.iter().filter(|s| s.block == Some(block)))?;
        if let Some(resume) = resume {
            resume.save(block, &done, &work.residuals)?;
        }
        work.keep(done)?;
        runner.release(Some(block));
    }
    let done = work.head(sites.iter().filter(|s| s.block.is_none()))?;
    work.keep(done)?;
    Ok(work.solved)
}

/// What one block (or the head) came to.
#[derive(Debug, Default, PartialEq)]
pub struct Done {
    /// Bytes of whole parameters.
    pub encoded: BTreeMap<ParamId, Vec<u8>>,
    /// Edits of what is not encoded.
    pub edits: Edits,
    /// What the passes had to say of linears.
    pub linears: Vec<LinearRecord>,
    /// And of the inputs of sites.
    pub scales: Vec<ScaleRecord>,
}

struct Loop<'a> {
    model: &'a Model,
    weights: &'a Weights<'a>,
    runner: &'a BlockRunner<'a>,
    job: &'a Job<'a>,
    formats: &'a [&'static dyn Format],
    output: &'a Output,
    watch: &'a dyn Watch,
    residuals: Vec<Vec<f32>>,
    solved: Solved,
}

impl<'a> Loop<'a> {
    fn block<'s>(&mut self, index: usize, sites: impl Iterator<Item = &'s Site>) -> Result<Done> {
        let sites: Vec<Site> = sites.cloned().collect();
        let mut observer = Observer::new(feeds(&sites, Some(index)), self.gram());
        let probes = self.job.passes.iter().any(|pass| pass.probes());
        let probe = probes.then(|| Probe::new(self.runner, index, &self.residuals));
        let none = Overrides::new();
        let mut block = self.runner.block(index, &none)?;
        let mut done = 0;
        while done < self.residuals.len() {
            let some = done..done + block.together(&self.residuals[done..]);
            self.watch.stage(&format!("block {index}: inputs {}/{}", some.end, self.job.samples.len()));
            self.watch.go_on()?;
            done = some.end;
            match self.job.propagate {
                Propagate::Float => block.run_all(&mut self.residuals[some], Some(&mut observer))?,
                Propagate::Quantized => block.run_all(&mut self.residuals[some].to_vec(), Some(&mut observer))?,
            }
            observer.check().map_err(|(feed, e)| not_finite(&self.model.graph, feed, &e.to_string()))?;
        }
        drop(block);
        let probe = probe.as_ref().map(|p| p as &dyn passes::Probe);
        let done = self.passes(sites, observer.finish().into_iter(), probe)?;
        if self.job.propagate == Propagate::Quantized {
            let overrides = self.overrides(&done)?;
            let mut block: Block = self.runner.block(index, &overrides)?;
            let mut done = 0;
            while done < self.residuals.len() {
                let some = done..done + block.together(&self.residuals[done..]);
                self.watch.stage(&format!("block {index}: outputs {}/{}", some.end, self.job.samples.len()));
                self.watch.go_on()?;
                done = some.end;
                block.run_all(&mut self.residuals[some], None)?;
            }
        }
        Ok(done)
    }

    fn head<'s>(&mut self, sites: impl Iterator<Item = &'s Site>) -> Result<Done> {
        let sites: Vec<Site> = sites.cloned().collect();
        let mut seen = Vec::new();
        for feed in feeds(&sites, None) {
            let mut stats = SiteStats::new(feed.width, self.gram());
            for (i, residual) in self.residuals.iter().enumerate() {
                self.watch.stage(&format!("output matrix: inputs {}/{}", i + 1, self.job.samples.len()));
                self.watch.go_on()?;
                let inputs = self.runner.head_inputs(residual)?;
                stats.add(&inputs).map_err(|e| not_finite(&self.model.graph, &feed, &e.to_string()))?;
            }
            seen.push((feed, stats));
        }
        self.passes(sites, seen.into_iter(), None)
    }

    fn gram(&self) -> bool {
        self.job.passes.iter().any(|p| p.needs() == StatsKind::Gram)
    }

    /// Lets all passes work on what was observed. `seen`: feed after feed, as the sites have them.
    fn passes(
        &self,
        sites: Vec<Site>,
        mut seen: impl Iterator<Item = (Feed, SiteStats)>,
        probe: Option<&dyn passes::Probe>,
    ) -> Result<Done> {
        let states = sites.into_iter().map(|site| {
            let mut experts = Vec::new();
            for reader in &site.readers {
                if !experts.contains(&reader.expert) {
                    experts.push(reader.expert);
                }
            }
            let stats = experts.iter().map(|e| (*e, seen.next().expect("statistics of every feed").1)).collect();
            SiteState { site, stats }
        });
        let mut state = BlockState::new(self.weights, self.formats, probe, states.collect());
        let mut log = Lines { watch: self.watch, linears: Vec::new(), scales: Vec::new() };
        for pass in self.job.passes {
            pass.apply(&mut state, &mut log)?;
        }
        let (codes, mut edits) = state.finish();
        let mut encoded: BTreeMap<ParamId, Vec<u8>> = BTreeMap::new();
        // Experts come in their order: the bytes of a parameter are those of its matrices, one after the other.
        for (reader, bytes) in codes {
            encoded.entry(reader.weight).or_default().extend(bytes);
        }
        edits.retain(|id| !encoded.contains_key(&id));
        Ok(Done { encoded, edits, linears: log.linears, scales: log.scales })
    }

    /// The block's parameters as they will be written.
    fn overrides<'d>(&self, done: &'d Done) -> Result<Overrides<'d>> {
        let mut overrides = Overrides::new();
        for (id, bytes) in &done.encoded {
            overrides.encoded(*id, self.formats[id.0].spec(), bytes.as_slice());
        }
        let edited = self.weights.edited(&done.edits)?;
        for id in done.edits.params() {
            let param = self.model.graph.param(id);
            let mut values = vec![0.0; param.len()];
            edited.rows(id, 0..param.rows(), &mut values);
            overrides.floats(id, &values);
        }
        Ok(overrides)
    }

    /// Writes what a block came to, and remembers the rest.
    fn keep(&mut self, done: Done) -> Result<()> {
        for (id, bytes) in &done.encoded {
            self.output.put(id.0, 0, bytes)?;
            self.solved.written[id.0] = true;
            let param = self.model.graph.param(*id);
            self.watch.advance(&param.name, param.len() as u64);
        }
        self.solved.edits.append(&done.edits);
        self.solved.linears.extend(done.linears);
        self.solved.scales.extend(done.scales);
        Ok(())
    }
}

/// Passes what passes tell on to the user.
struct Lines<'a> {
    watch: &'a dyn Watch,
    linears: Vec<LinearRecord>,
    scales: Vec<ScaleRecord>,
}

impl Log for Lines<'_> {
    fn linear(&mut self, record: LinearRecord) {
        if let (Some(loss), Some(rtn)) = (record.loss, record.loss_rtn) {
            self.watch.stage(&format!("{}: loss {:.2}x of rounding to nearest", record.tensor, loss / rtn));
        }
        self.linears.push(record);
    }

    fn scaled(&mut self, record: ScaleRecord) {
        if let (Some(loss), Some(before)) = (record.loss, record.loss_before) {
            self.watch.stage(&format!("{}: loss {:.2}x with scales", record.readers[0], loss / before));
        }
        self.scales.push(record);
    }

    fn begin(&mut self, tensor: &str) -> Result<()> {
        self.watch.stage(tensor);
        self.watch.go_on()
    }
}
