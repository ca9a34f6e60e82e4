//! Checkpoints of codes that the real binary writes, read back by our own reader. (Other programs' readers:
//! `tests/interop`.)

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use aurora_quant::checkpoint::{self, TensorSource};
use common::binary::{good, printed, refused};
use serde_json::Value as Json;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn model(name: &str) -> PathBuf {
    common::fixtures().join("models").join(name)
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn bytes<'s>(source: &'s dyn TensorSource, name: &str) -> &'s [u8] {
    let tensor = source.find(name).unwrap_or_else(|| panic!("no {name}"));
    source.bytes(tensor, 0..tensor.range.len())
}

/// Nothing but the finished folder is left in a directory.
fn alone(dir: &Path, names: &[&str]) {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, names);
}

/// Integers of four bits in groups of 32 are those of Q4_0, of eight bits those of Q8_0: exported, read back and kept
/// they are the bytes that a direct conversion gives, whatever chose them and however the model's rows were moved.
#[test]
fn what_is_read_back_is_what_a_direct_conversion_writes() {
    let gptq = ["--method", "gptq", "--samples", "2", "--context", "48"];
    let awq = ["--method", "awq", "--samples", "2", "--context", "48"];
    for (name, format, bits, method) in [
        ("tiny-llama3", "gptq", "4", &gptq[..]),
        ("tiny-llama3", "compressed-tensors", "8", &[]),
        ("tiny-llama3", "gptq", "4", &awq[..]),
        ("tiny-mixtral", "awq", "4", &[]),
        ("tiny-phi3", "gptq", "8", &[]),
        ("tiny-gemma2", "compressed-tensors", "4", &[]),
        ("tiny-llama-bias", "gptq", "4", &[]),
    ] {
        let dir = TempDir::new().unwrap();
        let [folder, kept, direct] = ["folder", "kept.gguf", "direct.gguf"].map(|n| dir.path().join(n));
        let source = model(name);
        let asked = ["--format", format, "--bits", bits, "--group-size", "32", "--sym", "-q", "-o", text(&folder)];
        good(&[&["convert", text(&source)], &asked[..], method].concat());
        alone(dir.path(), &["folder"]);
        good(&["convert", text(&folder), "-o", text(&kept), "-q"]);
        let kind = if bits == "4" { "q4_0" } else { "q8_0" };
        let asked = ["--type", kind, "--pure", "-q", "-o", text(&direct)];
        good(&[&["convert", text(&source)], &asked[..], method].concat());
        let (kept, direct) = (checkpoint::open(&kept).unwrap(), checkpoint::open(&direct).unwrap());
        let mut same = 0;
        for tensor in direct.tensors() {
            let found = kept.find(&tensor.name).unwrap_or_else(|| panic!("{name}: no {}", tensor.name));
            if tensor.name.starts_with("blk.") && tensor.spec.name == kind && found.spec.name == kind {
                assert!(
                    bytes(direct.as_ref(), &tensor.name) == bytes(kept.as_ref(), &tensor.name),
                    "{name} {tensor:?}"
                );
                same += 1;
            } else if method.is_empty() && tensor.spec == found.spec && !name.contains("gemma") {
                // (Adding the one to Gemma's norms rounds them.) Norms, biases and routers come back as they were.
                assert!(
                    bytes(direct.as_ref(), &tensor.name) == bytes(kept.as_ref(), &tensor.name),
                    "{name} {tensor:?}"
                );
            }
        }
        assert!(same >= 8, "{name}: {same} matrices");
    }
}

/// One set of integers, packed in three ways, is one model.
#[test]
fn layouts_agree() {
    for (bits, sort, group) in
        [("4", "--asym", "64"), ("4", "--sym", "128"), ("4", "--asym", "128"), ("8", "--asym", "32")]
    {
        let mut files: Vec<Vec<u8>> = Vec::new();
        for format in ["gptq", "awq", "compressed-tensors"] {
            if format == "awq" && bits == "8" {
                continue;
            }
            let dir = TempDir::new().unwrap();
            let (folder, floats) = (dir.path().join("folder"), dir.path().join("f32.gguf"));
            let source = model("tiny-llama3");
            let asked = ["--format", format, "--bits", bits, "--group-size", group, sort, "-q", "-o", text(&folder)];
            good(&[&["convert", text(&source)], &asked[..]].concat());
            let stated = &json(&folder.join("config.json"))["quantization_config"];
            assert_eq!(stated["quant_method"], format);
            if format == "gptq" {
                // Zeros of groups' own: only the second format is read alike by all.
                assert_eq!(stated["checkpoint_format"], if sort == "--sym" { "gptq" } else { "gptq_v2" });
            }
            good(&["convert", text(&folder), "--type", "f32", "-q", "-o", text(&floats)]);
            let read = checkpoint::open(&floats).unwrap();
            let matrices = read.tensors().iter().filter(|t| t.name.starts_with("blk."));
            files.push(matrices.flat_map(|t| bytes(read.as_ref(), &t.name)).copied().collect());
        }
        assert!(files.windows(2).all(|w| w[0] == w[1]), "{bits} bits, {sort}, groups of {group}");
    }
}

