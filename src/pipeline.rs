//! The conversion itself: every tensor's rows are read, rounded and written, in chunks, on all threads.
//!
//! Chunks depend on shapes alone and every chunk has its place in the output, so the bytes are the same for any
//! number of threads. Memory is one chunk per thread: mapped pages are given back as soon as they are read.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use aurora_quantizers::scan::{Scan, scan};
use aurora_quantizers::{NumError, formats, par};

use crate::export::Output;
use crate::plan::{Plan, TensorPlan};
use crate::weights::Weights;
use crate::{Error, Result};

/// What the pipeline tells while it runs, and where it asks whether to go on.
pub trait Watch: Sync {
    /// `weights` more numbers are done; the last of them belong to the tensor called `tensor`.
    fn advance(&self, tensor: &str, weights: u64);

    /// Whether to stop now.
    fn interrupted(&self) -> bool;
}

/// Rows of one tensor that are worked on together.
struct Chunk {
    tensor: usize,
    rows: Range<usize>,
}

/// Reads every tensor of `plan` from `weights`, rounds it to its format and writes it to `output`.
///
/// # Errors
/// If a tensor holds values that are not finite or that its format cannot hold, if the disk fails, or if the watch
/// says to stop. The error is the same for any number of threads.
pub fn run(weights: &Weights, plan: &Plan, output: &Output, watch: &dyn Watch) -> Result<()> {
    let chunks = chunks(plan);
    let scans: Vec<Mutex<Scan>> = plan.tensors.iter().map(|_| Mutex::new(Scan::default())).collect();
    let next = AtomicUsize::new(0);
    // A faulty tensor is read to its end, so that the error can count its faults; later tensors are not begun.
    let last_tensor = AtomicUsize::new(usize::MAX);
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    rayon::broadcast(|_| {
        let mut buffers = Buffers::default();
        while !stop.load(Ordering::Relaxed) {
            let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            if chunk.tensor > last_tensor.load(Ordering::Relaxed) {
                break;
            }
            if watch.interrupted() {
                stop.store(true, Ordering::Relaxed);
                failure.lock().expect("no panics under the lock").get_or_insert(Error::Interrupted);
                break;
            }
            let t = &plan.tensors[chunk.tensor];
            match convert(weights, t, chunk, output, &mut buffers) {
                Ok(found) => {
                    if found.check(t.actual).is_err() {
                        last_tensor.fetch_min(chunk.tensor, Ordering::Relaxed);
                    }
                    let mut scan = scans[chunk.tensor].lock().expect("no panics under the lock");
                    *scan = scan.merge(found, (chunk.rows.start * t.cols()) as u64);
                    drop(scan);
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
    let scans = scans.into_iter().map(|s| s.into_inner().expect("no panics under the lock"));
    for (t, scan) in plan.tensors.iter().zip(scans) {
        scan.check(t.actual).map_err(|e| weights.error(t.param, advice(&e)))?;
    }
    Ok(())
}

fn advice(e: &NumError) -> String {
    match e {
        NumError::NotRepresentable { .. } => format!("{e}; use bf16 or f32 for it (--tensor-type)"),
        _ => format!("{e}; the checkpoint is damaged or was saved from a run that diverged"),
    }
}

fn chunks(plan: &Plan) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (tensor, t) in plan.tensors.iter().enumerate() {
        let rows = t.rows();
        let step = par::rows_per_chunk(t.cols());
        chunks.extend((0..rows).step_by(step).map(|from| Chunk { tensor, rows: from..(from + step).min(rows) }));
    }
    chunks
}

#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
}

fn convert(weights: &Weights, t: &TensorPlan, chunk: &Chunk, output: &Output, buffers: &mut Buffers) -> Result<Scan> {
    let cols = t.cols();
    let row_bytes = t.actual.bytes_for(cols).expect("the plan chose a format that divides the row");
    let Buffers { values, bytes } = buffers;
    values.resize(chunk.rows.len() * cols, 0.0);
    bytes.resize(chunk.rows.len() * row_bytes, 0);
    weights.rows(t.param, chunk.rows.clone(), values);
    weights.release(t.param, chunk.rows.clone());
    let found = scan(values);
    if found.check(t.actual).is_ok() {
        formats::by_ggml_id(t.actual.ggml_id).expect("the plan names formats").encode(values, bytes);
        output.put(chunk.tensor, (chunk.rows.start * row_bytes) as u64, bytes)?;
    }
    Ok(found)
}
