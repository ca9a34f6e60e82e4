//! Values without zeros, put back into their columns: the operations that sparse kernels need beside [`Simd`].
//!
//! Eight columns at a time, or 32 of codes. A byte of a mask chooses a row of a table, which says for every column
//! where its value is; instruction sets that expand by a mask need no table.

use crate::runtime::kernels::simd::{Plain, Simd};

/// A row for every byte of a mask.
#[repr(align(64))]
pub(crate) struct Table(pub [[u8; 16]; 256]);

/// How the bytes of a mask name columns, eight to a byte.
pub(crate) trait Mask: Copy + Send + Sync + 'static {
    /// For every byte and column: where the column's two bytes are among the values, or 0x80 if it has none.
    const WORDS: &'static Table;
    /// For every byte the same in single bytes; in the second half, how many values it has.
    const LOW: &'static Table;
    /// The same in single bytes as the second half; zeros before it. Added to another byte's [`Mask::LOW`] it takes 16
    /// values apart.
    const HIGH: &'static Table;

    /// The columns of a byte, a bit each. Must be `#[inline(always)]`.
    fn bits(mask: u8) -> u8;
    /// How many values eight columns have. Must be `#[inline(always)]`.
    fn count(mask: u8) -> usize;
    /// How many values the first `bytes` bytes of a mask have. Must be `#[inline(always)]`.
    fn before(mask: u32, bytes: usize) -> usize;
}

/// A bit for each column.
#[derive(Clone, Copy)]
pub(crate) struct Bits;

/// Two of every four columns, two bits for the place of each.
#[derive(Clone, Copy)]
pub(crate) struct Quads;

/// The columns that two quads name: none where both places are the same, as beyond a row's last column.
const fn quads(mask: u8) -> u8 {
    const fn quad(nibble: u8) -> u8 {
        let (first, second) = (nibble & 3, nibble >> 2);
        if first == second { 0 } else { 1 << first | 1 << second }
    }
    quad(mask & 15) | quad(mask >> 4) << 4
}

/// Every byte as the bits of its columns.
const QUADS: [u8; 256] = {
    let mut all = [0; 256];
    let mut mask = 0;
    while mask < 256 {
        all[mask] = quads(mask as u8);
        mask += 1;
    }
    all
};

/// What stands for a column without a value.
const NONE: u8 = 0x80;

/// Where the values of eight columns are.
const fn places(bits: u8) -> [u8; 8] {
    let (mut out, mut next, mut i) = ([NONE; 8], 0, 0);
    while i < 8 {
        if bits >> i & 1 == 1 {
            out[i] = next;
            next += 1;
        }
        i += 1;
    }
    out
}

const fn columns(mask: usize, pairs: bool) -> u8 {
    if pairs { quads(mask as u8) } else { mask as u8 }
}

const fn words(pairs: bool) -> Table {
    let mut all = [[NONE; 16]; 256];
    let mut mask = 0;
    while mask < 256 {
        let places = places(columns(mask, pairs));
        let mut i = 0;
        while i < 8 {
            if places[i] != NONE {
                all[mask][2 * i] = 2 * places[i];
                all[mask][2 * i + 1] = 2 * places[i] + 1;
            }
            i += 1;
        }
        mask += 1;
    }
    Table(all)
}

const fn low(pairs: bool) -> Table {
    let mut all = [[0; 16]; 256];
    let mut mask = 0;
    while mask < 256 {
        let bits = columns(mask, pairs);
        let places = places(bits);
        let mut i = 0;
        while i < 8 {
            all[mask][i] = places[i];
            // Two quads have four values, whatever they name.
            all[mask][8 + i] = if pairs { 4 } else { bits.count_ones() as u8 };
            i += 1;
        }
        mask += 1;
    }
    Table(all)
}

const fn high(pairs: bool) -> Table {
    let mut all = [[0; 16]; 256];
    let mut mask = 0;
    while mask < 256 {
        let places = places(columns(mask, pairs));
        let mut i = 0;
        while i < 8 {
            all[mask][8 + i] = places[i];
            i += 1;
        }
        mask += 1;
    }
    Table(all)
}

impl Mask for Bits {
    const WORDS: &'static Table = {
        static TABLE: Table = words(false);
        &TABLE
    };
    const LOW: &'static Table = {
        static TABLE: Table = low(false);
        &TABLE
    };
    const HIGH: &'static Table = {
        static TABLE: Table = high(false);
        &TABLE
    };

    #[inline(always)]
    fn bits(mask: u8) -> u8 {
        mask
    }
    #[inline(always)]
    fn count(mask: u8) -> usize {
        mask.count_ones() as usize
    }
    #[inline(always)]
    fn before(mask: u32, bytes: usize) -> usize {
        (mask & (u64::from(u32::MAX) >> (32 - 8 * bytes)) as u32).count_ones() as usize
    }
}

