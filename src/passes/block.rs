//! One transformer block (or the head) while passes work on it: weights, sites, statistics, and the only legal edits.
//!
//! A scale that moves through a site changes three things: the readers' columns, the producer's rows and the statistics.
//! [`BlockState::scale_site`] changes all three, so they cannot disagree. Weights are not copied for it: what is kept is a
//! factor per row and column, applied whenever rows are read.

use std::collections::BTreeMap;
use std::ops::Range;

use aurora_quantizers::stats::SiteStats;
use aurora_quantizers::{Format, NumError};

use crate::model::{ModelGraph, ParamId, Producer, Reader, Site};
use crate::{Error, Result};

/// Where the weights themselves come from.
pub trait Values: Sync {
    /// Canonical rows of a parameter as it was loaded, row-major; rows count over all outer dimensions.
    ///
    /// # Panics
    /// If there are no such rows, or `out` has another length.
    fn rows(&self, id: ParamId, rows: Range<usize>, out: &mut [f32]);
}

/// Tries other weights on some of the calibration text, or on what is known of it.
pub trait Probe: Sync {
    /// Makes ready to try weights for the readers of a site. `states`: all sites of the block, none of them scaled yet.
    ///
    /// # Errors
    /// If the block cannot be run.
    fn stop_at<'p>(&'p self, site: &Site, states: &'p [SiteState]) -> Result<Box<dyn Trial + 'p>>;

    /// How it judges, if not by running the block.
    fn judges(&self) -> Option<&'static str> {
        None
    }
}

/// A block, stopped in front of the readers of one site.
pub trait Trial {
    /// What other weights (canonical rows of whole matrices, as they would stand in the original checkpoint) do to the
    /// attention's or the MLP's output, the residual stream behind them: the mean over tokens of the squared change, summed over
    /// the width; or, where the block is not run ([`Probe::judges`]), to the outputs of the matrices themselves. Everything else in the
    /// block is as it was loaded.
    ///
    /// # Errors
    /// If the block cannot be run.
    fn change(&self, weights: &[(Reader, Vec<f32>)]) -> Result<f64>;
}

/// What a parameter (or one expert's part of it) is multiplied with on the way from the checkpoint to the output.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Factors {
    /// One for each column of a matrix; for each element of a vector.
    pub cols: Option<Vec<f32>>,
    /// One for each row of a matrix.
    pub rows: Option<Vec<f32>>,
}

impl Factors {
    /// Multiplies rows `first..` of a matrix of `cols` columns in place.
    pub fn apply(&self, first: usize, cols: usize, values: &mut [f32]) {
        for (i, row) in values.chunks_exact_mut(cols).enumerate() {
            if let Some(factors) = &self.cols {
                row.iter_mut().zip(factors).for_each(|(v, f)| *v *= f);
            }
            if let Some(factors) = &self.rows {
                let f = factors[first + i];
                row.iter_mut().for_each(|v| *v *= f);
            }
        }
    }

    fn multiply(side: &mut Option<Vec<f32>>, length: usize, at: usize, by: f32) {
        side.get_or_insert_with(|| vec![1.0; length])[at] *= by;
    }
}

/// A site and what was seen of it.
#[derive(Debug, Clone)]
pub struct SiteState {
    /// The site, as the graph has it.
    pub site: Site,
    /// Of the readers that are no experts' matrices, and of every expert's: these see only the tokens that chose it.
    pub stats: Vec<(Option<usize>, SiteStats)>,
}

impl SiteState {
    /// What the readers of one expert saw; with `None`, those that are no expert's.
    ///
    /// # Panics
    /// If the site has no such readers.
    pub fn seen_by(&self, expert: Option<usize>) -> &SiteStats {
        &self.stats.iter().find(|(e, _)| *e == expert).expect("statistics of every reader").1
    }
}

/// A block under way.
pub struct BlockState<'a> {
    graph: &'a ModelGraph,
    values: &'a dyn Values,
    formats: &'a [&'static dyn Format],
    probe: Option<&'a dyn Probe>,
    sites: Vec<SiteState>,
    factors: BTreeMap<Reader, Factors>,
    encoded: BTreeMap<Reader, Vec<u8>>,
}

