//! Block by block: which heads, channels and experts cost least, and what the rest becomes to make up for them.
//!
//! Two streams go through the blocks, that of the whole model and that of what is left so far. What comes out of a
//! matrix that gets new values is to bring the second to where the first is, so it also makes up for what was lost
//! before, layers that are gone included.

use std::collections::BTreeMap;
use std::time::Instant;

use aurora_quantizers::elements;
use aurora_quantizers::prune::columns::Columns;
use ndarray::Array2;

use super::edits::{self, Branch};
use super::experts::{Scores, alone};
use super::seen::{Catch, Sums, times};
use super::sizes::Heads;
use super::task::{GONE, NAME, Task, gap};
use super::wanted::Parts;
use crate::calibrate::shard;
use crate::model::{Model, ModelGraph, Reader, Role, Site};
use crate::passes::hessian::products;
use crate::record::PassRecord;
use crate::runtime::{BlockRunner, Overrides};
use crate::weights::{Edit, Edits};
use crate::{Error, Result};

/// Added to the diagonal of a Hessian, as a share of its mean: draws new values towards the old ones.
const DAMP: f64 = 0.01;

/// Samples that go through a block together.
type Leaf = Vec<Array2<f32>>;

/// Which matrices of a block may get new values. Those of experts see too few tokens to make up for others.
pub(super) fn refitted(model: &Model, wanted: &Parts) -> Vec<Role> {
    match (wanted.compensate, model.hyper.experts.is_some()) {
        (false, _) => Vec::new(),
        (true, true) => vec![Role::AttnOut],
        (true, false) => vec![Role::AttnOut, Role::FfnDown],
    }
}

/// The work on all blocks.
pub(super) struct Work<'w, 'a> {
    task: &'w Task<'w, 'a>,
    runner: &'w BlockRunner<'a>,
    left: &'w Model,
    stay: Vec<usize>,
    sites: Vec<Site>,
    /// Streams of the whole model, and of what is left.
    whole: Vec<Leaf>,
    cut: Vec<Leaf>,
    /// Whether the two are the same so far.
    same: bool,
    edits: Edits,
    /// Edits of every block that stays, as far as shapes go.
    shapes: BTreeMap<usize, Edits>,
    records: Vec<PassRecord>,
}

impl<'w, 'a> Work<'w, 'a> {
    /// In front of the first block.
    ///
    /// # Errors
    /// Those of the runner.
    pub fn new(
        task: &'w Task<'w, 'a>,
        runner: &'w BlockRunner<'a>,
        left: &'w Model,
        stay: Vec<usize>,
    ) -> Result<Work<'w, 'a>> {
        let sites = task.model.graph.sites();
        let size = shard::leaf(runner.options().context);
        let mut whole = Vec::new();
        for samples in task.samples.chunks(size) {
            whole.push(samples.iter().map(|tokens| runner.embed(tokens)).collect::<Result<Leaf>>()?);
        }
        let mut shapes = BTreeMap::new();
        for block in stay.iter().copied() {
            shapes.insert(block, edits::placeholder(task.model, &sites, block, task.sizes)?);
        }
        let (edits, records, cut) = (Edits::new(), Vec::new(), whole.clone());
        let mut work = Work { task, runner, left, stay, sites, whole, cut, same: true, edits, shapes, records };
        // Layers before the first that stays.
        work.skip(0..work.stay[0])?;
        Ok(work)
    }

    /// All edits and what was done.
    pub fn finish(self) -> (Edits, Vec<PassRecord>) {
        (self.edits, self.records)
    }

