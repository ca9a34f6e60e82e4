//! Mixtures of experts: who goes where, and the weighted sum of what comes back.

use super::maths::in_chunks;

/// The experts that a batch's tokens chose.
#[derive(Clone, Default)]
pub(super) struct Route {
    /// Experts per token.
    pub used: usize,
    /// `[tokens, used]`, the largest weight first.
    weights: Vec<f32>,
    /// For every expert that was chosen, who chose it: indices into `[tokens, used]`, rising.
    pub groups: Vec<(usize, Vec<usize>)>,
}

impl Route {
    /// Chooses for every row of `logits`, `[tokens, experts]`. Of equal logits the earlier expert is preferred.
    pub fn choose(logits: &[f32], experts: usize, used: usize, normalize: bool) -> Route {
        let mut weights = Vec::with_capacity(logits.len() / experts * used);
        let mut groups: Vec<(usize, Vec<usize>)> = (0..experts).map(|e| (e, Vec::new())).collect();
        for logits in logits.chunks_exact(experts) {
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            order.truncate(used);
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let all: f32 = logits.iter().map(|x| (x - max).exp()).sum();
            let chosen = order.iter().map(|&e| (logits[e] - max).exp());
            let sum = if normalize { chosen.clone().sum() } else { all };
            for (e, weight) in order.iter().zip(chosen) {
                groups[*e].1.push(weights.len());
                weights.push(weight / sum);
            }
        }
        groups.retain(|(_, chosen)| !chosen.is_empty());
        Route { used, weights, groups }
    }

    /// Choices in all: tokens times experts per token.
    pub fn choices(&self) -> usize {
        self.weights.len()
    }

    /// `out` row = sum of weight times row over the token's choices; `x`: `[tokens, used, width]`.
    pub fn combine(&self, x: &[f32], width: usize, out: &mut [f32]) {
        in_chunks(out, width, |at, out| {
            for (i, out) in out.chunks_exact_mut(width).enumerate() {
                let token = at / width + i;
                out.fill(0.0);
                for choice in token * self.used..(token + 1) * self.used {
                    let (weight, row) = (self.weights[choice], &x[choice * width..(choice + 1) * width]);
                    out.iter_mut().zip(row).for_each(|(o, x)| *o += weight * x);
                }
            }
        });
    }
}
