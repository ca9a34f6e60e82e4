//! Who may use whom: the table of docs/architecture.md, held against every `use` and every path in the source, tests
//! within it included; and no circle of files, in any room.

#[path = "common/sources.rs"]
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use sources::{Crate, sources};

/// Leaves, open to all.
const LEAVES: &[&str] = &["error", "watch", "memory", "paths", "files"];

/// Room -> the rooms that it may name beside the leaves, `quantizers` among them. The command line may name everything.
const MAY_USE: &[(&str, &[&str])] = &[
    ("error", &["quantizers"]),
    ("watch", &["error"]),
    ("memory", &[]),
    ("paths", &[]),
    ("files", &["error", "watch", "paths"]),
    ("recipe", &[]),
    ("options", &["recipe"]),
    ("record", &["recipe", "quantizers"]),
    ("gguf", &[]),
    ("checkpoint", &["gguf", "quantizers"]),
    ("model", &["checkpoint", "gguf"]),
    ("weights", &["checkpoint", "model", "quantizers"]),
    ("runtime", &["checkpoint", "model", "weights", "quantizers"]),
    ("text", &["checkpoint", "gguf"]),
    ("calibrate", &["runtime", "model", "checkpoint", "text", "gguf", "export", "quantizers"]),
    ("passes", &["model", "weights", "recipe", "options", "record", "quantizers"]),
    ("plan", &["model", "weights", "record", "quantizers"]),
    (
        "export",
        &["recipe", "options", "record", "plan", "model", "checkpoint", "gguf", "weights", "text", "quantizers"],
    ),
    (
        "pipeline",
        &["recipe", "record", "weights", "plan", "export", "model", "passes", "calibrate", "runtime", "quantizers"],
    ),
    (
        "job",
        &[
            "recipe",
            "options",
            "record",
            "checkpoint",
            "gguf",
            "model",
            "weights",
            "runtime",
            "text",
            "calibrate",
            "passes",
            "plan",
            "pipeline",
            "export",
            "quantizers",
        ],
    ),
    ("eval", &["runtime", "model", "checkpoint", "weights", "text", "record", "quantizers"]),
    ("main", &["cli"]),
];

fn ours() -> Crate {
    Crate::parse(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "aurora_quant")
}

/// The room that a module is in: the first part of its path; the crate's root has none.
fn room(module: &str) -> &str {
    module.split("::").nth(1).unwrap_or("lib")
}

