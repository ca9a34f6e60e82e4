//! The real binary on real folders: every file it writes is compared with what llama.cpp's own tools wrote.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aurora_quant::checkpoint;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Fixture models with a reference dump and block hashes.
const MODELS: [&str; 9] = [
    "stories260k",
    "tiny-llama3",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen3",
    "tiny-gemma2",
    "tiny-phi3",
    "tiny-mixtral",
    "tiny-gpt2",
];

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn model(name: &str) -> PathBuf {
    fixture("models").join(name)
}

fn aurora() -> Command {
    Command::new(env!("CARGO_BIN_EXE_aurora-quant"))
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary starts")
}

/// Runs a conversion that must succeed.
fn convert(input: &Path, file_type: &str, output: &Path, more: &[&str]) -> Output {
    let out = run(aurora().arg("convert").arg(input).args(["--type", file_type, "-o"]).arg(output).args(more));
    assert!(out.status.success(), "{}: {}", input.display(), String::from_utf8_lossy(&out.stderr));
    out
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).expect("fixture")).expect("fixture JSON")
}

/// name -> (type, sha256 of the bytes) for every tensor of a GGUF file.
fn hashes(path: &Path) -> BTreeMap<String, (String, String)> {
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

/// The tensors of a reference dump in the same form, with the shape (outermost first).
fn dump_tensors(name: &str) -> BTreeMap<String, (String, String)> {
    let dump = json(&fixture("ref-gguf").join(format!("{name}.gguf-dump.json")));
    let text = |t: &Json, key: &str| t[key].as_str().expect("a string").to_owned();
    dump["tensors"]
        .as_array()
        .expect("tensors")
        .iter()
        .map(|t| (text(t, "name"), (text(t, "type"), text(t, "sha256"))))
        .collect()
}

/// Says which tensors differ, and how.
fn assert_same(what: &str, ours: &BTreeMap<String, (String, String)>, theirs: &BTreeMap<String, (String, String)>) {
    let names = |m: &BTreeMap<String, (String, String)>| m.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(ours), names(theirs), "{what}: tensor names");
    let different: Vec<_> =
        ours.iter().filter(|(name, v)| theirs[*name] != **v).map(|(name, v)| (name, &v.0)).collect();
    assert!(different.is_empty(), "{what}: {} tensors differ: {different:?}", different.len());
}

#[test]
fn float_files_hold_the_bytes_that_the_reference_converter_wrote() {
    let dir = TempDir::new().unwrap();
    for name in MODELS {
        for ty in ["f32", "bf16"] {
            let out = dir.path().join(format!("{name}-{ty}.gguf"));
            convert(&model(name), ty, &out, &[]);
            assert_same(&format!("{name} {ty}"), &hashes(&out), &dump_tensors(&format!("{name}-{ty}")));
        }
    }
}

#[test]
fn blocks_equal_those_of_llama_quantize() {
    let dir = TempDir::new().unwrap();
    let reference = json(&fixture("ref-blocks/block-hashes.json"));
    for name in MODELS {
        for ty in ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"] {
            let out = dir.path().join(format!("{name}-{ty}.gguf"));
            convert(&model(name), ty, &out, &[]);
            let theirs = reference[name][ty].as_object().expect("hashes of this model and type");
            let theirs = theirs.iter().map(|(tensor, v)| {
                let text = |i: usize| v[i].as_str().expect("a string").to_owned();
                (tensor.clone(), (text(0), text(1)))
            });
            // The rotary factors are no weights: llama-quantize keeps them, its hash list may leave them out.
            assert_same(&format!("{name} {ty}"), &hashes(&out), &theirs.collect());
        }
    }
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let dir = TempDir::new().unwrap();
    for name in ["tiny-mixtral", "tiny-gpt2", "stories260k"] {
        for ty in ["q4_0", "q8_0", "bf16"] {
            let mut digests = Vec::new();
            for (i, threads) in ["1", "2", "7", "7"].into_iter().enumerate() {
                let out = dir.path().join(format!("{name}-{ty}-{i}.gguf"));
                convert(&model(name), ty, &out, &["--threads", threads]);
                digests.push(Sha256::digest(fs::read(&out).unwrap()));
            }
            assert!(digests.iter().all(|d| *d == digests[0]), "{name} {ty}");
        }
    }
}

