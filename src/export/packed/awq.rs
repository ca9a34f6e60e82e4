//! AWQ's GEMM layout: codes and zeros packed along the outputs, eight to a word in the order of its kernels, scales
//! `[groups, out]`.

use serde_json::{Value as Json, json};

use super::super::About;
use super::bits::{bytes, transposed};
use super::layout::{BITS, Codes, Limits, Matrix, PackedField, PackedLayout, SETTINGS};

/// The layout.
pub struct Awq;

static ABOUT: About =
    About { name: "awq", title: "AWQ", summary: "a folder in the AWQ layout (GEMM)", settings: SETTINGS };

/// Which of eight neighbours each nibble of a word holds, starting from the lowest.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// `[rows, cols]` -> words `[cols, rows / 8]`.
fn interleaved(values: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let places = (0..cols).flat_map(|col| (0..rows / 8).map(move |word| (col, word)));
    bytes(places.map(|(col, word)| {
        let nibble = |i: usize| u32::from(values[(word * 8 + ORDER[i]) * cols + col]) << (4 * i);
        (0..8).fold(0, |sum, i| sum | nibble(i))
    }))
}

impl PackedLayout for Awq {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn limits(&self) -> Limits {
        Limits { symmetric: false, bits: &BITS[..1] }
    }

    fn fields(&self, rows: usize, cols: usize, s: Codes) -> Vec<PackedField> {
        let groups = cols / s.group;
        vec![
            (".qweight", "I32", vec![cols, rows / 8]),
            (".qzeros", "I32", vec![groups, rows / 8]),
            (".scales", "F16", vec![groups, rows]),
        ]
    }

    fn pack(&self, m: &Matrix, s: Codes) -> Vec<Vec<u8>> {
        let groups = m.cols / s.group;
        vec![
            interleaved(&m.codes, m.rows, m.cols),
            interleaved(&m.zeros, m.rows, groups),
            transposed(&m.scales, m.rows, groups).flat_map(u16::to_le_bytes).collect(),
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
