//! One transformer block (or the head) while passes work on it: weights, sites, statistics, and the only allowed edits.
//!
//! Scaling a site changes three things: the readers' columns, the producer's rows and the statistics.
//! [`BlockState::scale_site`] changes all three, so they cannot disagree. Weights are not copied for this: only
//! [`Edits`] are kept, and rows are read through a view that applies them.

use std::collections::BTreeMap;
use std::ops::Range;

use aurora_quantizers::stats::SiteStats;
use aurora_quantizers::{BitMask, Fidelity, NumError, Scales, Store, elements_mut, matrix_mut, par, scan};
use ndarray::{Array2, ArrayViewMut2};
use rayon::prelude::*;

use crate::error::Quantity;
use crate::model::{ModelGraph, ParamId, Producer, Reader, Site};
use crate::weights::{Edit, Edits, Scale, Weights};
use crate::{Error, Result};

/// Tries other weights on part of the calibration text, or on its statistics.
pub trait Probe: Sync {
    /// Prepares to try weights for the readers of a site. `states`: all sites of the block, none of them scaled yet.
    ///
    /// # Errors
    /// If the block cannot be run.
    fn stop_at<'p>(&'p self, site: &Site, states: &'p [SiteState]) -> Result<Box<dyn Trial + 'p>>;

    /// How it judges weights, if not by running the block.
    fn judges(&self) -> Option<&'static str> {
        None
    }
}

/// A block, stopped just before the readers of one site.
pub trait Trial {
    /// What other weights (whole matrices `[rows, cols]`, as they would stand in the original checkpoint) do to the
    /// attention's or the MLP's output, the residual stream behind them: the mean over tokens of the squared change,
    /// summed over the width; or, where the block is not run ([`Probe::judges`]), to the outputs of the matrices
    /// themselves. Everything else in the block is as it was loaded.
    ///
    /// # Errors
    /// If the block cannot be run.
    ///
    /// # Panics
    /// If a matrix has another shape than its reader, or not its rows one after the other.
    fn change(&self, weights: &[(Reader, Array2<f32>)]) -> Result<f64>;
}

/// A site and its statistics.
#[derive(Debug, Clone)]
pub struct SiteState {
    /// The site, as the graph has it.
    pub site: Site,
    /// Statistics for the readers that are not experts' matrices (`None`), and for every expert's, which see only the
    /// tokens routed to it.
    pub stats: Vec<(Option<usize>, SiteStats)>,
}

impl SiteState {
    /// What the readers of one expert saw; for `None`, those that belong to no expert.
    ///
    /// # Panics
    /// If the site has no such readers.
    pub fn seen_by(&self, expert: Option<usize>) -> &SiteStats {
        &self.stats.iter().find(|(e, _)| *e == expert).expect("statistics of every reader").1
    }
}

/// A block that is being worked on.
pub struct BlockState<'a> {
    loaded: &'a Weights<'a>,
    stores: &'a [&'static dyn Store],
    probe: Option<&'a dyn Probe>,
    sites: Vec<SiteState>,
    edits: Edits,
    /// The loaded weights with all edits.
    view: Weights<'a>,
    encoded: BTreeMap<Reader, Vec<u8>>,
    fidelity: BTreeMap<ParamId, Fidelity>,
    /// What stays of matrices that were pruned.
    masks: BTreeMap<Reader, BitMask>,
    /// All edits but pruning, and the loaded weights with them.
    dense: (Edits, Weights<'a>),
}