#[test]
fn a_gguf_input_gives_the_same_tensors_as_the_checkpoint() {
    let dir = TempDir::new().unwrap();
    for name in MODELS {
        let (floats, direct, second) =
            (dir.path().join(format!("{name}-f32.gguf")), dir.path().join("a.gguf"), dir.path().join("b.gguf"));
        convert(&model(name), "f32", &floats, &[]);
        convert(&model(name), "q5_1", &direct, &["--force"]);
        convert(&floats, "q5_1", &second, &["--force"]);
        let (direct, second) = (fs::read(direct).unwrap(), fs::read(second).unwrap());
        assert!(direct == second, "{name}: the two files differ");
    }
}

#[test]
fn the_plan_predicts_the_file_to_the_byte() {
    let dir = TempDir::new().unwrap();
    for name in MODELS {
        for ty in ["f32", "f16", "q4_0", "q5_1"] {
            let out = dir.path().join(format!("{name}-{ty}.gguf"));
            let flags = ["--dry-run", "--json", "--output-type", "q8_0", "--tensor-type", "ffn_down=f16"];
            let plan = convert(&model(name), ty, &out, &flags);
            assert!(!out.exists(), "a dry run writes nothing");
            let plan: Json = serde_json::from_slice(&plan.stdout).expect("one JSON document");
            let done = convert(&model(name), ty, &out, &flags[1..]);
            let done: Json = serde_json::from_slice(&done.stdout).expect("one JSON document");
            let size = fs::metadata(&out).unwrap().len();
            assert_eq!(plan["file_bytes"].as_u64(), Some(size), "{name} {ty}");
            assert_eq!(plan["tensors"], done["tensors"], "{name} {ty}");
            let written = hashes(&out);
            for t in plan["tensors"].as_array().unwrap() {
                let (name, ty) = (t["name"].as_str().unwrap(), t["type"].as_str().unwrap());
                assert_eq!(written[name].0, ty.to_uppercase(), "{name}");
            }
        }
    }
}

#[test]
fn fallbacks_are_reported_and_strict_refuses_them() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("stories.gguf");
    let strict =
        run(aurora().arg("convert").arg(model("stories260k")).args(["--type", "q4_0", "--strict", "-o"]).arg(&out));
    let text = String::from_utf8_lossy(&strict.stderr).into_owned();
    assert_eq!(strict.status.code(), Some(1), "{text}");
    assert!(!out.exists());
    for word in ["blk.4.ffn_down.weight", "172 columns", "multiple of 32", "f16"] {
        assert!(text.contains(word), "{word:?} in {text}");
    }
    let plain = convert(&model("stories260k"), "q4_0", &out, &["--json"]);
    let record: Json = serde_json::from_slice(&plain.stdout).unwrap();
    assert_eq!(record["fallbacks"], 5);
    let down = record["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "blk.0.ffn_down.weight").unwrap();
    assert_eq!((&down["requested"], &down["type"]), (&"q4_0".into(), &"f16".into()));
    assert!(down["reason"].as_str().unwrap().contains("172"));
    let human = convert(&model("stories260k"), "q4_0", &out, &["--force"]);
    assert!(String::from_utf8_lossy(&human.stderr).contains("blk.0.ffn_down.weight"));
    let fits = convert(&model("tiny-llama3"), "q4_0", &dir.path().join("fits.gguf"), &["--strict"]);
    assert!(fits.status.success());
}

