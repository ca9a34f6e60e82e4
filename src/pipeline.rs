//! The conversion itself: every tensor's rows are read, rounded and written, in chunks, on all threads.
//!
//! Chunks depend only on shapes, and every chunk has its place in the output, so the bytes are the same for any number
//! of threads. Memory holds one chunk per thread and a few megabytes of input pages, of one tensor at most.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use aurora_quantizers::gptq::Guess;
use aurora_quantizers::scan::{Scan, scan};
use aurora_quantizers::{Fidelity, NumError, Scales, elements, matrix, matrix_mut, par};
use ndarray::{Array2, ArrayView2, Axis};

pub(crate) mod alone;
pub mod blocks;
mod done;
pub(crate) mod guesses;
pub(crate) mod remove;
mod rerun;
pub(crate) mod resume;
mod rounding;
pub mod statistics;
pub(crate) mod stored;
pub(crate) mod survey;
pub mod walk;

use crate::error::{Quantity, Within};
use crate::export::Sink;
use crate::plan::{self, Plan, TensorPlan};
use crate::record::{TensorRecord, TooSmall};
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Error, Result};
use guesses::Guesses;
pub use rounding::{AfterBlocks, ColumnImportances, Rounding};

/// Rows of one tensor that one thread works on at a time.
struct Chunk {
    tensor: usize,
    rows: Range<usize>,
    group: usize,
}

/// Consecutive chunks of one tensor whose input pages are given back together, once all of them are done.
struct Group {
    tensor: usize,
    rows: Range<usize>,
    unfinished: AtomicUsize,
}

/// Chunks per group. Giving pages back interrupts every core, so it happens a few megabytes at a time.
const GROUP: usize = 32;

/// Checks that every tensor of `plan` can be written with this rounding.
///
/// # Errors
/// If a tensor's store has several fields: rows are encoded as one. If reference scales are asked for and a tensor's
/// type has none; the error says which types have them.
pub fn check(plan: &Plan, rounding: Rounding) -> Result<()> {
    if let Some(t) = plan.tensors.iter().find(|t| t.fields.len() != 1) {
        let fields: Vec<_> = t.fields.iter().map(|field| field.suffix).collect();
        let what = format!(
            "{} is stored as {} tensors ({}), and rows are rounded to one only; choose another type for it",
            t.spec().name,
            fields.len(),
            fields.join(", ")
        );
        return Err(Error::unsupported(Within::Tensor(t.name.clone()), what));
    }
    let lacks = |t: &&TensorPlan| rounding.reference && !t.store.has_reference();
    let Some(t) = plan.tensors.iter().find(lacks) else { return Ok(()) };
    let stores = plan::tensor_types().into_iter().filter(|s| s.has_reference());
    let known: Vec<_> = stores.map(|s| s.spec().name).collect();
    let what = format!(
        "{}: {} has no reference scales; use `scales` search, or `pure` with one of the types that do: {}",
        t.name,
        t.spec().name,
        known.join(", ")
    );
    Err(Error::conflict(["scales", "type"], what))
}

