//! A parameter as its edits leave it: its shape, and how its rows are made from those of the checkpoint. Edits are
//! applied here and nowhere else, [`Step`] by step.
//!
//! Callers ask for rows as they are after all edits. Going back through the edits gives the rows that were there before
//! each of them; those of the checkpoint are read, and the edits applied in order. So a range of rows costs no more
//! than itself.

use std::ops::Range;
use std::sync::Arc;

use super::edit::{Edit, Gather, Side};
use super::step::{Places, Step};
use crate::model::Param;

/// A parameter with edits.
#[derive(Debug, Clone)]
pub(super) struct Edited {
    shape: Vec<usize>,
    /// One for each expert, where a parameter is the matrices of several.
    matrices: Vec<Made>,
    /// Rows of each matrix in the checkpoint.
    height: usize,
}

/// One matrix.
#[derive(Debug, Clone)]
pub(super) struct Made {
    /// Which of the checkpoint's it is.
    from: usize,
    rows: usize,
    cols: usize,
    /// Columns before the first step.
    width: usize,
    steps: Vec<Step>,
}

impl Edited {
    /// A parameter whose matrices have `height` rows each, as the checkpoint has it.
    pub(super) fn new(param: &Param, height: usize) -> Edited {
        let cols = param.cols();
        let made = |from| Made { from, rows: height, cols, width: cols, steps: Vec::new() };
        let matrices = (0..param.rows() / height.max(1)).map(made).collect();
        Edited { shape: param.shape.clone(), matrices, height }
    }

    /// Appends an edit of all rows, or of one expert's.
    ///
    /// # Errors
    /// If it does not fit: what it is, and what was needed.
    pub(super) fn add(&mut self, expert: Option<usize>, edit: &Arc<Edit>) -> Result<(), String> {
        let count = self.matrices.len();
        let some = match expert {
            None => &mut self.matrices[..],
            Some(expert) => self.matrices.get_mut(expert..expert + 1).ok_or(format!("expert {expert}, of {count}"))?,
        };
        let cols = some.first().map_or(0, |made| made.cols);
        if some.iter().any(|made| made.cols != cols) {
            return Err("one edit of matrices that have different numbers of columns".to_owned());
        }
        edit.check(some.iter().map(|made| made.rows).sum(), cols)?;
        if let (2.., Some(Gather { side: Side::Rows, from })) = (some.len(), edit.gather()) {
            self.matrices = whole(&self.matrices, from)?;
            return Ok(());
        }
        let mut first = 0;
        for made in some {
            let step = Step::new(Arc::clone(edit), first);
            first += made.rows;
            made.add(step);
        }
        Ok(())
    }

    /// To be called after the last edit.
    ///
    /// # Errors
    /// If the experts' matrices are no longer all of one shape.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        let count = self.matrices.len();
        let Some((rows, cols)) = self.matrices.first().map(|first| (first.rows, first.cols)) else {
            return Err("it has no rows to edit".to_owned());
        };
        if let Some((i, other)) = self.matrices.iter().enumerate().find(|(_, m)| (m.rows, m.cols) != (rows, cols)) {
            let shape = [other.rows, other.cols];
            return Err(format!(
                "expert 0 is [{rows}, {cols}] after its edits, expert {i} is {shape:?}; needed: one shape"
            ));
        }
        match &mut self.shape[..] {
            [all] => *all = cols,
            [outer, all] => (*outer, *all) = (count * rows, cols),
            [experts, each, all] => (*experts, *each, *all) = (count, rows, cols),
            _ => return Err("edits are of vectors, matrices and stacked matrices".to_owned()),
        }
        Ok(())
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Whether rows are elsewhere than the checkpoint has them.
    pub(super) fn moves_rows(&self) -> bool {
        self.matrices.iter().enumerate().any(|(i, made)| made.from != i || made.steps.iter().any(Step::moves_rows))
    }

    /// What was done to numbers, beyond changing their places, in words.
    pub(super) fn changes(&self) -> Option<String> {
        let steps = self.matrices.iter().flat_map(|made| &made.steps);
        let mut words: Vec<&str> = Vec::new();
        for edit in steps.map(Step::edit).filter(|edit| !matches!(edit, Edit::Permute(_))) {
            if !words.contains(&edit.done()) {
                words.push(edit.done());
            }
        }
        (!words.is_empty()).then(|| words.join(" and "))
    }

    /// The matrices that rows are of, and which rows of each, in order.
    pub(super) fn split(&self, rows: Range<usize>) -> impl Iterator<Item = (&Made, Range<usize>)> {
        let height = self.matrices[0].rows;
        (rows.start / height..rows.end.div_ceil(height)).map(move |i| {
            let of_it = |row: usize| row.clamp(i * height, (i + 1) * height) - i * height;
            (&self.matrices[i], of_it(rows.start)..of_it(rows.end))
        })
    }

