//! What the types with 32 weights under one scale (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4) have in common.
//!
//! A type says what its codes can be ([`Single`]), how ggml's reference chooses scale and codes
//! ([`Format32::quantize`]) and where their bits lie ([`Format32::write`], [`Format32::read`]); [`Store`] and
//! [`BlockFormat`] follow from that here.

use super::half::stored;
use crate::bits::{F16_NEG_ZERO, f16_from_f32, f16_to_f32};
use crate::grid::Levels;
use crate::search::block32::{self as search, Single};
use crate::search::lanes::LANES;
use crate::search::{Offset, finite_f16};
use crate::simd::{Isa, dispatch, trunc_within};
use crate::store::{check_lengths, columns_of};
use crate::{BlockFormat, Care, Encoders, Grid, Scales, Spec, Store};

/// Weights per block.
pub(super) const N: usize = search::N;

/// One block, unpacked: `value(i) = scale * level(codes[i]) + offset`.
#[derive(Clone, Copy)]
pub(super) struct Unpacked {
    /// As stored: F16 bits, or what [`Format32::widen`] reads.
    pub scale: u16,
    /// F16 bits; [`F16_NEG_ZERO`] in types without an offset.
    pub offset: u16,
    /// The levels themselves, signed in the symmetric types; or indices of the table.
    pub codes: [i8; N],
}

/// One type's arithmetic and layout. Every method must be `#[inline(always)]`: they are compiled once per
/// instruction set.
pub(super) trait Format32: Single {
    /// Name and sizes: ggml's row, or the format's own.
    const SPEC: &'static Spec;
    const NAME: &'static str = Self::SPEC.name;
    const BYTES: usize = Self::SPEC.bytes;
    const LEVELS: Levels;
    /// How scales can be chosen; without a reference there is no [`Format32::quantize`].
    const ENCODERS: Encoders = Encoders::Both;

    /// The block that ggml's reference makes of `x`. Not called if there is none.
    fn quantize(x: &[f32; N]) -> Unpacked;
    /// Another block for `x` than the reference's, which has this scale; asked where a search is wanted and there is
    /// none.
    #[inline(always)]
    fn instead(_: &[f32; N], _: u16) -> Option<Unpacked> {
        None
    }
    /// Lays a block out in `BYTES` bytes.
    fn write(block: &Unpacked, out: &mut [u8]);
    /// The block that `BYTES` bytes hold.
    fn read(bytes: &[u8]) -> Unpacked;
    /// The level of a code.
    #[inline(always)]
    fn level(code: i8) -> f32 {
        f32::from(code)
    }
    /// The stored scale as a number, and the reverse.
    #[inline(always)]
    fn widen(scale: u16) -> f32 {
        f16_to_f32(scale)
    }
    #[inline(always)]
    fn narrow(scale: f32) -> u16 {
        f16_from_f32(scale)
    }
}

#[inline(always)]
fn encode_blocks<L: Format32>(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks().0.iter().zip(out.chunks_exact_mut(L::BYTES)) {
        L::write(&L::quantize(x), out);
    }
}

/// Calls `put` with the number, the weights and the searched grid of every block.
#[inline(always)]
fn search_blocks<L: Format32>(x: &[f32], importance: &[f32], mut put: impl FnMut(usize, &[f32; N], Grid)) {
    let mut columns = importance.as_chunks::<N>().0.iter().cycle();
    let blocks = x.as_chunks::<N>().0;
    for (group, eight) in blocks.chunks(LANES).enumerate() {
        let (scales, offsets) = search::fit::<L>(eight, &mut columns);
        for (l, x) in eight.iter().enumerate() {
            // As an F16's -0.0 where nothing is stored.
            let offset = if L::OFFSET == Offset::None { -0.0 } else { offsets[l] };
            put(group * LANES + l, x, Grid::single(N, scales[l], offset, L::LEVELS));
        }
    }
}

