//! What the types with 256 weights in 8 or 16 groups (the K types, IQ4_XS) have in common.
//!
//! A type says what its codes and integers can be ([`LevelSet`], [`Super`]) and where their bits lie ([`Format256`]);
//! [`Store`] and [`BlockFormat`] follow from that here.

use super::half::stored;
use crate::bits::f16_from_f32;
use crate::grid::{self, MAX_GROUPS, SuperScales};
use crate::search::superblock::{self as search, N, Super};
use crate::search::{Effort, Offset};
use crate::simd::{Isa, dispatch};
use crate::store::{check_lengths, columns_of};
use crate::{BlockFormat, Care, Encoders, Grid, Scales, Spec, Store};

/// One type's layout. Every method must be `#[inline(always)]`: they are compiled once per instruction set.
pub(super) trait Format256: Super {
    /// Name and sizes: ggml's row, or the format's own.
    const SPEC: &'static Spec;
    const NAME: &'static str = Self::SPEC.name;
    const BYTES: usize = Self::SPEC.bytes;
    const LEVELS: grid::Levels;

    /// Lays a block out in `BYTES` bytes.
    fn write(parts: &SuperScales, codes: &[i8; N], out: &mut [u8]);
    /// The integers, steps and codes that `BYTES` bytes hold.
    fn read(bytes: &[u8], codes: &mut [i8; N]) -> SuperScales;
    /// The level of a code.
    #[inline(always)]
    fn level(code: i8) -> f32 {
        f32::from(code)
    }
}

/// The format of a layout.
pub(super) struct SuperBlock<L>(pub L);

#[inline(always)]
fn encode_blocks<L: Format256>(x: &[f32], importance: &[f32], out: &mut [u8]) {
    let blocks = x.as_chunks::<N>().0;
    search::fit_all::<L>(x, importance, Effort::FULL, |at, parts| {
        let grid = Grid::of_super(N / L::GROUPS, L::GROUPS, parts, L::LEVELS);
        let mut codes = [0; N];
        grid.nearest_all(&blocks[at], &mut codes);
        L::write(&parts, &codes, &mut out[at * L::BYTES..][..L::BYTES]);
    });
}

#[inline(always)]
fn decode_blocks<L: Format256>(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.chunks_exact(L::BYTES).zip(out.as_chunks_mut::<N>().0) {
        let mut codes = [0; N];
        let parts = L::read(bytes, &mut codes);
        let grid = Grid::of_super(N / L::GROUPS, L::GROUPS, parts, L::LEVELS);
        let len = N / L::GROUPS;
        for (g, (out, codes)) in out.chunks_exact_mut(len).zip(codes.chunks_exact(len)).enumerate() {
            let (scale, offset) = (grid.scale[g], grid.offset[g]);
            for (o, code) in out.iter_mut().zip(codes) {
                *o = scale * L::level(*code) + offset;
            }
        }
    }
}

#[inline(always)]
fn fit_blocks<L: Format256>(x: &[f32], importance: &[f32], effort: Effort, grids: &mut [Grid]) {
    search::fit_all::<L>(x, importance, effort, |at, parts| {
        grids[at] = Grid::of_super(N / L::GROUPS, L::GROUPS, parts, L::LEVELS);
    });
}

dispatch!(fn search_with<L: Format256>(x: &[f32], importance: &[f32], out: &mut [u8]) = encode_blocks::<L>);
dispatch!(fn decode_with<L: Format256>(bytes: &[u8], out: &mut [f32]) = decode_blocks::<L>);
dispatch!(
    fn fit_with<L: Format256>(x: &[f32], importance: &[f32], effort: Effort, grids: &mut [Grid]) = fit_blocks::<L>
);

impl<L: Format256> Store for SuperBlock<L> {
    fn spec(&self) -> &'static Spec {
        L::SPEC
    }

    fn encode(&self, x: &[f32], scales: Scales, out: &mut [u8]) {
        check_lengths(self.spec(), x.len(), out.len());
        let Scales::Search(importance) = scales else { panic!("{} has no reference encoder: search", L::NAME) };
        search_with::<L>(Isa::best(), x, columns_of(self.spec(), x.len(), importance), out);
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        check_lengths(self.spec(), out.len(), bytes.len());
        decode_with::<L>(Isa::best(), bytes, out);
    }

    fn blocks(&self) -> Option<&dyn BlockFormat> {
        Some(self)
    }
}

impl<L: Format256> BlockFormat for SuperBlock<L> {
    fn encoders(&self) -> Encoders {
        Encoders::Search
    }

    fn fit_many(&self, x: &[f32], importance: &[f32], care: Care, grids: &mut [Grid]) {
        let columns = columns_of(self.spec(), x.len(), Some(importance));
        assert_eq!(x.len(), grids.len() * N, "{}: weights against {} grids", L::NAME, grids.len());
        let effort = match care {
            Care::Quick => L::DRAFT,
            Care::Full => Effort::FULL,
        };
        fit_with::<L>(Isa::best(), x, columns, effort, grids);
    }

    fn with_group(&self, grid: &Grid, g: usize, scale: f32, offset: f32) -> Grid {
        assert!(g < L::GROUPS, "{}: group {g} of {}", L::NAME, L::GROUPS);
        let mut parts = grid.parts.unwrap_or_else(|| panic!("{}: a grid of another format", L::NAME));
        let (low, high) = L::SCALES;
        if parts.step != 0.0 {
            parts.scales[g] = (scale / parts.step).round().clamp(low, high) as i8;
        }
        if parts.offset_step != 0.0 {
            parts.offsets[g] = (-offset / parts.offset_step).round().clamp(0.0, L::OFFSETS) as u8;
        }
        Grid::of_super(grid.group_len, L::GROUPS, parts, grid.levels)
    }

    fn pack(&self, grid: &Grid, codes: &[i8], block: &mut [u8]) {
        assert_eq!((codes.len(), block.len()), (N, L::BYTES), "{}: codes and bytes of one block", L::NAME);
        assert_eq!(grid.group_len, N / L::GROUPS, "{}: weights per scale", L::NAME);
        grid.levels.check(L::NAME, codes);
        let parts = grid.parts.unwrap_or_else(|| panic!("{}: a grid of another format", L::NAME));
        stored(L::NAME, "step", parts.step);
        stored(L::NAME, "offset step", parts.offset_step);
        let (low, high) = L::SCALES;
        for g in 0..MAX_GROUPS {
            let (s, o) = (f32::from(parts.scales[g]), f32::from(parts.offsets[g]));
            assert!(s >= low && s <= high, "{}: scale {s} of group {g} not in {low}..={high}", L::NAME);
            assert!(o <= L::OFFSETS, "{}: offset {o} of group {g} above {}", L::NAME, L::OFFSETS);
        }
        assert!(L::OFFSET != Offset::None || f16_from_f32(parts.offset_step) == 0, "{} stores no offset", L::NAME);
        L::write(&parts, codes.as_chunks().0.first().expect("checked above"), block);
    }

    fn unpack(&self, block: &[u8], codes: &mut [i8]) -> Grid {
        assert_eq!((codes.len(), block.len()), (N, L::BYTES), "{}: codes and bytes of one block", L::NAME);
        let parts = L::read(block, codes.as_chunks_mut().0.first_mut().expect("checked above"));
        Grid::of_super(N / L::GROUPS, L::GROUPS, parts, L::LEVELS)
    }
}
