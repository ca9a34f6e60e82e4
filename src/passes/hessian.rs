//! The Hessian of what some matrices read, from the statistics of their inputs: shared by the methods that solve with it.

use aurora_quantizers::SiteStats;
use aurora_quantizers::gptq::{self, Hessian, Order};
use ndarray::Array2;

/// What no token came to.
pub const NO_TOKENS: &str = "no calibration token reached it";

/// E[x x^T], shrunk towards its diagonal as far as so few tokens need, and by how much; or why there is none.
pub fn products(stats: &SiteStats) -> Result<(Array2<f32>, f64), String> {
    let gram = stats.gram().filter(|_| stats.tokens() > 0).ok_or(NO_TOKENS)?;
    let mut h = gram.to_square(1.0 / stats.tokens() as f64);
    match gptq::shrink(h.view_mut(), stats.tokens()) {
        1.0 => Err(format!("{} tokens are too few for {} input channels", stats.tokens(), stats.width())),
        shrinkage => Ok((h, shrinkage)),
    }
}

/// Factored for columns in some order; or why it cannot be.
pub fn factored(h: &Array2<f32>, damp: f64, order: Order) -> Result<Hessian, String> {
    Hessian::prepare(h.view(), damp, order).map_err(|e| e.to_string())
}
