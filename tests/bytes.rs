//! The bytes that conversions write: about sixty of them over the fixtures, every method, type, format and kind of
//! input, held to the SHA-256 that tests/bytes.txt has for each. A change of that file is a change of what the program
//! writes, and its commit says why. `UPDATE_BYTES=1 cargo test --test bytes` writes it anew.
//!
//! Where a model is run its sums differ in the last place from one instruction set to the next, so all runs use the
//! baseline's.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::binary::aurora;
use common::checkpoint::Checkpoint;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Small calibrations: `@` stands for these words.
const SOME: &str = "--text eval.txt --context 32 --samples 6";

/// What is written by `aurora-quant convert ...`; paths are relative to a folder with links to the fixtures.
const CONVERSIONS: &[&str] = &[
    // Every type; widths that fall back; tied embeddings.
    "stories260k --type f32",
    "stories260k --type f16",
    "stories260k --type bf16",
    "stories260k",
    "stories260k --type q4_k_m",
    "tiny-llama3 --type q8_0 --pure",
    "tiny-llama3 --type q6_k",
    "tiny-llama3 --type q5_k_m",
    "tiny-llama3 --type q5_k_s",
    "tiny-llama3 --type q5_1",
    "tiny-llama3 --type q5_0",
    "tiny-llama3 --type q4_k_m",
    "tiny-llama3 --type q4_k_s",
    "tiny-llama3 --type q4_1",
    "tiny-llama3 --type q4_0",
    "tiny-llama3 --type iq4_nl",
    "tiny-llama3 --type iq4_xs",
    "tiny-llama3 --type q3_k_l",
    "tiny-llama3 --type q3_k_m",
    "tiny-llama3 --type q3_k_s",
    "tiny-llama3 --type q2_k",
    "tiny-mixtral --type mxfp4",
    "tiny-llama3 --type q4_0 --pure --scales reference",
    // Trained weights, whose codes are chosen together.
    "stories260k --type q4_0",
    "stories260k --type q4_0 --codes nearest",
    "bookworm-8m --type q4_k_m",
    "tiny-llama3 --type q4_0 --tensor-type ffn_down=q6_k --embedding-type q8_0",
    "tiny-mistral --type q4_0 --output-type f16",
    // Every architecture.
    "tiny-mistral --type q4_k_m",
    "tiny-mixtral --type q4_k_m",
    "tiny-qwen2 --type q4_k_m",
    "tiny-qwen3 --type q4_k_m",
    "tiny-qwen3-moe --type q4_0",
    "tiny-gemma2 --type q4_k_m",
    "tiny-gemma3 --type q4_0",
    "tiny-phi3 --type q4_k_m",
    "tiny-granite --type q4_0",
    "tiny-olmo2 --type q4_0",
    "tiny-gpt2 --type q4_k_m",
    "tiny-llama-bias --type q4_0",
    // Importances.
    "tiny-llama3 --type q2_k_s --imatrix tiny-llama3.imatrix",
    "tiny-mixtral --type q3_k_m --imatrix tiny-mixtral.imatrix",
    "tiny-llama3 --type q4_k_m --calibrate @",
    "tiny-mixtral --type iq4_xs --calibrate @",
    // Methods: fused and tied matrices, experts, orders, chains, both propagations.
    "tiny-llama3 --method gptq @",
    "tiny-mixtral --method gptq --type q4_0 @",
    "tiny-phi3 --method gptq --type q3_k_m --act-order none --refine 1 @",
    "tiny-gpt2 --method gptq --type q5_0 --propagate quantized @",
    "tiny-mistral --method gptq --type iq4_xs --damp 0.1 @",
    "tiny-llama3 --method awq --grid 5 @",
    "tiny-mixtral --method awq --type q4_0 --grid 4 --duo on @",
    "tiny-gemma2 --method awq --type q4_0 --clip --grid 4 --duo off @",
    "tiny-olmo2 --method awq+gptq --type q4_0 --grid 4 --propagate quantized @",
    "tiny-qwen3-moe --method awq+gptq --type q8_0 --grid 4 @",
    "stories260k --method gptq --type q4_0 --seed 3 @",
    // Pruning: floats and codes, shares and patterns.
    "tiny-gemma2 --method magnitude --scope matrix",
    "tiny-gpt2 --method ria --sparsity 60% @",
    "tiny-phi3 --method sparsegpt --sparsity 2:4 @",
    "tiny-mixtral --method wanda+gptq --sparsity 30% --propagate quantized @",
    "tiny-llama3 --method admm+awq --type q8_0 --grid 4 @",
    // Without zeros: floats and codes, experts, a method's codes, folders.
    "stories260k --method magnitude --sparse bitmask",
    "tiny-qwen3-moe --method magnitude --sparsity 2:4 --sparse 2:4 --type q8_0",
    "tiny-llama3 --method sparsegpt+gptq --sparsity 60% --sparse bitmask --type q4_0 @",
    "tiny-gemma2 --method magnitude --format compressed-tensors --sparse bitmask",
    "tiny-phi3 --method magnitude --sparsity 80% --format safetensors --sparse csr",
    // Other programs' checkpoints.
    "tiny-llama3 --format gptq --bits 4 --group-size 32",
    "tiny-phi3 --format gptq --bits 8 --group-size 64 --asym",
    "tiny-mixtral --format awq --group-size 32",
    "tiny-gemma2 --format compressed-tensors --group-size 32",
    "tiny-llama3 --format compressed-tensors --bits 8 --group-size 32 --method gptq @",
    "tiny-qwen2 --format awq --group-size 64 --method awq --grid 4 @",
    // Checkpoints that are quantised already: integers kept, act order undone, rounded again; GGUF files.
    "gptq-sym-g32",
    "awq-asym-g128",
    "awq-sym-g32 --type q4_k_m",
    "gptq-act-order",
    "gptq-sym-g32 --method gptq --type q3_k_m @",
    "tiny-phi3.gguf --type q4_0",
    "tiny-phi3-q8_0.gguf --type q4_0 --allow-requantize",
    // Checkpoints of floats again.
    "tiny-gemma2 --format safetensors",
    "tiny-mixtral --format safetensors --type f16 --shard-size 200KB",
    "gptq-sym-g32 --format safetensors",
];

