//! A recipe: everything that decides the bytes of a conversion, and nothing else.
//!
//! A [`Recipe`] is read from TOML or JSON (including a record, which contains its recipe), or filled in by a program.
//! Names of passes, formats and types are just words here: [`prepare`](crate::job::prepare) looks up what they mean,
//! and whether they go together. Paths in a file are relative to it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::error::Fault;
use crate::paths::{directory_of, relative};
use crate::{Error, Result, files};

/// What a file is not that cannot be read as one.
const NOT_ONE: &str = "not a recipe";

/// Why a path cannot be in a file.
const NOT_UTF8: &str =
    "is not a UTF-8 name, which recipes and records cannot hold; rename it, or give neither `save_recipe` nor `record`";

/// What to convert, into what, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Checkpoint: a directory with config.json, a `.safetensors` file in one, or a `.gguf` file.
    #[serde(serialize_with = "as_text::one")]
    pub model: PathBuf,
    /// Quantisation type: the name of a [`FileType`](crate::plan::FileType), or `keep`. By default, the format and the
    /// passes decide.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub file_type: Option<String>,
    /// Whether every matrix gets the same type, without a file type's exceptions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pure: bool,
    /// Type of the output matrix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_type: Option<String>,
    /// Type of the token embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_type: Option<String>,
    /// Types of tensors by name; the first match wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensor_types: Vec<TensorType>,
    /// Whether a GGUF file that is already quantised is accepted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_requantize: bool,
    /// Name of the pre-tokenizer, if it is not recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre: Option<String>,
    /// The importances that errors are weighed by, where no pass has statistics of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importance: Option<Importance>,
    /// Statistics for the passes, instead of running the model: a file from a calibration that kept X^T X.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "as_text::perhaps")]
    pub stats: Option<PathBuf>,
    /// Whose outputs the next block is calibrated on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub propagate: Propagate,
    /// What is removed before anything else: `layers=LIST` or `layers=auto:N`, and shares as `ffn=25%`, `heads=50%`,
    /// `experts=25%`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Whether what stays keeps its values instead of making up for what was removed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_compensate: bool,
    /// Output format, and its options.
    #[serde(default, skip_serializing_if = "is_default")]
    pub format: Format,
    /// Calibration text.
    #[serde(default, skip_serializing_if = "is_default")]
    pub text: Text,
    /// The passes, in order. Rounding to nearest always comes last, whether named or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passes: Vec<PassSpec>,
}

/// A tensor's type by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorType {
    /// Regular expression that is searched for in the tensor's name.
    pub pattern: String,
    /// Type's name.
    #[serde(rename = "type")]
    pub name: String,
}

/// A pass and its options; options that are not set have their defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassSpec {
    /// Name of a row of [`PASSES`](crate::passes::PASSES).
    pub name: String,
    /// Options by name.
    #[serde(flatten)]
    pub options: Settings,
}

impl PassSpec {
    /// A pass with its defaults.
    pub fn new(name: &str) -> PassSpec {
        PassSpec { name: name.to_owned(), options: Settings::new() }
    }
}

/// An output format and its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Format {
    /// Name of an exporter.
    pub name: String,
    /// Options by name.
    #[serde(flatten)]
    pub options: Settings,
}

impl Default for Format {
    fn default() -> Self {
        Format { name: "gguf".to_owned(), options: Settings::new() }
    }
}

/// Options by name.
pub type Settings = BTreeMap<String, Setting>;

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    /// On or off.
    Flag(bool),
    /// A whole number.
    Count(u64),
    /// A number.
    Number(f64),
    /// A word.
    Word(String),
    /// Several.
    List(Vec<String>),
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Setting::Flag(on) => on.fmt(f),
            Setting::Count(n) => n.fmt(f),
            Setting::Number(x) => x.fmt(f),
            Setting::Word(word) => word.fmt(f),
            Setting::List(words) => words.join(", ").fmt(f),
        }
    }
}

/// The importances that errors are weighed by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Importance {
    /// A statistics file.
    File(#[serde(serialize_with = "as_text::one")] PathBuf),
    /// Statistics collected now, from the text.
    Calibrate,
}

/// Which outputs the next block is calibrated on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagate {
    /// Those of the blocks of the original model.
    #[default]
    Float,
    /// Those of the blocks as they are written.
    Quantized,
}

/// Which samples of which text a model is calibrated on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// UTF-8 text or `.jsonl` files; the embedded text if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty", serialize_with = "as_text::all")]
    pub files: Vec<PathBuf>,
    /// Tokens per sample; by default 512, or the model's context length if shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Maximum number of samples, drawn from the whole text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Seed for drawing samples.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seed: u64,
}

/// Paths as text. Bytes that are not UTF-8 are shown as `\u{FFFD}`, as in messages; [`Recipe::seen_from`] refuses such
/// paths where a file is to be read back.
mod as_text {
    use std::path::{Path, PathBuf};

    use serde::Serializer;

