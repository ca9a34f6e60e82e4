//! How long each tensor takes compared with others, so that the progress reported is one of time.
//!
//! A method runs the model on every sample for its matrices, while an embedding table, which may hold most of the
//! weights, is only rounded.

use std::collections::BTreeMap;

use aurora_quantizers::spec::Kind;

use crate::Result;
use crate::model::{ModelGraph, ParamId, Role};
use crate::plan::Plan;
use crate::watch::Watch;

/// Tokens of which running the model takes about as long as rounding its weights once.
const TOKENS: u64 = 1024;
/// Columns for which solving a row takes about as long as rounding it once.
const COLUMNS: u64 = 256;

/// A watch that is told weights, and tells another one how long they take.
pub(super) struct Weighed<'a> {
    watch: &'a dyn Watch,
    /// Of the tensors that take longer than rounding them: times as long.
    efforts: BTreeMap<&'a str, u64>,
    all: u64,
}

impl<'a> Weighed<'a> {
    /// `tokens`: how many the blocks are run on; none if the methods solve nothing. `prunes`: whether they work on
    /// matrices of floats, too.
    pub fn new(watch: &'a dyn Watch, plan: &'a Plan, graph: &'a ModelGraph, tokens: Option<u64>, prunes: bool) -> Self {
        let mut efforts = BTreeMap::new();
        let sites = graph.sites();
        // A table that is the output matrix too is rounded: its rows are looked up as well.
        let solved = |id: &ParamId| {
            (prunes || plan.tensors[id.0].spec().kind == Kind::Block) && graph.param(*id).role != Role::Embedding
        };
        for (site, tokens) in sites.iter().filter_map(|site| Some((site, tokens?))) {
            // The output matrix is not run for the methods; only its inputs are looked at.
            let run = if site.block.is_some() { tokens / TOKENS } else { 0 };
            for id in site.readers.iter().map(|reader| reader.weight).filter(solved) {
                let t = &plan.tensors[id.0];
                let effort = 1 + run + t.cols() as u64 / COLUMNS;
                efforts.insert(t.name.as_str(), effort);
                efforts.insert(graph.param(id).name.as_str(), effort);
            }
        }
        let mut weighed = Weighed { watch, efforts, all: 0 };
        weighed.all = plan.tensors.iter().map(|t| weighed.effort(&t.name, t.weights())).sum();
        weighed
    }

    /// What the whole plan takes.
    pub fn all(&self) -> u64 {
        self.all
    }

    fn effort(&self, tensor: &str, weights: u64) -> u64 {
        weights * self.efforts.get(tensor).copied().unwrap_or(1)
    }
}

impl Watch for Weighed<'_> {
    fn begin(&self, units: u64) {
        self.watch.begin(units);
    }

    fn advance(&self, what: &str, units: u64) {
        self.watch.advance(what, self.effort(what, units));
    }

    fn stage(&self, what: &str) {
        self.watch.stage(what);
    }

    fn go_on(&self) -> Result<()> {
        self.watch.go_on()
    }
}
