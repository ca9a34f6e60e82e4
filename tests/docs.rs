//! What the documents list is what the tables hold. `UPDATE_DOCS=1 cargo test --test docs` writes it there.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use aurora_quant::checkpoint::Config;
use aurora_quant::checkpoint::config::HfConfig;
use aurora_quant::model::{self, ARCHS, Model, Role};
use aurora_quant::plan::{FILE_TYPES, FileType, Plan, Rules};
use aurora_quantizers::formats::FORMATS;
use aurora_quantizers::grid::Levels;
use aurora_quantizers::{Encoders, Scales};

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

/// The shape whose sizes people compare: Llama 3.1 8B.
fn llama_8b() -> Model {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072, "rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": false,
    });
    let map = config.as_object().unwrap().clone();
    model::describe(&Config::HuggingFace(HfConfig { path: "config.json".into(), map }), &|_| true).unwrap()
}

fn plan(model: &Model, file_type: &'static FileType) -> Plan {
    let rules =
        Rules { file_type, pure: false, calibrated: false, output: None, embedding: None, overrides: Vec::new() };
    Plan::new(model, &rules).unwrap()
}

// One test, because its parts rewrite the same file.
#[test]
fn the_readme_lists_the_formats_and_architectures() {
    let mut made = String::from("| `--type` | bits per weight | what it is |\n|---|---|---|\n");
    for t in FILE_TYPES {
        let bits = plan(&llama_8b(), t).bits_per_weight();
        writeln!(made, "| `{}` | {} | {} |", t.name, (bits * 100.0).round() / 100.0, t.about).unwrap();
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

/// What a block of each type holds, found out from one.
#[test]
fn the_table_of_types_is_the_formats() {
    let mut made =
        String::from("| type | bits per weight | block | weights per scale | levels | offset | scales by |\n");
    made.push_str("|---|---|---|---|---|---|---|\n");
    for format in FORMATS {
        let (Some(blocks), spec) = (format.blocks(), format.spec()) else { continue };
        // Far from zero, so that an offset is used if there can be one.
        let weights: Vec<f32> = (0..spec.block).map(|i| 1.0 + i as f32 / 1024.0).collect();
        let (mut bytes, mut codes) = (vec![0; spec.bytes], vec![0; spec.block]);
        format.encode(&weights, Scales::Search(None), &mut bytes);
        let grid = blocks.unpack(&bytes, &mut codes);
        let levels = match grid.levels {
            Levels::Linear { min, max } => format!("{min} to {max}"),
            Levels::Table(table) => format!("{} uneven, {} to {}", table.len(), table[0], table[table.len() - 1]),
        };
        let offset = if grid.offset.iter().any(|v| *v != 0.0) { "yes" } else { "" };
        let scales = match blocks.encoders() {
            Encoders::Both => "search or formula",
            Encoders::Reference => "formula",
            Encoders::Search => "search",
        };
        let (bits, group) = (spec.bits_per_weight(), grid.group_len);
        let cells = format!("{} | {bits} | {} | {group} | {levels} | {offset} | {scales}", spec.name, spec.block);
        writeln!(made, "| {cells} |").unwrap();
    }
    compare("docs/formats.md", Some("types"), &made);
}

/// Which format each kind of matrix has in a file: one, or several with the number of blocks.
#[test]
fn the_table_of_mixtures_is_the_plan() {
    let model = llama_8b();
    let columns = [
        ("output", &[Role::Output][..]),
        ("embedding", &[Role::Embedding]),
        ("value", &[Role::AttnV]),
        ("attention output", &[Role::AttnOut]),
        ("down", &[Role::FfnDown]),
        ("query, key, gate, up", &[Role::AttnQ, Role::AttnK, Role::FfnGate, Role::FfnUp]),
    ];
    let names = columns.map(|(name, _)| name).join(" | ");
    let mut made = format!("| `--type` | bits per weight | {names} |\n|---|---{}|\n", "|---".repeat(columns.len()));
    for t in FILE_TYPES.iter().filter(|t| t.base().spec().block > 1) {
        let plan = plan(&model, t);
        write!(made, "| `{}` | {:.2} ", t.name, plan.bits_per_weight()).unwrap();
        for (_, roles) in columns {
            let mut found: Vec<(&str, usize)> = Vec::new();
            for (planned, _) in plan
                .tensors
                .iter()
                .zip(&model.graph.params)
                .filter(|(_, p)| roles.contains(&p.role) && p.shape.len() > 1)
            {
                match found.iter_mut().find(|(name, _)| *name == planned.spec().name) {
                    Some((_, n)) => *n += 1,
                    None => found.push((planned.spec().name, 1)),
                }
            }
            found.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
            let cell = match found[..] {
                [(name, _)] => name.to_owned(),
                _ => found.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", "),
            };
            write!(made, "| {cell} ").unwrap();
        }
        made.push_str("|\n");
    }
    compare("docs/formats.md", Some("mixtures"), &made);
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
