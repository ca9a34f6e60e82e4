//! A matrix of weights that a quantiser stored as codes: `weight = scale * (level - zero)`, with scale and zero shared
//! by a group. Rows come out as integers with their grid, or as the numbers that they stand for.

use aurora_quantizers::{elements, elements_mut};
use half::f16;
use ndarray::{Array2, ArrayViewMut2};

use super::super::source::{Groups, IntLayout, Packed, StoredScales, TensorInfo, TensorSource, Zeros};
use super::eights;

impl Groups {
    /// Every row has groups of `group` columns; the last may be shorter.
    pub fn of_columns(rows: usize, cols: usize, group: usize, transposed: bool) -> Groups {
        Groups { rows: 1, cols: group, down: rows, across: cols.div_ceil(group), transposed }
    }

    /// Where the scale of a group is stored.
    fn index(&self, down: usize, across: usize) -> usize {
        if self.transposed { across * self.down + down } else { down * self.across + across }
    }
}

/// What all codes of a matrix can come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Survey {
    /// Smallest level that a code can stand for.
    pub lowest: i16,
    /// Largest level that a code can stand for.
    pub highest: i16,
    /// Smallest zero.
    pub zero_min: i16,
    /// Largest zero.
    pub zero_max: i16,
    /// Largest magnitude of a scale; infinite if one is not a number.
    pub scale_max: f32,
    /// Largest magnitude of a bias; zero where there are none.
    pub bias_max: f32,
    /// What rounding the scales to half precision costs: root of the mean squared error in units of the scales' root
    /// mean square.
    pub scale_error: f64,
}

impl Survey {
    /// Smallest and largest difference of a level and a zero.
    pub fn span(&self) -> (i32, i32) {
        (i32::from(self.lowest) - i32::from(self.zero_max), i32::from(self.highest) - i32::from(self.zero_min))
    }

    /// Whether there is one zero, in the middle of the levels.
    pub fn symmetric(&self) -> bool {
        let middle = i32::from(self.highest) + i32::from(self.lowest) + 1;
        self.zero_min == self.zero_max && 2 * i32::from(self.zero_min) == middle
    }
}

impl Packed {
    /// Whether codes are integers, at equal distances.
    pub fn linear(&self) -> bool {
        self.table.is_none()
    }

    /// Columns that share a scale; `None` for all of a row.
    pub fn group(&self) -> Option<usize> {
        (self.groups.across > 1).then_some(self.groups.cols)
    }

