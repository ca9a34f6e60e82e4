//! The ways in which a parameter can differ from the checkpoint, as values that know which shapes they fit. How they
//! change numbers is in `step`.
//!
//! An edit applies to a matrix `[rows, cols]`: a parameter with all its rows over all outer dimensions, or one expert's
//! matrix. A vector is a matrix of one row.

use aurora_quantizers::BitMask;
use ndarray::Array2;

/// One change of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Rows or columns change places.
    Permute(Gather),
    /// Rows and columns are multiplied.
    Scale(Scale),
    /// Some weights become zero.
    Mask(BitMask),
    /// Rows or columns are gone; the others keep their order.
    Remove(Gather),
    /// Something is added.
    Add(LowRankTerm),
    /// Everything is replaced: `[rows, cols]`.
    Values(Array2<f32>),
}

/// The rows or the columns of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Outputs.
    Rows,
    /// Inputs; the elements of a vector.
    Cols,
}

/// Where the rows or columns of a matrix come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gather {
    /// Which of the two.
    pub side: Side,
    /// Row (or column) i is what was row (or column) `from[i]`.
    pub from: Vec<u32>,
}

/// Factors. Columns are multiplied first, then rows, in f32.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scale {
    /// One for each column; for each element of a vector.
    pub cols: Option<Vec<f32>>,
    /// One for each row.
    pub rows: Option<Vec<f32>>,
}

/// A product of two thin matrices, `scale * B A`.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankTerm {
    /// Multiplies the product.
    pub scale: f32,
    /// B, `[rows, rank]`.
    pub b: Array2<f32>,
    /// A, `[rank, cols]`.
    pub a: Array2<f32>,
}

impl Scale {
    /// Of columns alone.
    pub fn of_cols(factors: Vec<f32>) -> Scale {
        Scale { cols: Some(factors), rows: None }
    }

    /// Of rows alone.
    pub fn of_rows(factors: Vec<f32>) -> Scale {
        Scale { cols: None, rows: Some(factors) }
    }

    /// These factors and others multiplied with each other; a side without factors is a side of ones. `None` if they
    /// are of different lengths.
    pub(super) fn times(&self, by: &Scale) -> Option<Scale> {
        let side = |all: &Option<Vec<f32>>, by: &Option<Vec<f32>>| match (all, by) {
            (Some(all), Some(by)) if all.len() != by.len() => None,
            (Some(all), Some(by)) => Some(Some(all.iter().zip(by).map(|(f, by)| f * by).collect())),
            (all, by) => Some(all.as_ref().or(by.as_ref()).cloned()),
        };
        Some(Scale { cols: side(&self.cols, &by.cols)?, rows: side(&self.rows, &by.rows)? })
    }
}

impl Gather {
    /// This one, and another after it; `None` if they are not of one side and length.
    pub(super) fn then(&self, later: &Gather) -> Option<Gather> {
        if self.side != later.side || self.from.len() != later.from.len() {
            return None;
        }
        let from = later.from.iter().map(|&i| self.from.get(i as usize).copied());
        Some(Gather { side: self.side, from: from.collect::<Option<_>>()? })
    }
}

impl Edit {
    /// What it does to weights, in words: "scaled".
    pub(super) fn done(&self) -> &'static str {
        match self {
            Edit::Permute(_) => "permuted",
            Edit::Scale(_) => "scaled",
            Edit::Mask(_) => "masked",
            Edit::Remove(_) => "cut",
            Edit::Add(_) => "added to",
            Edit::Values(_) => "replaced",
        }
    }

    /// Where rows or columns come from, if they are others than before.
    pub(super) fn gather(&self) -> Option<&Gather> {
        match self {
            Edit::Permute(gather) | Edit::Remove(gather) => Some(gather),
            _ => None,
        }
    }

    /// Whether it can be done to a matrix of this shape; else why not.
    pub(super) fn check(&self, rows: usize, cols: usize) -> Result<(), String> {
        let counted = |what: &str, found: usize, needed: usize| match found == needed {
            true => Ok(()),
            false => Err(format!("{found} {what}, needed {needed} ([{rows}, {cols}])")),
        };
        match self {
            Edit::Permute(Gather { side, from }) => {
                let (name, all) = side.of(rows, cols);
                counted(&format!("{name} change places"), from.len(), all)?;
                let mut seen = vec![false; all];
                let twice =
                    from.iter().find(|&&i| (i as usize) >= all || std::mem::replace(&mut seen[i as usize], true));
                match twice {
                    Some(i) => Err(format!("{name} change places, of which {i} stands twice or is none of {all}")),
                    None => Ok(()),
                }
            }
            Edit::Remove(Gather { side, from }) => {
                let (name, all) = side.of(rows, cols);
                let rising = from.windows(2).all(|pair| pair[0] < pair[1]);
                match from.last() {
                    None => Err(format!("all its {all} {name} would be removed")),
                    Some(last) if !rising || *last as usize >= all => {
                        Err(format!("{name} that stay must be a rising list of those from 0 to {}", all - 1))
                    }
                    Some(_) => Ok(()),
                }
            }
            Edit::Scale(Scale { cols: by_cols, rows: by_rows }) => {
                by_cols.iter().try_for_each(|by| counted("factors of columns", by.len(), cols))?;
                by_rows.iter().try_for_each(|by| counted("factors of rows", by.len(), rows))
            }
            Edit::Mask(mask) if (mask.rows(), mask.cols()) != (rows, cols) => {
                Err(format!("a mask of [{}, {}], needed [{rows}, {cols}]", mask.rows(), mask.cols()))
            }
            Edit::Mask(_) => Ok(()),
            Edit::Add(LowRankTerm { b, a, .. }) => match (b.nrows(), a.ncols(), b.ncols()) == (rows, cols, a.nrows()) {
                true => Ok(()),
                false => {
                    let (b, a) = (b.shape(), a.shape());
                    Err(format!("a product of {b:?} and {a:?}, needed [{rows}, rank] and [rank, {cols}]"))
                }
            },
            Edit::Values(values) if values.dim() != (rows, cols) => {
                Err(format!("new values of {:?}, needed [{rows}, {cols}]", values.shape()))
            }
            Edit::Values(_) => Ok(()),
        }
    }
}

impl Side {
    /// What it is called, and how many a matrix has.
    fn of(self, rows: usize, cols: usize) -> (&'static str, usize) {
        match self {
            Side::Rows => ("rows", rows),
            Side::Cols => ("columns", cols),
        }
    }
}
