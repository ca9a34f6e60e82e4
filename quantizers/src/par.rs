//! Work split into chunks whose size depends on the data alone, never on the number of threads.
//!
//! Each chunk writes its own output, so the bytes are the same for any thread count and any schedule.

/// Weights that one thread takes at a time: enough work to make handing it out cheap.
pub const CHUNK_WEIGHTS: usize = 64 * 1024;

/// Weights that are read, looked at and rounded at a time within a chunk: as F32 they stay in the nearest cache.
pub const RUN_WEIGHTS: usize = 4 * 1024;

/// Rows of `cols` weights that make about `weights` weights: at least one.
pub fn rows_for(weights: usize, cols: usize) -> usize {
    (weights / cols.max(1)).max(1)
}
