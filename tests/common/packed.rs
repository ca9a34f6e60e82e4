//! The fixtures with their weights unpacked. The repository holds the larger weights as `.xz` (they are random numbers,
//! which no other way makes smaller); tests and people want folders that look like any checkpoint.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// `tests/fixtures` as it is meant to be read: a copy below cargo's folder for temporary files, brought up to date once
/// per program.
pub fn unpacked() -> &'static Path {
    static DONE: OnceLock<PathBuf> = OnceLock::new();
    DONE.get_or_init(|| {
        let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixtures");
        update(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"), &to);
        to
    })
}

/// Makes `to` hold what `from` holds. A file is taken to be the same if it has the time of the one that it was made
/// from.
fn update(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut kept = Vec::new();
    for entry in fs::read_dir(from).unwrap() {
        let source = entry.unwrap().path();
        let packed = source.extension().is_some_and(|e| e == "xz") && !source.ends_with("bad.tar.xz");
        let target = to.join(if packed { source.file_stem() } else { source.file_name() }.unwrap());
        kept.push(target.clone());
        if source.is_dir() {
            update(&source, &target);
            continue;
        }
        let time = source.metadata().unwrap().modified().unwrap();
        if target.metadata().is_ok_and(|m| m.modified().unwrap() == time) {
            continue;
        }
        // Whole or not at all: other test programs may be looking for the same file.
        let mut new = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut file = File::open(&source).unwrap();
        if packed {
            io::copy(&mut lzma_rust2::XzReader::new(io::BufReader::new(file), false), &mut new).unwrap();
        } else {
            io::copy(&mut file, &mut new).unwrap();
        }
        new.as_file().set_modified(time).unwrap();
        new.persist(&target).unwrap();
    }
    for entry in fs::read_dir(to).unwrap() {
        let path = entry.unwrap().path();
        if !kept.contains(&path) {
            // Left over from another state of the repository.
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}
