//! What each expert is worth: REAP's score, the mean over its tokens of its share of the output, gate * |f(x)|
//! (Lasby et al. 2025).

use aurora_quantizers::elements;
use ndarray::Array2;

use super::seen::{Catch, times};
use crate::model::{ModelGraph, Op, ParamId, Reader, Role};
use crate::weights::Weights;

/// Scores of the experts of a block, so far.
pub(super) struct Scores {
    router: Array2<f32>,
    gate: ParamId,
    down: ParamId,
    used: usize,
    normalize: bool,
    /// Of every expert its matrix down.
    matrices: Vec<Array2<f32>>,
    sums: Vec<f64>,
    tokens: Vec<u64>,
}

impl Scores {
    /// None yet; `None` for a block without experts.
    pub fn new(graph: &ModelGraph, weights: &Weights<'_>, block: usize) -> Option<Scores> {
        let ops = &graph.blocks[block];
        let find = |role: Role| {
            ops.iter().find_map(|op| match op {
                Op::Linear { weight, .. } if graph.param(*weight).role == role => Some(*weight),
                _ => None,
            })
        };
        let route = ops.iter().find_map(|op| match op {
            Op::Route { used, normalize, .. } => Some((*used, *normalize)),
            _ => None,
        });
        let (router, gate, down) = (find(Role::Router)?, find(Role::FfnGate)?, find(Role::FfnDown)?);
        let router = weights.whole(router);
        let count = router.nrows();
        let matrices = (0..count).map(|expert| {
            let (rows, cols) = weights.dim_of(Reader { weight: down, expert: Some(expert) });
            let mut matrix = Array2::zeros((rows, cols));
            weights.rows(down, expert * rows..(expert + 1) * rows, matrix.view_mut());
            matrix
        });
        let ((used, normalize), matrices) = (route?, matrices.collect());
        Some(Scores { router, gate, down, used, normalize, matrices, sums: vec![0.0; count], tokens: vec![0; count] })
    }

    /// What has to be caught.
    pub fn readers(&self) -> impl Iterator<Item = Reader> + '_ {
        let each = (0..self.sums.len()).map(Some);
        each.flat_map(|expert| [self.gate, self.down].map(|weight| Reader { weight, expert }))
    }

    /// Adds what was seen.
    pub fn add(&mut self, seen: &Catch) {
        for expert in 0..self.sums.len() {
            let of = |weight: ParamId| seen.rows(Reader { weight, expert: Some(expert) });
            let (x, inner) = (of(self.gate), of(self.down));
            if x.is_empty() {
                continue;
            }
            let width = self.matrices[expert].nrows();
            let (logits, out) = (times(self.router.view(), x), times(self.matrices[expert].view(), inner));
            for (logits, out) in logits.chunks_exact(self.sums.len()).zip(out.chunks_exact(width)) {
                let norm = out.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                self.sums[expert] += self.weight(logits, expert) * norm;
                self.tokens[expert] += 1;
            }
        }
    }

    /// The weight that a token gives an expert that it chose.
    fn weight(&self, logits: &[f32], expert: usize) -> f64 {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut each: Vec<f64> = logits.iter().map(|x| f64::from(x - max).exp()).collect();
        let own = each.swap_remove(expert);
        each.sort_by(|a, b| b.total_cmp(a));
        let others = if self.normalize { self.used - 1 } else { each.len() };
        own / (own + each[..others].iter().sum::<f64>())
    }

    /// Each expert's score, 0 without tokens, and its tokens.
    pub fn finish(&self) -> Vec<(f64, u64)> {
        let each = self.sums.iter().zip(&self.tokens);
        each.map(|(sum, tokens)| (sum / (*tokens).max(1) as f64, *tokens)).collect()
    }

    /// The experts that stay, rising: those of the largest scores; of equal ones the first.
    pub fn best(&self, keep: usize) -> Vec<usize> {
        let mut order: Vec<(f64, usize)> = self.finish().into_iter().map(|(score, _)| score).zip(0..).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut stay: Vec<usize> = order[..keep].iter().map(|(_, expert)| *expert).collect();
        stay.sort_unstable();
        stay
    }
}

/// The norm of every column of a matrix, squared: what decides where no token came.
pub(super) fn alone(w: &Array2<f32>) -> Array2<f32> {
    let mut h = Array2::zeros((w.ncols(), w.ncols()));
    h.diag_mut().fill(1.0);
    debug_assert_eq!(elements(h.view()).len(), w.ncols() * w.ncols());
    h
}
