//! Statistics of a model's sites from a file, for methods that then need not run the model.

use aurora_quantizers::SiteStats;
use aurora_quantizers::stats::Gram;
use ndarray::Array2;

use super::Imatrix;
use super::layout::{GRAM, experts, floats, triangle};
use crate::calibrate::observe::Feed;
use crate::error::{Fault, Misfit};
use crate::model::{ModelGraph, ParamId};
use crate::{Error, Result};

impl Imatrix {
    /// Checks that the file can replace a run over a text. `feeds`: what it must contain. `gram`: whether X^T X is
    /// needed.
    ///
    /// # Errors
    /// If it is a shard, or something is missing or has the wrong shape; the error names the matrix and says what to
    /// do.
    pub fn complete<'f>(
        &self,
        graph: &ModelGraph,
        feeds: impl IntoIterator<Item = &'f Feed>,
        gram: bool,
    ) -> Result<()> {
        if let Some(label) = &self.label {
            let what = format!("{} of a run; join all of them first (calibrate `merge`)", label.name());
            return Err(Fault::unsupported(what).of(&self.path));
        }
        for feed in feeds {
            let id = feed.readers[0];
            let name = &graph.param(id).name;
            let lacks = |what: &str| Err(Error::misfit(&self.path, name, Misfit::Missing, what));
            let Some(entry) = self.entries.get(name) else {
                return lacks("no statistics for this matrix; were they made with another model?");
            };
            let (found, needed) = (entry.dim(), (experts(graph, id), feed.width));
            if found != needed {
                let what = format!(
                    "{} columns of {} matrices, needed {} of {}; were the statistics made with another model?",
                    found.1, found.0, needed.1, needed.0
                );
                let shape = Misfit::Shape { found: vec![found.0, found.1], needed: vec![needed.0, needed.1] };
                return Err(Error::misfit(&self.path, name, shape, what));
            }
            let sums = entry.counts.iter().chain(&entry.sum_sq).chain(entry.sum_abs.iter().flatten());
            if let Some(x) = sums.into_iter().find(|x| !x.is_finite() || **x < 0.0) {
                return Err(self.bad_number(name, *x, format!("a sum of {x}; needed finite numbers of at least 0")));
            }
            if entry.sum_abs.is_none() {
                return lacks("no sums of magnitudes; make the file with calibrate, which keeps them");
            }
            let stored = self.gram_of(graph, feed);
            if gram && stored.is_none() {
                return lacks("no X^T X of its input, which this method needs; make the file with calibrate `hessian`");
            }
            if let Some(name) = stored {
                self.gram_bytes(name, entry)?;
            }
        }
        Ok(())
    }

    /// The statistics of a feed, or `None` if the file has none for it.
    ///
    /// # Errors
    /// If a number in X^T X is not finite.
    ///
    /// # Panics
    /// If [`Imatrix::complete`] would refuse the feed.
    pub fn stats(&self, graph: &ModelGraph, feed: &Feed) -> Result<Option<SiteStats>> {
        let Some(entry) = self.entries.get(&graph.param(feed.readers[0]).name) else { return Ok(None) };
        let expert = feed.expert.unwrap_or(0);
        let wide = |sums: &Array2<f32>| sums.row(expert).iter().map(|x| f64::from(*x)).collect();
        let gram = self.gram_of(graph, feed).map(|name| self.triangle(name, expert, entry.dim().1)).transpose()?;
        let sum_abs = entry.sum_abs.as_ref().expect("looked at by `complete`");
        let tokens = entry.counts[expert] as u64;
        Ok(Some(SiteStats::from_sums(tokens, wide(&entry.sum_sq), wide(sum_abs), gram)))
    }

    /// The name under which X^T X of a feed is stored: that of any of its readers.
    fn gram_of<'g>(&self, graph: &'g ModelGraph, feed: &Feed) -> Option<&'g str> {
        let name = |id: &ParamId| graph.param(*id).name.as_str();
        feed.readers.iter().map(name).find(|name| self.grams.contains_key(*name))
    }

    fn triangle(&self, name: &str, expert: usize, cols: usize) -> Result<Gram> {
        let (info, map) = (&self.grams[name], self.map.as_ref().expect("a file with X^T X is mapped"));
        let start = info.range.start + 4 * expert * triangle(cols);
        let range = start..start + 4 * triangle(cols);
        let bytes = &map.bytes()[range.clone()];
        if let Some(x) = floats(bytes).find(|x| !x.is_finite()) {
            return Err(self.bad_number(&format!("{name}{GRAM}"), x, format!("a sum of {x}")));
        }
        let gram = Gram::from_lower(cols, floats(bytes));
        map.release(range);
        Ok(gram)
    }
}