/// Reads every tensor of `plan` from `weights`, rounds it to its format (or carries its integers over) and writes it to
/// `output`. Returns how far every tensor is from its weights, as far as that was looked at.
///
/// # Panics
/// If the plan does not pass [`check`].
///
/// # Errors
/// If a tensor holds values that are not finite or that its format cannot hold, if the disk fails, or if the watch says
/// to stop. The error is the same for any number of threads.
pub fn run(
    weights: &Weights,
    plan: &Plan,
    rounding: Rounding,
    output: &dyn Sink,
    watch: &dyn Watch,
) -> Result<Vec<Errors>> {
    let edited = rounding.solved.map(|solved| weights.edited(&solved.edits)).transpose()?;
    let weights = edited.as_ref().unwrap_or(weights);
    for t in plan.tensors.iter().filter(|t| t.carried) {
        if let Some(what) = weights.changes(t.param) {
            let what = format!(
                "{}: was {what} after being planned to carry its integers over; plan a type that rounds it",
                weights.place(t.param).1
            );
            return Err(Error::bug(what));
        }
    }
    let (chunks, groups) = split(weights, plan, rounding.solved);
    let seen: Vec<OnceLock<Seen>> = chunks.iter().map(|_| OnceLock::new()).collect();
    let mut counts = vec![0; plan.tensors.len()];
    chunks.iter().for_each(|chunk| counts[chunk.tensor] += 1);
    let guesses = Guesses::new(weights.graph(), plan, rounding, &counts);
    let next = AtomicUsize::new(0);
    // A faulty tensor is read to its end, so that the error can count its faults; later tensors are not started.
    let last_tensor = AtomicUsize::new(usize::MAX);
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    rayon::broadcast(|_| {
        let mut buffers = Buffers::default();
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = chunks.get(index) else { break };
            if chunk.tensor > last_tensor.load(Ordering::Relaxed) {
                break;
            }
            if let Err(e) = watch.go_on() {
                stop.store(true, Ordering::Relaxed);
                failure.lock().expect("no panics under the lock").get_or_insert(e);
                break;
            }
            let t = &plan.tensors[chunk.tensor];
            match convert(weights, t, chunk, (rounding, &guesses), output, &mut buffers) {
                Ok(found) => {
                    guesses.done(chunk.tensor);
                    let group = &groups[chunk.group];
                    if group.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
                        weights.release(plan.tensors[group.tensor].param, group.rows.clone());
                    }
                    if found.scan.check(t.spec()).is_err() {
                        last_tensor.fetch_min(chunk.tensor, Ordering::Relaxed);
                    }
                    seen[index].get_or_init(|| found);
                    watch.advance(&t.name, (chunk.rows.len() * t.cols()) as u64);
                }
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    failure.lock().expect("no panics under the lock").get_or_insert(e);
                }
            }
        }
    });
    if let Some(e) = failure.into_inner().expect("no panics under the lock") {
        return Err(e);
    }
    // In the order of the chunks, so that sums are the same for any number of threads.
    let mut whole: Vec<Seen> = vec![Seen::default(); plan.tensors.len()];
    for (chunk, found) in chunks.iter().zip(seen) {
        let (tensor, cols) = (&mut whole[chunk.tensor], plan.tensors[chunk.tensor].cols());
        *tensor = tensor.merge(found.into_inner().unwrap_or_default(), (chunk.rows.start * cols) as u64);
    }
    for (t, seen) in plan.tensors.iter().zip(&whole) {
        seen.scan.check(t.spec()).map_err(|e| {
            let (path, name) = weights.place(t.param);
            Error::numbers(Some(path), &name, Quantity::Weights, advice(&e), e)
        })?;
    }
    let before = rounding.solved.map(|solved| &solved.fidelity);
    let fidelity = |t: &TensorPlan, seen: Seen| before.and_then(|all| all.get(&t.param)).map_or(seen.fidelity, |f| *f);
    Ok(plan.tensors.iter().zip(whole).map(|(t, seen)| Errors::of(seen.error, &fidelity(t, seen))).collect())
}

/// How far what was written of a tensor is from its weights; see [`TensorRecord`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Errors {
    largest: Option<f32>,
    relative: Option<f32>,
    too_small: Option<TooSmall>,
}

/// A matrix with less of an error than this has lost nothing: as much is what eight bits cost.
const NOTHING: f64 = 0.01;

impl Errors {
    fn of(largest: Option<f32>, fidelity: &Fidelity) -> Self {
        let worth = fidelity.too_small().filter(|(error, _)| *error > NOTHING);
        Errors {
            largest,
            // If only parts of a matrix were looked at, the rest has errors too.
            relative: (fidelity.square > 0.0 && fidelity.beside == 0.0).then_some(fidelity.relative() as f32),
            too_small: worth.map(|(error, usual)| TooSmall { error: error as f32, usual: usual as f32 }),
        }
    }

    /// Puts them into a record.
    pub fn put(self, record: &mut TensorRecord) {
        record.largest_error = self.largest;
        record.relative_error = self.relative;
        record.too_small = self.too_small;
    }
}

/// What was found in a tensor.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    scan: Scan,
    /// Largest error, if measured.
    error: Option<f32>,
    fidelity: Fidelity,
}

impl Seen {
    /// Combines the two; `other` begins `offset` weights later.
    fn merge(self, other: Seen, offset: u64) -> Seen {
        let error = self.error.into_iter().chain(other.error).reduce(f32::max);
        Seen { scan: self.scan.merge(other.scan, offset), error, fidelity: self.fidelity.and(other.fidelity) }
    }
}

fn advice(e: &NumError) -> &'static str {
    match e {
        NumError::NotRepresentable { .. } => "needs another type, bf16 or f32 (`tensor_types`)",
        _ => "the checkpoint is damaged or was saved from a run that diverged",
    }
}

fn split(weights: &Weights, plan: &Plan, solved: Option<&AfterBlocks>) -> (Vec<Chunk>, Vec<Group>) {
    let (mut chunks, mut groups) = (Vec::new(), Vec::new());
    for (tensor, t) in plan.tensors.iter().enumerate() {
        if solved.is_some_and(|s| s.written[tensor]) {
            continue;
        }
        let step = par::rows_for(par::CHUNK_WEIGHTS, t.cols());
        // If rows are not read in the order in which they are stored, only the whole tensor can be given back.
        let group_rows = if weights.in_order(t.param) { step * GROUP } else { t.rows() };
        for from in (0..t.rows()).step_by(group_rows.max(1)) {
            let rows = from..(from + group_rows).min(t.rows());
            let members = rows.clone().step_by(step).map(|from| Chunk {
                tensor,
                rows: from..(from + step).min(rows.end),
                group: groups.len(),
            });
            let before = chunks.len();
            chunks.extend(members);
            let unfinished = AtomicUsize::new(chunks.len() - before);
            groups.push(Group { tensor, rows, unfinished });
        }
    }
    (chunks, groups)
}

