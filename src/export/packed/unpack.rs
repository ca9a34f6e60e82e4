//! Reads back what the pipeline wrote: integers and floats, in the checkpoint's order.

use std::ops::Range;

use aurora_quantizers::grid::Levels;
use aurora_quantizers::{Scales, Store, elements_mut, formats};
use half::f16;
use ndarray::Array2;
use rayon::prelude::*;

use super::layout::{Codes, Matrix};
use super::tensors::{Piece, Tensor};
use crate::checkpoint::mmap::Map;
use crate::model::Import;
use crate::plan::{Plan, TensorPlan};
use crate::weights::Weights;

/// The pipeline's output, and where each field of each planned tensor begins in it.
pub(super) struct Intermediate<'a> {
    pub map: Map,
    pub offsets: Vec<Vec<u64>>,
    pub plan: &'a Plan,
    pub weights: &'a Weights<'a>,
}

impl Intermediate<'_> {
    /// Bytes of a row of a planned tensor: floats and groups of codes have one field.
    fn row(&self, tensor: usize, row: usize) -> &[u8] {
        &self.map.bytes()[self.rows(tensor, 0, row..row + 1)]
    }

    /// Where the bytes of some rows of a planned tensor's field are.
    fn rows(&self, tensor: usize, field: usize, rows: Range<usize>) -> Range<usize> {
        let t = &self.plan.tensors[tensor];
        let width = (t.fields[field].bytes / t.rows() as u64) as usize;
        let start = self.offsets[tensor][field] as usize;
        start + rows.start * width..start + rows.end * width
    }

    /// Tells the system that a tensor will not be read again.
    pub fn release(&self, tensor: &Tensor) {
        for piece in &tensor.pieces {
            for field in 0..self.plan.tensors[piece.tensor].fields.len() {
                self.map.release(self.rows(piece.tensor, field, piece.from..piece.from + piece.rows));
            }
        }
    }

    /// The row of the checkpoint's tensor that a canonical row belongs to.
    fn stored_row(&self, t: &TensorPlan, piece: &Piece, i: usize) -> usize {
        piece.to + self.weights.stored_row(t.param, piece.from + i) - piece.from
    }

    /// The integers of a matrix, in the checkpoint's row order.
    pub fn matrix(&self, tensor: &Tensor, settings: Codes) -> Matrix {
        let (rows, cols, group) = (tensor.shape[0], tensor.shape[1], settings.group);
        let mut origin = vec![(0, 0); rows];
        for piece in &tensor.pieces {
            let t = &self.plan.tensors[piece.tensor];
            for i in 0..piece.rows {
                origin[self.stored_row(t, piece, i)] = (piece.tensor, piece.from + i);
            }
        }
        let (mut codes, groups) = (Array2::zeros((rows, cols)), (rows, cols / group));
        let (mut scales, mut zeros) = (Array2::zeros(groups), Array2::zeros(groups));
        let format = formats::grouped(settings.bits, group, settings.symmetric);
        let format = format.and_then(|f| f.blocks()).expect("settings that were checked");
        let rows = elements_mut(codes.view_mut()).par_chunks_mut(cols);
        let rows = rows.zip(elements_mut(scales.view_mut()).par_chunks_mut(cols / group));
        rows.zip(elements_mut(zeros.view_mut()).par_chunks_mut(cols / group)).zip(&origin).for_each(
            |(((codes, scales), zeros), &(tensor, row))| {
                let bytes = self.row(tensor, row);
                let mut levels = vec![0; group];
                for (g, block) in bytes.chunks_exact(format.spec().bytes).enumerate() {
                    let grid = format.unpack(block, &mut levels);
                    let Levels::Linear { min, .. } = grid.levels else { unreachable!("groups hold integers") };
                    let (scale, offset) = (grid.scale[0], grid.offset[0]);
                    scales[g] = f16::from_f32(scale).to_bits();
                    // If all weights are zero, any zero point will do; not every layout can store the smallest.
                    zeros[g] = match scale == 0.0 {
                        true => 1 << (settings.bits - 1),
                        false => ((-offset / scale).round_ties_even() as i32 - i32::from(min)) as u8,
                    };
                    let to = &mut codes[g * group..][..group];
                    to.iter_mut().zip(&levels).for_each(|(to, level)| *to = (i16::from(*level) - i16::from(min)) as u8);
                }
            },
        );
        Matrix { codes, scales, zeros }
    }

    /// The values of a tensor, in the checkpoint's order, type and convention.
    pub fn floats(&self, tensor: &Tensor, store: &dyn Store) -> Vec<u8> {
        let cols = tensor.shape.last().copied().unwrap_or(1);
        let mut values = vec![0.0; tensor.shape.iter().product()];
        for piece in &tensor.pieces {
            let t = &self.plan.tensors[piece.tensor];
            let mut row = vec![0.0; t.cols()];
            for i in 0..piece.rows {
                t.store.decode(self.row(piece.tensor, piece.from + i), &mut row);
                if *self.weights.import(t.param) == Import::AddOne {
                    row.iter_mut().for_each(|v| *v -= 1.0);
                }
                if t.shape.len() == 1 {
                    // The elements of a bias are in the order of its matrix's rows.
                    row.iter().enumerate().for_each(|(i, v)| values[self.weights.stored_row(t.param, i)] = *v);
                } else {
                    let to = self.stored_row(t, piece, i);
                    values[to * cols..(to + 1) * cols].copy_from_slice(&row);
                }
            }
        }
        let mut bytes = vec![0; values.len() * store.spec().bytes];
        store.encode(&values, Scales::Reference, &mut bytes);
        bytes
    }
}
