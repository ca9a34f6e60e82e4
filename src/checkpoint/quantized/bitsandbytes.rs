//! bitsandbytes: NF4 and FP4 (16 numbers, a scale for every 64 weights, the scales possibly stored as codes too) and
//! LLM.int8 (bytes with a scale for every row).

use serde_json::Value as Json;

use super::super::source::IntLayout;
use super::super::source::TensorInfo;
use super::super::source::{Groups, Packed, StoredScales, Zeros};
use super::method::{MatrixTensors, MethodRow, Reader, Share};
use super::stated::Stated;
use crate::error::{Fault, Result};

pub(super) const ROW: MethodRow = MethodRow { name: "bitsandbytes", open };

/// Suffixes of the tensor that describes a matrix of four bits.
const STATES: [&str; 2] = [".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4"];

struct Bitsandbytes;

fn open(_: &Stated) -> Result<Box<dyn Reader>> {
    // Everything that matters is stored beside each matrix.
    Ok(Box::new(Bitsandbytes))
}

impl Reader for Bitsandbytes {
    fn stem<'t>(&self, tensor: &'t TensorInfo) -> Option<&'t str> {
        tensor.name.strip_suffix(".weight").filter(|_| ["u8", "i8"].contains(&tensor.spec.name))
    }

    fn looks_for(&self) -> &'static str {
        "hold bytes"
    }

    fn read(&self, tensor: &TensorInfo, parts: &mut MatrixTensors<'_>) -> Result<Packed> {
        if tensor.spec.name == "i8" { eight(tensor, parts) } else { four(tensor, parts) }
    }
}

fn eight(tensor: &TensorInfo, parts: &mut MatrixTensors<'_>) -> Result<Packed> {
    let [rows, cols] = parts.matrix(tensor)?;
    let codes = parts.ints(tensor.clone(), [rows, cols], 8, IntLayout::Bytes { signed: true })?;
    let scales = parts.need(".SCB")?;
    let groups = parts.shared(tensor, &scales, Share::Row, rows, cols)?;
    if let Some(format) = parts.maybe(".weight_format")
        && parts.bytes(&format).iter().any(|&byte| byte != 0)
    {
        let what = "the rows are in the order of a GPU kernel; only plain row order is supported";
        return Err(parts.fail(&format, Fault::unsupported(what)));
    }
    Ok(Packed {
        method: ROW.name,
        bits: 8,
        rows,
        cols,
        codes,
        transposed: false,
        table: None,
        scales: StoredScales::Times(scales, 1.0 / 127.0),
        zeros: Zeros::All(0),
        biases: None,
        groups,
        order: None,
        parts: parts.taken(),
    })
}

/// What a matrix of four bits says of itself, as JSON.
struct State {
    rows: usize,
    cols: usize,
    block: usize,
    nested_block: usize,
    nested_offset: f32,
}

fn state(parts: &mut MatrixTensors<'_>) -> Result<State> {
    let Some(tensor) = STATES.iter().find_map(|suffix| parts.maybe(suffix)) else {
        return Err(parts.missing(STATES[0]));
    };
    let what = "must be a JSON object with shape (two numbers) and blocksize";
    let json: Json = serde_json::from_slice(parts.bytes(&tensor))
        .map_err(|e| parts.fail(&tensor, Fault::damaged(what).because(e)))?;
    let size = |v: &Json| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0 && n <= 1 << 31);
    let read = |json: Json| {
        let shape = json.get("shape")?.as_array()?;
        let [rows, cols] = shape.as_slice() else { return None };
        Some(State {
            rows: size(rows)?,
            cols: size(cols)?,
            block: size(json.get("blocksize")?)?,
            nested_block: json.get("nested_blocksize").map_or(Some(1), size)?,
            nested_offset: json.get("nested_offset").map_or(Some(0.0), Json::as_f64)? as f32,
        })
    };
    read(json).ok_or_else(|| parts.fail(&tensor, what))
}

fn four(tensor: &TensorInfo, parts: &mut MatrixTensors<'_>) -> Result<Packed> {
    let State { rows, cols, block, nested_block, nested_offset } = state(parts)?;
    let needed = rows.checked_mul(cols).map(|n| n.div_ceil(2));
    if needed != Some(tensor.range.len()) {
        let what = format!("{} bytes, which do not hold {rows} x {cols} codes of four bits", tensor.range.len());
        return Err(parts.fail(tensor, what));
    }
    if !cols.is_multiple_of(block) {
        let what = format!("{cols} inputs: groups of {block} would run on from row to row, which is not supported");
        return Err(parts.fail(tensor, Fault::unsupported(what)));
    }
    let map = parts.need(".weight.quant_map")?;
    let table = parts.numbers(&map, 16)?;
    let absmax = parts.need(".weight.absmax")?;
    let blocks = rows * (cols / block);
    let scales = match parts.maybe(".weight.nested_absmax") {
        None => {
            parts.floats(&absmax, &[blocks])?;
            StoredScales::Stored(absmax)
        }
        Some(outer) => {
            if absmax.spec.name != "u8" || absmax.range.len() != blocks {
                let what = format!("{} of shape {:?}, needed u8 [{blocks}]", absmax.spec.name, absmax.shape);
                return Err(parts.other_shape(&absmax, &[blocks], what));
            }
            let map = parts.need(".weight.nested_quant_map")?;
            let table = parts.numbers(&map, 256)?;
            parts.floats(&outer, &[blocks.div_ceil(nested_block)])?;
            StoredScales::Nested { codes: absmax, table, outer, block: nested_block, offset: nested_offset }
        }
    };
    let codes = parts.ints(tensor.clone(), [rows, cols], 4, IntLayout::HighFirst)?;
    Ok(Packed {
        method: ROW.name,
        bits: 4,
        rows,
        cols,
        codes,
        transposed: false,
        table: Some(table),
        scales,
        zeros: Zeros::All(0),
        biases: None,
        groups: Groups::of_columns(rows, cols, block, false),
        order: None,
        parts: parts.taken(),
    })
}
