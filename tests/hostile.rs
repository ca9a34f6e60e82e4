//! Wrong usage, and input that is not what it should be: an error that says so, never a panic, and nothing left behind.

mod common;

use std::fs;
use std::process::Command;

use common::binary::aurora;
use common::conversion::{leftovers, model, run};
use serde_json::Value as Json;
use tempfile::TempDir;

#[test]
fn wrong_usage_ends_with_2() {
    for args in [
        vec![],
        vec!["convert"],
        vec!["convert", "x", "--type", "q9_9"],
        vec!["frobnicate"],
        vec!["convert", "x", "--tensor-type", "nonsense"],
    ] {
        let out = run(aurora().args(&args));
        assert_eq!(out.status.code(), Some(2), "{args:?}");
    }
    let missing = run(aurora().args(["convert", "no/such/folder", "--json"]));
    assert_eq!(missing.status.code(), Some(1));
    let error: Json = serde_json::from_slice(&missing.stdout).expect("a JSON document even for a failure");
    assert!(error["error"].as_str().unwrap().contains("no/such/folder"));
}

#[test]
#[cfg(unix)]
fn special_files_in_a_model_folder_neither_block_nor_fill_memory() {
    let dir = TempDir::new().unwrap();
    for name in ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "README.md", "generation_config.json"] {
        let copy = dir.path().join(name.replace('.', "-"));
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(model("stories260k")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        let _ = fs::remove_file(copy.join(name));
        assert!(Command::new("mkfifo").arg(copy.join(name)).status().unwrap().success());
        let mut child = aurora()
            .arg("convert")
            .arg(&copy)
            .args(["--dry-run", "-q", "--json"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let begun = std::time::Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begun.elapsed().as_secs() > 20 {
                child.kill().unwrap();
                panic!("{name}: still waiting for the fifo");
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[test]
fn names_from_files_cannot_write_to_the_terminal() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("evil.safetensors");
    let name = "x\u{1b}[31mred\nerror: fake";
    let header = serde_json::json!({ name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} }).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 4]);
    fs::write(&file, bytes).unwrap();
    fs::copy(model("stories260k").join("config.json"), dir.path().join("config.json")).unwrap();
    // A quantised tensor of that name in a GGUF file, which convert refuses by name.
    let (gguf, mut bytes) = (dir.path().join("evil.gguf"), Vec::new());
    let mut metadata = aurora_quant::gguf::Metadata::new();
    metadata.set("general.architecture", aurora_quant::gguf::string("llama"));
    aurora_quant::gguf::write_header(&metadata, &[(name, &[1, 32], 8, 0)], &mut bytes).unwrap();
    bytes.extend([0; 34]);
    fs::write(&gguf, bytes).unwrap();
    let runs = [vec!["inspect"], vec!["convert", "--dry-run"], vec!["inspect", "--tensor", "x"]];
    for (args, file) in runs.iter().flat_map(|args| [(args, &file), (args, &gguf)]) {
        let out = run(aurora().args(args).arg(file));
        let text = [out.stdout, out.stderr].concat();
        assert!(!text.contains(&0x1b), "{args:?}");
        assert!(!String::from_utf8_lossy(&text).lines().any(|l| l.starts_with("error: fake")), "{args:?}");
    }
}

#[test]
fn inspection_reads_what_cannot_be_converted() {
    let dir = TempDir::new().unwrap();
    // A file of tensors with no configuration beside it.
    let lone = dir.path().join("lone.safetensors");
    fs::copy(model("stories260k").join("model.safetensors"), &lone).unwrap();
    let seen = run(aurora().arg("inspect").arg(&lone).arg("--json"));
    assert!(seen.status.success());
    let seen: Json = serde_json::from_slice(&seen.stdout).unwrap();
    assert_eq!(seen["tensors"].as_array().unwrap().len(), 47);
    assert_eq!(seen["supported"], false);
    let refused = run(aurora().arg("convert").arg(&lone).arg("--dry-run"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("config.json not found"));
    // A checkpoint that says it is quantised.
    let bad = common::bad::Bad::unpack();
    let quantised = bad.path(bad.case("config-already-quantized"));
    assert!(run(aurora().arg("inspect").arg(&quantised)).status.success());
}

#[test]
fn every_bad_input_gets_its_error() {
    let bad = common::bad::Bad::unpack();
    let dir = TempDir::new().unwrap();
    let mut failures = Vec::new();
    for case in &bad.cases {
        if case.kind == "lora" {
            // Adapters are no input of convert.
            continue;
        }
        let started = std::time::Instant::now();
        let out = dir.path().join("out.gguf");
        let result = run(aurora().arg("convert").arg(bad.path(case)).args(["--type", "q8_0", "-o"]).arg(&out));
        let text = String::from_utf8_lossy(&result.stderr).into_owned();
        let code = result.status.code();
        let mut complain = |what: String| failures.push(format!("{}: {what}\n    {text}", case.id));
        if started.elapsed().as_secs() >= 5 {
            complain("took more than five seconds".to_owned());
        }
        if text.contains("panicked") || !matches!(code, Some(0 | 1)) {
            complain(format!("ended with {code:?}"));
        }
        let expected = match case.expect.as_str() {
            "ok" => code == Some(0),
            "error" => code == Some(1),
            _ => true,
        };
        if !expected {
            complain(format!("expected {}, ended with {code:?}", case.expect));
        }
        let must_mention =
            case.expect == "error" || (case.expect != "ok" && case.expect != "error_or_ok") || code == Some(1);
        if must_mention {
            for word in &case.mention {
                if !text.to_lowercase().contains(&word.to_lowercase()) {
                    complain(format!("does not mention {word:?}"));
                }
            }
        }
        if (code == Some(0)) != out.exists() {
            complain("the output does not match the exit code".to_owned());
        }
        let _ = fs::remove_file(&out);
        if leftovers(dir.path()) > 0 {
            complain("left a temporary file".to_owned());
        }
    }
    assert!(failures.is_empty(), "{} faults:\n  {}", failures.len(), failures.join("\n  "));
}
