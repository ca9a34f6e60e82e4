//! Who may use whom: the table of docs/architecture.md, held against the `crate::` paths in the source.

use std::fs;
use std::path::{Path, PathBuf};

/// Room -> the rooms that it may name. `error` is open to all, the command line may name everything.
const MAY_USE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("watch", &[]),
    ("gguf", &[]),
    ("checkpoint", &["gguf"]),
    ("model", &["checkpoint", "gguf"]),
    ("weights", &["checkpoint", "model"]),
    ("runtime", &["checkpoint", "model", "weights"]),
    ("text", &["checkpoint", "gguf"]),
    ("plan", &["model", "weights"]),
    ("record", &["plan"]),
    ("export", &["watch", "plan", "model", "checkpoint", "gguf", "record", "weights", "text"]),
    ("passes", &["model", "record"]),
    ("pipeline", &["weights", "plan", "export", "record", "model", "passes", "calibrate", "runtime", "watch"]),
    ("calibrate", &["runtime", "model", "checkpoint", "text", "gguf", "export", "watch"]),
    ("eval", &["runtime", "model", "checkpoint", "weights", "text", "record", "watch"]),
    ("lib", &[]),
    ("main", &["cli"]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The part before `#[cfg(test)]`: tests may reach anywhere.
fn product_code(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn rooms_name_only_the_rooms_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let src = root.join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let all: Vec<&str> = MAY_USE.iter().map(|(room, _)| *room).chain(["cli"]).collect();
    let mut faults = Vec::new();
    for file in &files {
        let relative = file.strip_prefix(&src).expect("below src");
        let room = relative.components().next().expect("a name").as_os_str().to_string_lossy().replace(".rs", "");
        if room == "cli" {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(r, _)| *r == room) else {
            faults.push(format!("{}: room {room} is not in the table", relative.display()));
            continue;
        };
        let text = fs::read_to_string(file).expect("source text");
        for (number, line) in product_code(&text).lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if all.contains(&used.as_str()) && used != room && used != "error" && !allowed.contains(&used.as_str())
                {
                    faults.push(format!("{}:{}: {room} uses {used}", relative.display(), number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn only_the_command_line_prints_or_reads_the_environment() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("quantizers/src"), &mut files);
    let mut faults = Vec::new();
    for file in files.iter().filter(|f| !f.starts_with(root.join("src/cli"))) {
        let text = fs::read_to_string(file).expect("source text");
        for word in ["println!", "print!", "eprintln!", "eprint!", "std::env::var", "env::args"] {
            if product_code(&text).contains(word) {
                faults.push(format!("{}: {word}", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