impl<'a> BlockState<'a> {
    /// A block as it was loaded. `formats`: what each parameter of the model is to be stored as; `probe`: of a transformer
    /// block, where a pass wants it.
    pub fn new(
        graph: &'a ModelGraph,
        values: &'a dyn Values,
        formats: &'a [&'static dyn Format],
        probe: Option<&'a dyn Probe>,
        sites: Vec<SiteState>,
    ) -> Self {
        BlockState { graph, values, formats, probe, sites, factors: BTreeMap::new(), encoded: BTreeMap::new() }
    }

    /// Where other weights can be tried.
    pub fn probe(&self) -> Option<&'a dyn Probe> {
        self.probe
    }

    /// The model.
    pub fn graph(&self) -> &'a ModelGraph {
        self.graph
    }

    /// The block's sites, in the order in which they run.
    pub fn sites(&self) -> &[SiteState] {
        &self.sites
    }

    /// What the parameter is to be stored as.
    pub fn format(&self, id: ParamId) -> &'static dyn Format {
        self.formats[id.0]
    }

    /// Rows and columns of the matrix that a reader is.
    pub fn shape(&self, reader: Reader) -> (usize, usize) {
        let param = self.graph.param(reader.weight);
        match reader.expert {
            None => (param.rows(), param.cols()),
            Some(_) => (param.rows() / param.shape[0], param.cols()),
        }
    }

    /// A matrix as it stands, `[rows, cols]` row-major: decoded from its codes if it has some, else as loaded, with all
    /// factors so far.
    pub fn weights(&self, reader: Reader) -> Vec<f32> {
        let (rows, cols) = self.shape(reader);
        let mut out = vec![0.0; rows * cols];
        match self.encoded.get(&reader) {
            Some(bytes) => self.format(reader.weight).decode(bytes, &mut out),
            None => self.rows(reader, 0..rows, &mut out),
        }
        out
    }

    /// Rows of a matrix as loaded, with all factors so far.
    ///
    /// # Panics
    /// If there are no such rows, or `out` has another length.
    pub fn rows(&self, reader: Reader, rows: Range<usize>, out: &mut [f32]) {
        let (all, cols) = self.shape(reader);
        let first = reader.expert.unwrap_or(0) * all;
        self.values.rows(reader.weight, first + rows.start..first + rows.end, out);
        if let Some(factors) = self.factors.get(&reader) {
            factors.apply(rows.start, cols, out);
        }
    }

    /// Multiplies column c of every reader of site `index` by `factors[c]`, divides what makes channel c by it, and the
    /// statistics likewise: the block computes what it computed before.
    ///
    /// # Errors
    /// If nobody can absorb the factors (the reason is the site's), if channels that hang together have different
    /// factors, or if a factor is not positive and finite.
    ///
    /// # Panics
    /// If there is no such site, there is not one factor per channel, or a reader has its codes already.
    pub fn scale_site(&mut self, index: usize, factors: &[f32]) -> Result<()> {
        let state = &self.sites[index];
        assert_eq!(factors.len(), state.site.width, "factors of a site");
        let readers = state.site.readers.clone();
        assert!(!readers.iter().any(|r| self.encoded.contains_key(r)), "scales come before codes");
        let name = &self.graph.param(readers[0].weight).name;
        if let Some(f) = factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
            return Err(Error::numbers(name, format!("a scale of {f} for its input")));
        }
        let producer = state.site.producer.clone();
        let producer = producer.map_err(|why| Error::numbers(name, format!("its input cannot be scaled: {why}")))?;
        for group in producer.groups(factors.len()) {
            if let Some(other) = group.iter().find(|&&c| factors[c] != factors[group[0]]) {
                let what = format!("channels {} and {other} of its input need one scale", group[0]);
                return Err(Error::numbers(name, what));
            }
        }
        for reader in &readers {
            let edit = self.factors.entry(*reader).or_default();
            for (c, f) in factors.iter().enumerate() {
                Factors::multiply(&mut edit.cols, factors.len(), c, *f);
            }
        }
        self.divide(&producer, factors);
        self.sites[index].stats.iter_mut().for_each(|(_, stats)| stats.rescale(factors));
        Ok(())
    }

    /// Divides what makes each channel by its factor.
    fn divide(&mut self, producer: &Producer, factors: &[f32]) {
        match producer {
            Producer::Norm { weight, bias } => {
                for id in std::iter::once(*weight).chain(*bias) {
                    let edit = self.factors.entry(Reader { weight: id, expert: None }).or_default();
                    for (c, f) in factors.iter().enumerate() {
                        Factors::multiply(&mut edit.cols, factors.len(), c, f.recip());
                    }
                }
            }
            Producer::Rows { weight, bias, expert, rows, channels } => {
                let matrix = Reader { weight: *weight, expert: *expert };
                let height = self.shape(matrix).0;
                for i in 0..channels.rows() {
                    // All that a row makes have one factor.
                    let Some(c) = channels.of(i).next() else { continue };
                    let (row, by) = (rows.start + i, factors[c].recip());
                    let edit = self.factors.entry(matrix).or_default();
                    Factors::multiply(&mut edit.rows, height, row, by);
                    if let Some(bias) = bias {
                        let edit = self.factors.entry(Reader { weight: *bias, expert: *expert }).or_default();
                        Factors::multiply(&mut edit.cols, height, row, by);
                    }
                }
            }
        }
    }

    /// The matrix is from now on what `bytes` say, in its format.
    ///
    /// # Panics
    /// If they are not as many as the format needs.
    pub fn set_codes(&mut self, reader: Reader, bytes: Vec<u8>) {
        let (rows, cols) = self.shape(reader);
        let spec = self.format(reader.weight).spec();
        assert_eq!(spec.bytes_for(cols).map(|n| n * rows), Some(bytes.len()), "{}: bytes of a matrix", spec.name);
        self.encoded.insert(reader, bytes);
    }

    /// The matrix's bytes, once it has codes.
    pub fn codes(&self, reader: Reader) -> Option<&[u8]> {
        self.encoded.get(&reader).map(Vec::as_slice)
    }

    /// All factors that scales left behind.
    pub fn factors(&self) -> &BTreeMap<Reader, Factors> {
        &self.factors
    }

    /// All codes, and all factors.
    pub fn finish(self) -> (BTreeMap<Reader, Vec<u8>>, BTreeMap<Reader, Factors>) {
        (self.encoded, self.factors)
    }

    /// An error about a reader, with what went wrong in its numbers.
    pub fn error(&self, reader: Reader, e: &NumError) -> Error {
        let name = &self.graph.param(reader.weight).name;
        match reader.expert {
            None => Error::numbers(name, e.to_string()),
            Some(i) => Error::numbers(name, format!("expert {i}: {e}")),
        }
    }
}
