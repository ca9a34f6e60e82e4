//! Eight-bit floats with a scale for the tensor, each row, or each block of it (DeepSeek's and Qwen's checkpoints,
//! Transformers' `fp8` and `fbgemm_fp8`): `weight = scale * code`. What is called an inverse scale is one to multiply
//! with. NVIDIA's ModelOpt writes the same under a name of its own.

use super::super::source::IntLayout;
use super::super::source::TensorInfo;
use super::super::source::{Packed, StoredScales, Zeros};
use super::eights;
use super::method::{CACHE_SCALES, MatrixTensors, MethodRow, Reader, Share};
use super::stated::Stated;
use crate::Result;

pub(super) const ROW: MethodRow = MethodRow { name: "fp8", open };

pub(super) const FBGEMM: MethodRow = MethodRow { name: "fbgemm_fp8", open };

pub(super) const MODELOPT: MethodRow = MethodRow { name: "modelopt", open: open_modelopt };

struct Fp8 {
    block: Option<[usize; 2]>,
}

fn open(stated: &Stated) -> Result<Box<dyn Reader>> {
    Ok(Box::new(Fp8 { block: stated.pair("weight_block_size")? }))
}

/// ModelOpt names an algorithm; those that round to eight-bit floats differ only in which weights share a scale.
fn open_modelopt(stated: &Stated) -> Result<Box<dyn Reader>> {
    match stated.text("quant_algo")? {
        Some("FP8" | "FP8_PER_CHANNEL_PER_TOKEN") => open(stated),
        found => {
            let found = found.map_or("nothing".to_owned(), |name| format!("{name:?}"));
            let what = format!("{found} is not supported, only \"FP8\"; use the original checkpoint");
            Err(stated.error("quant_algo", what))
        }
    }
}

impl Reader for Fp8 {
    fn stem<'t>(&self, tensor: &'t TensorInfo) -> Option<&'t str> {
        tensor.name.strip_suffix(".weight").filter(|_| eights::table(tensor).is_some())
    }

    fn looks_for(&self) -> &'static str {
        "hold eight-bit floats"
    }

    fn idle(&self) -> &'static [&'static str] {
        &CACHE_SCALES
    }

    fn read(&self, tensor: &TensorInfo, parts: &mut MatrixTensors<'_>) -> Result<Packed> {
        let [rows, cols] = parts.matrix(tensor)?;
        let scales = match parts.maybe(".weight_scale_inv") {
            Some(scales) => scales,
            None => parts.need(".weight_scale")?,
        };
        parts.drop(&[".input_scale", ".activation_scale", ".input_scale_ub"]);
        let share = match (scales.shape.as_slice(), self.block) {
            ([] | [1] | [1, 1], _) => Share::Tensor,
            ([_, 1] | [_], None) => Share::Row,
            (_, Some([down, across])) => Share::Block(down, across),
            (_, None) => {
                let what = format!("shape {:?}, but weight_block_size is missing", scales.shape);
                return Err(parts.fail(&scales, what));
            }
        };
        let groups = parts.shared(tensor, &scales, share, rows, cols)?;
        let codes = parts.ints(tensor.clone(), [rows, cols], 8, IntLayout::Bytes { signed: false })?;
        Ok(Packed {
            method: ROW.name,
            bits: 8,
            rows,
            cols,
            codes,
            transposed: false,
            table: eights::table(tensor),
            scales: StoredScales::Stored(scales),
            zeros: Zeros::All(0),
            biases: None,
            groups,
            order: None,
            parts: parts.taken(),
        })
    }
}