    fn graph(&self) -> &'w ModelGraph {
        &self.task.model.graph
    }

    /// Takes the whole model's stream through layers that went.
    fn skip(&mut self, blocks: std::ops::Range<usize>) -> Result<()> {
        for block in blocks {
            self.same = false;
            self.through_whole(block)?;
        }
        Ok(())
    }

    fn through_whole(&mut self, block: usize) -> Result<()> {
        let overrides = Overrides::new();
        let mut ready = self.runner.block(block, &overrides);
        for leaf in &mut self.whole {
            ready.run_all(leaf, None)?;
        }
        self.runner.release(Some(block));
        Ok(())
    }

    /// Does all that there is to do at the block that is number `at` of those that stay.
    ///
    /// # Errors
    /// If a value is not finite.
    pub fn block(&mut self, at: usize) -> Result<()> {
        let (block, h, sizes) = (self.stay[at], &self.task.model.hyper, self.task.sizes);
        let gone = gap(&self.stay, at, h.blocks);
        let mut all = Edits::new();
        let mut overrides = Overrides::new();
        if sizes.heads != Heads::Stay || (self.task.wanted.compensate && !self.same) {
            self.attention(block, &mut all, &mut overrides)?;
            self.same &= all.is_empty();
        }
        let has_experts = h.experts.is_some();
        let narrow = sizes.cut.ffn < h.ffn;
        let fewer = h.experts.as_ref().is_some_and(|e| sizes.cut.experts < e.count);
        if has_experts {
            if narrow || fewer {
                self.mixture(block, &overrides, &mut all)?;
            }
            self.through_whole(block)?;
            self.skip(gone)?;
        } else {
            // The stream of the whole model goes on: it shows where the other should be.
            let hidden = edits::branch(self.graph(), block, Role::FfnDown).is_some_and(|b| b.scale.is_none());
            let before = if hidden { self.whole.clone() } else { Vec::new() };
            self.through_whole(block)?;
            self.skip(gone)?;
            if narrow || (self.task.wanted.compensate && !self.same) {
                self.mlp(block, &before, &overrides, &mut all)?;
            }
        }
        self.same &= all.is_empty();
        self.edits.append(&all);
        if self.same {
            self.cut.clone_from(&self.whole);
            return Ok(());
        }
        self.through_cut(at, all)
    }

    /// Takes the stream of what is left through its block, as it will be written. `edits`: the block's; of the others
    /// only the shapes count.
    fn through_cut(&mut self, at: usize, mut edits: Edits) -> Result<()> {
        let others = self.shapes.iter().filter(|(block, _)| **block != self.stay[at]);
        others.for_each(|(_, shapes)| edits.append(shapes));
        let edited = self.task.weights.edited(&edits)?;
        let weights = edited.cut(&self.left.graph, &self.left.origins(self.task.model))?;
        let runner = BlockRunner::new(self.left, &weights, *self.runner.options())?;
        let overrides = Overrides::new();
        let mut ready = runner.block(at, &overrides);
        self.cut.iter_mut().try_for_each(|leaf| ready.run_all(leaf, None))
    }

    fn weights(&self, reader: Reader) -> Array2<f32> {
        let mut w = Array2::zeros(self.task.weights.dim_of(reader));
        let first = reader.expert.map_or(0, |expert| expert * w.nrows());
        let rows = first..first + w.nrows();
        self.task.weights.rows(reader.weight, rows, w.view_mut());
        w
    }

    fn record(&self, reader: Reader) -> PassRecord {
        let param = self.graph().param(reader.weight);
        PassRecord { expert: reader.expert, ..PassRecord::new(NAME, param.block, vec![param.name.clone()]) }
    }

    fn fault(&self, reader: Reader, what: &str) -> Error {
        let (path, tensor) = self.task.weights.place(reader.weight);
        Error::Numbers { path: Some(path.to_owned()), tensor, what: what.to_owned(), source: None }
    }

    /// What a matrix reads, and what its output should differ by, to columns that can go.
    fn columns(&self, reader: Reader, sums: Sums) -> Result<(Columns, u64)> {
        let w = self.weights(reader);
        let (stats, wish) = sums.finish();
        let tokens = stats.tokens();
        let found = match products(&stats) {
            Ok((h, _)) => Columns::new(w.clone(), h, wish, DAMP),
            // Too few tokens: the weights alone decide.
            Err(_) => Columns::new(w.clone(), alone(&w), None, DAMP),
        };
        let columns = found.or_else(|_| Columns::new(w.clone(), alone(&w), None, DAMP));
        columns.map(|columns| (columns, tokens)).map_err(|e| self.fault(reader, &e.to_string()))
    }

    /// New values of a matrix whose columns are chosen, unless those that it has are as good; in the full shape, too.
    fn settle(&mut self, reader: Reader, columns: &Columns, mut record: PassRecord, all: &mut Edits) -> Array2<f32> {
        let (plain, best) = (columns.plain(), columns.best());
        let before = columns.loss(plain.view());
        (record.before, record.after) = (Some(before), Some(before));
        let mut values = plain;
        if self.task.wanted.compensate {
            let after = columns.loss(best.view());
            if after < before {
                record.after = Some(after);
                values = best;
                all.push(reader.weight, reader.expert, Edit::Values(values.clone()));
            }
        }
        self.records.push(record);
        let mut full = Array2::zeros(self.task.weights.dim_of(reader));
        for (i, c) in columns.stay().iter().enumerate() {
            full.column_mut(*c).assign(&values.column(i));
        }
        full
    }

    /// Chooses heads, and fits the matrix after them.
    fn attention(&mut self, block: usize, all: &mut Edits, overrides: &mut Overrides<'_>) -> Result<()> {
        let started = Instant::now();
        let (model, h) = (self.task.model, &self.task.model.hyper);
        let Some(branch) = edits::branch(self.graph(), block, Role::AttnOut) else { return Ok(()) };
        let reader = branch.reader;
        let w = self.weights(reader);
        let (dim, leaves) = (w.dim(), self.whole.len() as u64);
        let wishes = self.task.wanted.compensate && !self.same;
        let mut sums = Sums::new(dim, leaves, wishes);
        let none = Overrides::new();
        for (whole, cut) in self.whole.iter().zip(&self.cut) {
            let (seen, _) = self.run(block, &none, cut, [reader])?;
            let x = seen.rows(reader);
            let wish = match wishes {
                true => {
                    let (seen, _) = self.run(block, &none, whole, [reader])?;
                    let ahead: Vec<f32> = seen.rows(reader).iter().zip(x).map(|(a, b)| a - b).collect();
                    let mut wish = times(w.view(), &ahead);
                    behind(&branch, whole, cut, &mut wish);
                    Some(wish)
                }
                false => None,
            };
            sums.add(x, dim.1, wish.as_deref()).map_err(|what| self.fault(reader, &what))?;
        }
        let (mut columns, tokens) = self.columns(reader, sums)?;
        let mut record = PassRecord { tokens, ..self.record(reader) };
        let columns_of = |head: usize| head * h.head_dim..(head + 1) * h.head_dim;
        let each = h.heads / h.kv_heads;
        let gone: Vec<usize> = match self.task.sizes.heads {
            Heads::Stay => Vec::new(),
            Heads::Groups(gone) => {
                let groups: Vec<Vec<usize>> = (0..h.kv_heads)
                    .map(|group| (group * each..(group + 1) * each).flat_map(columns_of).collect())
                    .collect();
                let gone = columns.remove_groups(&groups, gone);
                record.fact("groups", &gone);
                gone.into_iter().flat_map(|group| group * each..(group + 1) * each).collect()
            }
            Heads::Queries(gone) => {
                let mut all = Vec::new();
                for group in 0..h.kv_heads {
                    let heads: Vec<Vec<usize>> =
                        (group * each..(group + 1) * each).map(|head| columns_of(head).collect()).collect();
                    all.extend(columns.remove_groups(&heads, gone).into_iter().map(|head| group * each + head));
                }
                all
            }
        };
        if !gone.is_empty() {
            record.fact(GONE, "heads");
            record.fact("heads", &gone);
            let (queries, groups) = edits::staying(model, &gone);
            edits::heads(model, block, (&queries, &groups), all);
        }
        record.seconds = started.elapsed().as_secs_f64();
        let full = self.settle(reader, &columns, record, all);
        overrides.floats(reader.weight, full.view());
        Ok(())
    }

    /// Chooses channels, and fits the matrix after them. `before`: the whole model's stream in front of the block, if
    /// what comes out of the matrix is not added to the stream as it is.
    fn mlp(&mut self, block: usize, before: &[Leaf], overrides: &Overrides<'_>, all: &mut Edits) -> Result<()> {
        let started = Instant::now();
        let Some(branch) = edits::branch(self.graph(), block, Role::FfnDown) else { return Ok(()) };
        let (reader, graph) = (branch.reader, self.graph());
        let w = self.weights(reader);
        let (dim, leaves) = (w.dim(), self.whole.len() as u64);
        let wishes = self.task.wanted.compensate && !self.same;
        let mut sums = Sums::new(dim, leaves, wishes);
        let none = Overrides::new();
        for (i, cut) in self.cut.iter().enumerate() {
            let (seen, after) = self.run(block, overrides, cut, [reader])?;
            let x = seen.rows(reader);
            let wish = match branch.scale {
                _ if !wishes => None,
                Some(_) => {
                    let mut wish = vec![0.0; x.len() / dim.1 * dim.0];
                    behind(&branch, &self.whole[i], &after, &mut wish);
                    Some(wish)
                }
                // What lies behind the matrix is no sum: its own output should be what it was.
                None => {
                    let (seen, _) = self.run(block, &none, &before[i], [reader])?;
                    let ahead: Vec<f32> = seen.rows(reader).iter().zip(x).map(|(a, b)| a - b).collect();
                    Some(times(w.view(), &ahead))
                }
            };
            sums.add(x, dim.1, wish.as_deref()).map_err(|what| self.fault(reader, &what))?;
        }
        let (mut columns, tokens) = self.columns(reader, sums)?;
        let mut record = PassRecord { tokens, ..self.record(reader) };
        let gone = dim.1 - self.task.sizes.cut.ffn;
        if gone > 0 {
            columns.remove(gone);
            record.fact(GONE, "channels");
            record.fact("channels", left_out(columns.stay(), dim.1));
            let site = edits::of_role(graph, &self.sites, block, Role::FfnDown).remove(0);
            edits::channels(graph, &site, columns.stay(), all)?;
        }
        record.seconds = started.elapsed().as_secs_f64();
        self.settle(reader, &columns, record, all);
        Ok(())
    }

    /// Chooses experts, and channels of those that stay.
    fn mixture(&mut self, block: usize, overrides: &Overrides<'_>, all: &mut Edits) -> Result<()> {
        let started = Instant::now();
        let (graph, sizes) = (self.graph(), self.task.sizes);
        let Some(mut scores) = Scores::new(graph, self.task.weights, block) else { return Ok(()) };
        let sites = edits::of_role(graph, &self.sites, block, Role::FfnDown);
        let narrow = sizes.cut.ffn < self.task.model.hyper.ffn;
        let down: Vec<Reader> = sites.iter().flat_map(|site| site.readers.clone()).collect();
        let mut sums: Vec<Sums> = match narrow {
            true => {
                down.iter().map(|r| Sums::new(self.task.weights.dim_of(*r), self.whole.len() as u64, false)).collect()
            }
            false => Vec::new(),
        };
        for cut in &self.cut {
            let (seen, _) = self.run(block, overrides, cut, scores.readers().collect::<Vec<_>>())?;
            scores.add(&seen);
            for (reader, sums) in down.iter().zip(&mut sums) {
                let cols = self.task.weights.dim_of(*reader).1;
                sums.add(seen.rows(*reader), cols, None).map_err(|what| self.fault(*reader, &what))?;
            }
        }
        let stay = scores.best(sizes.cut.experts);
        for (site, sums) in sites.iter().zip(sums) {
            let reader = site.readers[0];
            if !reader.expert.is_some_and(|expert| stay.contains(&expert)) {
                // It goes as a whole, but until then all are alike.
                edits::channels(graph, site, &(0..sizes.cut.ffn).collect::<Vec<_>>(), all)?;
                continue;
            }
            let (mut columns, tokens) = self.columns(reader, sums)?;
            let mut record = PassRecord { tokens, ..self.record(reader) };
            let cols = self.task.weights.dim_of(reader).1;
            columns.remove(cols - sizes.cut.ffn);
            record.fact(GONE, "channels");
            record.fact("channels", left_out(columns.stay(), cols));
            edits::channels(graph, site, columns.stay(), all)?;
            self.settle(reader, &columns, record, all);
        }
        let count = scores.finish().len();
        if stay.len() < count {
            let mut record = self.record(Reader { expert: None, ..down[0] });
            record.tokens = scores.finish().iter().map(|(_, tokens)| tokens).sum();
            record.fact(GONE, "experts");
            record.fact("experts", left_out(&stay, count));
            record.fact("scores", scores.finish().iter().map(|(score, _)| *score).collect::<Vec<_>>());
            record.seconds = started.elapsed().as_secs_f64();
            self.records.push(record);
            edits::experts(graph, block, &stay, &edits::heights(self.task.model, sizes), all);
        }
        Ok(())
    }

    /// Runs the whole model's block on a leaf, and returns what was read and where the stream is then.
    fn run(
        &self,
        block: usize,
        overrides: &Overrides<'_>,
        leaf: &Leaf,
        readers: impl IntoIterator<Item = Reader>,
    ) -> Result<(Catch, Leaf)> {
        let (mut seen, mut stream) = (Catch::of(readers), leaf.clone());
        self.runner.block(block, overrides).run_all(&mut stream, Some(&mut seen))?;
        Ok((seen, stream))
    }
}

/// Adds to a branch's wish what the stream of the rest is behind that of the whole model; nothing if what comes out of
/// the matrix is not added to the stream as it is.
fn behind(branch: &Branch, whole: &Leaf, cut: &Leaf, wish: &mut [f32]) {
    let Some(scale) = branch.scale else { return };
    let all = whole.iter().zip(cut).flat_map(|(w, c)| elements(w.view()).iter().zip(elements(c.view())));
    wish.iter_mut().zip(all).for_each(|(wish, (w, c))| *wish += (w - c) / scale);
}

/// What of `0..all` is not there.
fn left_out(stay: &[usize], all: usize) -> Vec<usize> {
    (0..all).filter(|i| stay.binary_search(i).is_err()).collect()
}
