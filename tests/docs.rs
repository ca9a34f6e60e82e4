//! What the documents list is what the tables hold. `UPDATE_DOCS=1 cargo test --test docs` writes it there.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use aurora_quant::model::ARCHS;
use aurora_quant::plan::FILE_TYPES;

/// Holds `made` against the document, or against its text between `<!-- section -->` and `<!-- end -->`.
fn compare(name: &str, section: Option<&str>, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let range = match section {
        None => 0..text.len(),
        Some(section) => {
            let start = format!("<!-- {section} -->\n");
            let from = text.find(&start).unwrap_or_else(|| panic!("{name}: no section {section}")) + start.len();
            from..from + text[from..].find("<!-- end -->").expect("an end of the section")
        }
    };
    if text[range.clone()] == *made {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_DOCS").is_some(),
        "{name} is out of date; run UPDATE_DOCS=1 cargo test --test docs"
    );
    let mut new = text.clone();
    new.replace_range(range, made);
    fs::write(&path, new).unwrap();
}

// One test, because its parts rewrite the same file.
#[test]
fn the_readme_lists_the_formats_and_architectures() {
    let mut made = String::from("| `--type` | bits per weight | what it is |\n|---|---|---|\n");
    for t in FILE_TYPES {
        writeln!(made, "| `{}` | {} | {} |", t.name, t.format().spec().bits_per_weight(), t.about).unwrap();
    }
    compare("README.md", Some("formats"), &made);
    let mut made = String::from("| architecture | `architectures` in config.json | in GGUF |\n|---|---|---|\n");
    for a in ARCHS {
        let classes: Vec<_> =
            a.hf.iter().filter(|c| c.starts_with(char::is_uppercase)).map(|c| format!("`{c}`")).collect();
        writeln!(made, "| {} | {} | `{}` |", a.title, classes.join(", "), a.gguf).unwrap();
    }
    compare("README.md", Some("architectures"), &made);
}

#[test]
fn the_command_reference_is_the_help() {
    let mut made = String::from("# Commands\n\nWhat `aurora-quant help COMMAND` prints.\n");
    let mut root = aurora_quant::cli::definition().term_width(100);
    root.build();
    let mut show = |command: &mut clap::Command| {
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
        let help = command.render_long_help().to_string();
        let help: Vec<_> = help.lines().map(str::trim_end).collect();
        write!(made, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()).unwrap();
    };
    show(&mut root);
    for command in root.get_subcommands_mut().filter(|c| c.get_name() != "help") {
        show(command);
    }
    compare("docs/cli.md", None, &made);
}