impl<'a> BlockState<'a> {
    /// A block as in `loaded`. `stores`: how each parameter of the model will be stored. `probe`: for transformer
    /// blocks, if a pass wants one.
    pub fn new(
        loaded: &'a Weights<'a>,
        stores: &'a [&'static dyn Store],
        probe: Option<&'a dyn Probe>,
        sites: Vec<SiteState>,
    ) -> Self {
        let (edits, view) = (Edits::new(), loaded.clone());
        let dense = (Edits::new(), loaded.clone());
        let (encoded, fidelity, masks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        BlockState { loaded, stores, probe, sites, edits, view, encoded, fidelity, masks, dense }
    }

    /// The means of trying other weights, if there is one.
    pub fn probe(&self) -> Option<&'a dyn Probe> {
        self.probe
    }

    /// The model.
    pub fn graph(&self) -> &'a ModelGraph {
        self.loaded.graph()
    }

    /// The block's sites, in execution order.
    pub fn sites(&self) -> &[SiteState] {
        &self.sites
    }

    /// How the parameter will be stored.
    pub fn store(&self, id: ParamId) -> &'static dyn Store {
        self.stores[id.0]
    }

    /// Rows and columns of a reader's matrix.
    pub fn shape(&self, reader: Reader) -> (usize, usize) {
        self.view.dim_of(reader)
    }

    /// A matrix as it stands, `[rows, cols]`: decoded from its codes if it has some, else as loaded, with all edits so
    /// far.
    pub fn weights(&self, reader: Reader) -> Array2<f32> {
        let mut out = Array2::zeros(self.shape(reader));
        match self.encoded.get(&reader) {
            Some(bytes) => self.store(reader.weight).decode(bytes, elements_mut(out.view_mut())),
            None if self.view.in_order(reader.weight) => {
                let cols = out.ncols();
                let step = par::rows_for(par::CHUNK_WEIGHTS, cols);
                elements_mut(out.view_mut()).par_chunks_mut(step * cols).enumerate().for_each(|(i, values)| {
                    let some = i * step..i * step + values.len() / cols;
                    self.rows(reader, some, matrix_mut(values, cols));
                });
            }
            None => self.rows(reader, 0..out.nrows(), out.view_mut()),
        }
        out
    }

    /// A matrix as it would stand if nothing had been pruned, `[rows, cols]`.
    pub fn dense(&self, reader: Reader) -> Array2<f32> {
        let mut out = Array2::zeros(self.shape(reader));
        let first = reader.expert.map_or(0, |expert| expert * out.nrows());
        self.dense.1.rows(reader.weight, first..first + out.nrows(), out.view_mut());
        out
    }

    /// What stays of a matrix, if it was pruned.
    pub fn mask(&self, reader: Reader) -> Option<&BitMask> {
        self.masks.get(&reader)
    }

    /// Prunes a matrix: what does not stay is zero from now on. `values`: what it becomes, if what stays changes, too.
    ///
    /// # Errors
    /// If the mask or the values do not fit the matrix's shape.
    ///
    /// # Panics
    /// If the matrix already has codes or a mask.
    pub fn prune(&mut self, reader: Reader, mask: BitMask, values: Option<Array2<f32>>) -> Result<()> {
        assert!(!self.encoded.contains_key(&reader), "pruning comes before codes");
        if self.masks.is_empty() {
            self.dense = (self.edits.clone(), self.view.clone());
        }
        if let Some(values) = values {
            self.edits.push(reader.weight, reader.expert, Edit::Values(values));
        }
        self.edits.push(reader.weight, reader.expert, Edit::Mask(mask.clone()));
        self.view = self.loaded.edited(&self.edits)?;
        assert!(self.masks.insert(reader, mask).is_none(), "pruned twice");
        Ok(())
    }

    /// Rows of a matrix as loaded, with all edits so far; `out`: `[rows.len(), cols]`.
    ///
    /// # Panics
    /// If there are no such rows, or `out` has another shape or not its rows one after the other.
    pub fn rows(&self, reader: Reader, rows: Range<usize>, out: ArrayViewMut2<'_, f32>) {
        let first = reader.expert.map_or(0, |expert| expert * self.shape(reader).0);
        self.view.rows(reader.weight, first + rows.start..first + rows.end, out);
    }

    /// The matrix's bytes in the checkpoint, if it has its format there and nothing was done to it.
    pub fn stored(&self, reader: Reader) -> Option<Vec<u8>> {
        let ((rows, cols), store) = (self.shape(reader), self.store(reader.weight));
        let first = reader.expert.map_or(0, |expert| expert * rows);
        self.view.stored_as(reader.weight, store).then(|| {
            let mut bytes = vec![0; store.spec().bytes_for(cols).expect("whole blocks") * rows];
            self.view.copy(reader.weight, first..first + rows, &mut bytes);
            bytes
        })
    }

    /// Multiplies column c of every reader of site `index` by `factors[c]`, and divides whatever produces channel c,
    /// and the statistics, accordingly. The block computes the same as before.
    ///
    /// # Errors
    /// If nothing can absorb the factors (the site says why), if tied channels have different factors, or if a factor
    /// is not positive and finite.
    ///
    /// # Panics
    /// If there is no such site, there is not one factor per channel, or a reader already has codes.
    pub fn scale_site(&mut self, index: usize, factors: &[f32]) -> Result<()> {
        let state = &self.sites[index];
        assert_eq!(factors.len(), state.site.width, "factors of a site");
        let readers = state.site.readers.clone();
        assert!(!readers.iter().any(|r| self.encoded.contains_key(r)), "scales come before codes");
        let name = &self.graph().param(readers[0].weight).name;
        if let Some(f) = factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
            return Err(Error::Numbers {
                path: None,
                tensor: name.clone(),
                what: format!("a scale of {f} for its input"),
                source: None,
            });
        }
        let producer = state.site.producer.clone();
        let producer = producer.map_err(|why| Error::bug(format!("{name}: its input cannot be scaled: {why}")))?;
        for group in producer.groups(factors.len()) {
            if let Some(other) = group.iter().find(|&&c| factors[c] != factors[group[0]]) {
                let what = format!("{name}: channels {} and {other} of its input must have the same scale", group[0]);
                return Err(Error::bug(what));
            }
        }
        for reader in &readers {
            self.push(reader.weight, reader.expert, Edit::Scale(Scale::of_cols(factors.to_vec())));
        }
        self.divide(&producer, factors);
        self.look_again()?;
        self.sites[index].stats.iter_mut().for_each(|(_, stats)| stats.rescale(factors));
        Ok(())
    }

    /// Edits one matrix, without compensating for it elsewhere.
    ///
    /// # Errors
    /// If the edit does not fit the matrix's shape.
    ///
    /// # Panics
    /// If the matrix already has codes.
    pub fn edit(&mut self, reader: Reader, edit: Edit) -> Result<()> {
        assert!(!self.encoded.contains_key(&reader), "edits come before codes");
        self.push(reader.weight, reader.expert, edit);
        self.look_again()
    }

    fn push(&mut self, id: ParamId, expert: Option<usize>, edit: Edit) {
        if !self.masks.is_empty() {
            self.dense.0.push(id, expert, edit.clone());
        }
        self.edits.push(id, expert, edit);
    }

    fn look_again(&mut self) -> Result<()> {
        self.view = self.loaded.edited(&self.edits)?;
        if !self.masks.is_empty() {
            self.dense.1 = self.loaded.edited(&self.dense.0)?;
        }
        Ok(())
    }

    /// Divides whatever produces each channel by its factor.
    fn divide(&mut self, producer: &Producer, factors: &[f32]) {
        match producer {
            Producer::Norm { weight, bias } => {
                let by: Vec<f32> = factors.iter().map(|f| f.recip()).collect();
                for id in std::iter::once(*weight).chain(*bias) {
                    self.push(id, None, Edit::Scale(Scale::of_cols(by.clone())));
                }
            }
            Producer::Rows { weight, bias, expert, rows, channels } => {
                let mut by = vec![1.0; self.shape(Reader { weight: *weight, expert: *expert }).0];
                for (i, by) in by[rows.clone()].iter_mut().enumerate().take(channels.rows()) {
                    // All channels that a row produces have the same factor.
                    let Some(c) = channels.of(i).next() else { continue };
                    *by = factors[c].recip();
                }
                if let Some(bias) = bias {
                    self.push(*bias, *expert, Edit::Scale(Scale::of_cols(by.clone())));
                }
                self.push(*weight, *expert, Edit::Scale(Scale::of_rows(by)));
            }
        }
    }

    /// Sets the matrix's bytes, in its format. From now on they are its value.
    ///
    /// # Panics
    /// If the number of bytes is not what the format needs.
    pub fn set_codes(&mut self, reader: Reader, bytes: Vec<u8>) {
        let (rows, cols) = self.shape(reader);
        let spec = self.store(reader.weight).spec();
        assert_eq!(spec.bytes_for(cols).map(|n| n * rows), Some(bytes.len()), "{}: bytes of a matrix", spec.name);
        let fidelity = self.look(reader, &bytes);
        let all = self.fidelity.entry(reader.weight).or_default();
        *all = all.and(fidelity);
        self.encoded.insert(reader, bytes);
    }

    /// What is left of a matrix, if it may be too small for its format.
    fn look(&self, reader: Reader, bytes: &[u8]) -> Fidelity {
        let ((rows, cols), store) = (self.shape(reader), self.store(reader.weight));
        let row_bytes = bytes.len() / rows;
        let step = par::rows_for(par::CHUNK_WEIGHTS, cols);
        let chunks = bytes.par_chunks(step * row_bytes).enumerate().map(|(i, bytes)| {
            let some = i * step..i * step + bytes.len() / row_bytes;
            let mut values = vec![0.0; some.len() * cols];
            self.rows(reader, some, matrix_mut(&mut values, cols));
            let max_abs = scan(&values).max_abs;
            if max_abs >= store.spec().fine {
                return Fidelity::unseen(max_abs);
            }
            let mut stored = vec![0.0; values.len()];
            store.decode(bytes, &mut stored);
            Fidelity::of(&values, &stored).compared(store, &values, max_abs, Scales::Search(None))
        });
        // Collected first, because parallel sums have an order of their own.
        chunks.collect::<Vec<_>>().into_iter().fold(Fidelity::default(), Fidelity::and)
    }

    /// The matrix's bytes, if it has codes.
    pub fn codes(&self, reader: Reader) -> Option<&[u8]> {
        self.encoded.get(&reader).map(Vec::as_slice)
    }

    /// All codes, what is left of the weights that they are of, and all edits.
    pub fn finish(self) -> (BTreeMap<Reader, Vec<u8>>, BTreeMap<ParamId, Fidelity>, Edits) {
        (self.encoded, self.fidelity, self.edits)
    }

    /// An error about a reader's numbers.
    pub fn error(&self, reader: Reader, e: &NumError) -> Error {
        let what = match e {
            NumError::NotFinite { .. } => "its weights are not finite",
            _ => "it cannot be rounded so",
        };
        let what = reader.expert.map_or(what.to_owned(), |i| format!("expert {i}: {what}"));
        Error::numbers(None, &self.graph().param(reader.weight).name, Quantity::Weights, what, e.clone())
    }
}
