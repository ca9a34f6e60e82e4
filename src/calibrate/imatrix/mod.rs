//! The file of statistics: written and read as GGUF, in the layout of llama-imatrix, and read in its older one.
//!
//! Of every matrix `NAME` that was observed the file has two F32 tensors: `NAME.in_sum2`, the sums of x^2 over tokens,
//! `[experts, cols]` (one row if there are no experts), and `NAME.counts`, how many tokens, `[experts, 1]`.
//! llama-quantize reads these and no others. We add `NAME.in_abs`, the sums of |x|, shaped as the squares; and, where
//! X^T X was asked for, `NAME.in_gram`, `[experts, cols * (cols + 1) / 2]`: the lower triangle row by row, of the first
//! matrix of those that read one input, since it is the same for all of them.
//!
//! Keys: `general.type` ("imatrix"), `imatrix.datasets`, `imatrix.chunk_count`, `imatrix.chunk_size` (tokens).
//!
//! The file of a shard ([`ShardLabel`]) has the sums of its samples under these names too, except `in_gram`. For each
//! node of the tree that it makes up ([`Shard::nodes`](super::shard::Shard::nodes)) it has `NAME.tree_counts`,
//! `NAME.tree_sum2` and `NAME.tree_abs`, F64, `[experts * nodes, 1 or cols]`, and `NAME.tree_gram`, F32, `[experts *
//! nodes, cols * (cols + 1) / 2]`.
//!
//! | file | what it answers |
//! |---|---|
//! | `sums` | statistics by matrix |
//! | `layout`, `read`, `write` | how the file lies |
//! | `label` | which part of which run a file says that it holds |
//! | `merge`, `join` | sums of whole files; shards put together |
//! | `stored` | statistics of sites, from a file |

use std::path::Path;

mod join;
mod label;
mod layout;
mod merge;
mod read;
mod stored;
mod sums;
mod write;

pub use label::{Run, ShardLabel};
pub use merge::merge;
pub use sums::{Entry, Imatrix, Importances, Origin};
pub use write::{Shape, Writer, shapes};

use crate::Result;
use crate::checkpoint::mmap::Map;
use crate::gguf::MAGIC;
use crate::watch::Watch;

impl Imatrix {
    /// Reads a file of ours or of llama-imatrix, GGUF or the older `.dat`.
    ///
    /// # Errors
    /// If it is neither, or damaged: which tensor, what was found, what was needed.
    pub fn open(path: &Path) -> Result<Self> {
        let map = Map::open(path)?;
        if map.bytes().starts_with(&MAGIC) { read::gguf(path, map) } else { read::dat(path, map.bytes()) }
    }

    /// Writes sums and counts, all at once.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path, replace: bool, watch: &dyn Watch) -> Result<()> {
        let shapes = self.entries.iter().map(|(name, e)| (name.clone(), e.dim().1, e.dim().0, false));
        let writer = Writer::begin(path, &self.origin, None, shapes.collect(), replace)?;
        writer.finish(self, watch)
    }
}
