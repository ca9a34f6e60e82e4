//! The real binary on real folders: every file it writes is compared with what llama.cpp's own tools wrote.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aurora_quant::checkpoint::{self, Config};
use aurora_quant::gguf::Value;
use aurora_quant::plan::{FILE_TYPES, FileType};
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

/// What `llama-quantize --pure` without importances writes.
const PURE: [&str; 3] = ["--pure", "--scales", "reference"];

fn fixture(path: &str) -> PathBuf {
    common::fixtures().join(path)
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
            convert(&model(name), ty, &out, &PURE);
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
fn mixtures_are_written_as_planned() {
    let dir = TempDir::new().unwrap();
    let recorded = common::mixtures::recorded();
    // Rows too short for blocks of 256; experts; queries, keys and values in one matrix.
    let some = [("stories260k", &[][..]), ("tiny-mixtral", &["mxfp4", "q4_k_m"]), ("tiny-gpt2", &["q2_k", "iq4_xs"])];
    for (name, only) in some {
        let chosen = |t: &&FileType| t.base().block > 1 && (only.is_empty() || only.contains(&t.name));
        for file_type in FILE_TYPES.iter().filter(chosen) {
            let what = format!("{name} {}", file_type.name);
            let row = file_type.names().find_map(|n| recorded[name].get(n.to_uppercase())).expect("a recorded mixture");
            let out = dir.path().join("mixture.gguf");
            convert(&model(name), file_type.name, &out, &["--force"]);
            common::mixtures::assert_types(&what, hashes(&out).into_iter().map(|(name, (ty, _))| (name, ty)), row);
            if let Some(bytes) = row["file_bytes"].as_u64() {
                assert_eq!(fs::metadata(&out).unwrap().len(), bytes, "{what}: file size");
            }
            let Config::Gguf(header) = checkpoint::open(&out).unwrap().config().clone() else { unreachable!() };
            let recorded = header.metadata.get("general.file_type");
            assert_eq!(recorded, Some(&Value::U32(file_type.id)), "{what}");
        }
    }
}

#[test]
fn reference_scales_are_refused_where_there_are_none() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("x.gguf");
    let arguments = ["--type", "q4_0", "--scales", "reference", "-o"];
    // Without --pure the output matrix gets q6_k.
    let refused = run(aurora().arg("convert").arg(model("tiny-qwen3")).args(arguments).arg(&out));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    for word in ["output.weight", "q6_k", "--scales search", "--pure", "q4_0, "] {
        assert!(text.contains(word), "{word:?} in {text}");
    }
    assert!(!out.exists());
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let dir = TempDir::new().unwrap();
    for name in ["tiny-mixtral", "tiny-gpt2", "stories260k"] {
        for ty in ["q4_0", "q8_0", "bf16", "q4_k_m"] {
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
        convert(&model(name), "q5_1", &direct, &["--force", "--pure"]);
        convert(&floats, "q5_1", &second, &["--force", "--pure"]);
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
            let flags = ["--dry-run", "--json", "--pure", "--output-type", "q8_0", "--tensor-type", "ffn_down=f16"];
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
    // The tied embedding asks for q6_k, whose blocks are wider than the model.
    assert_eq!(record["fallbacks"], 6);
    let down = record["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "blk.0.ffn_down.weight").unwrap();
    assert_eq!((&down["requested"], &down["type"]), (&"q4_0".into(), &"f16".into()));
    assert!(down["reason"].as_str().unwrap().contains("172"));
    let human = convert(&model("stories260k"), "q4_0", &out, &["--force"]);
    assert!(String::from_utf8_lossy(&human.stderr).contains("blk.0.ffn_down.weight"));
    let fits = convert(&model("tiny-llama3"), "q4_0", &dir.path().join("fits.gguf"), &["--strict", "--pure"]);
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
    convert(&first, "q4_0", &second, &["--allow-requantize", "--pure"]);
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
        "ulimit -f 100; exec {} convert {} --type f32 --force -o {}",
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

/// A copy of stories260k with `edits` to its config.json, in which some tensors have other shapes: those are filled with
/// `random` numbers and then, to their end, with a hole in the file.
fn reshaped(dir: &Path, edits: Json, shapes: &[(&str, [usize; 2])], random: usize) -> PathBuf {
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

#[test]
fn a_tensor_of_many_chunks_and_groups_is_whole() {
    let dir = TempDir::new().unwrap();
    // 5.1 million weights: three groups of chunks whose pages are given back.
    let (name, rows) = ("model.embed_tokens.weight", 80_000);
    let input = reshaped(dir.path(), serde_json::json!({"vocab_size": rows}), &[(name, [rows, 64])], rows * 64);
    let (out, floats) = (dir.path().join("q.gguf"), dir.path().join("f.gguf"));
    convert(&input, "q8_0", &out, &["--threads", "3"]);
    convert(&input, "f32", &floats, &["--threads", "7"]);
    let source = checkpoint::open(&input).unwrap();
    let original = source.find(name).unwrap();
    let bytes = source.bytes(original, 0..original.range.len());
    let written = checkpoint::open(&floats).unwrap();
    let copy = written.find("token_embd.weight").unwrap();
    assert!(written.bytes(copy, 0..copy.range.len()) == bytes, "F32 is a copy");
    // In one call, without chunks: what the chunks must add up to.
    let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let mut blocks = vec![0; values.len() / 32 * 34];
    aurora_quantizers::formats::by_name("q8_0").unwrap().encode(
        &values,
        aurora_quantizers::Scales::Reference,
        &mut blocks,
    );
    let written = checkpoint::open(&out).unwrap();
    let encoded = written.find("token_embd.weight").unwrap();
    assert!(written.bytes(encoded, 0..encoded.range.len()) == blocks, "blocks");
}

/// A conversion of 768 million weights, a hole in the file, in progress.
#[cfg(target_os = "linux")]
fn long_run(dir: &Path) -> std::process::Child {
    const WIDE: usize = 4_000_000;
    let shapes = [
        ("model.layers.0.mlp.gate_proj.weight", [WIDE, 64]),
        ("model.layers.0.mlp.up_proj.weight", [WIDE, 64]),
        ("model.layers.0.mlp.down_proj.weight", [64, WIDE]),
    ];
    let edits = serde_json::json!({"num_hidden_layers": 1, "intermediate_size": WIDE});
    let input = reshaped(dir, edits, &shapes, 0);
    aurora().arg("convert").arg(input).args(["--type", "q4_0", "-q", "-o"]).arg(dir.join("x.gguf")).spawn().unwrap()
}

/// Waits until the run has begun to write.
#[cfg(target_os = "linux")]
fn wait_for_output(dir: &Path) {
    let begun = std::time::Instant::now();
    while leftovers(dir) == 0 {
        assert!(begun.elapsed().as_secs() < 60, "no output begun");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn signals_end_a_run_and_leave_nothing() {
    for signal in ["INT", "TERM", "HUP"] {
        let dir = TempDir::new().unwrap();
        let mut child = long_run(dir.path());
        wait_for_output(dir.path());
        assert!(Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal}");
        assert_eq!(leftovers(dir.path()), 0, "{signal}");
        assert!(!dir.path().join("x.gguf").exists(), "{signal}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn memory_is_bounded_whatever_the_size_of_the_tensor() {
    let dir = TempDir::new().unwrap();
    let mut child = long_run(dir.path());
    wait_for_output(dir.path());
    let mut peak_kb = 0;
    for _ in 0..300 {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        if let Some(kb) = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()) {
            peak_kb = kb;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Each of the tensors has 1 GB.
    assert!(0 < peak_kb && peak_kb < 250_000, "{peak_kb} kB");
}

#[test]
#[cfg(unix)]
fn outputs_that_cannot_be_are_refused_before_the_work() {
    let dir = TempDir::new().unwrap();
    let refused = |output: &Path, word: &str| {
        let out = run(aurora().arg("convert").arg(model("stories260k")).arg("--force").arg("-o").arg(output));
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{text}");
        assert!(text.contains(word), "{word:?} in {text}");
    };
    refused(&dir.path().join("no/such/x.gguf"), "does not exist");
    refused(dir.path(), "directory");
    refused(&dir.path().join("x.gguf/"), "directory");
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    refused(&fifo, "no regular file");
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
    refused(&dir.path().join("dangling"), "follow the link");
    // A link to a file stays a link.
    let (real, link) = (dir.path().join("real.gguf"), dir.path().join("link.gguf"));
    fs::write(&real, "old").unwrap();
    std::os::unix::fs::symlink("real.gguf", &link).unwrap();
    convert(&model("stories260k"), "q8_0", &link, &["--force"]);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(&fs::read(&real).unwrap()[..4], b"GGUF");
}

#[test]
#[cfg(unix)]
fn nobody_listening_is_no_failure() {
    let dir = TempDir::new().unwrap();
    let script = |rest: &str| {
        let script = format!("{} {rest}", env!("CARGO_BIN_EXE_aurora-quant"));
        Command::new("bash").args(["-c", &script]).current_dir(dir.path()).output().unwrap().status.code()
    };
    let stories = model("stories260k").display().to_string();
    assert_eq!(script(&format!("convert {stories} -o a.gguf 2>/dev/full")), Some(0));
    assert_eq!(script("convert nothing 2>/dev/full"), Some(1));
    assert_eq!(script(&format!("inspect {stories} | head -1; exit ${{PIPESTATUS[0]}}")), Some(0));
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
