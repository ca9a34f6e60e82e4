//! Which part of a calibration's samples a run works on, and which sums it keeps.
//!
//! Samples are added up in the order of a fixed tree ([`tree`]). Its leaves are runs of consecutive samples, as many as
//! go through a block together. A shard is a range of leaves; its file keeps the largest nodes of the tree that these
//! leaves make up. All shards' nodes together then give the same sums, bit for bit, as a single run over all samples.

use std::ops::Range;

use aurora_quantizers::tree::{self, Place};

use crate::runtime::TOGETHER;
use crate::{Error, Result};

/// Part or all of the samples of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Which of `count`, counting from 0.
    pub index: u32,
    /// Number of parts that the samples are cut into.
    pub count: u32,
    /// Total number of samples in all parts.
    pub samples: usize,
    /// Samples per leaf; the last leaf may have fewer.
    pub leaf: usize,
}

/// The number of samples in a leaf, for samples of `context` tokens: as many as go through a block together.
pub fn leaf(context: usize) -> usize {
    (TOGETHER / context.max(1)).max(1)
}

impl Shard {
    /// All samples, of at most `context` tokens.
    pub fn whole(samples: usize, context: usize) -> Shard {
        Shard { index: 0, count: 1, samples, leaf: leaf(context) }
    }

    /// Part `index` of `count`.
    ///
    /// # Errors
    /// If there is no such part, or there are more parts than leaves.
    pub fn of(index: u32, count: u32, samples: usize, context: usize) -> Result<Shard> {
        let shard = Shard { index, count, ..Shard::whole(samples, context) };
        if index >= count {
            let what = format!("shards count from 0 to {}", count.saturating_sub(1));
            return Err(Error::setting("shard", format!("{index} of {count}"), what));
        }
        if u64::from(count) > shard.all_leaves() {
            let what = format!(
                "{samples} samples can be cut into at most {} shards of {} samples each",
                shard.all_leaves(),
                shard.leaf
            );
            return Err(Error::setting("shard", format!("{index} of {count}"), what));
        }
        Ok(shard)
    }

    /// Number of leaves in all parts.
    pub fn all_leaves(&self) -> u64 {
        self.samples.div_ceil(self.leaf.max(1)) as u64
    }

    /// The leaves of this part.
    pub fn leaves(&self) -> Range<u64> {
        let (all, count) = (u128::from(self.all_leaves()), u128::from(self.count));
        let cut = |i: u32| (u128::from(i) * all / count.max(1)) as u64;
        cut(self.index)..cut(self.index + 1)
    }

    /// The samples of this part.
    pub fn samples(&self) -> Range<usize> {
        let leaves = self.leaves();
        let cut = |leaf: u64| (leaf as usize * self.leaf).min(self.samples);
        cut(leaves.start)..cut(leaves.end)
    }

    /// The nodes whose sums it keeps, from left to right.
    pub fn nodes(&self) -> Vec<Place> {
        tree::subtrees(self.leaves(), self.all_leaves())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_samples_in_their_order_and_cut_between_leaves() {
        for (samples, context) in [(1, 4096), (7, 512), (128, 256), (129, 32), (40, 100)] {
            let most = Shard::whole(samples, context).all_leaves() as u32;
            for count in [1, 2, 3, 7].into_iter().filter(|count| *count <= most) {
                let parts = (0..count).map(|i| Shard::of(i, count, samples, context).unwrap());
                let mut next = 0;
                for part in parts {
                    let range = part.samples();
                    assert!(range.start == next && !range.is_empty(), "{part:?}");
                    assert!(range.start % part.leaf == 0);
                    next = range.end;
                }
                assert_eq!(next, samples);
            }
            assert!(Shard::of(0, most + 1, samples, context).is_err());
        }
        assert!(Shard::of(3, 3, 128, 256).unwrap_err().to_string().contains("from 0 to 2"));
    }
}
