//! Models in several GGUF files.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use aurora_quant::gguf::{self, Metadata, TensorEntry, Value};
use common::binary::{good, printed, refused};
use common::conversion::{convert, model};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Cuts a GGUF file as `llama-gguf-split` does: all keys in the first part, tensors in the order of the file.
fn cut(whole: &Path, prefix: &str, count: u16) -> Vec<PathBuf> {
    let bytes = fs::read(whole).unwrap();
    let header = gguf::read_header(whole, &bytes).unwrap();
    let starts = |i: usize| (header.data_start + header.tensors[i].offset) as usize;
    let total = header.tensors.len();
    let part = |no: u16| {
        let range = total * usize::from(no) / usize::from(count)..total * usize::from(no + 1) / usize::from(count);
        let mut metadata = if no == 0 { header.metadata.clone() } else { Metadata::new() };
        metadata.set("split.no", Value::U16(no));
        metadata.set("split.count", Value::U16(count));
        metadata.set("split.tensors.count", Value::I32(total as i32));
        let shapes: Vec<Vec<usize>> =
            header.tensors.iter().map(|t| t.dims.iter().rev().map(|d| *d as usize).collect()).collect();
        let (mut table, mut data) = (Vec::<TensorEntry>::new(), Vec::<u8>::new());
        for i in range {
            let t = &header.tensors[i];
            // The next tensor's start; what lies between is padding.
            let end = if i + 1 < total { starts(i + 1) } else { bytes.len() };
            table.push((&t.name, &shapes[i], t.type_id, data.len() as u64));
            data.extend(&bytes[starts(i)..end]);
        }
        let mut out = Vec::new();
        gguf::write_header(&metadata, &table, &mut out).unwrap();
        out.extend(data);
        let path = whole.with_file_name(format!("{prefix}-{:05}-of-{count:05}.gguf", no + 1));
        fs::write(&path, out).unwrap();
        path
    };
    (0..count).map(part).collect()
}

fn whole(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("whole.gguf");
    convert(&model("stories260k"), "f16", &path, &[]);
    path
}

#[test]
fn any_part_stands_for_the_whole_and_leaves_no_trace() {
    let dir = TempDir::new().unwrap();
    let whole = whole(&dir);
    let (expected, found) = (dir.path().join("expected.gguf"), dir.path().join("found.gguf"));
    convert(&whole, "q8_0", &expected, &[]);
    for part in cut(&whole, "cut", 3) {
        convert(&part, "q8_0", &found, &["--force"]);
        assert!(fs::read(&found).unwrap() == fs::read(&expected).unwrap(), "from {}", part.display());
    }
    // A model in one file may say so; its keys go too.
    let one = cut(&whole, "one", 1).remove(0);
    convert(&one, "q8_0", &found, &["--force"]);
    assert!(fs::read(&found).unwrap() == fs::read(&expected).unwrap());
}

/// What is cut here and put together again by the reader is the model, and the first file alone has the keys.
#[test]
fn a_model_is_written_in_files_of_a_size_and_read_again() {
    let dir = TempDir::new().unwrap();
    let (whole, again) = (whole(&dir), dir.path().join("again.gguf"));
    let record = printed(&[
        "convert",
        text(&model("stories260k")),
        "--type",
        "f16",
        "--split-max-size",
        "200KB",
        "-o",
        text(&dir.path().join("cut.gguf")),
        "--json",
    ]);
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let written = record["outputs"].as_array().unwrap();
    let count = written.len();
    assert!(count > 2 && !dir.path().join("cut.gguf").exists(), "{record}");
    assert!(record["output"].as_str().unwrap().ends_with(&format!("cut-00001-of-{count:05}.gguf")));
    let mut total = 0;
    for (no, file) in written.iter().enumerate() {
        let path = dir.path().join(file["path"].as_str().unwrap());
        let bytes = fs::read(&path).unwrap();
        let header = gguf::read_header(&path, &bytes).unwrap();
        let key = |key: &str| header.metadata.get(key).cloned();
        assert_eq!(key("split.no"), Some(Value::U16(no as u16)));
        assert_eq!(key("split.count"), Some(Value::U16(count as u16)));
        assert_eq!(key("general.architecture").is_some(), no == 0);
        assert!(bytes.len() as u64 - header.data_start <= 200_000, "{}", path.display());
        total += header.tensors.len();
        assert_eq!(header.metadata.get("split.tensors.count"), Some(&Value::I32(47)));
    }
    assert_eq!(total, 47);
    convert(&dir.path().join(format!("cut-00002-of-{count:05}.gguf")), "f16", &again, &[]);
    assert!(fs::read(&again).unwrap() == fs::read(&whole).unwrap());
    // What is there is not replaced unasked, and nothing of the new one stays.
    let kept = dir.path().join(format!("cut-00002-of-{count:05}.gguf"));
    fs::write(&kept, "precious").unwrap();
    let message = refused(&[
        "convert",
        text(&whole),
        "--type",
        "f16",
        "--split-max-size",
        "200KB",
        "-o",
        text(&dir.path().join("cut.gguf")),
    ]);
    assert!(message.contains("--force") && fs::read(&kept).unwrap() == b"precious", "{message}");
    assert_eq!(common::conversion::leftovers(dir.path()), 0);
}

