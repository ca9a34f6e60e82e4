//! Packing and unpacking against a slow reading of the layout, and parts that lie.

use super::*;
use crate::{Scales, Store, formats};

const TYPES: [&str; 5] = ["f32", "f16", "bf16", "q8_0", "q4_0"];

fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 11
    }
}

/// Dense rows, `keep(row, col)` of which are not zero.
fn dense(store: &'static dyn Store, rows: usize, cols: usize, keep: impl Fn(usize, usize) -> bool) -> Vec<u8> {
    let mut next = random(rows as u64 * 31 + cols as u64);
    let mut weight = |r, c| {
        let sign = if next().is_multiple_of(2) { 1.0 } else { -1.0 };
        // Within a factor of four, so that no code is rounded to zero.
        let size = 1.0 + (next() % 1000) as f32 / 300.0;
        if keep(r, c) { sign * size } else { sign * 0.0 }
    };
    let weights: Vec<f32> = (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))).map(|(r, c)| weight(r, c)).collect();
    let mut bytes = vec![0; store.spec().bytes_for(weights.len()).expect("whole blocks")];
    store.encode(&weights, Scales::Reference, &mut bytes);
    bytes
}

/// The weights by the description alone: mask and index read one bit at a time, scales by place.
fn slow(layout: &SparseLayout, rows: usize, parts: SparseParts<&[u8]>) -> Vec<f32> {
    let name = layout.store().spec().name;
    let (cols, each) = (layout.cols(), layout.cols().div_ceil(8));
    let mut out = vec![0.0; rows * cols];
    for r in 0..rows {
        let mut at = match layout.packing() {
            Packing::Bitmask => u64::from_le_bytes(parts.index[8 * r..][..8].try_into().expect("8 bytes")) as usize,
            Packing::TwoFour => r * cols / 2,
        };
        for c in 0..cols {
            let stored = match layout.packing() {
                Packing::Bitmask => parts.mask[r * each + c / 8] >> (c % 8) & 1 == 1,
                Packing::TwoFour => {
                    let nibble = parts.mask[r * each + c / 8] >> (c / 4 % 2 * 4) & 15;
                    usize::from(nibble & 3) == c % 4 || usize::from(nibble >> 2) == c % 4
                }
            };
            if !stored {
                continue;
            }
            let scale = |code: f32| {
                let scale = &parts.scales[2 * (r * cols / 32 + c / 32)..];
                code * half::f16::from_le_bytes([scale[0], scale[1]]).to_f32()
            };
            let values = parts.values;
            out[r * cols + c] = match name {
                "f32" => f32::from_le_bytes(values[4 * at..][..4].try_into().expect("4 bytes")),
                "f16" => half::f16::from_le_bytes([values[2 * at], values[2 * at + 1]]).to_f32(),
                "bf16" => half::bf16::from_le_bytes([values[2 * at], values[2 * at + 1]]).to_f32(),
                "q8_0" => scale(f32::from(values[at].cast_signed())),
                _ => scale(f32::from(values[at / 2] >> (at % 2 * 4) & 15) - 8.0),
            };
            at += 1;
        }
    }
    out
}

fn decoded(store: &dyn Store, bytes: &[u8], weights: usize) -> Vec<f32> {
    let mut out = vec![0.0; weights];
    store.decode(bytes, &mut out);
    out
}

/// Every packing and type with rows of some lengths, and masks from none to all.
fn cases() -> Vec<(SparseLayout, usize, Vec<u8>)> {
    let mut cases = Vec::new();
    for name in TYPES {
        let store = formats::by_name(name).expect("a row");
        for packing in [Packing::Bitmask, Packing::TwoFour] {
            for cols in [1, 4, 8, 12, 13, 31, 32, 96, 132, 544] {
                let Ok(layout) = SparseLayout::new(packing, store, cols) else { continue };
                for density in 0..=4_u64 {
                    let mut next = random(density + 7);
                    let picks: Vec<u64> = (0..5 * cols).map(|_| next()).collect();
                    let keep = |r: usize, c: usize| match r {
                        // An empty row and a full one among the others.
                        1 => false,
                        2 => true,
                        _ => picks[r * cols + c] % 4 < density,
                    };
                    // Of four, 2:4 has the first two.
                    let keep = |r: usize, c: usize| {
                        let before = (c / 4 * 4..c).filter(|c| keep(r, *c)).count();
                        keep(r, c) && (packing == Packing::Bitmask || before < 2)
                    };
                    cases.push((layout, 5, dense(store, 5, cols, keep)));
                }
            }
        }
    }
    assert!(cases.len() > 200, "{} cases", cases.len());
    cases
}

fn packed(layout: &SparseLayout, dense: &[u8]) -> SparseParts<Vec<u8>> {
    let mut parts = SparseParts::default();
    layout.pack(dense, &mut parts).expect("rows that can be packed");
    parts
}