#[test]
fn types_can_be_chosen_per_tensor() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("x.gguf");
    let flags = ["--embedding-type", "q5_0", "--output-type", "f16", "--tensor-type", "blk\\.0\\..*ffn_(up|gate)=q8_0"];
    convert(&model("tiny-qwen3"), "q4_0", &out, &flags);
    let types = hashes(&out);
    for (name, ty) in [
        ("token_embd.weight", "Q5_0"),
        ("output.weight", "F16"),
        ("blk.0.ffn_up.weight", "Q8_0"),
        ("blk.1.ffn_up.weight", "Q4_0"),
        ("blk.0.attn_norm.weight", "F32"),
        ("blk.0.attn_q_norm.weight", "F32"),
    ] {
        assert_eq!(types[name].0, ty, "{name}");
    }
    let typo =
        run(aurora().arg("convert").arg(model("tiny-qwen3")).args(["--tensor-type", "fnn_up=q8_0", "--dry-run"]));
    assert_eq!(typo.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&typo.stderr).contains("fnn_up"));
}

#[test]
fn an_existing_file_is_kept_without_force_and_whole_with_it() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("x.gguf");
    fs::write(&out, "precious").unwrap();
    let refused = run(aurora().arg("convert").arg(model("stories260k")).args(["-o"]).arg(&out));
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force"));
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    // A GGUF file can be replaced by its own conversion: it is mapped while the new one is written beside it.
    convert(&model("stories260k"), "f32", &out, &["--force"]);
    convert(&out, "q8_0", &out, &["--force"]);
    assert_eq!(hashes(&out)["blk.0.attn_q.weight"].0, "Q8_0");
    assert_eq!(leftovers(dir.path()), 0);
}

/// Temporary files in a directory.
fn leftovers(dir: &Path) -> usize {
    fs::read_dir(dir)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("aurora-tmp"))
        .count()
}

#[test]
fn a_stale_temporary_file_does_not_block_the_next_run_and_goes_away() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("x.gguf");
    fs::write(dir.path().join(".x.gguf.Ab3dE9.aurora-tmp"), vec![0; 1000]).unwrap();
    fs::write(dir.path().join(".other.gguf.Ab3dE9.aurora-tmp"), vec![0; 1000]).unwrap();
    convert(&model("stories260k"), "q8_0", &out, &[]);
    assert_eq!(leftovers(dir.path()), 1, "only the other file's is left");
}

#[test]
fn quantised_input_needs_a_word() {
    let dir = TempDir::new().unwrap();
    let (first, second) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    convert(&model("tiny-llama3"), "q8_0", &first, &[]);
    let refused = run(aurora().arg("convert").arg(&first).args(["--type", "q4_0", "-o"]).arg(&second));
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--allow-requantize"));
    convert(&first, "q4_0", &second, &["--allow-requantize"]);
    assert_eq!(hashes(&second)["blk.0.attn_q.weight"].0, "Q4_0");
}

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
fn the_default_name_is_model_and_type() {
    let dir = TempDir::new().unwrap();
    let here = |args: &[&str], input: &Path| {
        let out = run(aurora().current_dir(dir.path()).arg("convert").arg(input).args(args));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    here(&["--type", "f16"], &model("stories260k"));
    assert!(dir.path().join("stories260k-f16.gguf").exists());
    here(&["--type", "Q4_0"], &dir.path().join("stories260k-f16.gguf"));
    assert!(dir.path().join("stories260k-q4_0.gguf").exists());
    here(&["--type", "q8_0"], &model("stories260k").join("model.safetensors"));
    assert!(dir.path().join("stories260k-q8_0.gguf").exists());
}

#[test]
#[cfg(unix)]
fn a_write_that_fails_leaves_nothing_behind_and_keeps_the_old_file() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("x.gguf");
    fs::write(&out, "precious").unwrap();
    // A file size limit is what a full disk looks like to a program, without needing one.
    let script = format!(
        "trap '' XFSZ; ulimit -f 100; exec {} convert {} --type f32 --force -o {}",
        env!("CARGO_BIN_EXE_aurora-quant"),
        model("stories260k").display(),
        out.display()
    );
    let failed = run(Command::new("bash").args(["-c", &script]));
    let text = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{text}");
    assert!(text.contains("x.gguf"), "{text}");
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    assert_eq!(leftovers(dir.path()), 0);
}

#[test]
fn every_bad_input_gets_its_error() {
    let bad = common::Bad::unpack();
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
