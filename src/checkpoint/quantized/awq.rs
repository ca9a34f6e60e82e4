//! AWQ in the layout of its GEMM kernels (AutoAWQ, GPTQModel): codes and zeros of four bits packed along the outputs,
//! eight to a word and interleaved; `weight = scale[g] * (code - zero[g])`. The scales of channels are already part of
//! norms and neighbouring matrices.

use super::super::source::IntLayout;
use super::super::source::TensorInfo;
use super::super::source::{Packed, StoredScales, Zeros};
use super::method::{MatrixTensors, MethodRow, Reader, pack_dtype};
use super::stated::Stated;
use crate::error::{Fault, Result};

pub(super) const ROW: MethodRow = MethodRow { name: "awq", open };

struct Awq {
    bits: u32,
    group: Option<usize>,
}

fn open(stated: &Stated) -> Result<Box<dyn Reader>> {
    for key in ["version", "checkpoint_format", "format"] {
        match stated.text(key)? {
            Some(found) if !found.eq_ignore_ascii_case("gemm") => {
                return Err(stated.unsupported(key, format!("{found:?} is not supported, only gemm")));
            }
            _ => {}
        }
    }
    pack_dtype(stated)?;
    // AutoAWQ's own file has other names.
    let bits = if stated.has("w_bit") { "w_bit" } else { "bits" };
    let group = if stated.has("q_group_size") { "q_group_size" } else { "group_size" };
    Ok(Box::new(Awq { bits: stated.bits(bits)?, group: stated.group(group)? }))
}

impl Reader for Awq {
    fn stem<'t>(&self, tensor: &'t TensorInfo) -> Option<&'t str> {
        tensor.name.strip_suffix(".qweight")
    }

    fn looks_for(&self) -> &'static str {
        "end in .qweight"
    }

    fn read(&self, tensor: &TensorInfo, parts: &mut MatrixTensors<'_>) -> Result<Packed> {
        if self.bits != 4 {
            let what = format!("{} bits; AWQ checkpoints have 4", self.bits);
            return Err(parts.fail(tensor, Fault::unsupported(what)));
        }
        let [cols, words] = parts.matrix(tensor)?;
        let Some(rows) = words.checked_mul(8) else {
            return Err(parts.fail(tensor, format!("shape [{cols}, {words}] is too large")));
        };
        let groups = parts.groups(tensor, rows, cols, self.group, true)?;
        let codes = parts.ints(tensor.clone(), [cols, rows], 4, IntLayout::Interleaved)?;
        let scales = parts.need(".scales")?;
        parts.floats(&scales, &[groups.across, rows])?;
        let zeros = parts.need(".qzeros")?;
        let zeros = parts.ints(zeros, [groups.across, rows], 4, IntLayout::Interleaved)?;
        Ok(Packed {
            method: ROW.name,
            bits: 4,
            rows,
            cols,
            codes,
            transposed: true,
            table: None,
            scales: StoredScales::Stored(scales),
            zeros: Zeros::Stored(zeros),
            biases: None,
            groups,
            order: None,
            parts: parts.taken(),
        })
    }
}
