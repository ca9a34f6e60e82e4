//! How many numbers of a tensor are zero, and how they lie: what `inspect` shows of pruned models.

use serde_json::{Value as Json, json};

use super::ui;

/// Patterns N:M that are looked for: (N, M), the strictest first.
const PATTERNS: [(usize, usize); 6] = [(1, 8), (1, 4), (2, 8), (2, 4), (4, 8), (8, 16)];

/// Widest M.
const WIDEST: usize = 16;

/// What is counted of one tensor, as its numbers go by row after row.
pub(super) struct Zeros {
    cols: usize,
    /// Column of the next number.
    col: usize,
    count: u64,
    zeros: u64,
    below: u64,
    threshold: f32,
    /// Numbers of the current row that are not zero.
    filled: usize,
    zero_rows: u64,
    /// Whether a column has a number that is not zero; empty for vectors.
    columns: Vec<bool>,
    /// The last numbers up to a multiple of [`WIDEST`] columns: whether each is not zero.
    recent: Vec<bool>,
    /// Of each pattern, whether it holds so far.
    holds: [bool; PATTERNS.len()],
}

impl Zeros {
    /// Nothing was seen yet. `threshold`: what to count numbers below, 0 for none.
    pub fn new(shape: &[usize], threshold: f32) -> Zeros {
        let cols = shape.last().copied().unwrap_or(1);
        Zeros {
            cols,
            col: 0,
            count: 0,
            zeros: 0,
            below: 0,
            threshold,
            filled: 0,
            zero_rows: 0,
            columns: vec![false; if shape.len() > 1 { cols } else { 0 }],
            recent: Vec::with_capacity(WIDEST),
            holds: PATTERNS.map(|(_, of)| cols.is_multiple_of(of)),
        }
    }

    /// The next numbers.
    pub fn add(&mut self, values: &[f32]) {
        for value in values {
            let filled = *value != 0.0;
            self.count += 1;
            self.zeros += u64::from(!filled);
            self.below += u64::from(value.abs() < self.threshold);
            self.filled += usize::from(filled);
            if let Some(column) = self.columns.get_mut(self.col) {
                *column |= filled;
            }
            self.recent.push(filled);
            self.col += 1;
            let ends = self.col == self.cols;
            if self.recent.len() == WIDEST || ends {
                for (holds, (keep, of)) in self.holds.iter_mut().zip(PATTERNS) {
                    let fits = |few: &[bool]| few.iter().filter(|filled| **filled).count() <= keep;
                    *holds = *holds && self.recent.chunks(of).all(fits);
                }
                self.recent.clear();
            }
            if ends {
                self.zero_rows += u64::from(self.filled == 0);
                (self.filled, self.col) = (0, 0);
            }
        }
    }

    fn share(&self, count: u64) -> f64 {
        count as f64 / self.count.max(1) as f64
    }

    fn is_matrix(&self) -> bool {
        !self.columns.is_empty()
    }

    /// The strictest pattern that a matrix follows; one of zeros follows none in particular.
    fn pattern(&self) -> Option<String> {
        let found = PATTERNS.iter().zip(self.holds).find(|(_, holds)| *holds).map(|((n, m), _)| format!("{n}:{m}"));
        found.filter(|_| self.is_matrix() && self.zeros < self.count)
    }

    fn zero_columns(&self) -> u64 {
        self.columns.iter().filter(|filled| !**filled).count() as u64
    }

    /// Headings of [`row`](Zeros::row).
    pub fn heads(threshold: Option<f32>) -> Vec<String> {
        let mut heads = ["zeros", "share", "N:M", "zero rows", "zero columns"].map(str::to_owned).to_vec();
        heads.extend(threshold.map(|x| format!("below {x}")));
        heads
    }

    /// Cells of a table.
    pub fn row(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        let of_matrix = |n: u64| if self.is_matrix() { n.to_string() } else { dash() };
        let mut row = vec![
            self.zeros.to_string(),
            percent(self.share(self.zeros)),
            self.pattern().unwrap_or_else(dash),
            of_matrix(self.zero_rows),
            of_matrix(self.zero_columns()),
        ];
        if self.threshold > 0.0 {
            row.push(percent(self.share(self.below)));
        }
        row
    }

    /// The same for programs.
    pub fn json(&self) -> Json {
        let mut json = json!({ "zeros": self.zeros, "share": self.share(self.zeros), "pattern": self.pattern() });
        if self.is_matrix() {
            json["zero_rows"] = json!(self.zero_rows);
            json["zero_columns"] = json!(self.zero_columns());
        }
        if self.threshold > 0.0 {
            json["below"] = json!({ "threshold": self.threshold, "share": self.share(self.below) });
        }
        json
    }

    /// Facts about several tensors: all their zeros.
    pub fn total<'z>(all: impl Iterator<Item = &'z Zeros>) -> String {
        let (zeros, count) = all.fold((0, 0), |(zeros, count), z| (zeros + z.zeros, count + z.count));
        format!("{} ({zeros}), {} of all numbers", ui::count(zeros), percent(zeros as f64 / count.max(1) as f64))
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}%", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(shape: &[usize], values: &[f32], threshold: f32) -> Zeros {
        let mut zeros = Zeros::new(shape, threshold);
        // However the numbers come.
        values.chunks(5).for_each(|some| zeros.add(some));
        zeros
    }

    #[test]
    fn zeros_are_counted_by_row_column_and_pattern() {
        let mut values = vec![1.0; 4 * 16];
        for (i, value) in values.iter_mut().enumerate() {
            let (row, col) = (i / 16, i % 16);
            *value = if row == 2 || col == 5 || i % 4 < 2 { 0.0 } else { 0.25 };
        }
        let zeros = seen(&[4, 16], &values, 0.3);
        let columns = 1 + 8 - usize::from(5 % 4 < 2);
        assert_eq!(
            zeros.row(),
            [
                "40".to_owned(),
                "62.50%".to_owned(),
                "2:4".to_owned(),
                "1".to_owned(),
                columns.to_string(),
                "100.00%".to_owned()
            ]
        );
        // One more in a group of four, and only the wider pattern is left.
        values[0] = 1.0;
        values[4..8].fill(0.0);
        assert_eq!(seen(&[4, 16], &values, 0.0).row()[2], "4:8");
        values[8] = 1.0;
        assert_eq!(seen(&[4, 16], &values, 0.0).row()[2], "8:16");
        assert_eq!(seen(&[64], &values, 0.0).row()[2..], ["-", "-", "-"]);
        assert_eq!(seen(&[4, 16], &[0.0; 64], 0.0).row()[2..], ["-", "4", "16"]);
        // Rows that a pattern does not divide do not follow it.
        assert_eq!(seen(&[2, 6], &[0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0], 0.0).row()[2], "-");
    }
}