#[inline(always)]
fn encode_searched<L: Format32>(x: &[f32], importance: &[f32], out: &mut [u8]) {
    search_blocks::<L>(x, importance, |i, x, grid| {
        let mut codes = [0; N];
        grid.nearest_all(x, &mut codes);
        let block = Unpacked { scale: L::narrow(grid.scale[0]), offset: f16_from_f32(grid.offset[0]), codes };
        L::write(&block, &mut out[i * L::BYTES..][..L::BYTES]);
    });
}

#[inline(always)]
fn fit_blocks<L: Format32>(x: &[f32], importance: &[f32], grids: &mut [Grid]) {
    search_blocks::<L>(x, importance, |i, _, grid| grids[i] = grid);
}

#[inline(always)]
fn decode_blocks<L: Format32>(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.chunks_exact(L::BYTES).zip(out.as_chunks_mut::<N>().0) {
        let block = L::read(bytes);
        let (scale, offset) = (L::widen(block.scale), f16_to_f32(block.offset));
        for (o, code) in out.iter_mut().zip(block.codes) {
            *o = scale * L::level(code) + offset;
        }
    }
}

dispatch!(fn encode_with<L: Format32>(x: &[f32], out: &mut [u8]) = encode_blocks::<L>);
dispatch!(fn decode_with<L: Format32>(bytes: &[u8], out: &mut [f32]) = decode_blocks::<L>);
dispatch!(fn search_with<L: Format32>(x: &[f32], importance: &[f32], out: &mut [u8]) = encode_searched::<L>);
dispatch!(fn fit_with<L: Format32>(x: &[f32], importance: &[f32], grids: &mut [Grid]) = fit_blocks::<L>);

/// What a type without a search gives instead.
pub(super) fn unsearched_with<L: Format32>(isa: Isa, x: &[f32], out: &mut [u8]) {
    encode_with::<L>(isa, x, out);
    for (x, out) in x.as_chunks().0.iter().zip(out.chunks_exact_mut(L::BYTES)) {
        if let Some(block) = L::instead(x, L::read(out).scale) {
            L::write(&block, out);
        }
    }
}

/// The format of a layout.
pub(super) struct Block32<L>(pub L);

impl<L: Format32> Store for Block32<L> {
    fn spec(&self) -> &'static Spec {
        L::SPEC
    }

    fn encode(&self, x: &[f32], scales: Scales, out: &mut [u8]) {
        check_lengths(self.spec(), x.len(), out.len());
        match scales {
            Scales::Search(importance) if L::ENCODERS != Encoders::Reference => {
                search_with::<L>(Isa::best(), x, columns_of(self.spec(), x.len(), importance), out);
            }
            Scales::Search(_) => unsearched_with::<L>(Isa::best(), x, out),
            Scales::Reference => {
                assert!(L::ENCODERS != Encoders::Search, "{} has no reference encoder: search", L::NAME);
                encode_with::<L>(Isa::best(), x, out);
            }
        }
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        check_lengths(self.spec(), out.len(), bytes.len());
        decode_with::<L>(Isa::best(), bytes, out);
    }

    fn blocks(&self) -> Option<&dyn BlockFormat> {
        Some(self)
    }
}

fn unsearched<L: Format32>(x: &[f32; N]) -> Unpacked {
    let block = L::quantize(x);
    L::instead(x, block.scale).unwrap_or(block)
}

fn grid_of<L: Format32>(block: &Unpacked) -> Grid {
    Grid::single(N, L::widen(block.scale), f16_to_f32(block.offset), L::LEVELS)
}

impl<L: Format32> BlockFormat for Block32<L> {
    fn encoders(&self) -> Encoders {
        L::ENCODERS
    }

    fn fit_many(&self, x: &[f32], importance: &[f32], _: Care, grids: &mut [Grid]) {
        let columns = columns_of(self.spec(), x.len(), Some(importance));
        assert_eq!(x.len(), grids.len() * N, "{}: weights against {} grids", L::NAME, grids.len());
        if L::ENCODERS != Encoders::Reference {
            return fit_with::<L>(Isa::best(), x, columns, grids);
        }
        for (grid, x) in grids.iter_mut().zip(x.as_chunks().0) {
            *grid = grid_of::<L>(&unsearched::<L>(x));
        }
    }

