//! Checkpoints as other programs leave them: MLX, ModelOpt, AutoRound, folders without an index, folders that are no
//! models. Each is held against the same weights as plain floats, decoded here by the definition.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use aurora_quant::gguf::{self, Value};
use common::binary::{good, refused, run};
use common::checkpoint::Checkpoint;
use common::conversion::{convert, hashes, model};
use common::strangers::{eights, mlx, shards, with_key};
use safetensors::Dtype;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
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
