//! The statistics file: written and read as GGUF, in llama-imatrix's layout, and read in its older format.
//!
//! For every observed matrix `NAME` the file has two F32 tensors: `NAME.in_sum2`, the sums of x^2 over tokens,
//! `[experts, cols]` (one row if there are no experts), and `NAME.counts`, the number of tokens, `[experts, 1]`.
//! llama-quantize reads only these. We add `NAME.in_abs`, the sums of |x|, in the same shape as the squares; and, if
//! X^T X was requested, `NAME.in_gram`, `[experts, cols * (cols + 1) / 2]`: the lower triangle, row by row. It is the
//! same for all matrices that read one input, so only the first of them has it.
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
//! | `sums` | statistics per matrix |
//! | `layout`, `read`, `write` | the file format |
//! | `label` | which part of which run a file holds |
//! | `merge`, `join` | sums of whole files; joined shards |
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
    /// If it is neither, or damaged; the error says which tensor, what was found and what was needed.
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
