//! A checkpoint's tensors in canonical form, read and rearranged number by number: the slow twin of `weights`.

use std::collections::BTreeMap;
use std::path::Path;

use aurora_quant::model::{Import, Param, Part};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

/// A tensor as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// All tensors of `model*.safetensors` in `dir`.
pub fn load(dir: &Path) -> BTreeMap<String, Tensor> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            all.extend(load_file(&path));
        }
    }
    all
}

/// All tensors of one file.
pub fn load_file(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let read = |(name, t): (String, safetensors::tensor::TensorView<'_>)| {
        let b = t.data();
        let data = match t.dtype() {
            Dtype::F32 => b.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect(),
            Dtype::BF16 => b.chunks_exact(2).map(|c| bf16::from_le_bytes(c.try_into().unwrap()).to_f32()).collect(),
            Dtype::F16 => b.chunks_exact(2).map(|c| f16::from_le_bytes(c.try_into().unwrap()).to_f32()).collect(),
            // Token ids; exact below 2^24.
            Dtype::I64 => b.chunks_exact(8).map(|c| i64::from_le_bytes(c.try_into().unwrap()) as f32).collect(),
            other => panic!("{name}: {other:?}"),
        };
        (name, Tensor { shape: t.shape().to_vec(), data })
    };
    file.tensors().into_iter().map(read).collect()
}

/// The numbers of a parameter, from the first list of parts whose tensors all exist.
pub fn canonical(param: &Param, tensors: &BTreeMap<String, Tensor>) -> Vec<f32> {
    if let Import::Computed(values) = &param.import {
        return values.clone();
    }
    let find = |part: &Part| part.names.iter().find_map(|n| tensors.get(n));
    let lists = std::iter::once(&param.parts).chain(&param.alternatives);
    let parts = lists.into_iter().find(|l| l.iter().all(|p| find(p).is_some()));
    let parts = parts.unwrap_or_else(|| panic!("{}: none of {:?}", param.name, param.parts));
    let mut out = Vec::new();
    for part in parts {
        let tensor = find(part).unwrap();
        assert_eq!(tensor.shape, part.shape, "{}", param.name);
        let rows = match param.import {
            Import::Transpose => transpose(tensor),
            _ => tensor.data.clone(),
        };
        let cols = param.cols();
        out.extend_from_slice(&rows[part.first_row * cols..(part.first_row + part.rows) * cols]);
    }
    assert_eq!(out.len(), param.len(), "{}", param.name);
    match param.import {
        Import::AddOne => out.iter().map(|x| x + 1.0).collect(),
        Import::RopePermute { heads } => interleave(&out, heads, if param.shape.len() == 1 { 1 } else { param.cols() }),
        _ => out,
    }
}

fn transpose(t: &Tensor) -> Vec<f32> {
    let (rows, cols) = (t.shape[0], t.shape[1]);
    let mut out = vec![0.0; rows * cols];
    for r in 0..rows {
        for c in 0..cols {
            out[c * rows + r] = t.data[r * cols + c];
        }
    }
    out
}

fn interleave(x: &[f32], heads: usize, cols: usize) -> Vec<f32> {
    let d = x.len() / cols / heads;
    let mut out = vec![0.0; x.len()];
    for head in 0..heads {
        for j in 0..d {
            let from = head * d + if j % 2 == 0 { j / 2 } else { d / 2 + j / 2 };
            let to = head * d + j;
            out[to * cols..(to + 1) * cols].copy_from_slice(&x[from * cols..(from + 1) * cols]);
        }
    }
    out
}
