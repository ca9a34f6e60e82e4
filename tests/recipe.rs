//! Recipes and records through the real binary and the library: whatever says what a conversion is gives the same
//! bytes.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use aurora_quant::eval::Evaluation;
use aurora_quant::job::{self, Destination};
use aurora_quant::recipe::Recipe;
use aurora_quant::record::Record;
use aurora_quant::watch::Unwatched;
use common::binary::{aurora, good, printed, refused};
use common::conversion::model;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn sha256(path: &Path) -> String {
    format!("{:x}", Sha256::digest(fs::read(path).unwrap()))
}

/// Flags, the recipe that they save, and the record of the run, in TOML and JSON, from other directories.
#[test]
fn flags_recipes_and_records_give_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("recipes")).unwrap();
    let eval = common::fixtures().join("eval/eval.txt");
    fs::copy(&eval, at("eval.txt")).unwrap();
    let own = text(&at("eval.txt")).to_owned();
    let imatrix = at("stats.gguf");
    good(&["calibrate", text(&model("tiny-llama3")), "--text", &own, "--context", "32", "-o", text(&imatrix), "-q"]);
    for (i, flags) in [
        &[
            "--type",
            "q4_0",
            "--method",
            "awq+gptq",
            "--damp",
            "0.02",
            "--grid",
            "4",
            "--context",
            "32",
            "--samples",
            "4",
        ][..],
        &["--type", "q4_k_m", "--tensor-type", "ffn_down=q8_0", "--codes", "nearest"],
        &["--imatrix", text(&imatrix), "--type", "q2_k_s"],
        &["--format", "gptq", "--group-size", "32", "--asym"],
    ]
    .into_iter()
    .enumerate()
    {
        let names = ["first", "recipes/r.toml", "recipes/r.json", "recipes/record.json"];
        let [first, toml, json, record] = names.map(|name| {
            let path = at(name);
            path.with_file_name(format!("{i}-{}", path.file_name().unwrap().to_str().unwrap()))
        });
        let whole = model("tiny-llama3");
        let method = flags.contains(&"--method");
        let with_text: &[&str] = if method { &["--text", &own] } else { &[] };
        let asked = [&["convert", text(&whole), "-q", "-o", text(&first)], flags, with_text].concat();
        good(&[&asked[..], &["--save-recipe", text(&toml), "--record", text(&record)]].concat());
        good(&[&asked[..], &["--save-recipe", text(&json), "--dry-run"]].concat());
        let written = |path: &Path| match path.is_dir() {
            true => fs::read(path.join("model.safetensors")).unwrap(),
            false => fs::read(path).unwrap(),
        };
        for recipe in [&toml, &json, &record] {
            let again = at(&format!("again-{i}-{}", recipe.file_name().unwrap().to_str().unwrap()));
            good(&["convert", "--recipe", text(recipe), "-q", "-o", text(&again)]);
            assert!(written(&first) == written(&again), "{flags:?}: {}", recipe.display());
        }
        // Flags count more.
        let other = at(&format!("other-{i}"));
        if !flags.contains(&"--format") {
            good(&["convert", "--recipe", text(&toml), "--type", "q8_0", "-q", "-o", text(&other)]);
            assert!(written(&first) != written(&other));
        }
    }
}

#[test]
fn a_record_has_the_hashes_of_all_files_and_is_read_back() {
    let dir = TempDir::new().unwrap();
    let (out, path) = (dir.path().join("out.gguf"), dir.path().join("record.json"));
    let own = dir.path().join("own.txt");
    fs::copy(common::fixtures().join("eval/eval.txt"), &own).unwrap();
    let source = model("stories260k");
    let calibrated = ["--calibrate", "--context", "32", "--samples", "2", "--text", text(&own)];
    good(&[&["convert", text(&source), "-q", "-o", text(&out), "--record", text(&path)], &calibrated[..]].concat());
    let Record::Convert(record) = Record::load(&path).unwrap() else { panic!("of a conversion") };
    let [written] = &record.outputs[..] else { panic!("{:?}", record.outputs) };
    assert_eq!((written.sha256.as_str(), written.bytes), (sha256(&out).as_str(), fs::metadata(&out).unwrap().len()));
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        let file = source.join(name);
        let of_it = record.inputs.iter().find(|f| f.path == text(&file)).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(of_it.sha256, sha256(&file), "{name}");
    }
    assert!(record.inputs.iter().any(|f| f.path == text(&own) && f.sha256 == sha256(&own)));
    let json: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!((&json["kind"], &json["schema"]), (&"convert".into(), &2.into()));
    // Other kinds name themselves, too.
    let eval = printed(&["eval", text(&out), "--chunks", "1", "--context", "32", "--json"]);
    assert!(matches!(serde_json::from_str(&eval).unwrap(), Record::Eval(_)));
}

