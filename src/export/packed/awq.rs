//! AWQ's GEMM layout: codes and zeros packed along the outputs, eight to a word in the order of its kernels, scales
//! `[groups, out]`.

use ndarray::Array2;
use serde_json::{Value as Json, json};

use super::super::{About, shards};
use super::bits::bytes;
use super::layout::{BITS, Codes, GROUP_SIZE, Matrix, PackedField, PackedLayout, SYM};
use crate::options::{Opt, OptKind};

/// The layout.
pub struct Awq;

static ABOUT: About = About {
    name: "awq",
    title: "AWQ",
    summary: "a folder in the AWQ layout (GEMM)",
    settings: &[],
    options: &[
        // Its kernels read four bits, and zeros that are stored.
        Opt { kind: OptKind::OneOf(&[4]), ..BITS },
        GROUP_SIZE,
        Opt { default: "false", ..SYM },
        shards::SIZE,
    ],
};

/// Which of eight neighbours each nibble of a word holds, starting from the lowest.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// `[rows, cols]` -> words `[cols, rows / 8]`.
fn interleaved(values: &Array2<u8>) -> Vec<u8> {
    let (rows, cols) = values.dim();
    let places = (0..cols).flat_map(|col| (0..rows / 8).map(move |word| (col, word)));
    bytes(places.map(|(col, word)| {
        let nibble = |i: usize| u32::from(values[[word * 8 + ORDER[i], col]]) << (4 * i);
        (0..8).fold(0, |sum, i| sum | nibble(i))
    }))
}

impl PackedLayout for Awq {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn fields(&self, rows: usize, cols: usize, s: Codes) -> Vec<PackedField> {
        let groups = cols / s.group;
        vec![
            (".qweight", "I32", vec![cols, rows / 8]),
            (".qzeros", "I32", vec![groups, rows / 8]),
            (".scales", "F16", vec![groups, rows]),
        ]
    }

    fn pack(&self, m: &Matrix, _: Codes) -> Vec<Vec<u8>> {
        vec![
            interleaved(&m.codes),
            interleaved(&m.zeros),
            m.scales.t().iter().flat_map(|scale| scale.to_le_bytes()).collect(),
        ]
    }

    fn config(&self, s: Codes, skipped: &[String]) -> (Json, Option<&'static str>) {
        let config = json!({
            "quant_method": "awq",
            "bits": s.bits,
            "group_size": s.group,
            "zero_point": !s.symmetric,
            "version": "gemm",
            "modules_to_not_convert": skipped,
        });
        (config, None)
    }
}
