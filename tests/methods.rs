//! The README's table of methods: made by `UPDATE_DOCS=1 cargo test --release --test methods -- --ignored`, which takes
//! some minutes. Everything in it is measured on the written files by the released program.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;
use tempfile::TempDir;

/// What stands in the first column, and the options behind it.
const METHODS: &[(&str, &[&str])] = &[
    ("RTN", &["--method", "rtn"]),
    ("RTN, `--calibrate`", &["--method", "rtn", "--calibrate", "--samples", "128", "--context", "256"]),
    ("GPTQ", &["--method", "gptq", "--context", "256"]),
    ("AWQ", &["--method", "awq", "--context", "256"]),
    ("AWQ+GPTQ", &["--method", "awq+gptq", "--context", "256"]),
];

const TYPES: &[(&str, &str)] = &[("Q4_K", "q4_k_s"), ("Q3_K", "q3_k_s"), ("Q4_0", "q4_0")];

fn aurora(arguments: &[&str], paths: &[&Path]) -> Json {
    let done = Command::new(env!("CARGO_BIN_EXE_aurora-quant"))
        .args(["--json", "-q"])
        .args(arguments)
        .args(paths)
        .output()
        .expect("the binary starts");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("a JSON document")
}

fn number(v: &Json) -> f64 {
    v.as_f64().unwrap_or_else(|| panic!("{v} is a number"))
}

/// Today, as the README names it.
fn date() -> String {
    let done = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().expect("date");
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[test]
#[ignore = "takes minutes and prints times: only to make the README's table"]
fn the_readme_compares_the_methods() {
    let dir = TempDir::new().unwrap();
    let model: PathBuf = common::fixtures().join("models/bookworm-8m");
    let out = dir.path().join("out.gguf");
    let mut table = String::from(
        "| type | method | bytes | bits per weight | perplexity | KL divergence | same top token | seconds | peak memory | \
         tokens/s |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let score = |of: &Path| {
        let reference = model.to_str().unwrap();
        aurora(&["eval", "--context", "256", "--chunks", "100", "--reference", reference], &[of])
    };
    let speed = |of: &Path| {
        let bench = aurora(&["bench", "-p", "0", "-n", "128", "-r", "5"], &[of]);
        number(&bench["generate_tokens_per_second"]["median"])
    };
    let bytes = fs::metadata(model.join("model.safetensors")).unwrap().len();
    let found = score(&model);
    let perplexity = number(&found["perplexity"]["value"]);
    writeln!(table, "| BF16 | checkpoint | {bytes} | 16.00 | {perplexity:.2} | | | | | {:.0} |", speed(&model))
        .unwrap();
    for (name, file_type) in TYPES {
        for (method, options) in METHODS {
            let fixed = ["convert", "--force", "--pure", "--embedding-type", "q8_0", "--output-type", "q8_0"];
            let given = ["--type", file_type, "-o", out.to_str().unwrap()];
            let record = aurora(&[&fixed[..], options, &given].concat(), &[&model]);
            let found = score(&out);
            let d = &found["divergence"];
            writeln!(
                table,
                "| {name} | {method} | {} | {:.2} | {:.2} | {:.5} | {:.2} % | {:.1} | {:.0} MB | {:.0} |",
                record["file_bytes"],
                number(&record["bits_per_weight"]),
                number(&found["perplexity"]["value"]),
                number(&d["kl"]["value"]),
                100.0 * number(&d["same_top"]["value"]),
                number(&record["seconds"]),
                number(&record["peak_memory_bytes"]) / 1e6,
                speed(&out),
            )
            .unwrap();
        }
    }
    let made = format!("Measured {}, {} threads.\n\n{table}", date(), std::thread::available_parallelism().unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(&path).unwrap();
    let start = text.find("<!-- methods -->\n").expect("a section") + "<!-- methods -->\n".len();
    let end = start + text[start..].find("<!-- end -->").expect("an end of the section");
    println!("{made}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{}{made}{}", &text[..start], &text[end..])).unwrap();
    }
}