    /// Bytes of all its tensors.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|t| t.range.len()).sum()
    }

    /// The smallest level that a code stands for.
    pub fn lowest(&self) -> i16 {
        match self.codes.layout {
            IntLayout::Bytes { signed: true } => -128,
            _ => -self.codes.bias,
        }
    }

    /// Largest magnitude that a weight can have.
    pub fn largest(&self, survey: &Survey) -> f32 {
        let (from, to) = survey.span();
        let top = match &self.table {
            None => from.abs().max(to.abs()) as f32,
            Some(table) => table.iter().filter(|v| v.is_finite()).fold(0.0, |top: f32, v| top.max(v.abs())),
        };
        survey.scale_max * top + survey.bias_max
    }

    /// Whether half precision has numbers for its weights: none larger than its largest, not all smaller than its
    /// smallest normal one.
    pub fn fits_half(&self, survey: &Survey) -> bool {
        let largest = self.largest(survey);
        largest <= f16::MAX.to_f32() && (largest == 0.0 || largest >= f16::MIN_POSITIVE.to_f32())
    }

    /// How it is stored, in words: "gptq, 4 bits, groups of 32, symmetric". Reads all scales and zeros.
    pub fn describe(&self, source: &dyn TensorSource) -> String {
        let group = match self.group() {
            None if self.groups.rows >= self.rows => "one scale".to_owned(),
            None => "a scale for each row".to_owned(),
            Some(cols) if self.groups.rows > 1 => format!("blocks of {}x{cols}", self.groups.rows),
            Some(cols) => format!("groups of {cols}"),
        };
        let mut text = format!("{}, {} bits, {group}", self.method, self.bits);
        if self.linear() {
            text.push_str(if self.biases.is_none() && self.survey(source).symmetric() {
                ", symmetric"
            } else {
                ", asymmetric"
            });
        }
        if self.order.is_some() {
            text.push_str(", act order");
        }
        text
    }

    /// Reads all scales and zeros.
    pub fn survey(&self, source: &dyn TensorSource) -> Survey {
        let (lowest, highest) = (self.lowest(), self.lowest() + ((1 << self.bits) - 1));
        let (zero_min, zero_max, scale_max, bias_max, scale_error) = (i16::MAX, i16::MIN, 0.0, 0.0, 0.0);
        let mut survey = Survey { lowest, highest, zero_min, zero_max, scale_max, bias_max, scale_error };
        let (mut grid, mut square, mut error) = (RowGrid::default(), 0.0, 0.0);
        for row in (0..self.rows).step_by(self.groups.rows) {
            self.grid(source, row, &mut grid);
            let size = |x: &f32| if x.is_nan() { f32::INFINITY } else { x.abs() };
            survey.scale_max = grid.scales.iter().map(size).fold(survey.scale_max, f32::max);
            survey.bias_max = grid.biases.iter().map(size).fold(survey.bias_max, f32::max);
            for scale in &grid.scales {
                square += f64::from(*scale).powi(2);
                error += f64::from(scale - f16::from_f32(*scale).to_f32()).powi(2);
            }
            for zero in &grid.zeros {
                (survey.zero_min, survey.zero_max) = (survey.zero_min.min(*zero), survey.zero_max.max(*zero));
            }
        }
        survey.scale_error = if error > 0.0 { (error / square).sqrt() } else { 0.0 };
        survey
    }

    /// Scales, zeros and biases of a row, one for each group beside each other.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn grid(&self, source: &dyn TensorSource, row: usize, grid: &mut RowGrid) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let down = row / self.groups.rows;
        grid.scales.clear();
        grid.scales.extend((0..self.groups.across).map(|g| self.scales.at(source, self.groups.index(down, g))));
        grid.biases.clear();
        if let Some(biases) = &self.biases {
            grid.biases.extend((0..self.groups.across).map(|g| float(source, biases, self.groups.index(down, g))));
        }
        grid.zeros.clear();
        match &self.zeros {
            Zeros::All(zero) => grid.zeros.resize(self.groups.across, *zero),
            Zeros::Stored(ints) => {
                let bytes = ints.bytes(source);
                let zero = |g| if self.groups.transposed { ints.at(bytes, g, down) } else { ints.at(bytes, down, g) };
                grid.zeros.extend((0..self.groups.across).map(zero));
            }
        }
    }

    /// The group, among those beside each other, of a column.
    #[inline]
    pub fn group_of(&self, col: usize) -> usize {
        match &self.order {
            Some(order) => order[col] as usize,
            None => col / self.groups.cols,
        }
    }

    /// The codes of some rows, `[rows.len(), cols]`.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another shape or not its rows one after the other.
    pub fn levels(&self, source: &dyn TensorSource, rows: &[usize], out: ArrayViewMut2<'_, i16>) {
        assert_eq!(out.dim(), (rows.len(), self.cols), "codes of {} rows", rows.len());
        let out = elements_mut(out);
        let bytes = self.codes.bytes(source);
        if self.transposed {
            // Neighbouring rows lie side by side in memory: all of them before the next column.
            for col in 0..self.cols {
                for (i, &row) in rows.iter().enumerate() {
                    out[i * self.cols + col] = self.codes.at(bytes, col, row);
                }
            }
            return;
        }
        for (out, &row) in out.chunks_exact_mut(self.cols).zip(rows) {
            out.iter_mut().enumerate().for_each(|(col, out)| *out = self.codes.at(bytes, row, col));
        }
    }

    /// The weights of some rows, `[rows.len(), cols]`. Exact if scales have up to 15 significant bits.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another shape or not its rows one after the other.
    pub fn decode(&self, source: &dyn TensorSource, rows: &[usize], out: ArrayViewMut2<'_, f32>) {
        let mut levels = Array2::zeros(out.dim());
        self.levels(source, rows, levels.view_mut());
        let (out, levels) = (elements_mut(out), elements(levels.view()));
        let mut grid = RowGrid::default();
        for ((out, levels), &row) in out.chunks_exact_mut(self.cols).zip(levels.chunks_exact(self.cols)).zip(rows) {
            self.grid(source, row, &mut grid);
            for (col, (out, level)) in out.iter_mut().zip(levels).enumerate() {
                let g = self.group_of(col);
                let unscaled = match &self.table {
                    None => f32::from(level - grid.zeros[g]),
                    Some(table) => table[*level as usize],
                };
                *out = grid.scales[g] * unscaled;
                if let Some(bias) = grid.biases.get(g) {
                    *out += bias;
                }
            }
        }
    }
}

/// Scales, zeros and biases of one row.
#[derive(Debug, Default, Clone)]
pub struct RowGrid {
    /// Of each group beside each other.
    pub scales: Vec<f32>,
    /// Of each group beside each other.
    pub zeros: Vec<i16>,
    /// Of each group beside each other; empty where there are none.
    pub biases: Vec<f32>,
}

impl StoredScales {
    fn at(&self, source: &dyn TensorSource, index: usize) -> f32 {
        match self {
            StoredScales::Stored(tensor) => float(source, tensor, index),
            StoredScales::Times(tensor, by) => float(source, tensor, index) * by,
            StoredScales::Nested { codes, table, outer, block, offset } => {
                let code = source.bytes(codes, index..index + 1)[0];
                table[usize::from(code)] * float(source, outer, index / block) + offset
            }
        }
    }
}

/// One number of a tensor of floats.
fn float(source: &dyn TensorSource, tensor: &TensorInfo, index: usize) -> f32 {
    let width = tensor.spec.bytes;
    let bytes = source.bytes(tensor, index * width..(index + 1) * width);
    match *bytes {
        [a, b] if tensor.spec.name == "bf16" => half::bf16::from_le_bytes([a, b]).to_f32(),
        [a, b] => f16::from_le_bytes([a, b]).to_f32(),
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        [exponent] => eights::power(exponent),
        _ => unreachable!("{}: the type of scales was checked", tensor.name),
    }
}
