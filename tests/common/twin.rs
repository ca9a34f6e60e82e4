//! Random edits, and their slow twin: whole matrices, changed number by number.

use aurora_quant::model::{Model, ParamId, Role};
use aurora_quant::weights::{Edit, Gather, LowRankTerm, Scale, Side};
use aurora_quantizers::BitMask;
use ndarray::Array2;

/// Numbers that are the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    pub fn float(&mut self) -> f32 {
        self.below(4001) as f32 / 1000.0 - 2.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    pub fn matrix(&mut self, rows: usize, cols: usize) -> Array2<f32> {
        Array2::from_shape_simple_fn((rows, cols), || self.float())
    }

    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut from: Vec<u32> = (0..n as u32).collect();
        (1..n).for_each(|i| from.swap(i, self.below(i + 1)));
        from
    }

    pub fn some_of(&mut self, n: usize) -> Vec<u32> {
        let mut stay: Vec<u32> = (0..n as u32).filter(|_| self.below(4) > 0).collect();
        if stay.is_empty() {
            stay.push(self.below(n) as u32);
        }
        stay
    }
}

pub const KINDS: [&str; 8] =
    ["permute rows", "permute cols", "scale", "mask", "remove rows", "remove cols", "add", "values"];

/// An edit of that kind for a matrix.
pub fn edit(kind: &str, rows: usize, cols: usize, random: &mut Random) -> Edit {
    match kind {
        "permute rows" => Edit::Permute(Gather { side: Side::Rows, from: random.permutation(rows) }),
        "permute cols" => Edit::Permute(Gather { side: Side::Cols, from: random.permutation(cols) }),
        "remove rows" => Edit::Remove(Gather { side: Side::Rows, from: random.some_of(rows) }),
        "remove cols" => Edit::Remove(Gather { side: Side::Cols, from: random.some_of(cols) }),
        "scale" => match random.below(3) {
            0 => Edit::Scale(Scale::of_cols(random.floats(cols))),
            1 => Edit::Scale(Scale::of_rows(random.floats(rows))),
            _ => Edit::Scale(Scale { cols: Some(random.floats(cols)), rows: Some(random.floats(rows)) }),
        },
        "mask" => {
            let mut mask = BitMask::none(rows, cols);
            (0..rows * cols).for_each(|i| mask.set(i / cols, i % cols, random.below(2) == 0));
            Edit::Mask(mask)
        }
        "add" => {
            let rank = 1 + random.below(3);
            let (b, a) = (random.matrix(rows, rank), random.matrix(rank, cols));
            Edit::Add(LowRankTerm { scale: random.float(), b, a })
        }
        // Numbers in any order in memory.
        _ if random.below(2) == 0 => Edit::Values(random.matrix(cols, rows).reversed_axes()),
        _ => Edit::Values(random.matrix(rows, cols)),
    }
}

/// A parameter as the twin has it: one matrix for each expert.
#[derive(Clone)]
pub struct Twin {
    pub matrices: Vec<Matrix>,
}

/// Row by row.
pub type Matrix = Vec<Vec<f32>>;

impl Twin {
    pub fn new(values: &[f32], model: &Model, id: ParamId) -> Twin {
        let param = model.graph.param(id);
        let stacked = param.shape.len() == 3 || (param.shape.len() == 2 && param.role == Role::Bias);
        let count = if stacked { param.shape[0] } else { 1 };
        let rows: Matrix = values.chunks(param.cols()).map(<[f32]>::to_vec).collect();
        Twin { matrices: rows.chunks(param.rows() / count).map(<[_]>::to_vec).collect() }
    }

    pub fn shape(&self, expert: Option<usize>) -> (usize, usize) {
        match expert {
            Some(expert) => (self.matrices[expert].len(), self.matrices[expert][0].len()),
            None => (self.matrices.iter().map(Vec::len).sum(), self.matrices[0][0].len()),
        }
    }

    pub fn apply(&mut self, expert: Option<usize>, edit: &Edit) {
        match expert {
            Some(expert) => apply(&mut self.matrices[expert], edit),
            None => {
                let height = self.matrices[0].len();
                let mut all = self.matrices.concat();
                apply(&mut all, edit);
                let height = if self.matrices.len() == 1 { all.len() } else { height };
                self.matrices = all.chunks(height).map(<[_]>::to_vec).collect();
            }
        }
    }

    pub fn values(&self) -> Vec<f32> {
        self.matrices.concat().concat()
    }
}

pub fn apply(m: &mut Matrix, edit: &Edit) {
    let before = m.clone();
    match edit {
        Edit::Permute(g) | Edit::Remove(g) => match g.side {
            Side::Rows => *m = g.from.iter().map(|&i| before[i as usize].clone()).collect(),
            Side::Cols => {
                *m = before.iter().map(|row| g.from.iter().map(|&i| row[i as usize]).collect()).collect();
            }
        },
        Edit::Values(values) => *m = values.rows().into_iter().map(|row| row.to_vec()).collect(),
        _ => {
            for (r, row) in m.iter_mut().enumerate() {
                for (c, w) in row.iter_mut().enumerate() {
                    match edit {
                        Edit::Scale(s) => {
                            *w *= s.cols.as_ref().map_or(1.0, |by| by[c]);
                            *w *= s.rows.as_ref().map_or(1.0, |by| by[r]);
                        }
                        Edit::Mask(mask) => *w = if mask.stays(r, c) { *w } else { 0.0 },
                        Edit::Add(LowRankTerm { scale, b, a }) => {
                            let terms = (0..a.nrows()).map(|k| f64::from(b[[r, k]]) * f64::from(a[[k, c]]));
                            *w = (f64::from(*w) + f64::from(*scale) * terms.fold(0.0, |sum, t| sum + t)) as f32;
                        }
                        _ => unreachable!(),
                    }
                }
            }
        }
    }
}
