//! Mutated good files: whatever is still accepted keeps the promises of [`TensorInfo`].

use std::path::Path;
use std::sync::LazyLock;

use aurora_quant::checkpoint::{TensorInfo, gguf, safetensors::parse_header};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::common::bad::Bad;

static GOOD: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let bad = Bad::unpack();
    let read = |path| std::fs::read(bad.dir.path().join(path)).unwrap();
    (read("good-hf/model.safetensors"), read("good.gguf"))
});

#[derive(Debug, Clone)]
enum Edit {
    Flip(Index, u8),
    Set(Index, u8),
    Number(Index, u64),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Truncate(Index),
}

/// Edits fall into the header: in tensor data no byte matters.
fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let number = prop_oneof![Just(0), Just(u64::MAX), Just(1 << 60), Just(1 << 31), any::<u64>(), 0..5000u64];
    let text = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..12),
        proptest::string::bytes_regex(r#"[-0-9\[\]{}",:]{1,6}"#).unwrap()
    ];
    prop_oneof![
        (at(), 0..8u8).prop_map(|(i, bit)| Edit::Flip(i, 1 << bit)),
        (at(), any::<u8>()).prop_map(|(i, b)| Edit::Set(i, b)),
        (at(), number).prop_map(|(i, n)| Edit::Number(i, n)),
        (at(), text).prop_map(|(i, b)| Edit::Insert(i, b)),
        (at(), 1..40usize).prop_map(|(i, n)| Edit::Remove(i, n)),
        at().prop_map(Edit::Truncate),
    ]
}

fn apply(bytes: &mut Vec<u8>, header: usize, edits: &[Edit]) {
    for edit in edits {
        let len = header.min(bytes.len());
        if len == 0 {
            return;
        }
        match edit {
            Edit::Flip(i, mask) => bytes[i.index(len)] ^= mask,
            Edit::Set(i, b) => bytes[i.index(len)] = *b,
            Edit::Number(i, n) => {
                let at = i.index(len);
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&n.to_le_bytes()[..end - at]);
            }
            Edit::Insert(i, new) => drop(bytes.splice(i.index(len)..i.index(len), new.iter().copied())),
            Edit::Remove(i, n) => drop(bytes.drain(i.index(len)..bytes.len().min(i.index(len) + n))),
            Edit::Truncate(i) => bytes.truncate(i.index(bytes.len())),
        }
    }
}

fn hold(tensors: &[TensorInfo], len: usize) {
    for t in tensors {
        assert!(t.range.start <= t.range.end && t.range.end <= len, "{t:?} in {len}");
        assert_eq!(t.expected_bytes(), Some(t.range.len()), "{t:?}");
    }
    let mut ranges: Vec<_> = tensors.iter().map(|t| t.range.clone()).filter(|r| !r.is_empty()).collect();
    ranges.sort_by_key(|r| r.start);
    assert!(ranges.windows(2).all(|w| w[0].end <= w[1].start), "{ranges:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn safetensors(edits in prop::collection::vec(edit(), 1..4), repair in any::<bool>()) {
        let mut bytes = GOOD.0.clone();
        let header = 8 + 1120;
        apply(&mut bytes, header, &edits);
        if repair && bytes.len() > header {
            // Else nearly every insertion is caught by the JSON ending in the wrong place.
            let grown = bytes.len() as i64 - GOOD.0.len() as i64;
            bytes[..8].copy_from_slice(&(1120 + grown).to_le_bytes());
        }
        if let Ok(tensors) = parse_header(Path::new("x"), &bytes) {
            hold(&tensors, bytes.len());
            let theirs = safetensors::SafeTensors::read_metadata(&bytes);
            prop_assert!(theirs.is_ok(), "accepted here, refused by the crate: {:?}", theirs.err());
        }
    }

    #[test]
    fn gguf_files(edits in prop::collection::vec(edit(), 1..4)) {
        let mut bytes = GOOD.1.clone();
        apply(&mut bytes, 12_384, &edits);
        if let Ok((_, tensors)) = gguf::parse(Path::new("x"), &bytes) {
            hold(&tensors, bytes.len());
        }
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_header(Path::new("x"), &bytes);
        let mut gguf_file = b"GGUF\x03\0\0\0".to_vec();
        gguf_file.extend(&bytes);
        let _ = gguf::parse(Path::new("x"), &gguf_file);
    }
}
