//! GGUF files for which no packed case exists, built with our own writer where it can write them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use aurora_quant::checkpoint::{self, gguf::parse};
use aurora_quant::gguf::{self, Metadata, TensorEntry, Value, ValueType, write_header};

use crate::common::bad::Bad;
use crate::{check, mentions};

pub fn file(metadata: &Metadata, tensors: &[TensorEntry], data: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_header(metadata, tensors, &mut bytes).unwrap();
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn one_key(key: &str, value: Value) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set(key, value);
    metadata
}

fn refused(bytes: &[u8], words: &[&str]) {
    // Without the value: `expect_err` would print it, and it can be long.
    let error = parse(Path::new("x.gguf"), bytes).map(drop).unwrap_err().explain();
    mentions(&error, &["x.gguf"]);
    mentions(&error, words);
}

/// A file with no tensors and the given bytes for keys and values.
fn raw(entries: u64, bytes: &[u8]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(entries.to_le_bytes());
    file.extend(bytes);
    file
}

#[test]
fn what_is_written_reads_back() {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", gguf::string("gpt-oss"));
    metadata.set("gpt-oss.block_count", Value::U32(3));
    metadata.set("UPPER..case_", Value::F64(-0.5));
    metadata.set("general.alignment", Value::U32(64));
    metadata.set("s", gguf::string_array(["", "\u{2581}a", "b"]));
    metadata.set("i", gguf::i32_array([-1, 2]));
    metadata.set("f", gguf::f32_array([0.5]));
    metadata.set("b", gguf::bool_array([true, false]));
    metadata.set("empty", gguf::string_array(Vec::<String>::new()));
    metadata.set("nested", gguf::array(ValueType::Array, vec![gguf::i32_array([7]), gguf::string_array(["x"])]));
    let tensors: &[TensorEntry] =
        &[("z", &[64], 0, 0), ("experts", &[4, 2, 256], 12, 256), ("one", &[1, 8], 30, 1408), ("s", &[], 0, 1472)];
    let bytes = file(&metadata, tensors, 1476);
    let (read, infos) = parse(Path::new("x.gguf"), &bytes).unwrap();
    assert!(read.iter().eq(metadata.iter()));
    for (info, (name, shape, id, offset)) in infos.iter().zip(tensors) {
        assert_eq!((&*info.name, &*info.shape, info.spec.ggml_id), (*name, *shape, Some(*id)));
        assert_eq!(info.range.start, bytes.len() - 1476 + *offset as usize);
        assert_eq!(info.expected_bytes(), Some(info.range.len()));
    }
    assert_eq!(infos.len(), 4);
}

#[test]
fn the_control_rewritten_is_the_control() {
    let bad = Bad::unpack();
    let bytes = fs::read(bad.dir.path().join("good.gguf")).unwrap();
    let header = gguf::read_header(Path::new("good.gguf"), &bytes).unwrap();
    let shapes: Vec<Vec<usize>> =
        header.tensors.iter().map(|t| t.dims.iter().rev().map(|&d| d as usize).collect()).collect();
    let tensors: Vec<TensorEntry> =
        header.tensors.iter().zip(&shapes).map(|(t, s)| (&*t.name, &**s, t.type_id, t.offset)).collect();
    let mut out = Vec::new();
    write_header(&header.metadata, &tensors, &mut out).unwrap();
    assert!(out == bytes[..out.len()]);
    assert_eq!(out.len() as u64, header.data_start);
}

#[test]
fn a_file_without_the_suffix_is_known_by_its_magic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0123abcd");
    fs::write(&path, file(&one_key("general.architecture", gguf::string("llama")), &[("a", &[2], 0, 0)], 8)).unwrap();
    check(&*checkpoint::open(&path).unwrap());
}

