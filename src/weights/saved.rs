//! Edits as they are kept in files: floats by their bits, so that each comes back as it was.

use aurora_quantizers::BitMask;
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::edit::{Edit, Gather, LowRankTerm, Scale, Side};

/// All edits of a model.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    /// Parameter, expert, edit; of one parameter in the order in which they are done.
    pub(super) edits: Vec<(usize, Option<usize>, SavedEdit)>,
    pub(super) about: Vec<(usize, String)>,
    pub(super) left: Vec<(usize, String)>,
}

/// One edit. A flag tells rows from columns.
#[derive(Serialize, Deserialize)]
pub(super) enum SavedEdit {
    Permute(bool, Vec<u32>),
    Scale(Option<Vec<u32>>, Option<Vec<u32>>),
    Mask(usize, usize, Vec<u64>),
    Remove(bool, Vec<u32>),
    Add(u32, SavedMatrix, SavedMatrix),
    Values(SavedMatrix),
}

/// Rows, columns, and the numbers row by row.
type SavedMatrix = (usize, usize, Vec<u32>);

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn floats(bits: Vec<u32>) -> Vec<f32> {
    bits.into_iter().map(f32::from_bits).collect()
}

fn saved(matrix: &Array2<f32>) -> SavedMatrix {
    (matrix.nrows(), matrix.ncols(), matrix.iter().map(|v| v.to_bits()).collect())
}

fn matrix((rows, cols, bits): SavedMatrix) -> Result<Array2<f32>, String> {
    let found = bits.len();
    let matrix = Array2::from_shape_vec((rows, cols), floats(bits));
    matrix.map_err(|_| format!("{found} numbers are no matrix of [{rows}, {cols}]"))
}

impl From<&Edit> for SavedEdit {
    fn from(edit: &Edit) -> SavedEdit {
        match edit {
            Edit::Permute(Gather { side, from }) => SavedEdit::Permute(*side == Side::Rows, from.clone()),
            Edit::Scale(scale) => SavedEdit::Scale(scale.cols.as_deref().map(bits), scale.rows.as_deref().map(bits)),
            Edit::Mask(mask) => SavedEdit::Mask(mask.rows(), mask.cols(), mask.words().to_vec()),
            Edit::Remove(Gather { side, from }) => SavedEdit::Remove(*side == Side::Rows, from.clone()),
            Edit::Add(LowRankTerm { scale, b, a }) => SavedEdit::Add(scale.to_bits(), saved(b), saved(a)),
            Edit::Values(values) => SavedEdit::Values(saved(values)),
        }
    }
}

impl TryFrom<SavedEdit> for Edit {
    type Error = String;

    fn try_from(saved: SavedEdit) -> Result<Edit, String> {
        let gather = |rows, from| Gather { side: if rows { Side::Rows } else { Side::Cols }, from };
        Ok(match saved {
            SavedEdit::Permute(rows, from) => Edit::Permute(gather(rows, from)),
            SavedEdit::Scale(cols, rows) => Edit::Scale(Scale { cols: cols.map(floats), rows: rows.map(floats) }),
            SavedEdit::Mask(rows, cols, words) => {
                let mask = BitMask::from_words(rows, cols, words);
                Edit::Mask(mask.ok_or_else(|| format!("no mask of [{rows}, {cols}]"))?)
            }
            SavedEdit::Remove(rows, from) => Edit::Remove(gather(rows, from)),
            SavedEdit::Add(scale, b, a) => {
                Edit::Add(LowRankTerm { scale: f32::from_bits(scale), b: matrix(b)?, a: matrix(a)? })
            }
            SavedEdit::Values(values) => Edit::Values(matrix(values)?),
        })
    }
}
