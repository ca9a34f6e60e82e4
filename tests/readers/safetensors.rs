//! Faults and layouts of Hugging Face folders for which no packed case exists.

use std::fs;
use std::path::Path;

use aurora_quant::checkpoint::{self, Config, TensorSource};
use tempfile::TempDir;

use crate::common::bad::Bad;
use crate::{check, mentions, message};

/// A safetensors file: length, header, `data` bytes of zeros.
pub fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn folder(header: &str, data: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    fs::write(dir.path().join("model.safetensors"), file(header, data)).unwrap();
    dir
}

fn names(source: &dyn TensorSource) -> Vec<String> {
    source.tensors().iter().map(|t| t.name.clone()).collect()
}

#[test]
fn headers_that_break_a_rule() {
    let long = format!(r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(3000));
    for (header, data, words) in [
        ("", 0, &["not valid JSON"][..]),
        ("nul", 0, &["must be a JSON object", "nul"]),
        (r#"{"a":1}"#, 0, &["tensor a", "cannot be read"]),
        (r#"{"a":{"dtype":"F32","shape":[1]}}"#, 4, &["tensor a", "data_offsets"]),
        (r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#, 4, &["tensor a", "non-negative", "1.5"]),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#, 4, &["tensor a", "two", "[0,4,8]"]),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}"#, 4, &["tensor a", "[-4,0]"]),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}"#, 4, &["tensor a", "range"]),
        (r#"{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4, &["tensor a", "duplicate"]),
        (r#"{"a":{"dtype":"F4","shape":[2,1],"data_offsets":[0,1]}}"#, 1, &["tensor a", "F4", "multiple of 2"]),
        (r#"{"__metadata__":{"format":1}}"#, 0, &["__metadata__", "strings"]),
        (r#"{"__metadata__":{},"__metadata__":{}}"#, 0, &["duplicate __metadata__"]),
        (r#"{"\u001b[2J":{"dtype":"?","shape":[1],"data_offsets":[0,4]}}"#, 4, &[r"\u{1b}[2J", "unknown dtype ?"]),
        (&long, 4, &["tensor a", "4096"]),
    ] {
        mentions(&message(folder(header, data).path()), words);
    }
}

#[test]
fn a_header_of_more_than_100_mb_is_refused_unread() {
    let dir = folder("{}", 0);
    let path = dir.path().join("model.safetensors");
    fs::write(&path, 150_000_000u64.to_le_bytes()).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(200_000_000).unwrap();
    mentions(&message(&path), &["header length 150000000", "absurd"]);
}

#[test]
fn headers_that_are_fine() {
    // Buffers of any type, empty tensors, scalars, blanks before and behind, and a length (640) that starts like a
    // pickle.
    let header = r#" {"mask":{"dtype":"BOOL","shape":[1,2],"data_offsets":[4,6]},"__metadata__":{"format":"pt"},
        "none":{"dtype":"F16","shape":[0,7],"data_offsets":[4,4]},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
        "f8":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[6,9]}}"#;
    let header = format!("{header:640}");
    assert_eq!(header.len(), 640);
    let dir = folder(&header, 9);
    let source = checkpoint::open(dir.path()).unwrap();
    check(&*source);
    assert_eq!(names(&*source), ["f8", "mask", "none", "s"]);
    assert_eq!(source.find("mask").unwrap().spec.name, "bool");
    assert_eq!(source.find("s").unwrap().shape, Vec::<usize>::new());
    let empty = folder("{}", 0);
    assert!(checkpoint::open(empty.path()).unwrap().tensors().is_empty());
}

#[test]
fn one_file_is_opened_by_its_name() {
    let bad = Bad::unpack();
    let path = bad.dir.path().join("good-hf-sharded/model-00002-of-00002.safetensors");
    let source = checkpoint::open(&path).unwrap();
    check(&*source);
    assert_eq!(source.tensors().len(), 5);
    assert_eq!(source.path(), path);
    fs::copy(&path, bad.dir.path().join("lone.safetensors")).unwrap();
    let lone = checkpoint::open(&bad.dir.path().join("lone.safetensors")).unwrap();
    let Config::HuggingFace(config) = lone.config() else { panic!("a Hugging Face source") };
    mentions(&config.require().unwrap_err().explain(), &["config.json not found"]);
}

#[test]
fn shards_are_one_source() {
    let bad = Bad::unpack();
    let whole = checkpoint::open(&bad.dir.path().join("good-hf")).unwrap();
    let sharded = checkpoint::open(&bad.dir.path().join("good-hf-sharded")).unwrap();
    check(&*sharded);
    assert_eq!(names(&*whole), names(&*sharded));
    assert_eq!(sharded.files().len(), 2);
    for (a, b) in whole.tensors().iter().zip(sharded.tensors()) {
        assert_eq!(whole.bytes(a, 0..a.range.len()), sharded.bytes(b, 0..b.range.len()), "{}", a.name);
    }
}

#[test]
fn indexes_that_break_a_rule() {
    let one = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    for (index, words) in [
        ("{}", &["index.json", "weight_map"][..]),
        (r#"{"weight_map":[]}"#, &["weight_map", "object"]),
        (r#"{"weight_map":{}}"#, &["weight_map", "no tensors"]),
        (r#"{"weight_map":{"a":7}}"#, &["tensor a", "7"]),
        (r#"{"weight_map":{"a":"/etc/passwd"}}"#, &["/etc/passwd", "plain file name"]),
        (r#"{"weight_map":{"a":".."}}"#, &["tensor a", "plain file name"]),
        (r#"{"weight_map":{"a":"no1","b":"no2","c":"no2"}}"#, &["2 problems", "no1", "no2"]),
        (r#"{"weight_map":{"a":"model.safetensors","b":"2.safetensors"}}"#, &["tensor a", "is also in"]),
    ] {
        let dir = folder(one, 4);
        fs::write(dir.path().join("2.safetensors"), file(one, 4)).unwrap();
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        mentions(&message(dir.path()), words);
    }
}

#[test]
fn configs() {
    let dir = folder("{}", 0);
    let config = dir.path().join("config.json");
    for (text, words) in [
        ("[]", &["config.json", "object"][..]),
        (" \n", &["config.json", "empty"]),
        ("{\n \"a\": NaN}", &["config.json", "line 2 column 7"]),
    ] {
        fs::write(&config, text).unwrap();
        mentions(&message(dir.path()), words);
    }
    for fine in ["\u{feff}{}", r#"{"quantization_config": null}"#] {
        fs::write(&config, fine).unwrap();
        checkpoint::open(dir.path()).unwrap();
        refusal(dir.path()).unwrap();
    }
    fs::write(&config, r#"{"compression_config": {}}"#).unwrap();
    mentions(&refusal(dir.path()).unwrap_err().explain(), &["compression_config", "is quantised"]);
    fs::write(&config, "{}").unwrap();
    fs::write(dir.path().join("quantize_config.json"), "{}").unwrap();
    mentions(&refusal(dir.path()).unwrap_err().explain(), &["quantize_config.json", "bits: missing", "gptq"]);
}

/// What conversion says of the configuration; looking at such a checkpoint is allowed.
fn refusal(dir: &Path) -> aurora_quant::Result<()> {
    checkpoint::check_quantized(checkpoint::open(dir).unwrap().as_ref())
}

#[test]
fn folders_without_weights_say_what_is_there() {
    let dir = folder("{}", 0);
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    fs::write(dir.path().join("other.safetensors"), "").unwrap();
    mentions(&message(dir.path()), &["pytorch_model.bin", "safe_serialization", "other.safetensors", "name that file"]);
}

/// snapshots/<revision>/<name> links into blobs/<hash>, as huggingface_hub lays it out.
#[cfg(unix)]
#[test]
fn the_hugging_face_cache_opens() {
    use std::os::unix::fs::symlink;
    let bad = Bad::unpack();
    for (model, first) in [("good-hf", "model.safetensors"), ("good-hf-sharded", "model-00001-of-00002.safetensors")] {
        let cache = tempfile::tempdir().unwrap();
        let snapshot = cache.path().join("snapshots/0123abc");
        let blobs = cache.path().join("blobs");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir(&blobs).unwrap();
        for (i, entry) in fs::read_dir(bad.dir.path().join(model)).unwrap().enumerate() {
            let entry = entry.unwrap();
            let blob = format!("{i:064x}");
            fs::copy(entry.path(), blobs.join(&blob)).unwrap();
            symlink(Path::new("../../blobs").join(blob), snapshot.join(entry.file_name())).unwrap();
        }
        let source = checkpoint::open(&snapshot).unwrap();
        check(&*source);
        assert_eq!(source.tensors().len(), 11);
        check(&*checkpoint::open(&snapshot.join(first)).unwrap());
        // A snapshot whose download was interrupted: the link is there, the blob is not.
        fs::remove_file(fs::canonicalize(snapshot.join(first)).unwrap()).unwrap();
        mentions(&message(&snapshot), &[first]);
    }
}