    pub fn one<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&path.display())
    }

    pub fn perhaps<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => one(path, to),
            None => to.serialize_none(),
        }
    }

    pub fn all<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Recipe {
    /// A recipe for a checkpoint with all defaults: GGUF, 8 bits, rounded to nearest.
    pub fn new(model: impl Into<PathBuf>) -> Recipe {
        Recipe {
            model: model.into(),
            file_type: None,
            pure: false,
            output_type: None,
            embedding_type: None,
            tensor_types: Vec::new(),
            allow_requantize: false,
            pre: None,
            importance: None,
            stats: None,
            propagate: Propagate::default(),
            remove: Vec::new(),
            no_compensate: false,
            format: Format::default(),
            text: Text::default(),
            passes: Vec::new(),
        }
    }

    /// Reads a recipe from TOML, or from JSON if the name ends in `.json`, where it may also be the record of a
    /// conversion. Relative paths in it are taken relative to the file.
    ///
    /// # Errors
    /// If the file cannot be read or is none of these; the error has line and column, or the unknown field.
    pub fn load(path: &Path) -> Result<Recipe> {
        let text = fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
        let mut recipe = match path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            true => from_json(&text).map_err(|e| Fault::json(NOT_ONE, e)),
            false => toml::from_str(&text).map_err(|e| Fault::damaged(NOT_ONE).because(e)),
        }
        .map_err(|fault| fault.of(path))?;
        let folder = directory_of(path);
        recipe.paths().into_iter().for_each(|p| *p = folder.join(&*p));
        Ok(recipe)
    }

    /// Writes it as TOML, or JSON for a name that ends in `.json`; relative paths become relative to where the file is.
    /// `replace`: whether a file that is there may be replaced.
    ///
    /// # Errors
    /// If the file cannot be written; then what was there stays.
    pub fn save(&self, path: &Path, replace: bool) -> Result<()> {
        let moved = self.seen_from(directory_of(path))?;
        let text = match path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            true => serde_json::to_string_pretty(&moved).expect("words and numbers become JSON") + "\n",
            false => moved.to_toml(),
        };
        files::write(path, "save_recipe", replace, text.as_bytes())
    }

    /// As a TOML document.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("words and numbers become TOML")
    }

    /// The same recipe, with relative paths as seen from a folder, for a file there.
    ///
    /// # Errors
    /// If the folder or the current directory cannot be found, or a path is not UTF-8, which no file could name.
    pub fn seen_from(&self, folder: &Path) -> Result<Recipe> {
        let here = std::path::absolute(".").map_err(|e| Error::io(Path::new("."), "find", e))?;
        let folder = std::path::absolute(folder).map_err(|e| Error::io(folder, "find", e))?;
        let mut moved = self.clone();
        for path in moved.paths().into_iter().filter(|p| p.is_relative()) {
            *path = relative(&here.join(&*path), &folder);
        }
        match moved.paths().into_iter().find(|p| p.to_str().is_none()) {
            Some(path) => Err(Error::conflict(["save_recipe", "record"], format!("{}: {NOT_UTF8}", path.display()))),
            None => Ok(moved),
        }
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut all: Vec<&mut PathBuf> = vec![&mut self.model];
        all.extend(&mut self.text.files);
        if let Some(Importance::File(path)) = &mut self.importance {
            all.push(path);
        }
        all.extend(&mut self.stats);
        all
    }
}

/// A recipe, or the one in a record.
fn from_json(text: &str) -> std::result::Result<Recipe, serde_json::Error> {
    let mut value: Json = serde_json::from_str(text)?;
    let recipe = match value.get_mut("recipe") {
        Some(recipe) => recipe.take(),
        None => value,
    };
    serde_json::from_value(recipe)
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use super::*;

    fn rich() -> Recipe {
        let options = [("damp", Setting::Number(0.02)), ("act_order", Setting::Word("none".to_owned()))];
        let options = options.map(|(name, value)| (name.to_owned(), value)).into();
        Recipe {
            file_type: Some("q4_k_m".to_owned()),
            pure: true,
            tensor_types: vec![TensorType { pattern: "ffn_down=x".to_owned(), name: "q8_0".to_owned() }],
            importance: Some(Importance::File("stats.gguf".into())),
            propagate: Propagate::Quantized,
            remove: vec!["layers=3,8-10".to_owned(), "ffn=25%".to_owned()],
            no_compensate: true,
            format: Format {
                name: "gptq".to_owned(),
                options: [("bits".to_owned(), Setting::Count(8)), ("sym".to_owned(), Setting::Flag(true))].into(),
            },
            text: Text { files: vec!["a.txt".into()], context: Some(64), samples: None, seed: 3 },
            passes: vec![PassSpec::new("awq"), PassSpec { name: "gptq".to_owned(), options }],
            ..Recipe::new("model")
        }
    }

    #[test]
    fn a_recipe_survives_both_kinds_of_file_and_a_record() {
        let dir = tempfile::tempdir().unwrap();
        for recipe in [Recipe::new("m"), rich()] {
            for name in ["r.toml", "r.json"] {
                let path = dir.path().join(name);
                recipe.save(&path, true).unwrap();
                let mut back = Recipe::load(&path).unwrap();
                // What was relative to here is reached from there.
                for (a, b) in back.paths().into_iter().zip(recipe.clone().paths()) {
                    assert_eq!(std::path::absolute(&*b).unwrap(), resolved(a), "{name}");
                    *a = b.clone();
                }
                assert_eq!(back, recipe, "{name}");
            }
            let record = dir.path().join("record.json");
            fs::write(&record, serde_json::json!({"kind": "convert", "recipe": recipe}).to_string()).unwrap();
            assert_eq!(Recipe::load(&record).unwrap().passes, recipe.passes);
        }
    }

    /// Without `..`.
    fn resolved(path: &Path) -> PathBuf {
        let mut out = PathBuf::new();
        for part in path.components() {
            if part == Component::ParentDir {
                out.pop();
            } else {
                out.push(part);
            }
        }
        out
    }

    #[test]
    fn what_is_not_known_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.toml");
        fs::write(&path, "model = \"m\"\nmethod = \"gptq\"\n").unwrap();
        let error = Recipe::load(&path).unwrap_err().explain();
        assert!(error.contains("r.toml") && error.contains("method") && error.contains("line 2"), "{error}");
        fs::write(&path, "type = \"q4_0\"\n").unwrap();
        assert!(Recipe::load(&path).unwrap_err().explain().contains("model"));
    }
}
