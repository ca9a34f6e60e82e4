//! Matrix products over stored weights: a plain stand-in.

pub mod tile;

use std::borrow::Cow;

use aurora_quantizers::{Format, Spec, formats};
use rayon::prelude::*;

/// A matrix, `[rows, cols]`, in some storage type.
pub struct Matrix<'a> {
    format: &'static dyn Format,
    rows: usize,
    cols: usize,
    bytes: Cow<'a, [u8]>,
    order: Option<Box<[u32]>>,
}

impl<'a> Matrix<'a> {
    /// `order`: logical row r is stored row `order[r]`.
    pub fn new(spec: &'static Spec, rows: usize, cols: usize, bytes: Cow<'a, [u8]>, order: Option<Box<[u32]>>) -> Self {
        let format = formats::by_ggml_id(spec.ggml_id).expect("checked by `supported`");
        Matrix { format, rows, cols, bytes, order }
    }
}

/// Whether there is a product for this type.
pub fn supported(spec: &Spec) -> bool {
    formats::by_ggml_id(spec.ggml_id).is_some()
}

/// Rows of activations, `[tokens, cols]`.
pub struct Acts<'a> {
    x: &'a [f32],
    tokens: usize,
    cols: usize,
}

impl<'a> Acts<'a> {
    /// Wraps `x`.
    pub fn new(x: &'a [f32], tokens: usize, cols: usize) -> Self {
        assert_eq!(x.len(), tokens * cols);
        Acts { x, tokens, cols }
    }
}

/// `out[t * rows + r]` = row r of `m` times row t of `x`.
pub fn matmul(m: &Matrix, x: &Acts, _exact: bool, out: &mut [f32]) {
    assert_eq!(m.cols, x.cols);
    assert_eq!(out.len(), x.tokens * m.rows);
    let row_bytes = m.format.spec().bytes_for(m.cols).expect("whole blocks");
    let row = |r: usize| {
        let stored = m.order.as_ref().map_or(r, |o| o[r] as usize);
        let mut w = vec![0.0; m.cols];
        m.format.decode(&m.bytes[stored * row_bytes..(stored + 1) * row_bytes], &mut w);
        let dot = |x: &[f32]| x.iter().zip(&w).map(|(a, b)| a * b).sum::<f32>();
        x.x.chunks(m.cols).map(dot).collect::<Vec<f32>>()
    };
    let rows: Vec<Vec<f32>> = (0..m.rows).into_par_iter().map(row).collect();
    for (r, row) in rows.iter().enumerate() {
        for (t, v) in row.iter().enumerate() {
            out[t * m.rows + r] = *v;
        }
    }
}