#[test]
fn what_a_recipe_gets_wrong_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("r.toml");
    let source = model("stories260k");
    let of = |more: &str| {
        fs::write(&path, format!("model = {:?}\n{more}", text(&source))).unwrap();
        refused(&["convert", "--recipe", text(&path), "-o", text(&dir.path().join("out"))])
    };
    for (more, words) in [
        ("tpye = \"q4_0\"", &["r.toml", "tpye", "line 2"][..]),
        ("type = \"q4_7\"", &["q4_7", "q4_k_m"]),
        ("[[passes]]\nname = \"gptk\"", &["gptk", "gptq"]),
        ("[[passes]]\nname = \"gptq\"\ndmap = 0.1", &["gptq", "dmap", "damp"]),
        ("[[passes]]\nname = \"gptq\"\ndamp = 2", &["damp", "at most 1"]),
        ("[format]\nname = \"gguf\"\nbits = 4", &["--bits", "--format"]),
        ("[format]\nname = \"onnx\"", &["onnx", "gguf"]),
        ("[text]\nsamples = 3", &["--samples", "--calibrate"]),
    ] {
        let said = of(more);
        assert!(words.iter().all(|w| said.contains(w)), "{more}: {said}");
    }
    let said = refused(&["convert", "--recipe", text(&dir.path().join("gone.toml"))]);
    assert!(said.contains("gone.toml"), "{said}");
    // An option without its pass.
    let said = refused(&["convert", text(&source), "--damp", "0.1", "-o", "x"]);
    assert!(said.contains("--damp") && said.contains("gptq"), "{said}");
}