#[test]
fn the_usual_name_has_no_place_in_it() {
    let dir = TempDir::new().unwrap();
    let parts = cut(&whole(&dir), "cut", 2);
    let mut command = common::binary::aurora();
    let out = command.current_dir(dir.path()).arg("convert").arg(&parts[1]).args(["--type", "q8_0"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(dir.path().join("cut-q8_0.gguf").exists());
}

#[test]
fn inspect_and_eval_read_all_parts() {
    let dir = TempDir::new().unwrap();
    let whole = whole(&dir);
    let parts = cut(&whole, "cut", 2);
    let tensors = |path: &Path| {
        let json: serde_json::Value = serde_json::from_str(&printed(&["inspect", text(path), "--json"])).unwrap();
        json["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(tensors(&parts[0]), tensors(&whole));
    let run = |path: &Path| good(&["generate", text(path), "--prompt", "Once", "-n", "8", "--temperature", "0"]).stdout;
    assert_eq!(run(&parts[1]), run(&whole));
}

#[test]
fn what_is_missing_or_of_another_model_is_named() {
    let dir = TempDir::new().unwrap();
    let whole = whole(&dir);
    let out = dir.path().join("out.gguf");
    let refuse = |path: &Path, words: &[&str]| {
        let message = refused(&["convert", text(path), "-o", text(&out)]);
        words.iter().for_each(|word| assert!(message.contains(word), "{word} in {message}"));
        assert!(!out.exists());
    };
    let parts = cut(&whole, "cut", 3);
    let renamed = dir.path().join("renamed.gguf");
    fs::copy(&parts[1], &renamed).unwrap();
    refuse(&renamed, &["renamed.gguf", "part 2 of a model in 3 files", "-00002-of-00003.gguf", "llama-gguf-split"]);

    let kept = fs::read(&parts[2]).unwrap();
    fs::remove_file(&parts[2]).unwrap();
    refuse(&parts[0], &["cut-00003-of-00003.gguf", "part 3 of 3", "missing"]);
    fs::copy(&whole, &parts[2]).unwrap();
    refuse(&parts[0], &["cut-00003-of-00003.gguf", "a model of its own", "part 3 of 3"]);
    fs::copy(&parts[1], &parts[2]).unwrap();
    refuse(&parts[0], &["cut-00003-of-00003.gguf", "part 2 of 3"]);
    fs::write(&parts[2], &kept[..kept.len() - 100]).unwrap();
    refuse(&parts[0], &["cut-00003-of-00003.gguf", "out of range of the file"]);
    // The same tensors in two files.
    let again = cut(&whole, "again", 3);
    let mut bytes = fs::read(&again[1]).unwrap();
    let at = bytes.windows(8).position(|w| w == b"split.no").unwrap() + 8 + 4;
    bytes[at] = 2;
    fs::write(&again[2], bytes).unwrap();
    refuse(&again[0], &["again-00003-of-00003.gguf", "is in", "again-00002-of-00003.gguf"]);
}