#[test]
fn rooms_name_only_the_rooms_they_may() {
    let mut faults = Vec::new();
    for file in ours().files() {
        let own = room(&file.module);
        if own == "cli" || own == "lib" {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(r, _)| *r == own) else {
            faults.push(format!("{}: room {own} is not in the table", file.path.display()));
            continue;
        };
        for used in &file.names {
            let used = match used.as_slice() {
                [first, second, ..] if first == "crate" => second.as_str(),
                [first, ..] if first == "aurora_quantizers" => "quantizers",
                _ => continue,
            };
            let known = used == "quantizers" || used == "cli" || MAY_USE.iter().any(|(r, _)| *r == used);
            if known && used != own && !LEAVES.contains(&used) && !allowed.contains(&used) {
                faults.push(format!("{}: {own} uses {used}", file.path.display()));
            }
        }
    }
    faults.sort();
    faults.dedup();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Arrows of the table never lead back.
#[test]
fn the_table_has_no_circle() {
    let edges = MAY_USE.iter().map(|(room, used)| (*room, used.iter().copied().collect())).collect();
    assert_eq!(circles(&edges), Vec::<Vec<&str>>::new());
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    for crate_ in [ours(), Crate::parse(&Path::new(env!("CARGO_MANIFEST_DIR")).join("quantizers/src"), "quantizers")] {
        let edges = crate_.edges();
        let edges = edges.iter().map(|(a, b)| (a.as_str(), b.iter().map(String::as_str).collect())).collect();
        let found: Vec<String> = circles(&edges).iter().map(|files| files.join(", ")).collect();
        assert!(found.is_empty(), "files that use each other:\n{}", found.join("\n"));
    }
}

/// Groups of two or more nodes that all reach each other.
fn circles<'g>(edges: &BTreeMap<&'g str, BTreeSet<&'g str>>) -> Vec<Vec<&'g str>> {
    let reach = |from: &'g str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(node) = next.pop() {
            for to in edges.get(node).into_iter().flatten() {
                if seen.insert(*to) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let all: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|node| (*node, reach(node))).collect();
    let mut groups: BTreeSet<Vec<&str>> = BTreeSet::new();
    for (node, reached) in &all {
        let group: Vec<&str> =
            all.keys().copied().filter(|other| reached.contains(other) && all[other].contains(node)).collect();
        if group.len() > 1 {
            groups.insert(group);
        }
    }
    groups.into_iter().collect()
}

#[test]
fn circles_are_found() {
    let edges = |pairs: &[(&'static str, &'static str)]| {
        let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (a, b) in pairs {
            all.entry(a).or_default().insert(b);
            all.entry(b).or_default();
        }
        all
    };
    assert_eq!(circles(&edges(&[("a", "b"), ("b", "c"), ("a", "c")])), Vec::<Vec<&str>>::new());
    assert_eq!(circles(&edges(&[("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")])), [["b", "c"]]);
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
        // What a front page shows is no code of ours.
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for word in ["println!", "print!", "eprintln!", "eprint!", "std::env::var", "env::args"] {
            if code.iter().any(|line| line.contains(word)) {
                faults.push(format!("{}: {word}", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Settings stand in backticks: only the command line knows how they are typed.
#[test]
fn no_text_of_the_library_names_a_flag() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("quantizers/src"), &mut files);
    let flag = |text: &str| {
        let dashed = text.split_once("--").filter(|(before, _)| !before.ends_with(|c: char| c.is_alphanumeric()));
        dashed.is_some_and(|(_, after)| after.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    assert!(flag("leave out --pure") && flag("--pure") && !flag("a--b") && !flag("x -- y"));
    let mut faults = Vec::new();
    for file in files.iter().filter(|f| !f.starts_with(root.join("src/cli"))) {
        let text = fs::read_to_string(file).expect("source text");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        // What stands between quotation marks is every second part.
        let named = code.filter(|line| line.split('"').skip(1).step_by(2).any(flag));
        faults.extend(named.map(|line| format!("{}: {}", file.display(), line.trim())));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Files that fit in a reader's head.
#[test]
fn no_file_is_too_long() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "quantizers/src"] {
        sources(&root.join(folder), &mut files);
    }
    let mut lengths: Vec<(usize, String)> = files
        .iter()
        .map(|file| (fs::read_to_string(file).expect("source text").lines().count(), file.display().to_string()))
        .collect();
    lengths.sort();
    let (longest, name) = &lengths[lengths.len() - 1];
    assert!(*longest <= 550, "{name} has {longest} lines");
    let median = lengths[lengths.len() / 2].0;
    assert!(median <= 150, "half of the files have more than {median} lines");
}

/// One name, one meaning: no two types that a whole crate can see are called the same, in both crates together.
#[test]
fn no_two_types_share_a_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "quantizers/src"] {
        sources(&root.join(folder), &mut files);
    }
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in &files {
        let parsed = syn::parse_file(&fs::read_to_string(file).expect("source text")).expect("Rust");
        for name in parsed.items.iter().filter_map(visible_type) {
            places.entry(name).or_default().push(file.strip_prefix(root).expect("in the crate").display().to_string());
        }
    }
    assert!(places.len() > 200, "only {} types were found", places.len());
    let twice = places.iter().filter(|(_, files)| files.len() > 1);
    let twice: Vec<String> = twice.map(|(name, files)| format!("{name}: {}", files.join(", "))).collect();
    assert!(twice.is_empty(), "{}", twice.join("\n"));
}

/// The name of a type that more than its module and the one around it can see.
fn visible_type(item: &syn::Item) -> Option<String> {
    let (vis, name) = match item {
        syn::Item::Struct(item) => (&item.vis, &item.ident),
        syn::Item::Enum(item) => (&item.vis, &item.ident),
        syn::Item::Trait(item) => (&item.vis, &item.ident),
        syn::Item::Type(item) => (&item.vis, &item.ident),
        _ => return None,
    };
    let seen = match vis {
        syn::Visibility::Public(_) => true,
        syn::Visibility::Restricted(to) => to.path.is_ident("crate"),
        syn::Visibility::Inherited => false,
    };
    seen.then(|| name.to_string())
}