#[test]
fn a_folder_has_all_that_a_loader_needs() {
    let dir = TempDir::new().unwrap();
    let (folder, source) = (dir.path().join("out"), model("bookworm-8m"));
    let asked = ["--format", "gptq", "--json", "-o", text(&folder)];
    let record: Json = serde_json::from_str(&printed(&[&["convert", text(&source)], &asked[..]].concat())).unwrap();
    assert_eq!(record["type"], "gptq-4bit-g128");
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert_eq!(fs::read(folder.join(name)).unwrap(), fs::read(source.join(name)).unwrap(), "{name}");
    }
    let config = json(&folder.join("config.json"));
    let stated = json(&folder.join("quantize_config.json"));
    assert_eq!(config["quantization_config"], stated);
    assert_eq!((&stated["bits"], &stated["group_size"], &stated["sym"]), (&4.into(), &128.into(), &true.into()));
    assert_eq!(config["hidden_size"], json(&source.join("config.json"))["hidden_size"]);
    let size = fs::metadata(folder.join("model.safetensors")).unwrap().len();
    let (data, header) = (record["file_bytes"].as_u64().unwrap(), size - record["file_bytes"].as_u64().unwrap());
    assert!(data > 7_000_000 && header > 8 && header < 40_000, "{data} bytes, a header of {header}");
    // It runs, and is near the float model.
    let seen =
        printed(&["eval", text(&folder), "--reference", text(&source), "--chunks", "2", "--context", "128", "--json"]);
    let seen: Json = serde_json::from_str(&seen).unwrap();
    let kl = seen["divergence"]["kl"]["value"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 0.05, "{kl}");
}

#[test]
fn what_cannot_be_is_refused_before_any_work() {
    let dir = TempDir::new().unwrap();
    let (out, taken) = (dir.path().join("out"), dir.path().join("taken"));
    fs::create_dir(&taken).unwrap();
    let (llama, gpt2) = (model("tiny-llama3"), model("tiny-gpt2"));
    for (arguments, words) in [
        (&["--bits", "8"][..], &["--bits", "--format"][..]),
        (&["--format", "awq", "--bits", "8"], &["--format awq", "--bits 8: must be 4"]),
        (&["--format", "gptq", "--type", "q4_0"], &["--type", "GGUF"]),
    ] {
        let said = refused(&[&["convert", text(&llama), "-o", text(&out)], arguments].concat());
        assert!(words.iter().all(|w| said.contains(w)), "{said}");
    }
    let said = refused(&["convert", text(&llama), "--format", "gptq", "--force", "-o", text(&taken)]);
    assert!(said.contains("exists"), "{said}");
    let said = refused(&["convert", text(&gpt2), "--format", "gptq", "--group-size", "32", "-o", text(&out)]);
    assert!(said.contains("[in, out]"), "{said}");
    alone(dir.path(), &["taken"]);
    // 172 inputs: floats, reported, and refused under --strict.
    let small = model("stories260k");
    let said =
        refused(&["convert", text(&small), "--format", "gptq", "--group-size", "32", "--strict", "-o", text(&out)]);
    assert!(said.contains("172 inputs") && said.contains("ffn_down"), "{said}");
    good(&["convert", text(&small), "--format", "gptq", "--group-size", "32", "-q", "-o", text(&out)]);
    let config = json(&out.join("config.json"));
    let rules = config["quantization_config"]["dynamic"].as_object().unwrap();
    assert!(rules.keys().any(|k| k.contains("down_proj")), "{rules:?}");
    good(&["generate", text(&out), "--prompt", "Once", "--tokens", "2", "-q"]);
}
