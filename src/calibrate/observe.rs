//! An observer of one block: collects the statistics of every site's input, leaf by leaf.

use std::collections::HashMap;

use aurora_quantizers::tree::{Place, Tree};
use aurora_quantizers::{NumError, SiteStats};

use super::shard::Shard;
use crate::model::{ParamId, Reader, Site};
use crate::runtime::{LinearInput, Tap};

/// Linear layers that see the same rows: those of a site or, in a mixture, those of one expert, which see only the
/// tokens routed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// The transformer block; `None` for the output matrix.
    pub block: Option<usize>,
    /// Width of a row.
    pub width: usize,
    /// The linear layers, in execution order.
    pub readers: Vec<ParamId>,
    /// The expert, if these layers have several.
    pub expert: Option<usize>,
}

impl Feed {
    /// The first of its layers, which identifies the feed's statistics.
    pub fn reader(&self) -> Reader {
        Reader { weight: self.readers[0], expert: self.expert }
    }
}

/// The feeds of a block's sites, in execution order.
pub fn feeds(sites: &[Site], block: Option<usize>) -> Vec<Feed> {
    let mut all = Vec::new();
    for site in sites.iter().filter(|s| s.block == block) {
        let start = all.len();
        for reader in &site.readers {
            let known = all[start..].iter_mut().find(|f: &&mut Feed| f.expert == reader.expert);
            match known {
                Some(feed) => feed.readers.push(reader.weight),
                None => {
                    let readers = vec![reader.weight];
                    all.push(Feed { block: site.block, width: site.width, readers, expert: reader.expert });
                }
            }
        }
    }
    all
}

/// Collects statistics while a block runs.
pub struct Observer {
    feeds: Vec<(Feed, Tree)>,
    /// Number of leaves of all samples.
    leaves: u64,
    gram: bool,
    /// The first reader of every feed; the others see the same rows.
    first: HashMap<Reader, usize>,
    failure: Option<(usize, NumError)>,
    /// Whether each feed is shown all rows of the current leaf in a single call.
    at_once: bool,
}

impl Observer {
    /// `gram`: whether to keep X^T X. `shard`: the samples it will be shown.
    pub fn new(feeds: Vec<Feed>, gram: bool, shard: &Shard) -> Self {
        let first = feeds.iter().enumerate().map(|(i, f)| (f.reader(), i)).collect();
        let leaves = shard.leaves();
        let with_tree = |feed: Feed| {
            let tree = Tree::new(feed.width, gram, leaves.clone());
            (feed, tree)
        };
        let feeds = feeds.into_iter().map(with_tree).collect();
        Observer { feeds, leaves: shard.all_leaves(), gram, first, failure: None, at_once: false }
    }

    /// The feeds that are observed.
    pub fn feeds(&self) -> impl Iterator<Item = &Feed> {
        self.feeds.iter().map(|(feed, _)| feed)
    }

    /// Checks that all inputs so far were finite.
    ///
    /// # Errors
    /// The first feed whose inputs were not.
    pub fn check(&self) -> Result<(), (&Feed, &NumError)> {
        match &self.failure {
            Some((at, e)) => Err((&self.feeds[*at].0, e)),
            None => Ok(()),
        }
    }

    /// Begins a leaf. `at_once`: whether each feed will be shown all its rows in a single call, so that they need not
    /// be kept.
    pub fn begin_leaf(&mut self, at_once: bool) {
        self.at_once = at_once;
    }

    /// Ends a leaf, once all its samples have been shown.
    pub fn end_leaf(&mut self) {
        self.feeds.iter_mut().for_each(|(_, tree)| tree.end_leaf());
    }

    /// The statistics of a shard: the sums of its nodes.
    ///
    /// # Panics
    /// If a leaf has not ended.
    pub fn nodes(self) -> impl Iterator<Item = (Feed, Vec<(Place, SiteStats)>)> {
        let leaves = self.leaves;
        self.feeds.into_iter().map(move |(feed, tree)| (feed, tree.finish(leaves)))
    }

    /// The statistics of all samples.
    ///
    /// # Panics
    /// If a leaf has not ended, or not all samples were shown.
    pub fn whole(self) -> impl Iterator<Item = (Feed, SiteStats)> {
        let gram = self.gram;
        self.nodes().map(move |(feed, mut nodes)| {
            assert!(nodes.len() <= 1, "{} sums of a part of the samples", nodes.len());
            let stats = nodes.pop().map_or_else(|| SiteStats::new(feed.width, gram), |(_, stats)| stats);
            (feed, stats)
        })
    }
}

impl Tap for Observer {
    fn linear_input(&mut self, input: &LinearInput<'_>) {
        let Some(&at) = self.first.get(&Reader { weight: input.weight, expert: input.expert }) else { return };
        let tree = &mut self.feeds[at].1;
        let added = if self.at_once { tree.add_all(input.x) } else { tree.add(input.x) };
        if let Err(e) = added {
            self.failure.get_or_insert((at, e));
        }
    }
}