#[test]
fn unpacking_gives_what_was_packed() {
    for (layout, rows, dense) in cases() {
        let what = format!("{layout:?}");
        let parts = packed(&layout, &dense);
        let mut counts = Vec::new();
        layout.count(&dense, &mut counts).expect("as when packing");
        let sizes = layout.sizes(rows as u64, counts.iter().sum()).expect("small");
        let lengths = [&parts.mask, &parts.index, &parts.values, &parts.scales].map(|part| part.len() as u64);
        assert_eq!(lengths, [sizes.mask, sizes.index, sizes.values, sizes.scales], "{what}");

        let wanted = decoded(layout.store(), &dense, rows * layout.cols());
        assert_eq!(slow(&layout, rows, parts.as_slices()), wanted, "{what}");
        let view = SparseView::new(layout, rows, parts.as_slices()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut out = vec![0xaa; dense.len()];
        view.unpack(0..rows, &mut out).expect("sound parts");
        if layout.store().blocks().is_some() {
            assert_eq!(out, dense, "{what}");
        }
        // Equal but for the signs of zeros.
        assert_eq!(decoded(layout.store(), &out, wanted.len()), wanted, "{what}");
        let mut some = vec![0xaa; 2 * layout.dense_row()];
        view.unpack(2..4, &mut some).expect("sound parts");
        assert_eq!(some, out[2 * layout.dense_row()..4 * layout.dense_row()], "{what}");
    }
}

#[test]
fn nothing_but_zeros_is_left_out() {
    for (layout, _, dense) in cases() {
        let parts = packed(&layout, &dense);
        let weights = decoded(layout.store(), &dense, 5 * layout.cols());
        let wanted: Vec<u64> = weights
            .chunks(layout.cols())
            .map(|row| layout.padded(row.iter().filter(|w| **w != 0.0).count() as u64))
            .collect();
        if layout.packing() == Packing::Bitmask {
            let mut counts = Vec::new();
            layout.count(&dense, &mut counts).expect("a bitmask holds everything");
            assert_eq!(counts, wanted, "{layout:?}");
            let ones: u32 = parts.mask.iter().map(|byte| byte.count_ones()).sum();
            assert_eq!(ones as usize, weights.iter().filter(|w| **w != 0.0).count(), "{layout:?}");
        }
    }
}

#[test]
fn rows_packed_apart_are_those_packed_at_once() {
    for (layout, _, dense) in cases() {
        let whole = packed(&layout, &dense);
        let mut joined = SparseParts::<Vec<u8>>::default();
        let (mut counts, mut before) = (Vec::new(), 0_u64);
        for row in dense.chunks(layout.dense_row()) {
            let mut parts = SparseParts::<Vec<u8>>::default();
            if layout.fixed().is_none() {
                parts.index.extend_from_slice(&before.to_le_bytes());
            }
            layout.pack(row, &mut parts).expect("as at once");
            layout.count(row, &mut counts).expect("as at once");
            before = counts.iter().sum();
            let skip = if joined.index.is_empty() { 0 } else { 8 };
            joined.index.extend_from_slice(parts.index.get(skip..).unwrap_or_default());
            joined.mask.extend(parts.mask);
            joined.values.extend(parts.values);
            joined.scales.extend(parts.scales);
        }
        assert_eq!(joined, whole, "{layout:?}");
    }
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let by_name = |name| formats::by_name(name).expect("a row");
    let new = |packing, name, cols| SparseLayout::new(packing, by_name(name), cols).map(drop).unwrap_err().to_string();
    assert!(new(Packing::Bitmask, "q6_k", 256).contains("q6_k cannot be stored sparse"));
    assert!(new(Packing::TwoFour, "f16", 6).contains("6 columns; 2:4 with values of f16 needs a multiple of 4"));
    assert!(new(Packing::Bitmask, "q4_0", 33).contains("multiple of 32"));
    let layout = SparseLayout::new(Packing::TwoFour, by_name("f32"), 8).expect("whole quads");
    let rows = dense(by_name("f32"), 2, 8, |r, c| r == 0 && c % 4 < 2 || r == 1 && c > 4);
    let error = layout.pack(&rows, &mut SparseParts::default()).unwrap_err();
    assert_eq!(error, SparseError::Dense { row: 1, col: 4, stored: 3 });
    assert_eq!(error.to_string(), "row 1: 3 of columns 4 to 7 are not zero; 2:4 holds 2 of 4");
    assert_eq!(layout.count(&rows, &mut Vec::new()).unwrap_err(), error);
}

#[test]
fn parts_that_contradict_each_other_are_told_apart() {
    let f16 = formats::by_name("f16").expect("a row");
    let layout = SparseLayout::new(Packing::Bitmask, f16, 12).expect("any length");
    let good = packed(&layout, &dense(f16, 3, 12, |r, c| r != 1 && c % 3 != 0));
    let wrong = |edit: &dyn Fn(&mut SparseParts<Vec<u8>>)| {
        let mut parts = good.clone();
        edit(&mut parts);
        let made = SparseView::new(layout, 3, parts.as_slices()).map(drop).unwrap_err();
        let unpacked = layout.unpack(parts.as_slices(), &mut [0; 3 * 24]);
        // The index of a part of the rows may begin with any number.
        if !matches!(made, SparseError::Order { row: 0, .. }) {
            assert_eq!(unpacked, Err(made.clone()));
        }
        made
    };
    let index = |n: [i64; 4]| n.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    assert_eq!(wrong(&|p| p.mask.truncate(5)), SparseError::Length { part: "mask", found: 5, needed: 6 });
    assert_eq!(wrong(&|p| p.index.truncate(31)), SparseError::Length { part: "index", found: 31, needed: 32 });
    assert_eq!(wrong(&|p| p.values.push(0)), SparseError::Length { part: "values", found: 33, needed: 32 });
    assert_eq!(wrong(&|p| p.scales.push(0)), SparseError::Length { part: "scales", found: 1, needed: 0 });
    assert_eq!(wrong(&|p| p.mask[0] ^= 1), SparseError::Count { row: 0, mask: 9, index: 8 });
    assert_eq!(wrong(&|p| p.mask[1] |= 16), SparseError::Filler { row: 0, part: "mask" });
    assert_eq!(wrong(&|p| p.index = index([0, 8, 7, 16])), SparseError::Order { row: 2, found: 7, before: 8 });
    assert_eq!(
        wrong(&|p| p.index = index([0, 8, 8, i64::MIN])),
        SparseError::Order { row: 3, found: i64::MIN, before: 8 }
    );
    assert_eq!(wrong(&|p| p.index = index([-1, 8, 8, 15])), SparseError::Order { row: 0, found: -1, before: 0 });
    assert_eq!(wrong(&|p| p.index = index([1, 9, 9, 17])), SparseError::Order { row: 0, found: 1, before: 0 });
    assert_eq!(wrong(&|p| p.index = index([0, 9, 9, 16])), SparseError::Count { row: 0, mask: 8, index: 9 });
    assert!(matches!(wrong(&|p| p.index = index([0, 8, 8, i64::MAX])), SparseError::Length { part: "values", .. }));

    let layout = SparseLayout::new(Packing::TwoFour, f16, 12).expect("whole quads");
    let good = packed(&layout, &dense(f16, 1, 12, |_, c| c % 4 == 3));
    assert_eq!(good.mask, [0xcc, 0x0c]);
    for nibble in (0..16).filter(|nibble| ![4, 8, 12, 9, 13, 14].contains(nibble)) {
        let mut parts = good.clone();
        parts.mask[0] = 0xc | nibble << 4;
        let error = SparseView::new(layout, 1, parts.as_slices()).map(drop).unwrap_err();
        assert_eq!(error, SparseError::Quad { row: 0, col: 4, nibble });
        assert_eq!(layout.unpack(parts.as_slices(), &mut [0; 24]), Err(error));
    }
    let mut parts = good;
    parts.mask[1] |= 0x40;
    let error = SparseView::new(layout, 1, parts.as_slices()).map(drop).unwrap_err();
    assert_eq!(error, SparseError::Filler { row: 0, part: "mask" });
}

#[test]
fn codes_of_four_bits_fill_their_last_byte_with_zero() {
    let q4_0 = formats::by_name("q4_0").expect("a row");
    let layout = SparseLayout::new(Packing::Bitmask, q4_0, 32).expect("a block");
    let mut parts = packed(&layout, &dense(q4_0, 2, 32, |r, c| c < 3 + r));
    assert_eq!(parts.index, [0_i64, 4, 8].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>());
    assert_eq!(parts.values[1] >> 4, 8);
    parts.values[1] ^= 0x10;
    let error = SparseError::Filler { row: 0, part: "values" };
    assert_eq!(layout.unpack(parts.as_slices(), &mut [0; 36]), Err(error));
    parts.index[8] = 5;
    let error = SparseView::new(layout, 2, parts.as_slices()).map(drop).unwrap_err();
    assert_eq!(error, SparseError::Order { row: 1, found: 5, before: 0 });
}

#[test]
fn bytes_of_any_kind_do_not_panic() {
    let mut next = random(99);
    for (layout, rows, dense) in cases() {
        let good = packed(&layout, &dense);
        for _ in 0..20 {
            let mut parts = good.clone();
            let all = [&mut parts.mask, &mut parts.index, &mut parts.values, &mut parts.scales];
            for part in all.into_iter().filter(|part| !part.is_empty()) {
                let at = next() as usize % part.len();
                match next() % 4 {
                    0 => part[at] = next() as u8,
                    1 => part.truncate(at),
                    _ => {}
                }
            }
            let mut out = vec![0; dense.len()];
            let unpacked = layout.unpack(parts.as_slices(), &mut out);
            if SparseView::new(layout, rows, parts.as_slices()).is_ok() {
                let filler = matches!(unpacked, Err(SparseError::Filler { part: "values", .. }));
                assert!(unpacked.is_ok() || filler, "{layout:?}: {unpacked:?}");
            }
        }
    }
}
