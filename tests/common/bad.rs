//! Hostile inputs, unpacked: shared by the tests of the readers and of the binary.

use std::path::PathBuf;

use serde::Deserialize;
use tempfile::TempDir;

/// One input and what a good program does with it.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// Name, unique.
    pub id: String,
    /// `hf`, `lora` or `gguf`.
    pub kind: String,
    /// Directory or file inside the fixture.
    pub path: String,
    /// `ok`, `error`, `error_or_warning` or `error_or_ok`.
    pub expect: String,
    /// Words that a good message contains, in any case.
    pub mention: Vec<String>,
    /// What is wrong with the input.
    pub fault: String,
}

/// `tests/fixtures/bad.tar.xz`, unpacked into a directory that goes when this value does.
pub struct Bad {
    /// Keeps the directory.
    pub dir: TempDir,
    /// All cases of its cases.json.
    pub cases: Vec<Case>,
}

impl Bad {
    /// Unpacks the fixture.
    pub fn unpack() -> Bad {
        #[derive(Deserialize)]
        struct Cases {
            cases: Vec<Case>,
        }
        let packed = include_bytes!("../fixtures/bad.tar.xz");
        let dir = tempfile::tempdir().unwrap();
        let stream = lzma_rust2::XzReader::new(&packed[..], false);
        tar::Archive::new(stream).unpack(dir.path()).unwrap();
        let json = std::fs::read(dir.path().join("cases.json")).unwrap();
        let Cases { cases } = serde_json::from_slice(&json).unwrap();
        assert!(cases.len() > 90, "{} cases", cases.len());
        Bad { dir, cases }
    }

    /// Where the case's input lies.
    pub fn path(&self, case: &Case) -> PathBuf {
        self.dir.path().join(&case.path)
    }

    /// The case called `id`.
    pub fn case(&self, id: &str) -> &Case {
        self.cases.iter().find(|c| c.id == id).unwrap_or_else(|| panic!("no case {id}"))
    }
}
