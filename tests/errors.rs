//! Every kind of error, provoked from outside: what a program that uses the library matches on, and that whatever
//! lies below is kept.

mod common;

use std::error::Error as _;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aurora_quant::checkpoint;
use aurora_quant::error::{Error, Misfit, Quantity, Within};
use aurora_quant::job::{self, Destination};
use aurora_quant::model::{Opened, ParamId};
use aurora_quant::recipe::{Importance, PassSpec, Recipe, Setting, TensorType};
use aurora_quant::record::{Record, RunRecord};
use aurora_quant::text::{ChatTemplate, Message};
use aurora_quant::watch::{Unwatched, Watch};
use aurora_quant::weights::{Edit, Edits, Scale, Weights};
use aurora_quantizers::NumError;
use common::conversion::{json, model};
use tempfile::TempDir;

/// A copy of stories260k.
struct Copy(TempDir);

impl Copy {
    fn new() -> Copy {
        let dir = TempDir::new().unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"] {
            fs::copy(model("stories260k").join(name), dir.path().join(name)).unwrap();
        }
        Copy(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn recipe(&self) -> Recipe {
        Recipe { file_type: Some("q8_0".to_owned()), ..Recipe::new(self.0.path()) }
    }

    fn error(&self) -> Error {
        refused(&self.recipe())
    }

    /// The same with other settings.
    fn with(&self, change: impl FnOnce(&mut Recipe)) -> Recipe {
        let mut recipe = self.recipe();
        change(&mut recipe);
        recipe
    }

    /// Changes config.json.
    fn configure(&self, key: &str, value: serde_json::Value) {
        let mut config = json(&self.path("config.json"));
        config[key] = value;
        fs::write(self.path("config.json"), config.to_string()).unwrap();
    }

    /// Changes the first number of a tensor.
    fn poison(&self, tensor: &str, value: f32) {
        let source = checkpoint::open(self.0.path()).unwrap();
        let at = source.find(tensor).unwrap().range.start;
        drop(source);
        let mut bytes = fs::read(self.path("model.safetensors")).unwrap();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(self.path("model.safetensors"), bytes).unwrap();
    }

    fn run(&self, recipe: &Recipe, watch: &dyn Watch) -> Result<RunRecord, Error> {
        let to = Destination { path: Some(self.path("out.gguf")), ..Destination::default() };
        job::prepare(recipe).unwrap().run(&to, watch)
    }

    fn failed(&self, recipe: &Recipe) -> Error {
        let error = self.run(recipe, &Unwatched).expect_err("it fails");
        assert!(!self.path("out.gguf").exists(), "{error:?}");
        error
    }
}

fn refused(recipe: &Recipe) -> Error {
    job::prepare(recipe).err().expect("it is refused")
}

fn gptq(recipe: &mut Recipe) {
    recipe.passes = vec![PassSpec::new("gptq")];
    (recipe.text.context, recipe.text.samples) = (Some(64), Some(2));
}

const DOWN: &str = "model.layers.0.mlp.down_proj.weight";

/// Matches or shows the error.
macro_rules! is {
    ($error:expr, $pattern:pat $(if $guard:expr)?) => {
        let error = $error;
        assert!(matches!(&error, $pattern $(if $guard)?), "{error:?}");
    };
}

#[test]
fn files_that_are_missing_cut_short_or_damaged() {
    let absent = Path::new("no/such/model");
    is!(refused(&Recipe::new(absent)), Error::NotFound { path, missing, source: Some(e), .. }
        if path == absent && missing == &[absent] && e.kind() == io::ErrorKind::NotFound);
    let copy = Copy::new();
    fs::remove_file(copy.path("config.json")).unwrap();
    is!(copy.error(), Error::NotFound { missing, source: None, .. } if missing == &[copy.path("config.json")]);
    let copy = Copy::new();
    let index = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
    fs::write(copy.path("model.safetensors.index.json"), index).unwrap();
    is!(copy.error(), Error::NotFound { missing, .. }
        if missing == &[copy.path("one.safetensors"), copy.path("two.safetensors")]);

    let copy = Copy::new();
    let weights = fs::read(copy.path("model.safetensors")).unwrap();
    fs::write(copy.path("model.safetensors"), &weights[..weights.len() - 100]).unwrap();
    is!(copy.error(), Error::Truncated { path, within: Within::Tensor(_), .. }
        if path == &copy.path("model.safetensors"));
    fs::write(copy.path("model.safetensors"), &weights[..5]).unwrap();
    is!(copy.error(), Error::Truncated { within: Within::File, .. });
    let copy = Copy::new();
    fs::write(copy.path("config.json"), r#"{"hidden_size": "#).unwrap();
    is!(copy.error(), Error::Truncated { source: Some(e), .. } if e.is::<serde_json::Error>());

    let copy = Copy::new();
    copy.configure("hidden_size", "wide".into());
    is!(copy.error(), Error::Damaged { path, within: Within::Key(key), .. }
        if path == &copy.path("config.json") && key == "hidden_size");
    fs::write(copy.path("config.json"), "{\"hidden_size\": }").unwrap();
    is!(copy.error(), Error::Damaged { source: Some(e), .. } if e.is::<serde_json::Error>());
    let named = copy.path("x.gguf");
    fs::write(&named, "not a model at all").unwrap();
    is!(refused(&Recipe::new(&named)), Error::Damaged { path, within: Within::File, .. } if path == &named);
}

#[test]
fn what_is_sound_but_not_read_here() {
    let copy = Copy::new();
    copy.configure("architectures", serde_json::json!(["MambaForCausalLM"]));
    is!(copy.error(), Error::Unsupported { path: Some(_), within: Within::Key(key), .. } if key == "architectures");
    let copy = Copy::new();
    let named = copy.path("x.gguf");
    fs::write(&named, [b"GGUF".as_slice(), &9_u32.to_le_bytes(), &[0; 16]].concat()).unwrap();
    is!(refused(&Recipe::new(&named)), Error::Unsupported { within: Within::File, .. });
}

#[test]
fn tensors_that_do_not_fit_come_all_at_once() {
    let copy = Copy::new();
    copy.configure("intermediate_size", 100.into());
    is!(copy.error(), Error::Tensors { faults, .. } if faults.iter().any(|f| f.tensor == DOWN
        && f.misfit == Misfit::Shape { found: vec![64, 172], needed: vec![64, 100] }) && faults.len() == 15);
    let copy = Copy::new();
    copy.configure("num_hidden_layers", 6.into());
    let missing = |tensor: &str| tensor.starts_with("model.layers.5.");
    is!(copy.error(), Error::Tensors { faults, .. }
        if faults.iter().all(|f| f.misfit == Misfit::Missing && missing(&f.tensor)) && faults.len() == 9);
    let copy = Copy::new();
    copy.configure("num_hidden_layers", 4.into());
    is!(copy.error(), Error::Tensors { faults, .. }
        if faults.iter().all(|f| f.misfit == Misfit::Unexpected) && faults.len() == 9);
}

#[test]
fn settings_by_name() {
    let copy = Copy::new();
    is!(refused(&copy.with(|r| r.file_type = Some("q9".to_owned()))), Error::Setting { setting, value, .. }
        if setting == "type" && value == "q9");
    is!(refused(&copy.with(|r| r.output_type = Some("q9".to_owned()))), Error::Setting { setting, .. }
        if setting == "output_type");
    let damp = |value| {
        let mut pass = PassSpec::new("gptq");
        pass.options.insert("damp".to_owned(), value);
        copy.with(|r| r.passes = vec![pass])
    };
    is!(refused(&damp(Setting::Number(7.0))), Error::Setting { setting, value, .. }
        if setting == "damp" && value == "7");
    let pattern = TensorType { pattern: "(".to_owned(), name: "q8_0".to_owned() };
    is!(refused(&copy.with(|r| r.tensor_types = vec![pattern])), Error::Setting { setting, source: Some(e), .. }
        if setting == "tensor_types" && e.is::<regex::Error>());
    is!(refused(&copy.with(|r| r.stats = Some("x.gguf".into()))), Error::Conflict { settings, .. }
        if settings == &["stats", "method"]);
    is!(refused(&copy.with(|r| {
        gptq(r);
        r.importance = Some(Importance::Calibrate);
    })), Error::Conflict { settings, .. } if settings.iter().any(|s| s == "importance.calibrate"));
}

#[test]
fn numbers() {
    let copy = Copy::new();
    copy.poison(DOWN, f32::NAN);
    is!(copy.failed(&copy.recipe()), Error::NotFinite { path: Some(_), tensor, of: Quantity::Weights, source, .. }
        if tensor.contains(DOWN) && source == &Some(NumError::NotFinite { nan: 1, inf: 0, first: 0 }));
    let copy = Copy::new();
    copy.poison("model.norm.weight", f32::MAX);
    copy.poison("model.layers.0.input_layernorm.weight", f32::MAX);
    is!(copy.failed(&copy.with(gptq)), Error::NotFinite { of: Quantity::Activations, .. });
    let copy = Copy::new();
    copy.poison(DOWN, 1e6);
    is!(copy.failed(&copy.with(|r| r.file_type = Some("f16".to_owned()))), Error::Numbers { tensor, source, .. }
        if tensor.contains(DOWN) && matches!(source, Some(NumError::NotRepresentable { found: 1e6, .. })));
}

#[test]
fn texts() {
    let copy = Copy::new();
    let text = copy.path("text.txt");
    fs::write(&text, "Once upon a time").unwrap();
    is!(
        refused(&copy.with(|r| {
            gptq(r);
            r.text.files = vec![text];
        })),
        Error::TooShort { found: 5, needed: 64, .. }
    );
    let refusing = ChatTemplate::new("{{ raise_exception('Ask another') }}", "", "").unwrap();
    let error = refusing.render(&[Message::new("user", "Hi")], true).unwrap_err();
    assert!(error.explain().ends_with("line 1: Ask another"), "{}", error.explain());
    is!(error, Error::Text { source: Some(_), .. });
}

/// Makes a file longer whenever it is asked anything, or stops.
struct Meddler(Option<PathBuf>);

impl Watch for Meddler {
    fn go_on(&self) -> Result<(), Error> {
        let Some(path) = &self.0 else { return Err(Error::Interrupted) };
        fs::OpenOptions::new().append(true).open(path).unwrap().write_all(&[0]).unwrap();
        Ok(())
    }
}

#[test]
fn runs_that_end_early() {
    let copy = Copy::new();
    is!(copy.run(&copy.recipe(), &Meddler(None)).unwrap_err(), Error::Interrupted);
    // Longer, so that nothing that is mapped goes away.
    let weights = copy.path("model.safetensors");
    is!(copy.run(&copy.recipe(), &Meddler(Some(weights.clone()))).unwrap_err(), Error::Changed { path, .. }
        if path == &weights);
    let copy = Copy::new();
    fs::write(copy.path("out.gguf"), "precious").unwrap();
    is!(copy.run(&copy.recipe(), &Unwatched).unwrap_err(), Error::Exists { path, replaceable: true, .. }
        if path == &copy.path("out.gguf"));
    let opened = Opened::open(copy.0.path()).unwrap();
    let weights = Weights::bind(opened.source.as_ref(), &opened.model.graph).unwrap();
    let mut edits = Edits::new();
    edits.push(ParamId(0), None, Edit::Scale(Scale::of_cols(vec![1.0])));
    is!(weights.edited(&edits).err().unwrap(), Error::Bug { .. });
}

#[test]
fn what_the_system_refuses_comes_by_its_reason() {
    let path = Path::new("x");
    let io = |kind: io::ErrorKind| Error::io(path, "write", kind.into());
    is!(io(io::ErrorKind::NotFound), Error::NotFound { .. });
    is!(io(io::ErrorKind::PermissionDenied), Error::Denied { .. });
    is!(io(io::ErrorKind::ReadOnlyFilesystem), Error::Denied { .. });
    is!(io(io::ErrorKind::StorageFull), Error::DiskFull { .. });
    is!(io(io::ErrorKind::QuotaExceeded), Error::DiskFull { .. });
    is!(io(io::ErrorKind::InvalidData), Error::Damaged { .. });
    is!(io(io::ErrorKind::Interrupted), Error::Io { .. });
    let threads = Error::resources("start 4 threads", io::Error::from(io::ErrorKind::WouldBlock));
    assert!(threads.source().is_some());
    is!(threads, Error::Resources { doing, .. } if doing == "start 4 threads");
    let dir = TempDir::new().unwrap();
    is!(Recipe::load(dir.path()).unwrap_err(), Error::Io { source, .. }
        if source.kind() == io::ErrorKind::IsADirectory);
    #[cfg(target_os = "linux")]
    {
        // A device is not replaced, whoever asks.
        is!(Recipe::new("m").save(Path::new("/dev/full"), true).unwrap_err(), Error::Exists { replaceable: false, .. });
        // Nobody can make files in sysfs, not even root.
        if Path::new("/sys/kernel").is_dir() {
            is!(Recipe::new("m").save(Path::new("/sys/x.toml"), false).unwrap_err(), Error::Denied { .. });
        }
    }
}

/// Whatever lies below an error is its source, and the whole story tells it once.
#[test]
fn sources_are_kept_and_told_once() {
    let copy = Copy::new();
    let at = |name: &str, text: &str| {
        fs::write(copy.path(name), text).unwrap();
        copy.path(name)
    };
    let fails: [(&str, Error); 8] = [
        ("io", Recipe::load(Path::new("no/such.toml")).unwrap_err()),
        ("io", refused(&Recipe::new("no/such/model"))),
        ("toml", Recipe::load(&at("r.toml", "model = 1")).unwrap_err()),
        ("json", Recipe::load(&at("r.json", "{]")).unwrap_err()),
        ("json", Record::load(&at("record.json", "{}")).unwrap_err()),
        ("utf8", Recipe::load(&latin(&copy)).unwrap_err()),
        ("json", copy_with(&copy, "config.json", "{,}").error()),
        ("regex", {
            let pattern = TensorType { pattern: "[".to_owned(), name: "q8_0".to_owned() };
            refused(&Recipe { tensor_types: vec![pattern], ..copy.recipe() })
        }),
    ];
    for (kind, error) in fails {
        let source = error.source().unwrap_or_else(|| panic!("{kind}: {error:?} has no source"));
        let right = match kind {
            "io" | "utf8" => source.is::<io::Error>(),
            "toml" => source.is::<toml::de::Error>(),
            "json" => source.is::<serde_json::Error>(),
            _ => source.is::<regex::Error>(),
        };
        assert!(right, "{kind}: {source:?}");
        let (own, below, whole) = (error.to_string(), source.to_string(), error.explain());
        assert!(!own.contains(below.trim_end()), "{own}");
        // What may follow is what to try.
        let rest = whole.strip_prefix(&format!("{own}: {}", below.trim_end())).unwrap_or_else(|| panic!("{whole}"));
        assert!(rest.is_empty() || rest.starts_with("; "), "{whole}");
    }
}

fn latin(copy: &Copy) -> PathBuf {
    fs::write(copy.path("latin.toml"), b"model = \"caf\xe9\"").unwrap();
    copy.path("latin.toml")
}

fn copy_with<'c>(copy: &'c Copy, name: &str, text: &str) -> &'c Copy {
    fs::write(copy.path(name), text).unwrap();
    copy
}