/// What stands beside an output is checked before the work, as the output is, and replaced only if that is allowed.
#[test]
fn records_and_recipes_are_checked_before_the_work() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (out, file, source) = (at("out.gguf"), at("beside.json"), model("stories260k"));
    for flag in ["--record", "--save-recipe"] {
        let asked = |path: &Path, more: &[&str]| {
            let words = ["convert", text(&source), "-q", "-o", text(&out), flag, text(path)];
            [&words, more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let refused = |path: &Path, more: &[&str], words: &[&str]| {
            let asked = asked(path, more);
            let said = refused(&asked.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(words.iter().all(|word| said.contains(word)), "{flag} {}: {said}", path.display());
            assert!(!out.exists(), "{flag} {}", path.display());
        };
        refused(&at("no/such/file.json"), &[], &["no/such", "does not exist"]);
        refused(dir.path(), &["--force"], &["is a directory", flag]);
        refused(&out, &[], &["out.gguf", "is named by -o and by", flag]);
        refused(&dir.path().join("..").join(dir.path().file_name().unwrap()).join("out.gguf"), &[], &["-o", flag]);
        #[cfg(target_os = "linux")]
        refused(Path::new("/proc/file.json"), &[], &["create a file"]);
        fs::write(&file, "precious").unwrap();
        refused(&file, &[], &["exists", "--force", flag]);
        refused(&file, &["--dry-run"], &["exists", "--force", flag]);
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        good(&asked(&file, &["--force"]).iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(Recipe::load(&file).unwrap().format.name, "gguf");
        fs::remove_file(&out).unwrap();
    }
    fs::remove_file(&file).unwrap();
    let both = ["--record", text(&file), "--save-recipe", text(&file)];
    let said = refused(&[&["convert", text(&source), "-o", text(&out)], &both[..]].concat());
    assert!(said.contains("is named by --save-recipe and by --record"), "{said}");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}

/// A recipe that cannot be run is not saved, and so is none whose run has nowhere to write.
#[test]
fn a_run_that_fails_leaves_no_recipe() {
    let dir = TempDir::new().unwrap();
    let (out, file) = (dir.path().join("out.gguf"), dir.path().join("r.toml"));
    let source = model("stories260k");
    let asked = ["convert", text(&source), "-o", text(&out), "--save-recipe", text(&file)];
    for more in [&["--bits", "4"][..], &["--tensor-type", "no_such_tensor=q8_0"], &["--imatrix", "no-such-file"]] {
        refused(&[&asked[..], more].concat());
        assert!(!file.exists(), "{more:?}");
    }
    fs::write(&out, "precious").unwrap();
    assert!(refused(&asked).contains("out.gguf"));
    assert!(!file.exists() && fs::read(&out).unwrap() == b"precious");
}

/// What a program writes is what the command line writes; what it measures, too.
#[test]
fn the_library_does_what_the_command_line_does() {
    let dir = TempDir::new().unwrap();
    let [by_flags, by_program] = ["a.gguf", "b.gguf"].map(|name| dir.path().join(name));
    let source = model("stories260k");
    good(&["convert", text(&source), "-q", "-o", text(&by_flags)]);
    let to = Destination { path: Some(by_program.clone()), ..Destination::default() };
    let record = job::prepare(&Recipe::new(&source)).unwrap().run(&to, &Unwatched).unwrap();
    assert!(fs::read(&by_flags).unwrap() == fs::read(&by_program).unwrap());
    assert_eq!(record.file_bytes, fs::metadata(&by_program).unwrap().len());
    let evaluation = Evaluation { chunks: Some(2), context: Some(32), ..Evaluation::new(&by_program) };
    let scores = evaluation.run(&Unwatched).unwrap();
    let printed = printed(&["eval", text(&by_program), "--chunks", "2", "--context", "32", "--json"]);
    let printed: Json = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed["perplexity"]["value"].as_f64().unwrap(), scores.perplexity.value);
}

/// Everything that is wrong is found before a calibration, which may take an hour.
#[test]
fn faults_are_found_before_any_work() {
    let dir = TempDir::new().unwrap();
    let source = model("tiny-llama3");
    let out: PathBuf = dir.path().join("out.gguf");
    let asked = ["convert", text(&source), "--method", "gptq", "-o", text(&out)];
    for (more, word) in [
        (&["--pre", "no-such-thing"][..], "no-such-thing"),
        (&["--text", "no-such-file.txt"], "no-such-file.txt"),
        (&["--context", "100000"], "100000"),
        (&["--tensor-type", "no_such_tensor=q8_0"], "no_such_tensor"),
    ] {
        let done = common::binary::run(&[&asked[..], more].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains(word) && !said.contains("block 0"), "{more:?}: {said}");
        assert!(!out.exists());
    }
}

/// Bytes that are not UTF-8 are a name like any other on Unix; only a file of settings cannot say it.
#[cfg(target_os = "linux")]
#[test]
fn folders_whose_names_are_not_utf8_are_read_and_written() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let dir = TempDir::new().unwrap();
    let at = |name: &[u8]| dir.path().join(OsStr::from_bytes(name));
    let (odd, out, plain) = (at(b"caf\xe9"), at(b"o\xff.gguf"), at(b"plain.gguf"));
    fs::create_dir(&odd).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model("stories260k").join(file), odd.join(file)).unwrap();
    }
    let run = |more: &[&OsStr]| aurora().arg("convert").arg(&odd).args(more).output().unwrap();
    let done = run(&["--json".as_ref(), "-o".as_ref(), out.as_ref()]);
    let record: Json = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(record["recipe"]["model"], *odd.to_string_lossy());
    // Sources with one name give one file.
    let same = at("caf\u{fffd}".as_bytes());
    fs::rename(&odd, &same).unwrap();
    good(&["convert", text(&same), "-q", "-o", text(&plain)]);
    assert_eq!(sha256(&out), sha256(&plain));
    fs::rename(&same, &odd).unwrap();
    for flag in ["--record", "--save-recipe"] {
        let beside = at(b"r.json");
        let said = run(&["-o".as_ref(), at(b"never.gguf").as_ref(), flag.as_ref(), beside.as_ref()]);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("caf\u{fffd}") && said.contains("not a UTF-8 name") && said.contains(flag), "{said}");
        assert!(!beside.exists() && !at(b"never.gguf").exists());
    }
}
