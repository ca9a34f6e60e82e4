//! The readers on good, bad and random input: they answer with a message that helps, fast, and never panic.

#[path = "../common/mod.rs"]
mod common;
mod gguf;
mod random;
mod safetensors;
mod sparse;

use std::path::Path;
use std::time::{Duration, Instant};

use aurora_quant::checkpoint::{self, TensorSource};
use common::bad::Bad;

/// Cases whose fault is not in a file's frame but in what the model makes of it; their files open.
const OPENS: &[&str] = &[
    "good-hf",
    "good-hf-sharded",
    "good",
    "st-dtype-unsupported",
    "index-tensor-not-in-shard",
    "index-names-absent-tensor",
    "missing-tensor",
    "unexpected-tensor",
    "shape-mismatch",
    "vocab-mismatch",
    "nan-weight",
    "inf-weight",
    "config-already-quantized",
    "config-missing-key",
    "config-missing-layers",
    "config-unknown-arch",
    "config-zero-heads",
    "config-heads-not-dividing",
    "config-kv-heads-not-dividing",
    "config-negative-layers",
    "config-huge-layers",
    "config-more-layers-than-weights",
    "config-wrong-type",
    "config-unknown-rope-scaling",
    "tokenizer-absent",
    "tokenizer-invalid-json",
    "tokenizer-id-out-of-vocab",
    "gguf-v2",
    "gguf-missing-architecture",
    "gguf-unknown-architecture",
    "gguf-missing-hparam",
    "gguf-hparam-wrong-type",
    "gguf-zero-heads",
    "gguf-shape-mismatch",
    "gguf-missing-tensor",
    "gguf-vocab-mismatch",
    "gguf-nan-weight",
];

/// Every tensor's range is inside its file and has the size of its shape and type, and the list is sorted.
fn check(source: &dyn TensorSource) {
    let tensors = source.tensors();
    assert!(tensors.is_sorted_by(|a, b| a.name < b.name));
    for t in tensors {
        assert_eq!(t.expected_bytes(), Some(t.range.len()), "{}", t.name);
        assert_eq!(source.bytes(t, 0..t.range.len()).len(), t.range.len(), "{}", t.name);
        source.release(t, 0..t.range.len());
        assert_eq!(source.find(&t.name).unwrap().range, t.range);
        assert!(source.file_of(t).is_file());
    }
}

fn message(path: &Path) -> String {
    match checkpoint::open(path) {
        Ok(_) => panic!("{} opens", path.display()),
        Err(e) => e.explain(),
    }
}

fn mentions(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.to_lowercase().contains(&word.to_lowercase()), "\"{word}\" is not in: {message}");
    }
}

#[test]
fn every_case_is_answered() {
    let bad = Bad::unpack();
    for case in bad.cases.iter().filter(|c| c.kind != "lora") {
        let start = Instant::now();
        let result = checkpoint::open(&bad.path(case));
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "{}: {took:?}", case.id);
        match result {
            Ok(source) => {
                assert!(OPENS.contains(&case.id.as_str()), "{} opens: {}", case.id, case.fault);
                check(&*source);
            }
            Err(e) => {
                let e = e.explain();
                assert!(!OPENS.contains(&case.id.as_str()), "{}: {e}", case.id);
                println!("{:32} {}", case.id, e.replace(&*bad.dir.path().to_string_lossy(), ""));
                mentions(&e, &case.mention.iter().map(String::as_str).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn what_is_no_checkpoint_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    mentions(&message(&dir.path().join("absent")), &["absent", "cannot open"]);
    let text = dir.path().join("notes.txt");
    std::fs::write(&text, "hello").unwrap();
    mentions(&message(&text), &["notes.txt", "config.json", ".safetensors", ".gguf"]);
}

#[cfg(target_os = "linux")]
#[test]
fn fifos_and_devices_do_not_hang() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let dir = tempfile::tempdir().unwrap();
    for name in ["x.gguf", "x.safetensors", "config.json"] {
        mknodat(CWD, dir.path().join(name), FileType::Fifo, Mode::RUSR, 0).unwrap();
    }
    mentions(&message(&dir.path().join("x.gguf")), &["x.gguf", "fifo", "regular file"]);
    mentions(&message(&dir.path().join("x.safetensors")), &["config.json", "fifo", "regular file"]);
    mentions(&message(dir.path()), &["config.json", "fifo", "regular file"]);
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero.gguf")).unwrap();
    mentions(&message(&dir.path().join("zero.gguf")), &["zero.gguf", "device"]);
}
