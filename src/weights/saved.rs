//! Edits as they are kept in files: floats by their bits, so that each comes back as it was.

use aurora_quantizers::BitMask;
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
    Add(usize, u32, Vec<u32>, Vec<u32>),
    Values(Vec<u32>),
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn floats(bits: Vec<u32>) -> Vec<f32> {
    bits.into_iter().map(f32::from_bits).collect()
}

impl From<&Edit> for SavedEdit {
    fn from(edit: &Edit) -> SavedEdit {
        match edit {
            Edit::Permute(Gather { side, from }) => SavedEdit::Permute(*side == Side::Rows, from.clone()),
            Edit::Scale(scale) => SavedEdit::Scale(scale.cols.as_deref().map(bits), scale.rows.as_deref().map(bits)),
            Edit::Mask(mask) => SavedEdit::Mask(mask.rows(), mask.cols(), mask.words().to_vec()),
            Edit::Remove(Gather { side, from }) => SavedEdit::Remove(*side == Side::Rows, from.clone()),
            Edit::Add(LowRankTerm { rank, scale, b, a }) => SavedEdit::Add(*rank, scale.to_bits(), bits(b), bits(a)),
            Edit::Values(values) => SavedEdit::Values(bits(values)),
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
            SavedEdit::Add(rank, scale, b, a) => {
                Edit::Add(LowRankTerm { rank, scale: f32::from_bits(scale), b: floats(b), a: floats(a) })
            }
            SavedEdit::Values(values) => Edit::Values(floats(values)),
        })
    }
}
