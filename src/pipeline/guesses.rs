//! Guesses at the inputs of matrices that are being converted, each kept from the matrix's first chunk of rows to its
//! last.
//!
//! The threads whose chunks come first share the work: each takes the next strip that nobody has taken, and waits for
//! the others only when none is left. A strip runs no thread-pool jobs, so a waiting chunk can never block the one it
//! waits for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use aurora_quantizers::gptq::{self, Guess, Sample, Strip};
use aurora_quantizers::matrix_mut;
use ndarray::Array2;

use super::rounding::Rounding;
use crate::model::{ModelGraph, ParamId, Role};
use crate::plan::{Plan, TensorPlan};
use crate::weights::Weights;

/// One matrix.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    found: Condvar,
}

/// Progress of a matrix's guess.
#[derive(Default)]
enum State {
    #[default]
    Untouched,
    /// Some strips are taken, and some of those are done.
    Strips {
        sample: Arc<Sample>,
        taken: usize,
        strips: Vec<(usize, Strip)>,
    },
    Found(Option<Arc<Guess>>),
}

/// The guesses of a conversion.
pub(super) struct Guesses {
    /// For each tensor of the plan, one slot per expert's matrix; none if weights are rounded on their own.
    slots: Vec<Vec<Slot>>,
    /// Number of unfinished chunks of each tensor.
    left: Vec<AtomicUsize>,
}

impl Guesses {
    /// `chunks`: how many chunks each tensor of the plan has.
    pub(super) fn new(graph: &ModelGraph, plan: &Plan, rounding: Rounding, chunks: &[usize]) -> Guesses {
        let linears = if rounding.reference || rounding.nearest { BTreeMap::new() } else { linears(graph) };
        let slots = |t: &TensorPlan| {
            let count = linears.get(&t.param).filter(|_| !t.carried && Guess::helps(t.spec()));
            (0..count.copied().unwrap_or(0)).map(|_| Slot::default()).collect()
        };
        Guesses {
            slots: plan.tensors.iter().map(slots).collect(),
            left: chunks.iter().map(|n| AtomicUsize::new(*n)).collect(),
        }
    }

    /// How many matrices a tensor holds, if their inputs are guessed.
    pub(super) fn matrices(&self, tensor: usize) -> Option<usize> {
        Some(self.slots[tensor].len()).filter(|n| *n > 0)
    }

    /// The guess for matrix `expert` of a tensor. The first caller finds it, with the help of those that come while it
    /// does. `importance`: of the matrix's columns.
    pub(super) fn of(
        &self,
        weights: &Weights,
        t: &TensorPlan,
        (tensor, expert): (usize, usize),
        rounding: Rounding,
        importance: Option<&[f32]>,
    ) -> Option<Arc<Guess>> {
        let slots = &self.slots[tensor];
        let read = || sample(weights, t, (expert, slots.len()), rounding, importance);
        slots.get(expert)?.look(read)
    }

    /// Marks a chunk of a tensor as done. After the last one, the guess is dropped.
    pub(super) fn done(&self, tensor: usize) {
        if self.left[tensor].fetch_sub(1, Ordering::AcqRel) == 1 {
            for slot in &self.slots[tensor] {
                *slot.state.lock().expect("no panics under the lock") = State::Untouched;
            }
        }
    }
}

impl Slot {
    /// Helps until the guess is found. `read`: reads the sample; called once.
    fn look(&self, read: impl FnOnce() -> Option<Sample>) -> Option<Arc<Guess>> {
        let mut state = self.state.lock().expect("no panics under the lock");
        if matches!(*state, State::Untouched) {
            *state = match read() {
                Some(sample) => State::Strips { sample: Arc::new(sample), taken: 0, strips: Vec::new() },
                None => State::Found(None),
            };
        }
        loop {
            match &mut *state {
                State::Untouched => unreachable!("a chunk that is not done keeps its matrix"),
                State::Found(guess) => return guess.clone(),
                State::Strips { sample, taken, .. } if *taken < sample.strips() => {
                    let (i, sample) = (*taken, Arc::clone(sample));
                    *taken += 1;
                    drop(state);
                    let taken = Taken(self);
                    let strip = sample.strip(i);
                    drop(taken);
                    state = self.state.lock().expect("no panics under the lock");
                    // While a strip is missing, the state can change only if another strip's thread panicked.
                    let State::Strips { strips, .. } = &mut *state else { return None };
                    strips.push((i, strip));
                    if strips.len() == sample.strips() {
                        strips.sort_by_key(|(i, _)| *i);
                        let strips = std::mem::take(strips).into_iter().map(|(_, strip)| strip).collect();
                        *state = State::Found(Guess::from_strips(&sample, strips).map(Arc::new));
                        self.found.notify_all();
                    }
                }
                State::Strips { .. } => state = self.found.wait(state).expect("no panics under the lock"),
            }
        }
    }
}

/// A strip in progress. If its thread panics, nobody waits for it.
struct Taken<'s>(&'s Slot);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Ok(mut state) = self.0.state.lock() {
                *state = State::Found(None);
            }
            self.0.found.notify_all();
        }
    }
}

/// The rows sampled from matrix `expert` of `experts`.
fn sample(
    weights: &Weights,
    t: &TensorPlan,
    (expert, experts): (usize, usize),
    rounding: Rounding,
    importance: Option<&[f32]>,
) -> Option<Sample> {
    let (cols, height) = (t.cols(), t.rows() / experts);
    let mut sample = Vec::new();
    for rows in gptq::sample(height) {
        let (rows, at) = (expert * height + rows.start..expert * height + rows.end, sample.len());
        sample.resize(at + rows.len() * cols, 0.0);
        weights.rows(t.param, rows, matrix_mut(&mut sample[at..], cols));
    }
    let sample = Array2::from_shape_vec((sample.len() / cols, cols), sample).expect("whole rows");
    Sample::new(sample, importance, rounding.care)
}

/// How many matrices each linear layer's weight holds. Lookup tables are left out: there, a row is itself an output.
fn linears(graph: &ModelGraph) -> BTreeMap<ParamId, usize> {
    let mut found = BTreeMap::new();
    for reader in graph.sites().iter().flat_map(|site| &site.readers) {
        if graph.param(reader.weight).role != Role::Embedding {
            *found.entry(reader.weight).or_insert(0) += 1;
        }
    }
    found
}
