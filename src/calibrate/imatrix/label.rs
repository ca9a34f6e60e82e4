//! What a shard's file says about itself: which part of which run it holds.

use std::path::Path;

use crate::calibrate::shard::Shard;
use crate::error::{Fault, Result};
use crate::gguf::{Metadata, Value, string};

const INDEX: &str = "aurora.shard.index";
const COUNT: &str = "aurora.shard.count";
const SAMPLES: &str = "aurora.shard.samples";
const LEAF: &str = "aurora.shard.leaf";
const SEED: &str = "aurora.shard.seed";
const TEXT: &str = "aurora.shard.text";
const MODEL: &str = "aurora.shard.model";
const HESSIAN: &str = "aurora.shard.hessian";
const OUTPUT: &str = "aurora.shard.output_matrix";

/// What all shards of a run have in common, besides the number of samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Seed for drawing samples.
    pub seed: u64,
    /// Checksum of the tokens of all samples.
    pub text: u32,
    /// Checksum that identifies the checkpoint.
    pub model: u32,
    /// Whether X^T X was kept.
    pub gram: bool,
    /// Whether the output matrix was observed.
    pub output: bool,
}

/// Which part of which run a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardLabel {
    /// The part.
    pub shard: Shard,
    /// The run.
    pub run: Run,
}

impl ShardLabel {
    /// Writes the keys.
    pub(super) fn keys(&self, metadata: &mut Metadata) {
        let number = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
        let ShardLabel { shard, run } = self;
        metadata.set(INDEX, Value::U32(shard.index));
        metadata.set(COUNT, Value::U32(shard.count));
        metadata.set(SAMPLES, number(shard.samples));
        metadata.set(LEAF, number(shard.leaf));
        metadata.set(SEED, Value::U64(run.seed));
        metadata.set(TEXT, string(format!("{:08x}", run.text)));
        metadata.set(MODEL, string(format!("{:08x}", run.model)));
        metadata.set(HESSIAN, Value::Bool(run.gram));
        metadata.set(OUTPUT, Value::Bool(run.output));
    }

    /// Reads the keys; none if the file holds all samples of its run.
    ///
    /// # Errors
    /// If one is missing or invalid.
    pub(super) fn read(metadata: &Metadata, path: &Path) -> Result<Option<ShardLabel>> {
        if metadata.get(INDEX).is_none() {
            return Ok(None);
        }
        let fault = |key: &str| {
            let what = "missing or invalid for a shard; make the shard again";
            Fault::damaged(what).of_key(path, key)
        };
        let number = |key: &str| metadata.get(key).and_then(Value::as_u64).ok_or_else(|| fault(key));
        let small = |key: &str| number(key).and_then(|n| u32::try_from(n).map_err(|_| fault(key)));
        let sum = |key: &str| {
            let text = metadata.get(key).and_then(Value::as_str);
            text.and_then(|text| u32::from_str_radix(text, 16).ok()).ok_or_else(|| fault(key))
        };
        let flag = |key: &str| match metadata.get(key) {
            Some(Value::Bool(flag)) => Ok(*flag),
            _ => Err(fault(key)),
        };
        let (samples, leaf) = (small(SAMPLES)? as usize, small(LEAF)? as usize);
        let shard = Shard { index: small(INDEX)?, count: small(COUNT)?, samples, leaf };
        if leaf == 0 || shard.index >= shard.count || u64::from(shard.count) > shard.all_leaves() {
            return Err(fault(COUNT));
        }
        let (seed, text, model) = (number(SEED)?, sum(TEXT)?, sum(MODEL)?);
        Ok(Some(ShardLabel { shard, run: Run { seed, text, model, gram: flag(HESSIAN)?, output: flag(OUTPUT)? } }))
    }

    /// "shard 0 of 3".
    pub(super) fn name(&self) -> String {
        format!("shard {} of {}", self.shard.index, self.shard.count)
    }

    /// The first difference between two shards' runs, if any: what it is, its value here, and its value there.
    pub(super) fn differs(&self, other: &ShardLabel) -> Option<(&'static str, String, String)> {
        let facts = |label: &ShardLabel| {
            let ShardLabel { shard, run } = label;
            [
                ("the number of shards", shard.count.to_string()),
                ("the number of samples", shard.samples.to_string()),
                ("the number of samples in a leaf (`text.context`)", shard.leaf.to_string()),
                ("the seed", run.seed.to_string()),
                ("the checksum of the text's tokens", format!("{:08x}", run.text)),
                ("the checksum of the model", format!("{:08x}", run.model)),
                ("`hessian`", run.gram.to_string()),
                ("`output_matrix`", run.output.to_string()),
            ]
        };
        let pairs = facts(self).into_iter().zip(facts(other));
        pairs.filter(|((_, a), (_, b))| a != b).map(|((what, a), (_, b))| (what, a, b)).next()
    }
}