    fn with_group(&self, grid: &Grid, g: usize, scale: f32, offset: f32) -> Grid {
        assert_eq!(g, 0, "{}: group of a block that has one", L::NAME);
        let offset = if L::OFFSET == Offset::None { grid.offset[0] } else { finite_f16(offset) };
        Grid::single(N, L::storable(scale), offset, grid.levels)
    }

    fn pack(&self, grid: &Grid, codes: &[i8], block: &mut [u8]) {
        assert_eq!((codes.len(), block.len()), (N, L::BYTES), "{}: codes and bytes of one block", L::NAME);
        assert_eq!(grid.group_len, N, "{}: weights per scale", L::NAME);
        let has_offset = L::OFFSET != Offset::None;
        assert!(has_offset || grid.offset[0] == 0.0, "{} stores no offset, found {}", L::NAME, grid.offset[0]);
        grid.levels.check(L::NAME, codes);
        let scale = L::narrow(grid.scale[0]);
        let same = L::widen(scale).to_bits() == grid.scale[0].to_bits();
        assert!(same, "{}: a block cannot store the grid's scale {}", L::NAME, grid.scale[0]);
        let offset = if has_offset { stored(L::NAME, "offset", grid.offset[0]) } else { F16_NEG_ZERO };
        L::write(&Unpacked { scale, offset, codes: *codes.as_chunks().0.first().expect("checked above") }, block);
    }

    fn unpack(&self, block: &[u8], codes: &mut [i8]) -> Grid {
        assert_eq!((codes.len(), block.len()), (N, L::BYTES), "{}: codes and bytes of one block", L::NAME);
        let block = L::read(block);
        codes.copy_from_slice(&block.codes);
        grid_of::<L>(&block)
    }
}

/// Smallest and largest value, in an order of comparisons that vectorises. Of -0.0 and +0.0 either may come out.
#[inline(always)]
fn range(x: &[f32; N]) -> (f32, f32) {
    const LANES: usize = 8;
    let (chunks, _) = x.as_chunks::<LANES>();
    let (mut low, mut high) = (chunks[0], chunks[0]);
    for chunk in &chunks[1..] {
        for i in 0..LANES {
            low[i] = if chunk[i] < low[i] { chunk[i] } else { low[i] };
            high[i] = if chunk[i] > high[i] { chunk[i] } else { high[i] };
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            low[i] = if low[i + width] < low[i] { low[i + width] } else { low[i] };
            high[i] = if high[i + width] > high[i] { high[i + width] } else { high[i] };
        }
        width /= 2;
    }
    (low[0], high[0])
}

/// Smallest and largest value; where one is zero, it is the first zero of the block, whose sign the offset keeps.
#[inline(always)]
pub(super) fn min_max(x: &[f32; N]) -> (f32, f32) {
    let (low, high) = range(x);
    if low != 0.0 {
        return (low, high);
    }
    let low = first(x, |v| v == 0.0);
    (low, if high == 0.0 { low } else { high })
}

/// The largest magnitude.
#[inline(always)]
pub(super) fn max_abs(x: &[f32; N]) -> f32 {
    let mut magnitudes = *x;
    magnitudes.iter_mut().for_each(|v| *v = v.abs());
    range(&magnitudes).1
}

/// The value of largest magnitude, with its sign; of several the first; +0.0 if all are zero.
#[inline(always)]
pub(super) fn signed_max(x: &[f32; N]) -> f32 {
    let (low, high) = range(x);
    if high > -low {
        high
    } else if high < -low {
        low
    } else if high == 0.0 {
        0.0
    } else {
        first(x, |v| v.abs() == high)
    }
}

#[cold]
#[inline(never)]
fn first(x: &[f32; N], is: impl Fn(f32) -> bool) -> f32 {
    x.iter().copied().find(|v| is(*v)).unwrap_or(0.0)
}

