//! What a sparse matrix becomes in each kind of file: the names, types and shapes of its parts, and their bytes.

use std::ops::Range;

use aurora_quantizers::Spec;
use aurora_quantizers::sparse::{Packing, SparseLayout, SparseParts};
use aurora_quantizers::spec::{self, Kind};

use super::dense::DenseTensor;
use crate::checkpoint::sparse::{compressed_tensors as ct, csr, keys};

/// Whose layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Our own, in a GGUF file.
    Gguf(Packing),
    /// compressed-tensors'.
    CompressedTensors(Packing),
    /// Columns of values.
    Csr,
}

/// A tensor that part of a matrix is stored as.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SparsePart {
    pub name: String,
    /// As safetensors spells it.
    pub dtype: &'static str,
    /// As GGUF counts it.
    pub ggml_id: u32,
    pub shape: Vec<usize>,
    pub bytes: u64,
}

/// Of a part: which, from where on, what.
pub(super) type Piece = (usize, u64, Vec<u8>);

/// More values than CSR's short numbers count.
const MANY: u64 = i32::MAX as u64;

fn part(name: String, dtype: &'static str, shape: Vec<usize>, width: u64) -> SparsePart {
    // GGUF has no unsigned bytes.
    let spec = spec::by_name(if dtype == "U8" { "i8" } else { dtype }).expect("a row of SPECS");
    let bytes = shape.iter().map(|n| *n as u64).product::<u64>() * width;
    SparsePart { name, dtype, ggml_id: spec.ggml_id.expect("a type of GGUF"), shape, bytes }
}

fn numbers(name: String, spec: &'static Spec, shape: Vec<usize>) -> SparsePart {
    let dtype = match spec.name {
        "f16" => "F16",
        "bf16" => "BF16",
        _ => "F32",
    };
    part(name, dtype, shape, spec.bytes as u64)
}

impl Form {
    /// The packing that finds the values.
    pub fn packing(self) -> Packing {
        match self {
            Form::Gguf(packing) | Form::CompressedTensors(packing) => packing,
            Form::Csr => Packing::Bitmask,
        }
    }

    /// Whether it has a place for a matrix of this name, shape and type.
    pub fn takes(self, t: &DenseTensor) -> bool {
        match self {
            Form::Gguf(_) => true,
            Form::CompressedTensors(_) => t.name.ends_with(".weight") && t.shape.len() == 2 && floats(t),
            Form::Csr => t.shape.len() == 2 && floats(t),
        }
    }

    /// Whether a matrix is to be stored so: where that is smaller. CSR is there to hand matrices over, and rarely
    /// smaller: there it is enough that a quarter of the weights is zero. GGUF has no empty tensors.
    pub fn pays(self, layout: &SparseLayout, rows: usize, stored: u64, dense: u64) -> bool {
        let parts: u64 = self.parts("", &[rows, layout.cols()], layout, stored).iter().map(|part| part.bytes).sum();
        match self {
            Form::Csr => stored * 4 <= 3 * rows as u64 * layout.cols() as u64,
            Form::CompressedTensors(_) => parts < dense,
            Form::Gguf(_) => parts < dense && stored > 0,
        }
    }

    /// The parts of a matrix of this shape that stores so many values.
    pub fn parts(self, name: &str, shape: &[usize], layout: &SparseLayout, stored: u64) -> Vec<SparsePart> {
        let (cols, outer) = shape.split_last().expect("a matrix");
        let (rows, spec, count) = (outer.iter().product::<usize>(), layout.store().spec(), stored as usize);
        match self {
            Form::Gguf(_) => {
                let of = |end| keys::part(name, end);
                let mut parts = vec![part(of("mask"), "I8", vec![rows, layout.mask_row()], 1)];
                if layout.fixed().is_none() {
                    parts.push(part(of("index"), "I64", vec![rows + 1], 8));
                }
                if layout.scales_row() == 0 {
                    parts.push(numbers(of("values"), spec, vec![count]));
                } else {
                    let bytes = layout.value_bytes(stored).expect("whole rows");
                    parts.push(part(of("values"), "I8", vec![bytes as usize], 1));
                    parts.push(part(of("scales"), "F16", vec![rows, layout.scales_row() / 2], 2));
                }
                parts
            }
            Form::CompressedTensors(packing) => {
                let stem = name.strip_suffix(".weight").unwrap_or(name);
                let of = |end: &str| format!("{stem}{end}");
                let mask = part(of(ct::MASK), "U8", vec![rows, layout.mask_row()], 1);
                let mut parts = match packing {
                    Packing::Bitmask => vec![
                        numbers(of(ct::VALUES), spec, vec![count]),
                        part(of(ct::SHAPE), "I64", vec![2], 8),
                        part(of(ct::OFFSETS), "I64", vec![rows], 8),
                    ],
                    Packing::TwoFour => vec![
                        numbers(of(ct::VALUES), spec, vec![rows, cols / 2]),
                        part(of(ct::SHAPE), "I64", vec![2, 1], 8),
                    ],
                };
                parts.insert(0, mask);
                parts
            }
            Form::Csr => {
                let of = |end: &str| format!("{name}{end}");
                let (dtype, width) = if stored > MANY { ("I64", 8) } else { ("I32", 4) };
                vec![
                    part(of(csr::COLUMNS), dtype, vec![count], width),
                    part(of(csr::CROW), dtype, vec![rows + 1], width),
                    part(of(csr::SHAPE), "I64", vec![2], 8),
                    numbers(of(csr::VALUES), spec, vec![count]),
                ]
            }
        }
    }

