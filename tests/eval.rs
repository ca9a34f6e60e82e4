//! The real binary's figures beside those that llama-perplexity gave for the same files (`fixtures/eval/README.md`).

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value as Json;
use tempfile::TempDir;

fn model(name: &str) -> PathBuf {
    common::fixtures().join("models").join(name)
}

fn text() -> PathBuf {
    common::fixtures().join("eval/eval.txt")
}

fn recorded(name: &str) -> Json {
    serde_json::from_slice(&fs::read(common::fixtures().join("eval").join(name)).unwrap()).unwrap()
}

fn aurora(arguments: &[&str], paths: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurora-quant"));
    let (name, more) = arguments.split_first().expect("a subcommand");
    command.arg(name).args(paths).args(more).output().expect("the binary starts")
}

fn convert(dir: &TempDir, name: &str, file_type: &str) -> PathBuf {
    let path = dir.path().join(format!("{name}-{file_type}.gguf"));
    let out = path.to_str().unwrap();
    let more = ["--pure", "--scales", "reference"]; // as when the figures were recorded
    let done = aurora(&[&["convert", "-q", "--type", file_type, "-o", out][..], &more].concat(), &[&model(name)]);
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
    path
}

/// `eval --json` on the fixture text in chunks of 64 tokens.
fn eval(path: &Path, more: &[&str]) -> Json {
    let text = text();
    let options = ["eval", "--json", "-q", "--context", "64", "--text", text.to_str().unwrap()];
    let done = aurora(&[&options, more].concat(), &[path]);
    assert!(done.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("a JSON document")
}

fn fails(arguments: &[&str], paths: &[&Path]) -> String {
    let done = aurora(arguments, paths);
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

fn number(v: &Json) -> f64 {
    v.as_f64().unwrap_or_else(|| panic!("{v} is a number"))
}

/// Whether `ours` lies within a share of `theirs`, or within half of the last digit that they print.
fn near(ours: f64, theirs: f64, share: f64, digit: f64) -> bool {
    (ours - theirs).abs() <= share * theirs.abs() + 0.5 * digit
}

#[test]
fn perplexity_of_every_checkpoint_is_that_of_transformers_and_llama_perplexity() {
    for row in recorded("ppl.json")["models"].as_array().unwrap() {
        let name = row["model"].as_str().unwrap();
        let found = eval(&model(name), &["--exact"]);
        assert_eq!((&found["tokens_scored"], &found["chunks"]), (&row["scored"], &row["chunks"]), "{name}");
        let ppl = number(&found["perplexity"]["value"]);
        assert!(near(ppl, number(&row["ppl_transformers_f32"]), 1e-5, 0.0), "{name}: {ppl} {row}");
        assert!(near(ppl, number(&row["ppl_llama_perplexity"]), 0.002, 1e-4), "{name}: {ppl} {row}");
    }
}

/// Weights alone, as llama.cpp sees them when they are stored as F32 again: formulas and positions must agree.
#[test]
fn figures_of_rounded_weights_are_those_of_llama_perplexity() {
    for (name, rows) in recorded("llama.json").as_object().unwrap() {
        let dir = TempDir::new().unwrap();
        let reference = model(name);
        let more = ["--exact", "--reference", reference.to_str().unwrap()];
        for file_type in ["q8_0", "q4_0"] {
            let found = eval(&convert(&dir, name, file_type), &more);
            let (d, row) = (&found["divergence"], &rows[format!("{file_type} exact")]);
            let check = |what: &str, ours: &Json, theirs: &Json, share: f64, digit: f64| {
                let (ours, theirs) = (number(ours), number(theirs));
                assert!(near(ours, theirs, share, digit), "{name} {file_type} {what}: {ours}, llama.cpp {theirs}");
            };
            check("perplexity", &found["perplexity"]["value"], &row["ppl"][0], 2e-4, 1e-6);
            check("its error", &found["perplexity"]["error"], &row["ppl"][1], 1e-3, 1e-6);
            check("KL", &d["kl"]["value"], &row["kl"][0], 2e-3, 2e-6);
            check("its error", &d["kl"]["error"], &row["kl"][1], 0.01, 2e-6);
            check("median KL", &d["kl_quantiles"]["median"], &row["kl_median"], 0.01, 2e-6);
            check("99 % KL", &d["kl_quantiles"]["p99"], &row["kl_p99"], 0.01, 2e-6);
            check("largest KL", &d["kl_quantiles"]["max"], &row["kl_max"], 0.01, 2e-6);
            check("mean shift", &d["dp"]["value"], &row["dp"][0], 0.01, 2e-5);
            check("RMS shift", &d["dp_rms"]["value"], &row["dp_rms"][0], 0.01, 2e-5);
            check("its error", &d["dp_rms"]["error"], &row["dp_rms"][1], 0.02, 2e-5);
            // GELU comes from a table of halves there: a few of 700 positions may change hands.
            check("same top", &d["same_top"]["value"], &row["same_top"][0], 0.005, 1e-5);
        }
    }
}

/// Activations rounded to 8 bits as well. Both programs round to the same steps, but sums in another order put some
/// values on the other side of a step, and from there on the errors of the two are independent. At Q8_0 such errors
/// move the NLL of a token by about sqrt(2 * 0.0013) = 0.05 (0.0013: what they add to the KL divergence), so over 700
/// tokens the perplexities of two programs differ by 0.05 * sqrt(2 / 700) = 0.27 % at one standard deviation. Hence 0.5
/// % here, and 5 % and two standard errors for the divergence.
#[test]
fn figures_of_files_are_those_of_llama_perplexity() {
    for (name, rows) in recorded("llama.json").as_object().unwrap() {
        let dir = TempDir::new().unwrap();
        let reference = model(name);
        let more = ["--reference", reference.to_str().unwrap()];
        for (file_type, share) in [("f32", 0.0005), ("f16", 0.002), ("q8_0", 0.005), ("q4_0", 0.005)] {
            let found = eval(&convert(&dir, name, file_type), &more);
            let (ppl, theirs) = (number(&found["perplexity"]["value"]), &rows[file_type]["ppl"]);
            assert!(near(ppl, number(&theirs[0]), share, 1e-4), "{name} {file_type}: {ppl}, llama.cpp {theirs}");
            let (kl, theirs) = (number(&found["divergence"]["kl"]["value"]), &rows[file_type]["kl"]);
            match file_type {
                "f32" => assert!(kl < 1e-9, "{name} f32: KL {kl}"),
                // There activations are rounded to halves; here they are not.
                "f16" => assert!(kl <= number(&theirs[0]) + 1e-6, "{name} f16: KL {kl}, llama.cpp {theirs}"),
                _ => {
                    let digit = 2.0 * number(&theirs[1]);
                    assert!(
                        near(kl, number(&theirs[0]), 0.05, digit),
                        "{name} {file_type}: KL {kl}, llama.cpp {theirs}"
                    );
                }
            }
        }
    }
}

/// A trained model, on which errors of rounding are what they are in larger ones: 0.2 % of the perplexity, 5 % of the
/// divergence. The noise explained above is less: over 3072 tokens, at a divergence of 0.0001 of rounded activations,
/// it is sqrt(2 * 0.0001) * sqrt(2 / 3072) = 0.04 % at one standard deviation.
#[test]
fn figures_of_a_trained_model_are_those_of_llama_perplexity() {
    let recorded = recorded("bookworm.json");
    let rows = &recorded["bookworm-8m"];
    let dir = TempDir::new().unwrap();
    let reference = model("bookworm-8m");
    let heldout = Path::new(env!("CARGO_MANIFEST_DIR")).join("calibration-data/heldout.txt");
    for file_type in ["f32", "f16", "q8_0", "q4_0"] {
        let file = convert(&dir, "bookworm-8m", file_type);
        let arguments = ["eval", "--json", "-q", "--context", "256", "--chunks", "24"];
        let text = ["--text", heldout.to_str().unwrap()];
        let beside = if file_type == "f32" { &[][..] } else { &["--reference", reference.to_str().unwrap()] };
        let done = aurora(&[&arguments[..], &text, beside].concat(), &[&file]);
        assert!(done.status.success(), "{file_type}: {}", String::from_utf8_lossy(&done.stderr));
        let found: Json = serde_json::from_slice(&done.stdout).unwrap();
        let (ppl, theirs) = (number(&found["perplexity"]["value"]), number(&rows[file_type]["ppl"][0]));
        assert!(near(ppl, theirs, 0.002, 1e-4), "{file_type}: perplexity {ppl}, llama.cpp {theirs}");
        if file_type != "f32" {
            let (kl, theirs) = (number(&found["divergence"]["kl"]["value"]), number(&rows[file_type]["kl"][0]));
            assert!(near(kl, theirs, 0.05, 2e-6), "{file_type}: KL {kl}, llama.cpp {theirs}");
        }
    }
}

#[test]
fn a_model_is_at_no_distance_from_itself() {
    for name in ["stories260k", "tiny-mixtral"] {
        let path = model(name);
        let d = eval(&path, &["--chunks", "3", "--reference", path.to_str().unwrap()])["divergence"].clone();
        assert_eq!(number(&d["kl_quantiles"]["max"]), 0.0);
        assert_eq!(number(&d["same_top"]["value"]), 1.0);
        assert_eq!(number(&d["dp_rms"]["value"]), 0.0);
        assert_eq!(number(&d["perplexity_ratio"]["value"]), 1.0);
        assert!(number(&d["perplexity_ratio"]["error"]) < 1e-9);
    }
}

#[test]
fn figures_do_not_depend_on_the_number_of_threads() {
    let dir = TempDir::new().unwrap();
    let path = convert(&dir, "stories260k", "q4_0");
    let reference = model("stories260k");
    let with = |threads: &str| {
        let more = ["--chunks", "4", "--threads", threads, "--reference", reference.to_str().unwrap()];
        let found = eval(&path, &more);
        (found["perplexity"].clone(), found["divergence"].clone())
    };
    let one = with("1");
    for threads in ["2", "3", "7"] {
        assert_eq!(one, with(threads), "{threads} threads");
    }
}

#[test]
fn logits_are_saved_in_the_layout_of_llama_perplexity() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("base.dat");
    let found = eval(&model("stories260k"), &["--chunks", "2", "--save-logits", path.to_str().unwrap()]);
    let bytes = fs::read(&path).unwrap();
    let int = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!((&bytes[..8], int(8), int(12), int(16)), (&b"_logits_"[..], 64, 512, 2));
    let row = 8 + 2 * 512;
    let rows = &bytes[20 + 4 * 128..];
    assert_eq!(rows.len(), 2 * 31 * row);
    // The file alone gives the perplexity back, up to its 16 bits.
    let mut nll = 0.0;
    for i in 0..62 {
        let float = |at: usize| f32::from_le_bytes(rows[i * row + at..][..4].try_into().unwrap());
        let target = int(20 + 4 * (i / 31 * 64 + 32 + i % 31 + 1));
        let code = u16::from_le_bytes(rows[i * row + 8 + 2 * target..][..2].try_into().unwrap());
        nll -= f64::from(float(4) + float(0) * f32::from(code)) / 62.0;
    }
    assert!((nll - number(&found["nll"]["value"])).abs() < 1e-3, "{nll} {}", found["nll"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn what_cannot_be_scored_is_said_in_one_line() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let stories = model("stories260k");
    let (empty, short) = (path("empty.txt", b"\n\n"), path("short.txt", b"Once upon a time"));
    let latin = path("latin.txt", b"caf\xe9");
    let error = fails(&["eval", "--text", &empty], &[&stories]);
    assert!(error.contains("empty.txt: the text is empty"), "{error}");
    let error = fails(&["eval", "--text", &short], &[&stories]);
    assert!(error.contains("the text has 5 tokens, but one chunk of --context 512 needs 512"), "{error}");
    assert!(error.contains("use a longer text, or --context 5 or less"), "{error}");
    let error = fails(&["eval", "--text", &latin], &[&stories]);
    assert!(error.contains("not UTF-8 text: byte 3"), "{error}");
    let error = fails(&["eval", "--context", "100000"], &[&stories]);
    assert!(error.contains("a context of 100000 tokens") && error.contains("512"), "{error}");
    let error = fails(&["eval", "--context", "3"], &[&stories]);
    assert!(error.contains("--context 3: scoring needs at least 4 tokens"), "{error}");
    let other = model("tiny-llama3");
    let error = fails(&["eval", "--reference", other.to_str().unwrap()], &[&stories]);
    assert!(error.contains("splits the text into different tokens") && error.contains("same vocabulary"), "{error}");
    let error = fails(&["bench", "-p", "0", "-n", "0"], &[&stories]);
    assert!(error.contains("nothing to measure"), "{error}");
    let error = fails(&["bench", "-n", "300", "--no-kv-cache"], &[&stories]);
    assert!(error.contains("would compute 45150 tokens"), "{error}");
}

#[test]
fn a_file_that_is_written_to_meanwhile_is_an_error() {
    let dir = TempDir::new().unwrap();
    let path = convert(&dir, "stories260k", "f16");
    let mut child = Command::new(env!("CARGO_BIN_EXE_aurora-quant"))
        .args(["eval", "-q", "--context", "64", "--text"])
        .args([&text(), &path])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    let start = std::time::SystemTime::UNIX_EPOCH;
    for second in 0.. {
        // Another time at every look, so that it does not matter when the file is opened.
        file.set_modified(start + std::time::Duration::from_secs(second)).unwrap();
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let out = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{error}");
    assert!(error.contains("was written to while it was in use"), "{error}");
}

/// The file is cut while it is mapped; the run must end with a message, not with a signal.
#[cfg(target_os = "linux")]
#[test]
fn a_file_cut_short_under_us_is_explained() {
    let dir = TempDir::new().unwrap();
    let file = convert(&dir, "tiny-llama3", "f32");
    let mut child = Command::new(env!("CARGO_BIN_EXE_aurora-quant"))
        .args(["bench", "--threads", "1", "-p", "64", "-n", "0", "-r", "1000000", "--json"])
        .arg(&file)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Until it runs, and has mapped the file: then its memory shows.
    let maps = format!("/proc/{}/maps", child.id());
    let name = file.file_name().unwrap().to_str().unwrap();
    while !fs::read_to_string(&maps).unwrap_or_default().contains(name) {
        assert!(child.try_wait().unwrap().is_none(), "it runs for long");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(20_000).unwrap();
    let done = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{error}");
    // Which of them says so is a matter of when it happened: while it ran, or still while it opened the file.
    let explained = ["was truncated", "needs", "changed while it was opened"].iter().any(|what| error.contains(what));
    assert!(explained, "{error}");
    let json: Json = serde_json::from_slice(&done.stdout).expect("a JSON document");
    assert!(json["error"].is_string());
}

#[test]
fn bench_measures_what_it_says() {
    let dir = TempDir::new().unwrap();
    let path = convert(&dir, "stories260k", "q8_0");
    for more in [&[][..], &["--no-kv-cache"], &["--attention", "naive"], &["--cache-type", "f32", "--exact"]] {
        let options = ["bench", "--json", "-q", "-p", "32", "-n", "8", "-r", "3"];
        let done = aurora(&[&options, more].concat(), &[&path]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let found: Json = serde_json::from_slice(&done.stdout).unwrap();
        for key in ["prompt_tokens_per_second", "generate_tokens_per_second", "first_token_seconds"] {
            let [min, median, max] = ["min", "median", "max"].map(|k| number(&found[key][k]));
            assert!(0.0 < min && min <= median && median <= max, "{key}: {}", found[key]);
        }
        assert_eq!(number(&found["file_bytes"]), fs::metadata(&path).unwrap().len() as f64);
        if more != ["--no-kv-cache"] {
            let bytes = number(&found["bytes_per_token"]);
            assert!(0.5 < bytes / number(&found["file_bytes"]) && bytes < 1.2 * number(&found["file_bytes"]));
        }
    }
}
