//! A sparse matrix as it is stored, and its rows.

use aurora_quantizers::sparse::{Packing, SparseView};

use crate::runtime::kernels::isa::KernelIsa;
use crate::runtime::kernels::out::Out;
use crate::runtime::kernels::{Acts, Dense};

/// A weight matrix `[rows, cols]` of which zeros are not stored.
///
/// With one token, rows are multiplied as they are stored; with more, some at a time become dense, and are multiplied
/// as a [`Dense`] is. Both give what the dense matrix would: the same bits in types with codes.
pub struct Sparse<'a> {
    view: SparseView<'a>,
    order: Option<Box<[u32]>>,
    pub(super) kernel: &'static Kernel,
    /// The values of the last rows, and zeros: kernels read some values more than a row has.
    tail: Vec<u8>,
    /// The first row whose values are there.
    tail_row: usize,
    /// Bytes of values before it.
    tail_from: usize,
}

/// The product of all rows with one token: instruction set, matrix, activations, rows that a thread takes, result.
pub(super) type Alone = fn(KernelIsa, &Sparse, &Acts, usize, &mut [f32]);

/// Makes a row dense: instruction set, matrix, logical row, its dense bytes.
pub(super) type Unpack = fn(KernelIsa, &Sparse, usize, &mut [u8]);

/// The product of dense rows with all tokens: instruction set, rows, activations, their part of the result.
pub(super) type Tile = fn(KernelIsa, &Dense, &Acts, Out);

/// What a type's products are made with.
pub(super) struct Kernel {
    /// The type's name.
    pub name: &'static str,
    /// With one token: masks of bits, and of quads.
    pub alone: [Alone; 2],
    /// Makes a row dense.
    pub unpack: [Unpack; 2],
    /// The product of dense rows with all tokens, in integers where there is one.
    pub dense: Option<Tile>,
}

/// What a row has.
pub(super) struct Row<'a> {
    /// Which columns are stored.
    pub mask: &'a [u8],
    /// Its values, and at least [`SLACK`] bytes after them.
    pub values: &'a [u8],
    /// Bytes of its values.
    pub bytes: usize,
    /// Its scales.
    pub scales: &'a [[u8; 2]],
}

/// Bytes that kernels may read beyond a row's values: as many as eight blocks of codes, and 32 of the widest values.
pub(super) const SLACK: usize = 8 * 32;

impl<'a> Sparse<'a> {
    pub(super) fn of(view: SparseView<'a>, order: Option<Box<[u32]>>, kernel: &'static Kernel) -> Sparse<'a> {
        if let Some(order) = &order {
            assert_eq!(order.len(), view.rows(), "numbers in the order of the rows");
            let wrong = order.iter().find(|&&r| r as usize >= view.rows());
            assert_eq!(wrong, None, "a row outside {}", view.rows());
        }
        let values = view.parts().values;
        let safe = |row: &usize| view.value_bytes(row + 1) + SLACK <= values.len();
        let tail_row = (0..view.rows()).rev().find(safe).map_or(0, |row| row + 1);
        let tail_from = view.value_bytes(tail_row);
        let mut tail = values[tail_from..].to_vec();
        tail.resize(tail.len() + SLACK, 0);
        Sparse { view, order, kernel, tail, tail_row, tail_from }
    }

    /// The matrix as it is stored.
    pub fn view(&self) -> &SparseView<'a> {
        &self.view
    }

    /// The number of a packing's kernels.
    pub(super) fn packing(&self) -> usize {
        match self.view.layout().packing() {
            Packing::Bitmask => 0,
            Packing::TwoFour => 1,
        }
    }

    /// Logical row `r`.
    #[inline(always)]
    pub(super) fn row(&self, r: usize) -> Row<'_> {
        let r = self.order.as_ref().map_or(r, |order| order[r] as usize);
        let (layout, parts) = (self.view.layout(), self.view.parts());
        let (from, to) = (self.view.value_bytes(r), self.view.value_bytes(r + 1));
        let values = if r < self.tail_row { &parts.values[from..] } else { &self.tail[from - self.tail_from..] };
        Row {
            mask: &parts.mask[r * layout.mask_row()..(r + 1) * layout.mask_row()],
            values,
            bytes: to - from,
            scales: parts.scales[r * layout.scales_row()..(r + 1) * layout.scales_row()].as_chunks().0,
        }
    }
}
