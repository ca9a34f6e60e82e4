//! Methods that look at the calibration text, through the real binary: every architecture, what the report says, the
//! same bytes for any number of threads and for a run that was killed and resumed, and errors.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value as Json;
use tempfile::TempDir;

fn model(name: &str) -> PathBuf {
    common::fixtures().join("models").join(name)
}

fn text() -> PathBuf {
    common::fixtures().join("eval/eval.txt")
}

/// `convert` with a method, on the small text, in samples of 32 tokens.
fn command(name: &str, method: &str, file_type: &str, output: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurora-quant"));
    command.arg("convert").arg(model(name)).args(["--method", method, "--type", file_type, "--json", "-q"]);
    command.arg("--text").arg(text()).args(["--context", "32", "-o"]).arg(output).args(more);
    command
}

fn record(done: &Output) -> Json {
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("a JSON document")
}

fn convert(name: &str, method: &str, file_type: &str, output: &Path, more: &[&str]) -> Json {
    record(&command(name, method, file_type, output, more).output().unwrap())
}

fn number(v: &Json) -> f64 {
    v.as_f64().unwrap_or_else(|| panic!("{v} is a number"))
}

/// Every matrix on a grid is solved or its reason is given, and none is worse on the calibration inputs than rounding
/// to nearest on the same grid; fused matrices, experts, GELU models, post-norms included.
#[test]
fn every_architecture_is_solved_and_never_worse_than_rounding_to_nearest() {
    let dir = TempDir::new().unwrap();
    for name in common::MODELS.iter() {
        for file_type in ["q4_0", "q3_k_m"] {
            let out = dir.path().join("out.gguf");
            let record = convert(name, "gptq", file_type, &out, &["--force", "--refine", "1"]);
            let blocks = ["f32", "f16", "bf16"];
            let quantised = |t: &&Json| !blocks.contains(&t["type"].as_str().unwrap());
            let wanted: Vec<&str> = record["tensors"]
                .as_array()
                .unwrap()
                .iter()
                .filter(quantised)
                .map(|t| t["name"].as_str().unwrap())
                .filter(|name| *name != "token_embd.weight")
                .collect();
            let linears = record["passes"].as_array().map_or(&[][..], Vec::as_slice);
            for tensor in wanted {
                let of_it: Vec<&Json> = linears.iter().filter(|l| l["tensors"][0] == tensor).collect();
                assert!(!of_it.is_empty(), "{name} {file_type}: {tensor} is not in the report");
                for linear in of_it {
                    match linear["pass"].as_str().unwrap() {
                        "gptq" => {
                            let (loss, rtn) = (number(&linear["after"]), number(&linear["before"]));
                            assert!(loss <= rtn, "{name} {file_type} {tensor}: {loss} above {rtn}");
                        }
                        method => {
                            assert_eq!(method, "rtn", "{name} {tensor}");
                            assert!(linear["note"].is_string(), "{name} {tensor}: why");
                        }
                    }
                }
            }
            // It runs.
            let eval = Command::new(env!("CARGO_BIN_EXE_aurora-quant"))
                .args(["eval", "--json", "-q", "--context", "32", "--chunks", "2", "--text"])
                .arg(text())
                .arg(&out)
                .output()
                .unwrap();
            assert!(number(&crate::record(&eval)["perplexity"]["value"]).is_finite(), "{name} {file_type}");
        }
    }
}

#[test]
fn no_number_of_threads_changes_a_byte() {
    let dir = TempDir::new().unwrap();
    for (name, propagate) in [("tiny-llama3", "quantized"), ("tiny-mixtral", "float")] {
        let bytes = |threads: &str| {
            let out = dir.path().join("out.gguf");
            convert(name, "gptq", "q4_k_s", &out, &["--force", "--threads", threads, "--propagate", propagate]);
            fs::read(out).unwrap()
        };
        let one = bytes("1");
        assert!(one == bytes("2") && one == bytes("7"), "{name}");
    }
}

#[test]
fn a_killed_run_goes_on_and_ends_with_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    let runs = [("gptq", "float"), ("gptq", "quantized"), ("awq", "float"), ("awq+gptq", "quantized")];
    for (method, propagate) in runs {
        let whole = dir.path().join("whole.gguf");
        let solver: &[&str] = if method.contains("gptq") { &["--refine", "8"] } else { &[] };
        let options = [&["--propagate", propagate, "--force"], solver].concat();
        convert("stories260k", method, "q4_0", &whole, &options);
        let out = dir.path().join("resumed.gguf");
        let kept = dir.path().join("resumed.gguf.resume");
        let options = [&options[..], &["--resume"]].concat();
        let mut run = command("stories260k", method, "q4_0", &out, &options);
        let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !kept.join("block-1").exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill();
        child.wait().unwrap();
        if !out.exists() {
            // Killed in the middle, as it should be on all but the slowest of machines.
            assert!(kept.join("block-1").exists());
            // Another run may not go on from it.
            let changed = if method.contains("gptq") { ["--damp", "0.02"] } else { ["--grid", "19"] };
            let other = [&options[..], &changed].concat();
            let refused = command("stories260k", method, "q4_0", &out, &other).output().unwrap();
            let error = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(refused.status.code(), Some(1), "{error}");
            assert!(error.contains("resumed.gguf.resume") && error.contains(changed[1]), "{error}");
            convert("stories260k", method, "q4_0", &out, &options);
        }
        assert!(!kept.exists(), "what was kept is removed");
        assert!(fs::read(&out).unwrap() == fs::read(&whole).unwrap(), "{method} {propagate}");
        fs::remove_file(out).unwrap();
    }
}

#[test]
fn requests_that_make_no_sense_are_refused_with_a_reason() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out.gguf");
    let fails = |method: &str, more: &[&str]| {
        let done = command("tiny-llama3", method, "q4_0", &out, more).output().unwrap();
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{method} {more:?}: {error}");
        assert!(!out.exists());
        error
    };
    assert!(fails("magic", &[]).contains("gptq"), "the error lists what there is");
    assert!(fails("gptq+gptq", &[]).contains("twice"));
    assert!(fails("rtn+gptq", &[]).contains("after rtn"));
    assert!(fails("gptq", &["--scales", "reference"]).contains("--scales"));
    assert!(fails("gptq", &["--calibrate"]).contains("--calibrate"));
}
