//! The ops, executed over one batch of consecutive tokens.
//!
//! A slot holds one row per token, or one per token and choice after an [`Op::Route`]; how many follows from its
//! length. Slots are shared by all blocks, so a batch needs each only once.

use aurora_quantizers::matrix_mut;

use super::cache::Cache;
use super::flash::Heads;
use super::loaded::Engine;
use super::maths::{self, in_chunks};
use super::norm::Norm;
use super::rope::{self, Kind};
use super::route::Route;
use super::{Attention, Tap, flash, naive};
use crate::model::{Op, ParamId, Slot};

/// One batch on its way through the model.
pub(super) struct Batch<'e, 'a, 't> {
    pub engine: &'e Engine<'a>,
    pub tokens: &'e [u32],
    /// Position of the first row of every sequence.
    pub first: usize,
    /// Sequences of equal length that the tokens are, one after the other; only blocks can run several.
    sequences: usize,
    /// How many rows, from the end, the head will ask for.
    keep: usize,
    pub slots: Vec<Vec<f32>>,
    pub routes: Vec<Route>,
    /// Sines and cosines, one table per kind.
    tables: Vec<Vec<[f32; 2]>>,
    pub tap: Option<&'t mut dyn Tap>,
    /// The block that is being executed.
    pub block: Option<usize>,
    /// Attention ops executed so far.
    attended: usize,
    /// Whether every op's output is looked at.
    pub suspicious: bool,
    /// Whether all numbers met so far are finite, where they are looked at.
    pub finite: bool,
}

/// The first op whose output is not finite, and the slot.
#[derive(Debug, Clone)]
pub(super) struct Culprit {
    pub op: Op,
    pub slot: Slot,
}

