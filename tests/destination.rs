//! Where a conversion writes: what was there stays until the new file is whole, and nothing is left of a run that ends
//! early.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::binary::aurora;
use common::conversion::{convert, hashes, leftovers, model, reshaped, run};
use tempfile::TempDir;

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
    refused(&fifo, "not a regular file");
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