/// `1 / d`, zero for zero. `None` where `d` is so small (below 2^-128) that it overflows: the stored scale is zero
/// then, and x86 turns the infinite quotients of ggml's reference into stored codes of zero.
#[inline(always)]
pub(super) fn inverse(d: f32) -> Option<f32> {
    let inverse = 1.0 / d;
    if d == 0.0 {
        Some(0.0)
    } else if inverse.is_infinite() {
        None
    } else {
        Some(inverse)
    }
}

/// `trunc((x - low) / d + add)` held within `0..=top`: the unsigned codes as they are stored.
#[inline(always)]
pub(super) fn unsigned_codes(x: &[f32; N], low: f32, d: f32, add: f32, top: i16) -> [u8; N] {
    let (inverse, add) = inverse(d).map_or((0.0, 0.0), |inverse| (inverse, add));
    let mut codes = [0; N];
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = trunc_within((x - low) * inverse + add, 0, top) as u8;
    }
    codes
}

/// Codes of four bits: the first half of the block in the low nibbles, the second in the high ones.
#[inline(always)]
pub(super) fn write_nibbles(codes: &[u8; N], out: &mut [u8]) {
    for (i, o) in out[..N / 2].iter_mut().enumerate() {
        *o = (codes[i] & 15) | (codes[i + N / 2] << 4);
    }
}

/// The reverse of [`write_nibbles`].
#[inline(always)]
pub(super) fn read_nibbles(bytes: &[u8]) -> [u8; N] {
    let mut codes = [0; N];
    for (i, b) in bytes[..N / 2].iter().enumerate() {
        codes[i] = b & 15;
        codes[i + N / 2] = b >> 4;
    }
    codes
}

/// Bit 4 of every code, bit `i` of the little-endian word for code `i`.
#[inline(always)]
pub(super) fn write_fifth_bits(codes: &[u8; N], out: &mut [u8]) {
    // Bytes of 0 or 1, least significant first, times this: the top byte collects one bit from each. Shifting in
    // 32-bit lanes instead encodes a fifth slower (AVX2).
    const GATHER: u64 = 0x0102_0408_1020_4080;
    for (o, codes) in out[..N / 8].iter_mut().zip(codes.as_chunks::<8>().0) {
        let bits = (u64::from_le_bytes(*codes) >> 4) & 0x0101_0101_0101_0101;
        *o = (bits.wrapping_mul(GATHER) >> 56) as u8;
    }
}

/// Sets bit 4 of every code from what [`write_fifth_bits`] stored.
#[inline(always)]
pub(super) fn read_fifth_bits(bytes: &[u8], codes: &mut [u8; N]) {
    for (codes, &byte) in codes.as_chunks_mut::<8>().0.iter_mut().zip(&bytes[..N / 8]) {
        for (i, code) in codes.iter_mut().enumerate() {
            *code |= ((byte >> i) & 1) << 4;
        }
    }
}

/// Stored codes to levels: `code - bias`.
#[inline(always)]
pub(super) fn lower(codes: &[u8; N], bias: i8) -> [i8; N] {
    // Loops, not `map`: its inner function is not inlined, so it misses the instruction set of the kernel.
    let mut levels = [0; N];
    for (level, code) in levels.iter_mut().zip(codes) {
        *level = *code as i8 - bias;
    }
    levels
}

/// Levels to stored codes: `level + bias`.
#[inline(always)]
pub(super) fn raise(codes: &[i8; N], bias: i8) -> [u8; N] {
    let mut stored = [0; N];
    for (code, level) in stored.iter_mut().zip(codes) {
        *code = (level + bias) as u8;
    }
    stored
}

/// Writes an F16, little-endian.
#[inline(always)]
pub(super) fn put(out: &mut [u8], h: u16) {
    out.copy_from_slice(&h.to_le_bytes());
}

/// Reads an F16, little-endian.
#[inline(always)]
pub(super) fn get(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}