impl<'e, 'a> Batch<'e, 'a, '_> {
    /// `tokens` stand at positions from `first` on; the last `keep` of them are those that matter to the caller.
    pub fn new(engine: &'e Engine<'a>, tokens: &'e [u32], first: usize, keep: usize) -> Self {
        Self::of(engine, tokens, first, keep, 1)
    }

    /// Several sequences of equal length, each from position `first` on: their rows go through everything but attention
    /// together.
    pub fn together(engine: &'e Engine<'a>, tokens: &'e [u32], first: usize, sequences: usize) -> Self {
        assert!(tokens.len().is_multiple_of(sequences), "{} tokens in {sequences} sequences", tokens.len());
        Self::of(engine, tokens, first, tokens.len(), sequences)
    }

    fn of(engine: &'e Engine<'a>, tokens: &'e [u32], first: usize, keep: usize, sequences: usize) -> Self {
        let slots = engine.model.graph.slots.len();
        Batch {
            engine,
            tokens,
            first,
            sequences,
            keep,
            slots: vec![Vec::new(); slots],
            routes: (0..slots).map(|_| Route::default()).collect(),
            tables: engine.frequencies.iter().map(|f| f.table(first, tokens.len() / sequences)).collect(),
            tap: None,
            block: None,
            attended: 0,
            suspicious: false,
            finite: true,
        }
    }

    /// Tokens to residual stream, through all blocks. Afterwards slots hold the rows to keep.
    pub fn body(&mut self, caches: &mut [Cache]) -> Result<(), Culprit> {
        let graph = &self.engine.model.graph;
        self.stretch(&graph.embed, caches)?;
        for (i, ops) in graph.blocks.iter().enumerate() {
            self.block = Some(i);
            self.stretch(ops, caches)?;
        }
        self.block = None;
        self.finite &= finite(&self.slots[graph.residual.0]);
        self.keep_last(self.keep);
        Ok(())
    }

    /// Runs consecutive ops. `caches`: of every attention among them, one for each sequence.
    pub fn stretch(&mut self, ops: &[Op], caches: &mut [Cache]) -> Result<(), Culprit> {
        let mut rest = ops;
        while let Some((op, after)) = rest.split_first() {
            if self.tokens.is_empty() {
                break;
            }
            let together = match op {
                Op::Linear { x, experts, .. } if !self.suspicious => {
                    1 + after.iter().take_while(|op| reads(op, *x, *experts)).count()
                }
                _ => 1,
            };
            match op {
                Op::Linear { x, experts, .. } => self.linears(&rest[..together], *x, *experts),
                op => self.run(op, caches),
            }
            if self.suspicious {
                self.look_at(op)?;
            }
            rest = &rest[together..];
        }
        Ok(())
    }

    /// Rows of a sequence.
    fn positions(&self) -> usize {
        self.tokens.len() / self.sequences
    }

    /// The width of a slot's rows.
    pub fn width(&self, slot: Slot) -> usize {
        self.engine.model.graph.slots[slot.0]
    }

    /// A slot's memory, made long enough for `rows`; what is in it is not cleared.
    pub fn fresh(&mut self, slot: Slot, rows: usize) -> Vec<f32> {
        let mut memory = std::mem::take(&mut self.slots[slot.0]);
        memory.resize(rows * self.width(slot), 0.0);
        memory
    }

    /// Memory for `out`, one number for each of `like`.
    fn fresh_like(&mut self, out: Slot, like: Slot) -> Vec<f32> {
        let rows = self.slots[like.0].len() / self.width(like);
        self.fresh(out, rows)
    }

    /// Calls `f(chunk of out, the same of x)`; `out` may be `x`, whose numbers are then copied first.
    fn map(&mut self, x: Slot, out: Slot, f: impl Fn(&mut [f32], &[f32]) + Sync) {
        let copy = (x == out).then(|| self.slots[x.0].clone());
        let mut y = self.fresh_like(out, x);
        let from = copy.as_ref().unwrap_or(&self.slots[x.0]);
        in_chunks(&mut y, 1, |at, y| f(y, &from[at..at + y.len()]));
        self.slots[out.0] = y;
    }

    fn run(&mut self, op: &Op, caches: &mut [Cache]) {
        let engine = self.engine;
        match op {
            Op::Embed { table, out, scale } => {
                let mut y = self.fresh(*out, self.tokens.len());
                self.look_up(*table, &mut y, |row| self.tokens[row] as usize);
                in_chunks(&mut y, 1, |_, y| y.iter_mut().for_each(|y| *y *= scale));
                self.slots[out.0] = y;
            }
            Op::AddPosition { table, x } => {
                let mut row = vec![0.0; self.slots[x.0].len()];
                let positions = self.positions();
                self.look_up(*table, &mut row, |row| self.first + row % positions);
                self.slots[x.0].iter_mut().zip(&row).for_each(|(x, p)| *x += p);
            }
            Op::Norm { kind, weight, bias, eps, x, out } => {
                let (weight, bias) = (engine.params.vector(*weight), bias.map(|b| engine.params.vector(b)));
                let norm = Norm { kind: *kind, weight, bias, eps: *eps };
                if x == out {
                    norm.run(&mut self.slots[out.0]);
                } else {
                    let mut y = self.fresh_like(*out, *x);
                    norm.run_into(&self.slots[x.0], &mut y);
                    self.slots[out.0] = y;
                }
            }
            Op::Linear { .. } => unreachable!("linears run together"),
            Op::Split { x, parts } => {
                let width = self.width(*x);
                let mut at = 0;
                for part in parts {
                    let (mut y, w) = (self.fresh_like(*part, *x), self.width(*part));
                    let rows = y.chunks_exact_mut(w).zip(self.slots[x.0].chunks_exact(width));
                    rows.for_each(|(y, x)| y.copy_from_slice(&x[at..at + w]));
                    self.slots[part.0] = y;
                    at += w;
                }
            }
            Op::Rope { x, head_dim, style, .. } => {
                let kind = Kind::of(op, engine.options.context);
                let table = engine.frequencies.iter().position(|f| Some(f.kind) == kind).expect("collected before");
                let (width, positions) = (self.width(*x), self.positions());
                rope::rotate(&mut self.slots[x.0], width, *head_dim, *style, positions, &self.tables[table]);
            }
            Op::Attend { .. } => self.attend(op, caches),
            Op::Gate { act, gate, up, out } => {
                let mut y = self.fresh_like(*out, *gate);
                let (g, u) = (&self.slots[gate.0], &self.slots[up.0]);
                assert_eq!((g.len(), u.len()), (y.len(), y.len()), "gate and up have as many rows");
                in_chunks(&mut y, 1, |at, y| maths::gate(*act, &g[at..at + y.len()], &u[at..at + y.len()], y));
                self.slots[out.0] = y;
            }
            Op::Act { act, x, out } => self.map(*x, *out, |y, x| maths::activate(*act, x, y)),
            Op::Add { a, b, scale, out } => self.add(*a, *b, *scale, *out),
            Op::Route { logits, out, used, normalize } => {
                let experts = self.width(*logits);
                self.routes[out.0] = Route::choose(&self.slots[logits.0], experts, *used, *normalize);
            }
            Op::Combine { x, experts, out } => {
                let route = &self.routes[experts.0];
                let rows = route.choices() / route.used;
                let (width, mut y) = (self.width(*out), self.fresh(*out, rows));
                self.routes[experts.0].combine(&self.slots[x.0], width, &mut y);
                self.slots[out.0] = y;
            }
            Op::Scale { x, by } => {
                in_chunks(&mut self.slots[x.0], 1, |_, x| x.iter_mut().for_each(|x| *x *= by));
            }
            Op::Softcap { x, cap } => in_chunks(&mut self.slots[x.0], 1, |_, x| maths::softcap(x, *cap)),
        }
    }

    /// Decodes one row of `table` for each of `out`.
    fn look_up(&self, table: ParamId, out: &mut [f32], row: impl Fn(usize) -> usize + Sync) {
        let width = self.engine.model.graph.param(table).cols();
        in_chunks(out, width, |at, out| {
            for (i, out) in out.chunks_exact_mut(width).enumerate() {
                let row = row(at / width + i);
                self.engine.weights.rows(table, row..row + 1, matrix_mut(out, width));
            }
        });
    }

    fn add(&mut self, a: Slot, b: Slot, scale: f32, out: Slot) {
        if out != a {
            let mut y = self.fresh_like(out, a);
            y.copy_from_slice(&self.slots[a.0]);
            self.slots[out.0] = y;
        }
        let mut y = std::mem::take(&mut self.slots[out.0]);
        let b = &self.slots[b.0];
        assert_eq!(b.len(), y.len(), "rows that are added");
        in_chunks(&mut y, 1, |at, y| y.iter_mut().zip(&b[at..]).for_each(|(y, b)| *y += scale * b));
        self.slots[out.0] = y;
    }

    fn attend(&mut self, op: &Op, caches: &mut [Cache]) {
        let Op::Attend { q, k, v, out, heads, kv_heads, head_dim, scale, softcap, window } = op else {
            unreachable!("called for attention")
        };
        let last = (self.attended + 1) * self.sequences == caches.len();
        let caches = &mut caches[self.attended * self.sequences..][..self.sequences];
        let (k_rows, v_rows) = (&self.slots[k.0], &self.slots[v.0]);
        let each = (k_rows.len() / self.sequences).max(1);
        for ((cache, k), v) in caches.iter_mut().zip(k_rows.chunks_exact(each)).zip(v_rows.chunks_exact(each)) {
            cache.store(self.first, k, v);
        }
        self.attended += 1;
        if last && self.tap.is_none() {
            // Keys and values are stored: what the other rows lead to is asked for by nobody.
            let residual = self.engine.model.graph.residual;
            self.finite &= [residual, *k, *v].iter().all(|slot| finite(&self.slots[slot.0]));
            self.keep_last(self.keep);
        }
        let heads = Heads {
            heads: *heads,
            kv_heads: *kv_heads,
            dim: *head_dim,
            scale: *scale,
            softcap: *softcap,
            window: *window,
        };
        let mut y = self.fresh_like(*out, *q);
        // Nothing may be left to attend: chunks of nothing have to have a length all the same.
        let each = (y.len() / self.sequences).max(1);
        for ((cache, q), y) in caches.iter().zip(self.slots[q.0].chunks_exact(each)).zip(y.chunks_exact_mut(each)) {
            match self.engine.options.attention {
                Attention::Naive => naive::attend(&heads, q, self.first, cache, y),
                Attention::Flash => flash::attend(&heads, q, self.first, cache, y),
            }
        }
        self.slots[out.0] = y;
    }

    /// Drops all rows but the last `keep`.
    fn keep_last(&mut self, keep: usize) {
        let rows = self.tokens.len();
        let drop = rows - keep;
        if drop == 0 {
            return;
        }
        for slot in &mut self.slots {
            slot.drain(..slot.len() / rows * drop);
        }
        self.tokens = &self.tokens[drop..];
        self.first += drop;
    }

    fn look_at(&self, op: &Op) -> Result<(), Culprit> {
        // What a choice of experts writes is no slot's numbers: its own stay empty.
        match op.writes().into_iter().find(|slot| !finite(&self.slots[slot.0])) {
            Some(slot) => Err(Culprit { op: op.clone(), slot }),
            None => Ok(()),
        }
    }
}

/// Whether `op` is a linear that reads `x` under the same choice, and not something that `x` is written by.
fn reads(op: &Op, input: Slot, choice: Option<Slot>) -> bool {
    matches!(op, Op::Linear { x, experts, out, .. } if *x == input && *experts == choice && *out != input)
}

/// Whether no number is NaN or infinite.
pub(super) fn finite(x: &[f32]) -> bool {
    // Zero times anything finite is zero; lanes side by side vectorise.
    let mut lanes = [0.0_f32; 16];
    let runs = x.chunks_exact(16);
    let tail = runs.remainder().iter().all(|x| x.is_finite());
    for run in runs {
        lanes.iter_mut().zip(run).for_each(|(l, x)| *l += x * 0.0);
    }
    tail && lanes.iter().all(|l| *l == 0.0)
}
