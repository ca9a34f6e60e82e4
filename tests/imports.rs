//! Checkpoints as other programs leave them: MLX, ModelOpt, AutoRound, folders without an index, folders that are no
//! models. Each is held against the same weights as plain floats, decoded here by the definition.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aurora_quant::gguf::{self, Value};
use common::binary::{good, refused, run};
use common::checkpoint::{Checkpoint, Tensor};
use common::conversion::{convert, hashes, model};
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A tensor's numbers.
fn floats((dtype, _, bytes): &Tensor) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => panic!("{other:?}"),
    }
}

fn of_f32(shape: &[usize], numbers: &[f32]) -> Tensor {
    (Dtype::F32, shape.to_vec(), numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
}

fn of_bf16(shape: &[usize], numbers: &[f32]) -> Tensor {
    (Dtype::BF16, shape.to_vec(), numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect())
}

/// Pseudo-random numbers below `n`.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Whether a checkpoint converts to the very numbers of another.
fn same_numbers(model: &str, found: &Checkpoint, expected: &Checkpoint, files: &[(&str, Json)]) {
    let dir = TempDir::new().unwrap();
    let of = |name: &str, checkpoint: &Checkpoint, files: &[(&str, Json)]| {
        let (folder, out) = (dir.path().join(name), dir.path().join(format!("{name}.gguf")));
        checkpoint.write_as(model, &folder);
        for (name, content) in files {
            fs::write(folder.join(name), content.to_string()).unwrap();
        }
        convert(&folder, "f32", &out, &[]);
        hashes(&out)
    };
    let (found, expected) = (of("found", found, files), of("expected", expected, &[]));
    let differ: Vec<_> = expected.iter().filter(|(name, hash)| found.get(*name) != Some(hash)).collect();
    assert!(differ.is_empty() && found.len() == expected.len(), "{model}: {differ:?}");
}

/// One matrix, or a stack of them, as MLX packs it: `weight = scale * code + bias` for every group along a row. Returns
/// the words, scales, biases, and the numbers that they stand for.
fn packed(draw: &mut Draw, shape: &[usize], bits: usize, group: usize) -> [Tensor; 4] {
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
fn mlx(model: &str, bits: usize, group: usize, stacked: bool) -> [Checkpoint; 2] {
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

#[test]
fn mlx_folders_of_any_width_are_read() {
    for (bits, group) in [(2, 64), (3, 32), (4, 64), (5, 64), (6, 128), (8, 32)] {
        let [found, expected] = mlx("tiny-qwen2", bits, group, false);
        same_numbers("tiny-qwen2", &found, &expected, &[]);
    }
}

#[test]
fn mlx_stacks_experts_packed_or_not() {
    let [found, expected] = mlx("tiny-qwen3-moe", 4, 32, true);
    same_numbers("tiny-qwen3-moe", &found, &expected, &[]);

    let plain = Checkpoint::of("tiny-qwen3-moe");
    let mut stacked = plain.clone();
    for (name, (dtype, shape, bytes)) in &plain.tensors {
        let Some((block, rest)) = name.split_once(".mlp.experts.") else { continue };
        let (_, which) = rest.split_once('.').unwrap();
        stacked.tensors.remove(name);
        let stack = stacked.tensors.entry(format!("{block}.mlp.switch_mlp.{which}"));
        // In the order of their numbers, of which there are four.
        let (_, outer, all) = stack.or_insert_with(|| (*dtype, [&[0], &shape[..]].concat(), Vec::new()));
        outer[0] += 1;
        all.extend(bytes);
    }
    same_numbers("tiny-qwen3-moe", &stacked, &plain, &[]);
}

#[test]
fn mlx_codes_of_four_bits_are_kept_with_their_biases() {
    let [found, _] = mlx("tiny-qwen2", 4, 64, false);
    let dir = TempDir::new().unwrap();
    let (folder, out) = (dir.path().join("m"), dir.path().join("m.gguf"));
    found.write_as("tiny-qwen2", &folder);
    let done = good(&["convert", text(&folder), "-o", text(&out), "--json"]);
    let record: Json = serde_json::from_slice(&done.stdout).unwrap();
    let tensors = record["tensors"].as_array().unwrap();
    let packed: Vec<_> = tensors.iter().filter(|t| t.get("packed").is_some()).collect();
    assert!(packed.len() >= 14);
    for t in packed {
        assert_eq!((t["type"].as_str(), t["carried"].as_bool()), (Some("q4_1"), Some(true)), "{t}");
        // Half precision holds these scales; biases below 2^-14 lose what it has no room for.
        assert!(t["largest_error"].as_f64().unwrap() < 1e-6, "{t}");
    }
}

#[test]
fn mlx_modes_that_are_not_read_are_named() {
    let [mut found, _] = mlx("tiny-qwen2", 4, 64, false);
    found.config["quantization"]["mode"] = json!("mxfp4");
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("m");
    found.write_as("tiny-qwen2", &folder);
    let message = refused(&["convert", text(&folder), "-o", text(&dir.path().join("o.gguf"))]);
    assert!(message.contains("quantization.mode") && message.contains("mxfp4"), "{message}");
}

/// What a code of E4M3 stands for (OCP OFP8).
fn e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let size = if exponent == 0 { fraction * 2_f32.powi(-6) } else { (1.0 + fraction) * 2_f32.powi(exponent - 7) };
    if code & 128 == 0 { size } else { -size }
}

/// A Qwen 3 in eight-bit floats, and the same as floats. `scales`: the name of the scales, and their type.
fn eights(suffix: &str, dtype: Dtype, blocks: Option<usize>) -> [Checkpoint; 2] {
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

#[test]
fn eight_bit_floats_are_read_whoever_wrote_them() {
    let [mut found, expected] = eights(".weight_scale", Dtype::F32, None);
    let algorithm = json!({"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"});
    let file = json!({"producer": {"name": "modelopt", "version": "0.23.0"}, "quantization": algorithm});
    same_numbers("tiny-qwen3", &found, &expected, &[("hf_quant_config.json", file)]);
    found.config["quantization_config"] = json!({"quant_method": "modelopt", "quant_algo": "FP8"});
    same_numbers("tiny-qwen3", &found, &expected, &[]);
    found.config["quantization_config"] = json!({"quant_method": "fp8"});
    same_numbers("tiny-qwen3", &found, &expected, &[]);

    let [mut found, expected] = eights(".weight_scale_inv", Dtype::F8_E8M0, Some(128));
    found.config["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    same_numbers("tiny-qwen3", &found, &expected, &[]);
}

#[test]
fn other_algorithms_of_modelopt_are_named() {
    let [mut found, _] = eights(".weight_scale", Dtype::F32, None);
    found.config["quantization_config"] = json!({"quant_method": "modelopt", "quant_algo": "NVFP4"});
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("m");
    found.write_as("tiny-qwen3", &folder);
    let message = refused(&["convert", text(&folder), "-o", text(&dir.path().join("o.gguf"))]);
    assert!(["quant_algo", "NVFP4", "original checkpoint"].iter().all(|word| message.contains(word)), "{message}");
}

#[test]
fn auto_round_is_the_layout_that_it_names() {
    let plain = Checkpoint::quantized("gptq-sym-g32");
    let mut other = plain.clone();
    let settings = &mut other.config["quantization_config"];
    settings["quant_method"] = json!("auto-round");
    settings["packing_format"] = json!("auto_round:auto_gptq");
    same_numbers("bookworm-8m", &other, &plain, &[]);
    other.config["quantization_config"]["packing_format"] = json!("auto_round:gguf");
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("m");
    other.write(&folder);
    let message = refused(&["convert", text(&folder), "-o", text(&dir.path().join("o.gguf"))]);
    assert!(message.contains("packing_format") && message.contains("auto_round:gguf"), "{message}");
}

#[test]
fn a_statement_left_over_from_a_merge_is_recognised() {
    let mut checkpoint = Checkpoint::of("stories260k");
    checkpoint.config["quantization_config"] =
        json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"});
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("m");
    checkpoint.write_as("stories260k", &folder);
    let message = refused(&["convert", text(&folder), "-o", text(&dir.path().join("o.gguf"))]);
    assert!(message.contains("merged or dequantised, remove this entry from config.json"), "{message}");
}

/// The tensors of a checkpoint in `count` files of these names, and no index.
fn shards(checkpoint: &Checkpoint, folder: &Path, names: &[&str]) {
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

#[test]
fn numbered_files_need_no_index() {
    let dir = TempDir::new().unwrap();
    let checkpoint = Checkpoint::of("stories260k");
    let (folder, out) = (dir.path().join("m"), dir.path().join("m.gguf"));
    let names =
        ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"];
    shards(&checkpoint, &folder, &names);
    let whole = dir.path().join("whole.gguf");
    convert(&model("stories260k"), "q8_0", &whole, &[]);
    convert(&folder, "q8_0", &out, &[]);
    assert_eq!(hashes(&out), hashes(&whole));

    let second = folder.join(names[1]);
    let kept = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    let message = refused(&["convert", text(&folder), "-o", text(&dir.path().join("o.gguf"))]);
    assert!(message.contains(names[1]) && message.contains("missing"), "{message}");
    fs::write(&second, kept).unwrap();
    fs::copy(&second, folder.join("other-00001-of-00001.safetensors")).unwrap();
    let message = refused(&["convert", text(&folder), "-o", text(&dir.path().join("o.gguf"))]);
    assert!(message.contains("model-*-of-00003") && message.contains("other-*-of-00001"), "{message}");
}

#[test]
fn an_index_may_list_what_is_not_needed() {
    let dir = TempDir::new().unwrap();
    let checkpoint = Checkpoint::of("stories260k");
    let (folder, out) = (dir.path().join("m"), dir.path().join("m.gguf"));
    let file = "part.safetensors";
    shards(&checkpoint, &folder, &[file]);
    let mut map: serde_json::Map<String, Json> =
        checkpoint.tensors.keys().map(|name| (name.clone(), json!(file))).collect();
    map.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), json!(file));
    map.insert("vision_tower.patch_embed.weight".to_owned(), json!(file));
    let write = |map: &serde_json::Map<String, Json>| {
        fs::write(folder.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    };
    write(&map);
    convert(&folder, "q8_0", &out, &[]);

    let mut less = checkpoint.clone();
    less.tensors.remove("model.layers.3.mlp.up_proj.weight").unwrap();
    shards(&less, &folder, &[file]);
    write(&map);
    let message = refused(&["convert", text(&folder), "-o", text(&dir.path().join("o.gguf"))]);
    let words = ["missing tensor model.layers.3.mlp.up_proj.weight", "the index says", file];
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

#[test]
fn faults_of_one_kind_share_a_line() {
    let dir = TempDir::new().unwrap();
    let mut checkpoint = Checkpoint::of("stories260k");
    checkpoint.tensors.retain(|name, _| !name.ends_with("up_proj.weight"));
    let folder = dir.path().join("m");
    checkpoint.write_as("stories260k", &folder);
    let message = refused(&["convert", text(&folder), "-o", text(&dir.path().join("o.gguf"))]);
    assert_eq!(message.matches("missing tensor").count(), 1, "{message}");
    let words = ["model.layers.0.mlp.up_proj.weight", "4 more", "model.layers.*.mlp.up_proj.weight"];
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

#[test]
fn what_is_no_model_gets_the_way_out() {
    let dir = TempDir::new().unwrap();
    let refuse = |path: &Path, words: &[&str]| {
        let message = refused(&["convert", text(path), "-o", text(&dir.path().join("o.gguf"))]);
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
    };
    let adapter = dir.path().join("adapter");
    fs::create_dir(&adapter).unwrap();
    fs::write(adapter.join("adapter_model.safetensors"), "").unwrap();
    let settings = json!({"peft_type": "LORA", "base_model_name_or_path": "some/base", "r": 4});
    fs::write(adapter.join("adapter_config.json"), settings.to_string()).unwrap();
    refuse(&adapter, &["LORA adapter", "some/base", "merge"]);
    fs::copy(model("stories260k").join("config.json"), adapter.join("config.json")).unwrap();
    refuse(&adapter, &["LORA adapter", "some/base", "merge"]);

    let pickle = dir.path().join("pytorch_model.bin");
    fs::write(&pickle, b"PK\x03\x04").unwrap();
    refuse(&pickle, &["pytorch_model.bin", "never pickles", "safe_serialization"]);

    let clone = dir.path().join("clone");
    Checkpoint::of("stories260k").write_as("stories260k", &clone);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1100000000\n";
    fs::write(clone.join("model.safetensors"), pointer).unwrap();
    refuse(&clone, &["model.safetensors", "Git LFS pointer", "git lfs pull"]);
}

/// Sets one key of a GGUF file, whose value has a fixed size.
fn with_key(path: &Path, to: &Path, key: &str, value: Value) {
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

#[test]
fn the_token_list_counts_not_a_key_beside_it() {
    let dir = TempDir::new().unwrap();
    let [whole, odd, out]: [PathBuf; 3] = ["whole.gguf", "odd.gguf", "out.gguf"].map(|name| dir.path().join(name));
    convert(&model("stories260k"), "f16", &whole, &[]);
    with_key(&whole, &odd, "llama.vocab_size", Value::U32(32_000));
    let done = run(&["convert", text(&odd), "--type", "q8_0", "-o", text(&out)]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success() && said.contains("llama.vocab_size") && said.contains("32000"), "{said}");
    let bytes = fs::read(&out).unwrap();
    let header = gguf::read_header(&out, &bytes).unwrap();
    assert_eq!(header.metadata.get("llama.vocab_size").and_then(gguf::whole), Some(512));
}