impl Mask for Quads {
    const WORDS: &'static Table = {
        static TABLE: Table = words(true);
        &TABLE
    };
    const LOW: &'static Table = {
        static TABLE: Table = low(true);
        &TABLE
    };
    const HIGH: &'static Table = {
        static TABLE: Table = high(true);
        &TABLE
    };

    #[inline(always)]
    fn bits(mask: u8) -> u8 {
        QUADS[usize::from(mask)]
    }
    #[inline(always)]
    fn count(_: u8) -> usize {
        4
    }
    #[inline(always)]
    fn before(_: u32, bytes: usize) -> usize {
        4 * bytes
    }
}

/// Values put back into their columns, zero where there is none. All methods must be `#[inline(always)]`.
///
/// As many values are read as there are columns; those that a mask has no columns for belong to what follows.
pub(crate) trait Expand: Simd {
    /// Eight columns of F32.
    fn expand_f32<M: Mask>(self, values: &[[u8; 4]; 8], mask: u8) -> Self::F;
    /// Eight columns of F16.
    fn expand_f16<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> Self::F;
    /// Eight columns of BF16.
    fn expand_bf16<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> Self::F;
    /// Eight columns of two bytes each, as they are.
    fn expand_words<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> [[u8; 2]; 8];
    /// 32 columns of a byte each.
    fn expand_bytes<M: Mask>(self, values: &[u8; 32], mask: u32) -> Self::B;

    /// The two of each four numbers that the bits of a mask, two for each, name: 16 numbers to 8.
    fn pick_floats(self, x: &[f32; 16], mask: u16) -> Self::F;
    /// The same of 64 bytes that [`arranged`] gave, to 32.
    fn pick_bytes(self, x: &[u8; 64], mask: &[u8; 8]) -> Self::B;
    /// The sums of the first and of the second half of each `v`.
    fn half_totals(self, v: [Self::I; 4]) -> Self::I;
}

/// 64 bytes, 16 at a time in the order first, third, second, last: those that a byte shuffle of two halves of a vector
/// reaches at a time.
pub(super) fn arranged(x: &[u8; 64]) -> [u8; 64] {
    let mut out = [0; 64];
    for (i, out) in out.iter_mut().enumerate() {
        *out = x[place(i)];
    }
    out
}

/// Where byte `i` is after [`arranged`], and before.
#[inline(always)]
fn place(i: usize) -> usize {
    match i / 16 {
        1 => i + 16,
        2 => i - 16,
        _ => i,
    }
}

/// The first values of `values` at the columns of `bits`.
#[inline(always)]
fn spread<T: Copy, const N: usize>(values: &[T; N], bits: u32, zero: T) -> [T; N] {
    let (mut out, mut next) = ([zero; N], 0);
    for (i, out) in out.iter_mut().enumerate() {
        if bits >> i & 1 == 1 && next < N {
            *out = values[next];
            next += 1;
        }
    }
    out
}

/// The columns of four bytes.
#[inline(always)]
fn bits32<M: Mask>(mask: u32) -> u32 {
    u32::from_le_bytes(mask.to_le_bytes().map(M::bits))
}

impl Expand for Plain {
    #[inline(always)]
    fn expand_f32<M: Mask>(self, values: &[[u8; 4]; 8], mask: u8) -> [f32; 8] {
        spread(values, M::bits(mask).into(), [0; 4]).map(f32::from_le_bytes)
    }
    #[inline(always)]
    fn expand_f16<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> [f32; 8] {
        self.f16(&spread(values, M::bits(mask).into(), [0; 2]))
    }
    #[inline(always)]
    fn expand_bf16<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> [f32; 8] {
        self.bf16(&spread(values, M::bits(mask).into(), [0; 2]))
    }
    #[inline(always)]
    fn expand_words<M: Mask>(self, values: &[[u8; 2]; 8], mask: u8) -> [[u8; 2]; 8] {
        spread(values, M::bits(mask).into(), [0; 2])
    }
    #[inline(always)]
    fn expand_bytes<M: Mask>(self, values: &[u8; 32], mask: u32) -> [u8; 32] {
        spread(values, bits32::<M>(mask), 0)
    }

    #[inline(always)]
    fn pick_floats(self, x: &[f32; 16], mask: u16) -> [f32; 8] {
        let mut out = [0.0; 8];
        for (i, out) in out.iter_mut().enumerate() {
            *out = x[i / 2 * 4 + usize::from(mask >> (2 * i) & 3)];
        }
        out
    }
    #[inline(always)]
    fn pick_bytes(self, x: &[u8; 64], mask: &[u8; 8]) -> [u8; 32] {
        let mut out = [0; 32];
        for (i, out) in out.iter_mut().enumerate() {
            *out = x[place(i / 2 * 4 + usize::from(mask[i / 4] >> (i % 4 * 2) & 3))];
        }
        out
    }
    #[inline(always)]
    fn half_totals(self, v: [[i32; 8]; 4]) -> [i32; 8] {
        let mut out = [0; 8];
        for (i, out) in out.iter_mut().enumerate() {
            *out = v[i / 2][i % 2 * 4..][..4].iter().sum();
        }
        out
    }
}