/// A run that is killed after a block and goes on.
const RESUMED: &str = "stories260k --method gptq --type q4_0 --seed 3 @";

/// The folder that all runs start in.
fn prepared() -> TempDir {
    let dir = TempDir::new().unwrap();
    let fixtures = common::fixtures();
    for entry in fs::read_dir(fixtures.join("models")).unwrap() {
        let entry = entry.unwrap();
        link(&entry.path(), &dir.path().join(entry.file_name()));
    }
    fs::copy(fixtures.join("eval/eval.txt"), dir.path().join("eval.txt")).unwrap();
    for name in ["gptq-sym-g32", "awq-asym-g128", "awq-sym-g32"] {
        Checkpoint::quantized(name).write(&dir.path().join(name));
    }
    act_order().write(&dir.path().join("gptq-act-order"));
    let at = |words: &str| run(dir.path(), &words.replace('@', SOME));
    for name in ["tiny-llama3", "tiny-mixtral"] {
        at(&format!("calibrate {name} -o {name}.imatrix @"));
    }
    at("convert tiny-phi3 --type bf16 -o tiny-phi3.gguf");
    at("convert tiny-phi3 --type q8_0 -o tiny-phi3-q8_0.gguf");
    dir
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) {
    std::os::unix::fs::symlink(from, to).unwrap();
}

/// A checkpoint whose down matrices have their groups in another order than their columns.
fn act_order() -> Checkpoint {
    let mut checkpoint = Checkpoint::quantized("gptq-sym-g32");
    for (name, (_, shape, bytes)) in &mut checkpoint.tensors {
        if name.ends_with("down_proj.g_idx") {
            let groups = shape[0] / 32;
            *bytes = (0..shape[0]).flat_map(|col| ((col * 7 % groups) as i32).to_le_bytes()).collect();
        }
    }
    checkpoint
}

fn run(dir: &Path, words: &str) {
    let done =
        aurora().args(["--quiet", "--isa", "baseline"]).args(words.split(' ')).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
}

/// SHA-256 of a file, or of all files of a folder: `name`, zero byte, contents, by name.
fn hash(path: &Path) -> String {
    let mut sum = Sha256::new();
    if path.is_dir() {
        let mut files: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        for file in files {
            sum.update(file.file_name().unwrap().to_string_lossy().as_bytes());
            sum.update([0]);
            sum.update(fs::read(&file).unwrap());
        }
    } else {
        sum.update(fs::read(path).unwrap());
    }
    format!("{:x}", sum.finalize())
}

fn hash_of(dir: &Path, index: usize, words: &str) -> String {
    let out = format!("out-{index}");
    run(dir, &format!("convert {} -o {out}", words.replace('@', SOME)));
    let found = hash(&dir.join(&out));
    let _ = if dir.join(&out).is_dir() { fs::remove_dir_all(dir.join(out)) } else { fs::remove_file(dir.join(out)) };
    found
}

#[test]
fn conversions_write_the_recorded_bytes() {
    let dir = prepared();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(vec![String::new(); CONVERSIONS.len()]));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(words) = CONVERSIONS.get(index) else { break };
                    let hash = hash_of(dir.path(), index, words);
                    found.lock().unwrap()[index] = hash;
                }
            });
        }
    });
    let mut made = String::from("# SHA-256 of what `aurora-quant convert` writes; see bytes.rs.\n");
    for (words, hash) in CONVERSIONS.iter().zip(found.into_inner().unwrap()) {
        writeln!(made, "{hash}  {words}").unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bytes.txt");
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("UPDATE_BYTES").is_some() {
        return fs::write(&path, made).unwrap();
    }
    let differ: Vec<_> = made.lines().filter(|line| !recorded.lines().any(|known| known == *line)).collect();
    assert!(
        differ.is_empty(),
        "{} conversions write other bytes than tests/bytes.txt has:\n{}",
        differ.len(),
        differ.join("\n")
    );
    assert_eq!(made.lines().count(), recorded.lines().count(), "tests/bytes.txt has lines of no conversion");
}

#[test]
fn a_run_that_was_killed_and_goes_on_writes_the_recorded_bytes() {
    let dir = prepared();
    let words = format!("convert {} --resume -o out", RESUMED.replace('@', SOME));
    let mut command = aurora();
    command.args(["--quiet", "--isa", "baseline"]).args(words.split(' ')).current_dir(dir.path());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let kept = dir.path().join("out.resume");
    while !kept.join("block-1").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().unwrap();
    if !dir.path().join("out").exists() {
        run(dir.path(), &words);
    }
    let recorded = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bytes.txt")).unwrap();
    let line = format!("{}  {RESUMED}", hash(&dir.path().join("out")));
    assert!(recorded.lines().any(|known| known == line), "other bytes than without a stop: {line}");
}
