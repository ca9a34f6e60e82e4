//! What a product needs to know of a block type: where its codes and scales lie ([`Codes`]), and how a block of that
//! many weights is summed up ([`Kind`]).

use super::acts::{RUN, Shared};
use super::simd::Simd;

/// A type with `N` bytes per block.
pub(super) trait Codes<const N: usize>: Send + Sync + 'static {
    /// How many weights a block has, and how activations are rounded for it.
    type Kind: Kind;
    /// The largest code as [`Codes::codes`] returns it, unsigned.
    const MAX: u8;
    /// What is subtracted from an unsigned code.
    const BIAS: i32;
    /// Whether the block stores an offset.
    const OFFSET: bool;
    /// Whether codes are signed bytes; unsigned is then the same with the top bit flipped.
    const SIGNED: bool = false;
    /// In a super-block: whether 16 weights have factors of their own, not 32.
    const HALVES: bool = false;
    /// Whether the scale is a power of two instead of an F16.
    const POWER: bool = false;

    /// The codes of run `j` of 32 weights. Must be `#[inline(always)]`.
    fn codes<S: Simd>(s: S, block: &[u8; N], j: usize) -> S::B;

    /// The block's scale: F16 bits, or the exponent plus 128.
    #[inline(always)]
    fn scale(block: &[u8; N]) -> u16 {
        u16::from_le_bytes(*part(block, 0))
    }

    /// The block's offset, F16, where there is one.
    #[inline(always)]
    fn offset(block: &[u8; N]) -> u16 {
        u16::from_le_bytes(*part(block, 2))
    }

    /// A super-block's factors; a plain block's are one.
    #[inline(always)]
    fn factors(_: &[u8; N]) -> Factors {
        Factors { scales: [1; 16], offsets: [1; 16] }
    }
}

/// Signed bytes, for every 32 weights (the first eight) or for every 16, in the order of the weights.
pub(super) struct Factors {
    /// For the scale.
    pub scales: [u8; 16],
    /// For the offset.
    pub offsets: [u8; 16],
}

/// `M` bytes of a block.
#[inline(always)]
pub(super) fn part<const N: usize, const M: usize>(block: &[u8; N], from: usize) -> &[u8; M] {
    block[from..].first_chunk().expect("the layouts lie within their block")
}

/// Rows worked on at a time: the lanes of a vector.
pub(super) const ROWS: usize = 8;

/// What a block of eight rows and a block of activations add up to, a row per lane.
#[derive(Clone, Copy)]
pub(super) struct Sums<S: Simd> {
    /// To be multiplied with both scales.
    pub sum: S::I,
    /// To be multiplied with the offset.
    pub whole: S::F,
}

/// How a block is summed up. All methods must be `#[inline(always)]`.
pub(super) trait Kind: Shared {
    /// A block of eight rows, ready for products with many tokens; but for scales and offsets.
    type Unpacked: Copy + Default;

    /// The products of eight rows' blocks as they are stored with one token's codes.
    fn stored<S: Simd, L: Codes<N>, const N: usize>(&self, s: S, w: [&[u8; N]; ROWS], codes: &[[u8; RUN]]) -> Sums<S>;

    /// Unpacks eight rows' blocks.
    fn unpack<S: Simd, L: Codes<N>, const N: usize>(s: S, w: [&[u8; N]; ROWS], out: &mut Self::Unpacked);

    /// The products of an unpacked block with the codes of `T` tokens.
    fn unpacked<S: Simd, L: Codes<N>, const N: usize, const T: usize>(
        s: S,
        w: &Self::Unpacked,
        codes: [&[[u8; RUN]]; T],
        x: [&Self; T],
    ) -> [Sums<S>; T];
}
