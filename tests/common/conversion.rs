//! Runs of `aurora-quant convert`, and what they leave.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aurora_quant::checkpoint;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::binary::aurora;

/// A file or folder of the fixtures.
pub fn fixture(path: &str) -> PathBuf {
    super::fixtures().join(path)
}

/// A fixture model's folder.
pub fn model(name: &str) -> PathBuf {
    fixture("models").join(name)
}

/// Runs it to its end.
pub fn run(command: &mut Command) -> Output {
    command.output().expect("the binary starts")
}

/// Runs a conversion that must succeed.
pub fn convert(input: &Path, file_type: &str, output: &Path, more: &[&str]) -> Output {
    let out = run(aurora().arg("convert").arg(input).args(["--type", file_type, "-o"]).arg(output).args(more));
    assert!(out.status.success(), "{}: {}", input.display(), String::from_utf8_lossy(&out.stderr));
    out
}

/// A JSON file.
pub fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).expect("fixture")).expect("fixture JSON")
}

/// name -> (type, sha256 of the bytes) for every tensor of a GGUF file.
pub fn hashes(path: &Path) -> BTreeMap<String, (String, String)> {
    let source = checkpoint::open(path).expect("our own file opens");
    source
        .tensors()
        .iter()
        .map(|t| {
            let digest = Sha256::digest(source.bytes(t, 0..t.range.len()));
            (t.name.clone(), (t.spec.name.to_uppercase(), format!("{digest:x}")))
        })
        .collect()
}

/// Temporary files in a directory.
pub fn leftovers(dir: &Path) -> usize {
    fs::read_dir(dir)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("aurora-tmp"))
        .count()
}

/// A copy of stories260k with `edits` to its config.json, in which some tensors have other shapes: those are filled
/// with `random` numbers and then, to their end, with a hole in the file.
pub fn reshaped(dir: &Path, edits: Json, shapes: &[(&str, [usize; 2])], random: usize) -> PathBuf {
    use std::io::Write;

    let input = model("stories260k");
    let out = dir.join("reshaped");
    fs::create_dir(&out).unwrap();
    for file in ["tokenizer.model", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(input.join(file), out.join(file)).unwrap();
    }
    let mut config = json(&input.join("config.json"));
    for (key, value) in edits.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(out.join("config.json"), config.to_string()).unwrap();
    let layers = config["num_hidden_layers"].as_u64().unwrap();
    let source = checkpoint::open(&input).unwrap();
    let layer = |name: &str| name.strip_prefix("model.layers.").map_or(0, |rest| rest[..1].parse().unwrap());
    let kept: Vec<_> = source
        .tensors()
        .iter()
        .filter(|t| layer(&t.name) < layers && !shapes.iter().any(|(name, _)| *name == t.name))
        .collect();
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    let mut place = |name: &str, shape: &[usize], bytes: usize| {
        let offsets = [at, at + bytes];
        at += bytes;
        header.insert(name.to_owned(), serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": offsets}));
    };
    kept.iter().for_each(|t| place(&t.name, &t.shape, t.range.len()));
    shapes.iter().for_each(|(name, shape)| place(name, shape, shape[0] * shape[1] * 4));
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = fs::File::create(out.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    for t in kept {
        file.write_all(source.bytes(t, 0..t.range.len())).unwrap();
    }
    let mut state = 1_u32;
    let numbers: Vec<u8> = (0..random)
        .flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / 8_388_608.0 - 1.0).to_le_bytes()
        })
        .collect();
    file.write_all(&numbers).unwrap();
    file.set_len((8 + header.len() + at) as u64).unwrap();
    out
}