#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
    /// `bytes`, decoded.
    back: Vec<f32>,
}

fn convert(
    weights: &Weights,
    t: &TensorPlan,
    chunk: &Chunk,
    (rounding, guesses): (Rounding, &Guesses),
    output: &dyn Sink,
    buffers: &mut Buffers,
) -> Result<Seen> {
    let cols = t.cols();
    let row_bytes = t.spec().bytes_for(cols).expect("the plan chose a format that divides the row");
    // A transposed tensor is read by stored rows, so all canonical rows of the chunk are read at once. Jointly chosen
    // codes are chosen for many rows side by side.
    let few = weights.in_order(t.param) && guesses.matrices(chunk.tensor).is_none();
    let step = if few { par::rows_for(par::RUN_WEIGHTS, cols) } else { chunk.rows.len() };
    let Buffers { values, bytes, back } = buffers;
    bytes.resize(chunk.rows.len() * row_bytes, 0);
    let mut seen = Seen::default();
    for (from, bytes) in chunk.rows.clone().step_by(step).zip(bytes.chunks_mut(step * row_bytes)) {
        let rows = from..(from + step).min(chunk.rows.end);
        values.resize(rows.len() * cols, 0.0);
        if t.carried {
            weights.carry(t.param, rows.clone(), t.store, matrix_mut(values, cols), bytes);
        } else {
            weights.rows(t.param, rows.clone(), matrix_mut(values, cols));
        }
        let mut found = Seen { scan: scan(values), ..Seen::default() };
        if found.scan.check(t.spec()).is_ok() {
            if !t.carried {
                let guess = |expert: usize, importance: Option<&[f32]>| {
                    guesses.of(weights, t, (chunk.tensor, expert), rounding, importance)
                };
                let matrices = guesses.matrices(chunk.tensor);
                encode(t, rows.start, matrix(values, cols), (rounding, matrices, &guess), bytes);
            }
            let max_abs = found.scan.max_abs;
            let small = max_abs > 0.0 && max_abs < t.spec().fine;
            found.fidelity = Fidelity::unseen(max_abs);
            if rounding.measure || small {
                back.resize(values.len(), 0.0);
                t.store.decode(bytes, back);
                found.fidelity = Fidelity::of(values, back);
            }
            if rounding.measure {
                let errors = back.iter().zip(values.iter()).map(|(a, b)| (a - b).abs());
                found.error = Some(errors.fold(0.0, f32::max));
            }
            if small && !t.carried {
                let scales = if rounding.reference { Scales::Reference } else { Scales::Search(None) };
                found.fidelity = found.fidelity.compared(t.store, values, max_abs, scales);
            }
        }
        seen = seen.merge(found, ((from - chunk.rows.start) * cols) as u64);
    }
    if seen.scan.check(t.spec()).is_ok() {
        output.put(chunk.tensor, 0, (chunk.rows.start * row_bytes) as u64, bytes)?;
    }
    Ok(seen)
}

/// Finds the guess at the inputs of an expert's matrix, whose columns have these importances.
type Guesser<'g> = &'g dyn Fn(usize, Option<&[f32]>) -> Option<Arc<Guess>>;

/// Rounds rows from `first` on. `guess`: finds the guess for one of a tensor's `matrices`, if codes are chosen jointly.
fn encode(
    t: &TensorPlan,
    first: usize,
    values: ArrayView2<'_, f32>,
    (rounding, matrices, guess): (Rounding, Option<usize>, Guesser<'_>),
    bytes: &mut [u8],
) {
    let row_bytes = bytes.len() / values.nrows();
    if rounding.reference {
        return t.store.encode(elements(values), Scales::Reference, bytes);
    }
    let importances = rounding.importances.and_then(|all| all.get(&t.param));
    let Some(matrices) = importances.map(Array2::nrows).or(matrices) else {
        return t.store.encode(elements(values), Scales::Search(None), bytes);
    };
    // All rows of an expert share its importances.
    let height = t.rows() / matrices;
    let (mut row, mut values, mut bytes) = (first, values, bytes);
    while !values.is_empty() {
        let expert = row / height;
        let rows = ((expert + 1) * height - row).min(values.nrows());
        let (now, later) = values.split_at(Axis(0), rows);
        let (to, rest) = std::mem::take(&mut bytes).split_at_mut(rows * row_bytes);
        let importance = importances.map(|all| elements(all.row(expert)));
        match (guess(expert, importance), t.store.blocks()) {
            (Some(guess), Some(blocks)) => guess.encode(blocks, now, importance, to),
            _ => t.store.encode(elements(now), Scales::Search(importance), to),
        }
        (row, values, bytes) = (row + rows, later, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::two_fields;

    #[test]
    fn stores_of_several_fields_are_refused() {
        let error = check(&two_fields::plan(), Rounding::default()).unwrap_err().to_string();
        assert!(error.contains("a: f16 is stored as 2 tensors (.values, .mask)"), "{error}");
    }
}
