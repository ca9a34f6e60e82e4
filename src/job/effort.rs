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
    /// `tokens`: how many the blocks are run on; none if the methods solve nothing.
    pub fn new(watch: &'a dyn Watch, plan: &'a Plan, graph: &'a ModelGraph, tokens: Option<u64>) -> Self {
        let mut efforts = BTreeMap::new();
        let sites = graph.sites();
        // A table that is the output matrix too is rounded: its rows are looked up as well.
        let solved =
            |id: &ParamId| plan.tensors[id.0].spec().kind == Kind::Block && graph.param(*id).role != Role::Embedding;
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use super::*;
    use crate::job::prepare;
    use crate::recipe::{PassSpec, Recipe};

    #[derive(Default)]
    struct Units(Mutex<u64>);

    impl Watch for Units {
        fn advance(&self, _: &str, units: u64) {
            *self.0.lock().unwrap() += units;
        }
    }

    /// Blocks take minutes, a table of as many weights a second: the time that is left follows from the units at any
    /// moment.
    #[test]
    fn a_table_that_is_only_rounded_is_not_half_of_the_work() {
        let mut recipe = Recipe::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/stories260k"));
        recipe.file_type = Some("q4_0".to_owned());
        recipe.passes = vec![PassSpec::new("gptq")];
        let mut job = prepare(&recipe).unwrap();
        let graph = &job.opened.model.graph;
        // As in a small model with the words of many languages.
        let table = job.plan.tensors.iter_mut().find(|t| t.name == "token_embd.weight").unwrap();
        table.shape[0] *= 20;
        let table = table.weights();
        assert!(table * 2 > job.plan.weights());
        let tokens = 65_536;
        // Seconds: rounding a weight 1e-7; running a token through it 1e-10; solving it 4e-10 for each column.
        let seconds = |i: usize| {
            let (t, block) = (&job.plan.tensors[i], graph.params[i].block);
            let solved = t.spec().kind == Kind::Block && block.is_some();
            let each = 1e-7 + if solved { 1e-10 * tokens as f64 + 4e-10 * t.cols() as f64 } else { 0.0 };
            t.weights() as f64 * each
        };
        let whole: f64 = (0..graph.params.len()).map(seconds).sum();
        let units = Units::default();
        let weighed = Weighed::new(&units, &job.plan, graph, Some(tokens));
        // Blocks come first, whatever their place in the file.
        let (solved, rest): (Vec<_>, Vec<_>) = (0..graph.params.len()).partition(|&i| graph.params[i].block.is_some());
        let mut elapsed = 0.0;
        for i in solved.into_iter().chain(rest) {
            let t = &job.plan.tensors[i];
            weighed.advance(&t.name, t.weights());
            elapsed += seconds(i);
            let done = *units.0.lock().unwrap();
            let left = elapsed * (weighed.all() as f64 / done as f64 - 1.0);
            let off = (left - (whole - elapsed)).abs();
            assert!(off < 0.15 * whole, "{}: {left} left, in fact {}", t.name, whole - elapsed);
        }
        assert_eq!(*units.0.lock().unwrap(), weighed.all());
        // Where nothing is solved every weight is one.
        assert_eq!(Weighed::new(&units, &job.plan, graph, None).all(), job.plan.weights());
    }
}
