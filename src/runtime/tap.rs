//! An observer of what linears multiply.

use ndarray::ArrayView2;

use crate::model::ParamId;

/// What a linear is about to multiply.
#[derive(Debug, Clone, Copy)]
pub struct LinearInput<'x> {
    /// The transformer block; `None` for the output matrix.
    pub block: Option<usize>,
    /// The linear's matrix.
    pub weight: ParamId,
    /// Which expert's, if it has several.
    pub expert: Option<usize>,
    /// `[rows, cols]`, rows one after the other: one per token, or one per token that chose the expert.
    pub x: ArrayView2<'x, f32>,
}

/// An observer of every linear's input: what calibration collects its statistics with.
///
/// Called in a fixed order, op after op and, within a mixture, expert after expert (those that no token chose are left
/// out); so what it adds up is the same for any number of threads. Linears of the head see only the positions whose
/// logits were asked for.
pub trait Tap: Send {
    /// Called before the product.
    fn linear_input(&mut self, input: &LinearInput<'_>);
}