    /// The bytes of some rows, in the order of [`parts`](Form::parts). `before`: values before each row of the matrix,
    /// and in all.
    pub(super) fn pieces(
        self,
        layout: &SparseLayout,
        rows: Range<usize>,
        before: &[u64],
        packed: SparseParts<Vec<u8>>,
    ) -> Vec<Piece> {
        let SparseParts { mask, index, values, scales } = packed;
        let masks = (rows.start * layout.mask_row()) as u64;
        let from = layout.value_bytes(before[rows.start]).expect("whole rows");
        let shape = || [before.len() - 1, layout.cols()].iter().flat_map(|n| (*n as i64).to_le_bytes()).collect();
        let mut pieces: Vec<Piece> = match self {
            Form::Gguf(_) => {
                let mut pieces = vec![(0, masks, mask)];
                if layout.fixed().is_none() {
                    pieces.push((1, 8 * rows.start as u64, index));
                }
                pieces.push((pieces.len(), from, values));
                if layout.scales_row() > 0 {
                    pieces.push((pieces.len(), (rows.start * layout.scales_row()) as u64, scales));
                }
                pieces
            }
            Form::CompressedTensors(Packing::Bitmask) => {
                // Without the number after the last row.
                let index = index[..8 * rows.len()].to_vec();
                vec![(0, masks, mask), (1, from, values), (3, 8 * rows.start as u64, index)]
            }
            Form::CompressedTensors(Packing::TwoFour) => {
                let mask =
                    mask.chunks_exact(layout.mask_row().max(1)).flat_map(|row| bits(row, layout.cols())).collect();
                vec![(0, masks, mask), (1, from, values)]
            }
            Form::Csr => {
                let long = before.last().is_some_and(|all| *all > MANY);
                let width = if long { 8 } else { 4 };
                let number = |n: u64| n.to_le_bytes().into_iter().take(width);
                let columns = mask.chunks_exact(layout.mask_row().max(1)).flat_map(columns);
                let columns = columns.flat_map(|col| number(col as u64)).collect();
                let crow = before[rows.start..=rows.end].iter().flat_map(|n| number(*n)).collect();
                let width = width as u64;
                vec![(0, before[rows.start] * width, columns), (1, rows.start as u64 * width, crow), (3, from, values)]
            }
        };
        if rows.start == 0 && !matches!(self, Form::Gguf(_)) {
            pieces.push((2, 0, shape()));
        }
        pieces
    }
}

fn floats(t: &DenseTensor) -> bool {
    t.store.spec().kind == Kind::Float
}

/// The columns whose bits are set.
fn columns(mask: &[u8]) -> impl Iterator<Item = usize> {
    let bits = |byte: u8| (0..8).filter(move |bit| byte >> bit & 1 == 1);
    mask.iter().enumerate().flat_map(move |(i, byte)| bits(*byte).map(move |bit| 8 * i + bit))
}

/// A bit for each weight, from a nibble for each four.
fn bits(mask: &[u8], cols: usize) -> Vec<u8> {
    let two = |nibble: u8| 1_u8 << (nibble & 3) | 1 << (nibble >> 2);
    let of = |(i, byte): (usize, &u8)| two(byte & 15) | if 8 * i + 4 < cols { two(byte >> 4) << 4 } else { 0 };
    mask.iter().enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_become_bits_and_bits_columns() {
        // Columns 0 and 3 of the first four, 1 and 2 of the second.
        assert_eq!(bits(&[0b1001_1100], 8), [0b0110_1001]);
        assert_eq!(bits(&[0b1100], 4), [0b1001]);
        assert_eq!(columns(&[0b0110_1001, 1]).collect::<Vec<_>>(), [0, 3, 5, 6, 8]);
    }
}
