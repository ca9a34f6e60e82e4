//! The texts that come with the program, held against their manifest and against each other.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("calibration-data")
}

/// One table of the manifest: a text, or a part of one.
#[derive(Default)]
struct Entry {
    /// `heldout`, `[heldout.part]`: what stands between the outer brackets.
    table: String,
    /// Keys and values as written, strings without quotes.
    values: Vec<(String, String)>,
}

impl Entry {
    fn get(&self, key: &str) -> &str {
        let found = self.values.iter().find(|(k, _)| k == key);
        found.map(|(_, v)| v.as_str()).unwrap_or_else(|| panic!("[{}]: no {key}", self.table))
    }
}

fn manifest() -> Vec<Entry> {
    let text = fs::read_to_string(folder().join("manifest.toml")).unwrap();
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        if let Some((key, value)) = line.split_once(" = ") {
            let value = value.trim_matches(['"', '\'']).to_owned();
            entries.last_mut().expect("a table first").values.push((key.to_owned(), value));
        } else {
            let table = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')).unwrap_or_else(|| panic!("{line}"));
            entries.push(Entry { table: table.to_owned(), values: Vec::new() });
        }
    }
    entries
}

fn hash(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Parts of a text: kind, and where it is.
fn parts(entries: &[Entry], name: &str) -> Vec<(String, std::ops::Range<usize>)> {
    let of = entries.iter().filter(|e| e.table == format!("[{name}.part]"));
    of.map(|e| {
        let (start, length) = e.get("bytes").trim_matches(['[', ']']).split_once(", ").expect("start and length");
        let (start, length): (usize, usize) = (start.parse().unwrap(), length.parse().unwrap());
        (e.get("kind").to_owned(), start..start + length)
    })
    .collect()
}

#[test]
fn every_part_is_what_the_manifest_says_and_nothing_lies_between() {
    let entries = manifest();
    for name in ["heldout", "mix"] {
        let text = fs::read(folder().join(format!("{name}.txt"))).unwrap();
        let whole = entries.iter().find(|e| e.table == name).expect("a table of the text");
        assert_eq!(whole.get("file"), format!("{name}.txt"));
        assert_eq!(whole.get("bytes"), text.len().to_string());
        assert_eq!(whole.get("sha256"), hash(&text));
        assert_eq!(whole.get("calibrate"), if name == "mix" { "true" } else { "false" });
        let mut end = 0;
        let of = entries.iter().filter(|e| e.table == format!("[{name}.part]"));
        for (entry, (_, range)) in of.zip(parts(&entries, name)) {
            let part = entry.get("name");
            assert!(!entry.get("licence").is_empty() && !entry.get("source").is_empty(), "{part}");
            let between = std::str::from_utf8(&text[end..range.start]).expect("whole characters");
            assert!(between.trim().is_empty(), "{part}: {between:?} before it");
            assert_eq!(entry.get("sha256"), hash(&text[range.clone()]), "{part}");
            std::str::from_utf8(&text[range.clone()]).unwrap_or_else(|e| panic!("{part}: {e}"));
            end = range.end;
        }
        assert!(text[end..].iter().all(u8::is_ascii_whitespace), "{name}: a part is missing at the end");
    }
}

#[test]
fn nothing_held_out_is_calibrated_on() {
    // Runs of white space count as one blank, so that another line width hides nothing.
    let squeezed = |name: &str| {
        let text = fs::read_to_string(folder().join(name)).unwrap();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    const RUN: usize = 50;
    let (heldout, mix) = (squeezed("heldout.txt"), squeezed("mix.txt"));
    let runs: HashSet<&[u8]> = heldout.as_bytes().windows(RUN).collect();
    if let Some(at) = mix.as_bytes().windows(RUN).position(|run| runs.contains(run)) {
        panic!("in both texts: {:?}", String::from_utf8_lossy(&mix.as_bytes()[at..at + RUN]));
    }
}

#[test]
fn a_quarter_of_the_mix_has_every_kind_of_text() {
    // Calibration often takes less than the whole. Languages count as one kind here: there are eighteen.
    let parts = parts(&manifest(), "mix");
    let kind = |k: &str| match k.strip_prefix("prose, ") {
        Some(language) if language != "English" => "prose, not English".to_owned(),
        _ => k.to_owned(),
    };
    let whole = parts.last().expect("parts").1.end;
    let all: HashSet<String> = parts.iter().map(|(k, _)| kind(k)).collect();
    let early: HashSet<String> = parts.iter().filter(|(_, r)| r.end < whole / 4).map(|(k, _)| kind(k)).collect();
    let single = |k: &String| parts.iter().filter(|(p, _)| kind(p) == *k).count() == 1;
    let missing: Vec<_> = all.difference(&early).filter(|k| !single(k)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(parts.iter().all(|(_, r)| r.len() <= 16 << 10), "parts are short, so that kinds alternate");
}