#[test]
fn tensors_that_break_a_rule() {
    let none = Metadata::new();
    refused(&file(&none, &[("a", &[2, 100], 12, 0)], 4096), &["tensor a", "100 columns", "q4_k", "256"]);
    refused(&file(&none, &[("a", &[], 2, 0)], 4096), &["tensor a", "1 columns", "q4_0"]);
    refused(&file(&none, &[("a", &[1 << 33, 1 << 31], 0, 0)], 64), &["tensor a", "overflow"]);
    refused(&file(&none, &[("a", &[2], 0, u64::MAX - 31)], 64), &["tensor a", "out of range"]);
    refused(&file(&none, &[("a", &[9], 0, 32), ("b", &[1], 0, 0), ("c", &[1], 0, 64)], 96), &["tensor c", "tensor a"]);
    refused(&file(&none, &[(&"n".repeat(200), &[2], 0, 0)], 64), &["tensor name", "200", "127"]);
    refused(&file(&none, &[("\x1b[2J", &[2], 4, 0)], 64), &[r"tensor \u{1b}[2J", "type 4"]);
}

#[test]
fn keys_and_values_that_break_a_rule() {
    let mut alignment = file(&one_key("general.alignment", Value::U32(32)), &[], 0);
    alignment[24 + 8 + 17] = 5; // the value's type: i32
    refused(&alignment, &["general.alignment", "power of two", "32"]);
    refused(&file(&one_key(&"k".repeat(70_000), Value::U8(1)), &[], 0), &["metadata key", "70000", "65535"]);
    refused(&raw(1, b"\x01\0\0\0\0\0\0\0k\x08\0\0\0\x02\0\0\0\0\0\0\0\xff\xfe"), &["k: string", "UTF-8"]);
    refused(&raw(1, b"\x01\0\0\0\0\0\0\0k\x0a\0\0\0\x02\0"), &["k: unexpected end", "metadata"]);
    refused(&raw(1, b"\x01\0\0\0\0\0\0\0k\x09\0\0\0\x4d\0\0\0\0\0\0\0\0\0\0\0"), &["k: unknown", "77"]);
    refused(&raw(2, &[0; 20]), &["metadata count 2"]);
}

#[test]
fn small_files_cannot_take_much_memory() {
    // 12 MB of bytes would be 288 MB of values.
    let mut array = b"\x01\0\0\0\0\0\0\0k\x09\0\0\0\0\0\0\0".to_vec();
    array.extend(12_000_000u64.to_le_bytes());
    array.resize(array.len() + 12_000_000, 0);
    refused(&raw(1, &array), &["k: metadata", "256 MiB"]);
}

#[test]
fn a_hundred_thousand_keys_are_not_quadratic() {
    let mut bytes = Vec::new();
    for i in 0..100_000u64 {
        let key = format!("key{i}");
        bytes.extend((key.len() as u64).to_le_bytes());
        bytes.extend(key.as_bytes());
        bytes.extend([0, 0, 0, 0, 1]);
    }
    let start = Instant::now();
    let (metadata, _) = parse(Path::new("x.gguf"), &raw(100_000, &bytes)).unwrap();
    assert_eq!(metadata.len(), 100_000);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn a_large_vocabulary_parses_fast() {
    let mut metadata = Metadata::new();
    metadata.set("tokens", gguf::string_array((0..150_000).map(|i| format!("token{i}"))));
    metadata.set("types", gguf::i32_array((0..150_000).map(|_| 1)));
    metadata.set("merges", gguf::string_array((0..300_000).map(|i| format!("left{i} right{i}"))));
    let bytes = file(&metadata, &[], 0);
    let start = Instant::now();
    let (read, _) = parse(Path::new("x.gguf"), &bytes).unwrap();
    println!("{} bytes of vocabulary in {:?}", bytes.len(), start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(read.iter().eq(metadata.iter()));
}

#[test]
fn the_writer_refuses_what_cannot_be_read_back() {
    let mut out = Vec::new();
    for (metadata, tensor) in [
        (Metadata::new(), ("five", &[1usize, 1, 1, 1, 1][..], 0, 0)),
        (Metadata::new(), ("askew", &[1], 0, 4)),
        (one_key("general.alignment", Value::U32(33)), ("a", &[1], 0, 0)),
    ] {
        out.clear();
        assert!(write_header(&metadata, &[tensor], &mut out).is_err(), "{tensor:?}");
    }
}
