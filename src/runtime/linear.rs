//! Linears, with and without experts. Neighbours that share an input share its preparation too.

use aurora_quantizers::{elements, matrix, matrix_mut};
use ndarray::ArrayView2;

use super::batch::Batch;
use super::kernels::Acts;
use super::maths::in_chunks;
use super::tap::LinearInput;
use crate::model::{Op, ParamId, Slot};

impl Batch<'_, '_, '_> {
    /// Runs consecutive linears, all of which read slot `x` under the same choice of experts.
    pub(super) fn linears(&mut self, ops: &[Op], x: Slot, experts: Option<Slot>) {
        let input = std::mem::take(&mut self.slots[x.0]);
        let rows = matrix(&input, self.width(x));
        match experts {
            None => self.plain(ops, rows),
            Some(route) => self.chosen(ops, rows, route),
        }
        self.slots[x.0] = input;
    }

    fn plain(&mut self, ops: &[Op], x: ArrayView2<'_, f32>) {
        let acts = Acts::new(x);
        for op in ops {
            let Op::Linear { weight, bias, out, .. } = op else { unreachable!("the caller collects linears") };
            self.tell(*weight, None, x);
            let width = self.width(*out);
            let mut y = self.fresh(*out, x.nrows());
            let linear = self.engine.params.linear(*weight, 0);
            linear.forward(&acts, self.engine.options.exact, matrix_mut(&mut y, width));
            if let Some(bias) = bias {
                let bias = self.engine.params.vector(*bias);
                in_chunks(&mut y, width, |_, y| y.chunks_exact_mut(width).for_each(|y| add(y, bias)));
            }
            self.slots[out.0] = y;
        }
    }

    /// For every expert, the rows that chose it are gathered, multiplied and put back at their places.
    fn chosen(&mut self, ops: &[Op], x: ArrayView2<'_, f32>, route: Slot) {
        let route = std::mem::take(&mut self.routes[route.0]);
        // What was computed before the choice has one row for all of a token's choices.
        let shared = if x.nrows() == route.choices() { 1 } else { route.used };
        assert_eq!(x.nrows() * shared, route.choices(), "rows of a linear with experts");
        let (x, cols) = (elements(x), x.ncols());
        let mut outs: Vec<Vec<f32>> = ops.iter().map(|op| self.fresh(out(op), route.choices())).collect();
        let (mut gathered, mut product) = (Vec::new(), Vec::new());
        for (expert, choices) in &route.groups {
            gathered.clear();
            choices.iter().for_each(|c| gathered.extend_from_slice(&x[c / shared * cols..][..cols]));
            let rows = matrix(&gathered, cols);
            let acts = Acts::new(rows);
            for (op, y) in ops.iter().zip(&mut outs) {
                let Op::Linear { weight, bias, out, .. } = op else { unreachable!("the caller collects linears") };
                self.tell(*weight, Some(*expert), rows);
                let width = self.width(*out);
                product.resize(choices.len() * width, 0.0);
                let linear = self.engine.params.linear(*weight, *expert);
                linear.forward(&acts, self.engine.options.exact, matrix_mut(&mut product, width));
                for (c, row) in choices.iter().zip(product.chunks_exact_mut(width)) {
                    if let Some(bias) = bias {
                        add(row, &self.engine.params.vector(*bias)[expert * width..][..width]);
                    }
                    y[c * width..][..width].copy_from_slice(row);
                }
            }
        }
        for (op, y) in ops.iter().zip(outs) {
            self.slots[out(op).0] = y;
        }
        let slot =
            ops.first().map(|op| if let Op::Linear { experts: Some(s), .. } = op { s.0 } else { unreachable!() });
        self.routes[slot.expect("at least one linear")] = route;
    }

    fn tell(&mut self, weight: ParamId, expert: Option<usize>, x: ArrayView2<'_, f32>) {
        let block = self.block;
        if let Some(tap) = &mut self.tap {
            tap.linear_input(&LinearInput { block, weight, expert, x });
        }
    }
}

/// The slot that a linear writes.
fn out(op: &Op) -> Slot {
    let Op::Linear { out, .. } = op else { unreachable!("the caller collects linears") };
    *out
}

fn add(y: &mut [f32], bias: &[f32]) {
    y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
}
