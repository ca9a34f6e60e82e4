//! Matrices as callers bring them, and as kernels go on with them.
//!
//! What has rows and columns crosses this crate's face as a view, so that a wrong shape cannot pass for a right length;
//! a vector, which has only a length, is a slice. Kernels want rows that lie one after the other. A view whose rows do
//! not (transposed, or columns cut off) is refused and never copied: whether to copy a large matrix is for the caller
//! to decide (`as_standard_layout`).
//!
//! [`matrix`] makes a view of a slice, [`elements`] a slice of a view. Neither looks at a number.

use ndarray::{ArrayView, ArrayView2, ArrayViewMut, ArrayViewMut2, Dimension};

/// Numbers that lie row after row, as a matrix of `cols` columns.
///
/// # Panics
/// If they are not whole rows.
pub fn matrix<T>(x: &[T], cols: usize) -> ArrayView2<'_, T> {
    ArrayView2::from_shape((rows(x.len(), cols), cols), x).expect("whole rows")
}

/// The same, to write to.
///
/// # Panics
/// If they are not whole rows.
pub fn matrix_mut<T>(x: &mut [T], cols: usize) -> ArrayViewMut2<'_, T> {
    ArrayViewMut2::from_shape((rows(x.len(), cols), cols), x).expect("whole rows")
}

/// The elements in the order of rows.
///
/// # Panics
/// If they do not lie so.
pub fn elements<'a, T, D: Dimension>(x: ArrayView<'a, T, D>) -> &'a [T] {
    x.to_slice().unwrap_or_else(|| refuse(x.shape(), x.strides()))
}

/// The same, to write to.
///
/// # Panics
/// If they do not lie so.
pub fn elements_mut<'a, T, D: Dimension>(x: ArrayViewMut<'a, T, D>) -> &'a mut [T] {
    if !x.is_standard_layout() {
        refuse(x.shape(), x.strides());
    }
    x.into_slice().expect("rows in order")
}

fn rows(len: usize, cols: usize) -> usize {
    assert!(cols > 0 && len.is_multiple_of(cols), "{len} numbers in rows of {cols}");
    len / cols
}

fn refuse(shape: &[usize], strides: &[isize]) -> ! {
    panic!(
        "a matrix {shape:?} with strides {strides:?}: rows must lie one after the other; as_standard_layout() copies it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_lie_in_order_are_taken_as_they_are() {
        let x = [1, 2, 3, 4, 5, 6];
        let view = matrix(&x, 3);
        assert_eq!((view.dim(), view[[1, 0]]), ((2, 3), 4));
        assert!(std::ptr::eq(elements(view), &x[..]));
        assert!(std::ptr::eq(elements(view.slice_move(ndarray::s![1.., ..])), &x[3..]));
        let mut y = x;
        matrix_mut(&mut y, 2)[[2, 1]] = 7;
        elements_mut(matrix_mut(&mut y, 3))[3] = 0;
        assert_eq!(y, [1, 2, 3, 0, 5, 7]);
    }

    #[test]
    #[should_panic(expected = "rows must lie one after the other")]
    fn a_transposed_view_is_refused() {
        elements(matrix(&[1, 2, 3, 4, 5, 6], 3).reversed_axes());
    }

    #[test]
    #[should_panic(expected = "rows must lie one after the other")]
    fn columns_that_are_cut_off_are_refused_for_writing() {
        elements_mut(matrix_mut(&mut [1, 2, 3, 4, 5, 6], 3).slice_move(ndarray::s![.., ..2]));
    }

    #[test]
    #[should_panic(expected = "5 numbers in rows of 3")]
    fn a_part_of_a_row_is_no_matrix() {
        matrix(&[0.0; 5], 3);
    }
}
