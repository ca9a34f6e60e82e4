//! What a weight is worth.
//!
//! All scores are at least zero; the lowest go first. `w`: `[rows, cols]`; `norms`: of each column's input, the root of
//! its mean square, which orders weights as the norm over all tokens does.

use ndarray::ArrayView2;
use rayon::prelude::*;

use crate::view::elements;

/// Its size, |w|.
pub fn magnitude(w: f32) -> f32 {
    w.abs()
}

/// The size of its part of an output, |w| |x| (Sun et al. 2023, "A Simple and Effective Pruning Approach for Large
/// Language Models", equation 1).
pub fn wanda(w: f32, norm: f32) -> f32 {
    w.abs() * norm
}

/// Its share of its row and of its column, times |x|^a (Zhang et al. 2024, "Plug-and-Play: An Efficient Post-training
/// Pruning Method for Large Language Models", equation 5), for all weights. `power`: a, 0.5 there.
///
/// # Panics
/// If there is not one norm for each column, or rows do not lie [one after the other](crate::view).
pub fn ria(w: ArrayView2<'_, f32>, norms: &[f32], power: f32) -> Vec<f32> {
    assert_eq!(w.ncols(), norms.len(), "columns and norms");
    let mut columns = vec![0.0_f64; w.ncols()];
    for row in w.rows() {
        columns.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(w.abs()));
    }
    let share = |w: f32, sum: f64| if sum > 0.0 { (f64::from(w.abs()) / sum) as f32 } else { 0.0 };
    let cols = w.ncols().max(1);
    let rows = elements(w).par_chunks(cols).map(|row| {
        let sum: f64 = row.iter().map(|w| f64::from(w.abs())).sum();
        let each = row.iter().zip(&columns).zip(norms);
        each.map(|((w, column), norm)| (share(*w, sum) + share(*w, *column)) * norm.powf(power)).collect::<Vec<_>>()
    });
    rows.flatten_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix;

    #[test]
    fn relative_importance_is_the_definition() {
        let w = [1.0, -2.0, 3.0, 0.0, 5.0, -6.0];
        let norms = [4.0, 9.0, 16.0];
        let found = ria(matrix(&w, 3), &norms, 0.5);
        let rows = [6.0, 11.0];
        let cols = [1.0, 7.0, 9.0];
        for (i, found) in found.iter().enumerate() {
            let (r, c) = (i / 3, i % 3);
            let want = (w[i].abs() / rows[r] + w[i].abs() / cols[c]) * norms[c].sqrt();
            assert!((found - want).abs() < 1e-6, "{i}: {found}, not {want}");
        }
        assert_eq!(ria(matrix(&[0.0; 4], 2), &[0.0; 2], 0.5), [0.0; 4]);
    }
}
