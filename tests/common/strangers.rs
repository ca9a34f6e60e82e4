//! Checkpoints as other programs leave them, each beside the same weights as plain floats where there are any.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aurora_quant::gguf::{self, Value};
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::checkpoint::{Checkpoint, Tensor};

/// A tensor's numbers.
pub fn floats((dtype, _, bytes): &Tensor) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => panic!("{other:?}"),
    }
}

pub fn of_f32(shape: &[usize], numbers: &[f32]) -> Tensor {
    (Dtype::F32, shape.to_vec(), numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
}

pub fn of_bf16(shape: &[usize], numbers: &[f32]) -> Tensor {
    (Dtype::BF16, shape.to_vec(), numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect())
}

/// Pseudo-random numbers below `n`.
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// One matrix, or a stack of them, as MLX packs it: `weight = scale * code + bias` for every group along a row. Returns
/// the words, scales, biases, and the numbers that they stand for.
pub fn packed(draw: &mut Draw, shape: &[usize], bits: usize, group: usize) -> [Tensor; 4] {
    let (cols, rows) = (shape[shape.len() - 1], shape[..shape.len() - 1].iter().product::<usize>());
    let (mut words, mut scales, mut biases, mut numbers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rows {
        let mut fields = vec![0_u8; cols * bits / 8];
        for col in 0..cols {
            if col % group == 0 {
                scales.push(bf16::from_f32(draw.below(1000) as f32 / 10_000.0 - 0.05).to_f32());
                biases.push(bf16::from_f32(draw.below(1000) as f32 / 1000.0 - 0.5).to_f32());
            }
            let code = draw.below(1 << bits);
            // Bit by bit: bit 0 of the first code is the lowest of the first byte.
            for bit in 0..bits {
                let at = col * bits + bit;
                fields[at / 8] |= ((code >> bit & 1) as u8) << (at % 8);
            }
            numbers.push(scales[scales.len() - 1] * code as f32 + biases[biases.len() - 1]);
        }
        words.extend(fields);
    }
    let with = |last: usize| [&shape[..shape.len() - 1], &[last]].concat();
    [
        (Dtype::U32, with(cols * bits / 32), words),
        of_bf16(&with(cols / group), &scales),
        of_bf16(&with(cols / group), &biases),
        of_f32(shape, &numbers),
    ]
}

/// A model as MLX packs it, and the same as floats.
pub fn mlx(model: &str, bits: usize, group: usize, stacked: bool) -> [Checkpoint; 2] {
    let mut draw = Draw(bits as u64);
    let mut plain = Checkpoint::of(model);
    let mut other = plain.clone();
    let mut pack = |other: &mut Checkpoint, name: &str, shape: &[usize]| -> Tensor {
        let [words, scales, biases, numbers] = packed(&mut draw, shape, bits, group);
        let stem = name.strip_suffix(".weight").expect("a matrix");
        other.tensors.insert(name.to_owned(), words);
        other.tensors.insert(format!("{stem}.scales"), scales);
        other.tensors.insert(format!("{stem}.biases"), biases);
        numbers
    };
    let matrices: Vec<(String, Vec<usize>)> =
        plain.tensors.iter().filter(|(_, t)| t.1.len() == 2).map(|(name, t)| (name.clone(), t.1.clone())).collect();
    let mut stacks: BTreeMap<String, Vec<(String, Vec<usize>)>> = BTreeMap::new();
    for (name, shape) in matrices {
        match name.split_once(".mlp.experts.").filter(|_| stacked) {
            Some((block, rest)) => {
                let (_, which) = rest.split_once('.').expect("an expert's number");
                stacks.entry(format!("{block}.mlp.switch_mlp.{which}")).or_default().push((name, shape));
            }
            None if shape[1] % group == 0 && !name.ends_with("mlp.gate.weight") => {
                let numbers = pack(&mut other, &name, &shape);
                plain.tensors.insert(name, numbers);
            }
            None => {}
        }
    }
    for (stack, experts) in stacks {
        let shape = experts[0].1.clone();
        let all = floats(&pack(&mut other, &stack, &[&[experts.len()], &shape[..]].concat()));
        for ((name, _), numbers) in experts.iter().zip(all.chunks_exact(shape[0] * shape[1])) {
            other.tensors.remove(name);
            plain.tensors.insert(name.clone(), of_f32(&shape, numbers));
        }
    }
    let settings = json!({"group_size": group, "bits": bits, "mode": "affine"});
    other.config["quantization"] = settings.clone();
    other.config["quantization_config"] = settings;
    [other, plain]
}

/// What a code of E4M3 stands for (OCP OFP8).
pub fn e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let size = if exponent == 0 { fraction * 2_f32.powi(-6) } else { (1.0 + fraction) * 2_f32.powi(exponent - 7) };
    if code & 128 == 0 { size } else { -size }
}

/// A Qwen 3 in eight-bit floats, and the same as floats. `scales`: the name of the scales, and their type.
pub fn eights(suffix: &str, dtype: Dtype, blocks: Option<usize>) -> [Checkpoint; 2] {
    let mut draw = Draw(8);
    let mut plain = Checkpoint::of("tiny-qwen3");
    let mut other = plain.clone();
    let names: Vec<String> = plain.tensors.keys().filter(|name| name.ends_with("_proj.weight")).cloned().collect();
    for name in names {
        let (shape, stem) = (plain.tensors[&name].1.clone(), name.strip_suffix(".weight").unwrap());
        let (rows, cols) = (shape[0], shape[1]);
        let (down, across) = blocks.map_or((rows, cols), |n| (n, n));
        let beside = cols.div_ceil(across);
        let exponents: Vec<u8> = (0..rows.div_ceil(down) * beside).map(|_| 118 + draw.below(6) as u8).collect();
        let scale = |row: usize, col: usize| 2_f32.powi(i32::from(exponents[row / down * beside + col / across]) - 127);
        let codes: Vec<u8> = (0..rows * cols).map(|_| (draw.below(127) | draw.below(2) << 7) as u8).collect();
        let numbers: Vec<f32> =
            codes.iter().enumerate().map(|(i, code)| e4m3(*code) * scale(i / cols, i % cols)).collect();
        let shape_of_scales = if blocks.is_some() { vec![rows.div_ceil(down), beside] } else { vec![] };
        let stored = match dtype {
            Dtype::F8_E8M0 => exponents,
            _ => exponents.iter().flat_map(|e| 2_f32.powi(i32::from(*e) - 127).to_le_bytes()).collect(),
        };
        other.tensors.insert(format!("{stem}{suffix}"), (dtype, shape_of_scales, stored));
        other.tensors.insert(name.clone(), (Dtype::F8_E4M3, shape.clone(), codes));
        plain.tensors.insert(name, of_f32(&shape, &numbers));
    }
    // Those of the cache of keys and values, in all places where they were seen.
    for block in 0..2 {
        let attention = format!("model.layers.{block}.self_attn");
        for name in ["k_scale", "v_scale", "q_scale", "prob_scale", "kv_scale", "k_proj.k_scale", "v_proj.v_scale"] {
            other.tensors.insert(format!("{attention}.{name}"), of_f32(&[1], &[1.0]));
        }
    }
    [other, plain]
}

/// The tensors of a checkpoint in `count` files of these names, and no index.
pub fn shards(checkpoint: &Checkpoint, folder: &Path, names: &[&str]) {
    checkpoint.write_as("stories260k", folder);
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    for (i, name) in names.iter().enumerate() {
        let some = checkpoint.tensors.iter().enumerate().filter(|(at, _)| at % names.len() == i);
        let views = some.map(|(_, (name, (dtype, shape, bytes)))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.join(name)).unwrap();
    }
}

/// Sets one key of a GGUF file, whose value has a fixed size.
pub fn with_key(path: &Path, to: &Path, key: &str, value: Value) {
    let bytes = fs::read(path).unwrap();
    let mut header = gguf::read_header(path, &bytes).unwrap();
    header.metadata.set(key, value);
    let shapes: Vec<Vec<usize>> =
        header.tensors.iter().map(|t| t.dims.iter().rev().map(|d| *d as usize).collect()).collect();
    let table: Vec<gguf::TensorEntry> =
        header.tensors.iter().zip(&shapes).map(|(t, shape)| (&*t.name, &**shape, t.type_id, t.offset)).collect();
    let mut out = Vec::new();
    gguf::write_header(&header.metadata, &table, &mut out).unwrap();
    out.extend(&bytes[header.data_start as usize..]);
    fs::write(to, out).unwrap();
}