    /// The matrices that come from matrix `from` of the checkpoint.
    pub(super) fn made_of(&self, from: usize) -> impl Iterator<Item = &Made> {
        self.matrices.iter().filter(move |made| made.from == from)
    }

    /// Reads rows, `out`: `[rows.len(), cols]`. `unedited`: reads rows of the checkpoint's parameter.
    pub(super) fn read(&self, rows: Range<usize>, out: &mut [f32], unedited: &dyn Fn(&Places, &mut [f32])) {
        let mut rest = out;
        for (made, rows) in self.split(rows) {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(rows.len() * made.cols);
            made.read(rows, now, made.from * self.height, unedited);
            rest = later;
        }
    }

    /// Which rows of the checkpoint's parameter a matrix's are.
    pub(super) fn sources(&self, made: &Made, rows: Range<usize>) -> Places {
        let places = made.places(rows);
        places[places.len() - 1].moved(made.from * self.height)
    }
}

/// Stacked matrices after their rows were gathered: matrices stay whole.
fn whole(matrices: &[Made], from: &[u32]) -> Result<Vec<Made>, String> {
    let mut rest = from;
    let mut found = Vec::new();
    while let Some(&next) = rest.first() {
        let mut start = 0;
        let begins = |made: &&Made| {
            start += made.rows;
            start - made.rows == next as usize
        };
        let made = matrices.iter().find(begins).filter(|made| {
            rest.len() >= made.rows && rest[..made.rows].iter().zip(next..).all(|(row, expected)| *row == expected)
        });
        let made = made
            .ok_or("rows of stacked matrices move with their whole matrix; edit the experts one by one for others")?;
        rest = &rest[made.rows..];
        found.push(made.clone());
    }
    Ok(found)
}

impl Made {
    fn add(&mut self, step: Step) {
        match step.edit() {
            Edit::Permute(Gather { side, from }) | Edit::Remove(Gather { side, from }) => match side {
                Side::Rows => self.rows = from.len(),
                Side::Cols => self.cols = from.len(),
            },
            // Nothing of what was before is left.
            Edit::Values(_) => {
                self.steps.clear();
                self.width = self.cols;
            }
            Edit::Scale(_) | Edit::Mask(_) | Edit::Add(_) => {}
        }
        self.steps.push(step);
    }

    /// The rows that are wanted, then those before each step that gathers rows, back to the first.
    fn places(&self, rows: Range<usize>) -> Vec<Places> {
        let mut places = vec![Places::Run(rows)];
        for from in self.steps.iter().rev().filter_map(Step::row_sources) {
            let after = &places[places.len() - 1];
            places.push(Places::List(after.each().map(|row| from[row] as usize).collect()));
        }
        places
    }

    /// Which of the checkpoint's columns each is; `None` if none moved.
    pub(super) fn columns(&self) -> Option<Vec<u32>> {
        let gathers = self.steps.iter().filter_map(|step| step.edit().gather());
        let mut gathers = gathers.filter(|gather| gather.side == Side::Cols).map(|gather| &gather.from);
        let first = gathers.next()?.clone();
        Some(gathers.fold(first, |before, from| from.iter().map(|&i| before[i as usize]).collect()))
    }

    /// `first`: the matrix's first row in the checkpoint's parameter.
    fn read(&self, rows: Range<usize>, out: &mut [f32], first: usize, unedited: &dyn Fn(&Places, &mut [f32])) {
        let places = self.places(rows);
        if self.width == self.cols {
            return self.make(&places, out, first, unedited);
        }
        let mut wide = vec![0.0; out.len() / self.cols * self.width];
        self.make(&places, &mut wide, first, unedited);
        out.copy_from_slice(&wide[..out.len()]);
    }

    /// `values`: room for the rows as wide as they are before the first step. In the end they have `cols` columns and
    /// lie one after the other from the start.
    fn make(&self, places: &[Places], values: &mut [f32], first: usize, unedited: &dyn Fn(&Places, &mut [f32])) {
        let (mut stage, mut width, mut row) = (places.len() - 1, self.width, Vec::new());
        if !self.steps.first().is_some_and(|step| matches!(step.edit(), Edit::Values(_))) {
            unedited(&places[stage].moved(first), values);
        }
        for step in &self.steps {
            match step.row_sources() {
                Some(_) => stage -= 1,
                None => width = step.apply(&places[stage], width, values, &mut row),
            }
        }
    }
}
