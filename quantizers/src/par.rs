//! Work split into chunks whose size depends on the data alone, never on the number of threads.
//!
//! Each chunk writes its own output, so the bytes are the same for any thread count and any schedule.

/// Weights per chunk to aim at: the f32 copy of a chunk (256 KiB) stays in a core's second-level cache.
pub const CHUNK_WEIGHTS: usize = 64 * 1024;

/// Rows of `cols` weights that make one chunk: at least one.
pub fn rows_per_chunk(cols: usize) -> usize {
    (CHUNK_WEIGHTS / cols.max(1)).max(1)
}
