//! One edit, applied to some rows of one matrix: what each kind of edit does to numbers.

use std::ops::Range;
use std::sync::Arc;

use ndarray::aview_mut1;

use super::edit::{Edit, Gather, LowRankTerm, Scale, Side};

/// An edit as it applies to one matrix; the edit itself may span several.
#[derive(Debug, Clone)]
pub(super) struct Step {
    edit: Arc<Edit>,
    /// The row of the edit that is this matrix's first.
    first: usize,
}

/// Some rows of a matrix or parameter, in the order in which they are wanted.
#[derive(Debug, Clone)]
pub(super) enum Places {
    /// Neighbours.
    Run(Range<usize>),
    /// From anywhere.
    List(Vec<usize>),
}

impl Places {
    pub(super) fn each(&self) -> impl Iterator<Item = usize> + '_ {
        let (run, list) = match self {
            Places::Run(rows) => (rows.clone(), [].as_slice()),
            Places::List(rows) => (0..0, rows.as_slice()),
        };
        run.chain(list.iter().copied())
    }

    pub(super) fn moved(&self, by: usize) -> Places {
        match self {
            Places::Run(rows) => Places::Run(rows.start + by..rows.end + by),
            Places::List(rows) => Places::List(rows.iter().map(|row| row + by).collect()),
        }
    }

    /// The same, one by one.
    pub(super) fn list(&self) -> Vec<usize> {
        self.each().collect()
    }
}

impl Step {
    /// `first`: the row of the edit that is the matrix's first.
    pub(super) fn new(edit: Arc<Edit>, first: usize) -> Step {
        Step { edit, first }
    }

    pub(super) fn edit(&self) -> &Edit {
        &self.edit
    }

    pub(super) fn moves_rows(&self) -> bool {
        self.row_sources().is_some()
    }

    /// Where rows come from, if they are others than before.
    pub(super) fn row_sources(&self) -> Option<&[u32]> {
        self.edit.gather().filter(|gather| gather.side == Side::Rows).map(|gather| gather.from.as_slice())
    }

    /// Applies it to the matrix's rows at `places`, `width` columns each, and returns their new width. `row`: scratch.
    pub(super) fn apply(&self, places: &Places, width: usize, values: &mut [f32], row: &mut Vec<f32>) -> usize {
        let rows = places.each().map(|place| self.first + place);
        match &*self.edit {
            Edit::Permute(Gather { from, .. }) | Edit::Remove(Gather { from, .. }) => {
                for (i, _) in rows.enumerate() {
                    row.clear();
                    row.extend_from_slice(&values[i * width..(i + 1) * width]);
                    let to = &mut values[i * from.len()..(i + 1) * from.len()];
                    to.iter_mut().zip(from).for_each(|(to, &from)| *to = row[from as usize]);
                }
                return from.len();
            }
            Edit::Scale(scale) => {
                for (place, values) in rows.zip(values.chunks_exact_mut(width)) {
                    scale.apply(place, values);
                }
            }
            Edit::Mask(mask) => {
                rows.zip(values.chunks_exact_mut(width)).for_each(|(place, values)| mask.apply(place, values));
            }
            Edit::Add(term) => {
                let mut sum = vec![0.0; width];
                for (place, values) in rows.zip(values.chunks_exact_mut(width)) {
                    term.apply(place, &mut sum, values);
                }
            }
            Edit::Values(new) => {
                for (place, values) in rows.zip(values.chunks_exact_mut(width)) {
                    aview_mut1(values).assign(&new.row(place));
                }
            }
        }
        width
    }
}

impl Scale {
    fn apply(&self, row: usize, values: &mut [f32]) {
        if let Some(factors) = &self.cols {
            values.iter_mut().zip(factors).for_each(|(v, f)| *v *= f);
        }
        if let Some(factors) = &self.rows {
            let f = factors[row];
            values.iter_mut().for_each(|v| *v *= f);
        }
    }
}

impl LowRankTerm {
    /// Summed in f64 and rounded once. `sum`: room for a row.
    fn apply(&self, row: usize, sum: &mut [f64], values: &mut [f32]) {
        sum.fill(0.0);
        for (b, a) in self.b.row(row).iter().zip(self.a.rows()) {
            sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += f64::from(*b) * f64::from(*a));
        }
        let scale = f64::from(self.scale);
        values.iter_mut().zip(sum).for_each(|(v, sum)| *v = (f64::from(*v) + scale * *sum) as f32);
    }
}
