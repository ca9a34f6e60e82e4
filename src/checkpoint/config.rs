//! What a checkpoint says about itself: config.json of a Hugging Face directory, or the header of a GGUF file.
//!
//! The common shape of the two is [`crate::model::Hyper`]; here are only the raw keys, with accessors whose errors
//! name the file, the key, what was found and what was needed.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::{json, mmap};
use crate::error::{Fault, printable};
use crate::gguf::{Metadata, Value};
use crate::{Error, Result};

/// Configuration as the source has it.
#[derive(Debug, Clone)]
pub enum Config {
    /// config.json.
    HuggingFace(HfConfig),
    /// The keys of a GGUF header.
    Gguf(GgufConfig),
}

/// config.json: an object, and the path to blame.
#[derive(Debug, Clone)]
pub struct HfConfig {
    /// The file, for errors.
    pub path: PathBuf,
    /// Its keys. Those of a nested `text_config` are found too, see [`HfConfig::get`].
    pub map: Map<String, Json>,
}

/// The keys of a GGUF header, and the path to blame.
#[derive(Debug, Clone)]
pub struct GgufConfig {
    /// The file, for errors.
    pub path: PathBuf,
    /// All keys in file order.
    pub metadata: Metadata,
}

/// config.json's name.
const CONFIG: &str = "config.json";
/// Published files have a few kilobytes. A generic JSON value takes up to forty times the memory of its text.
const MAX_JSON: usize = 2 << 20;

/// Reads a file that must be one JSON object. A byte order mark is skipped.
///
/// # Errors
/// If it is not there, is no regular file, is empty, is too large, or is not a JSON object: with line and column.
pub(super) fn read_json_object(path: &Path) -> Result<Map<String, Json>> {
    match read_json(path, MAX_JSON)? {
        Json::Object(object) => Ok(object),
        _ => Err(Fault::damaged("must be a JSON object, found another JSON value").of(path)),
    }
}

/// Reads a JSON file of at most `limit` bytes. A byte order mark is skipped.
///
/// # Errors
/// If it is not there, is no regular file, is empty, is too large, or is not such JSON: with line and column.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path, limit: usize) -> Result<T> {
    let bytes = mmap::read_whole(path, limit)?;
    if json::unmarked(&bytes).trim_ascii().is_empty() {
        let what = "the file is empty, needed a JSON object; download or copy it again";
        return Err(Fault::truncated(what).of(path));
    }
    json::parse(&bytes).map_err(|fault| fault.of(path))
}

impl HfConfig {
    /// Reads config.json in `dir`.
    ///
    /// # Errors
    /// If it is not there or is not one JSON object.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        if matches!(path.try_exists(), Ok(false)) {
            let what = format!("{CONFIG} not found; a safetensors checkpoint needs it in the same folder");
            return Err(Error::missing(dir, vec![path], what));
        }
        let map = read_json_object(&path)?;
        Ok(HfConfig { path, map })
    }

    /// Reads config.json in `dir`; if there is none, it counts as empty: a file of tensors can be looked at without.
    ///
    /// # Errors
    /// If it is there and is not one JSON object.
    pub fn beside(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        if matches!(path.try_exists(), Ok(false)) {
            return Ok(HfConfig { path, map: Map::new() });
        }
        HfConfig::open(dir)
    }

    /// An error if there is no config.json, which [`HfConfig::beside`] lets pass.
    ///
    /// # Errors
    /// As [`HfConfig::open`] gives it.
    pub fn require(&self) -> Result<()> {
        match (self.map.is_empty(), self.path.parent()) {
            (true, Some(dir)) => HfConfig::open(dir).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// The value of `key`; one inside `text_config` (models with a vision part) wins over the top level.
    /// JSON null counts as absent.
    pub fn get(&self, key: &str) -> Option<&Json> {
        let text = self.map.get("text_config").and_then(Json::as_object);
        text.and_then(|t| t.get(key)).or_else(|| self.map.get(key)).filter(|v| !v.is_null())
    }

    /// An error about `key`.
    pub fn error(&self, key: &str, what: impl Into<Fault>) -> Error {
        what.into().of_key(&self.path, key)
    }

    /// An error about `key`, which asks for something that is not read or run.
    pub fn unsupported(&self, key: &str, what: impl Into<String>) -> Error {
        self.error(key, Fault::unsupported(what))
    }

    fn typed<'a, T>(&'a self, key: &str, need: &str, read: impl Fn(&'a Json) -> Option<T>) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => match read(v) {
                Some(t) => Ok(Some(t)),
                None => Err(self.error(key, format!("must be {need}, found {}", printable(&v.to_string())))),
            },
        }
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "missing; the model's shape cannot be known without it"))
    }

    /// A positive integer, if present.
    pub fn opt_size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a positive integer", |v| {
            v.as_u64().filter(|&n| n > 0 && n <= u64::from(u32::MAX)).map(|n| n as usize)
        })
    }

    /// A positive integer.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.required(key, self.opt_size(key)?)
    }

    /// A finite number, if present.
    pub fn opt_number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<f64> {
        self.required(key, self.opt_number(key)?)
    }

    /// A flag, if present.
    pub fn opt_flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Json::as_bool)
    }

    /// A string, if present.
    pub fn opt_text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Json::as_str)
    }

    /// An object, if present.
    pub fn opt_object(&self, key: &str) -> Result<Option<&Map<String, Json>>> {
        self.typed(key, "an object", Json::as_object)
    }
}

impl GgufConfig {
    /// An error about `key`.
    pub fn error(&self, key: &str, what: impl Into<Fault>) -> Error {
        what.into().of_key(&self.path, key)
    }

    /// An error about `key`, which asks for something that is not read or run.
    pub fn unsupported(&self, key: &str, what: impl Into<String>) -> Error {
        self.error(key, Fault::unsupported(what))
    }

    fn typed<'a, T>(&'a self, key: &str, need: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(v) => match read(v) {
                Some(t) => Ok(Some(t)),
                None => {
                    Err(self.error(key, format!("must be {need}, found {}", printable(&v.to_string_representation()))))
                }
            },
        }
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "missing; the model's shape cannot be known without it"))
    }

    /// A positive integer of any width, if present.
    pub fn opt_size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a positive integer", |v| {
            let n = v.as_u64().or_else(|| v.as_i64().and_then(|n| u64::try_from(n).ok()))?;
            (n > 0 && n <= u64::from(u32::MAX)).then_some(n as usize)
        })
    }

    /// A positive integer.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.required(key, self.opt_size(key)?)
    }

    /// A finite number, if present.
    pub fn opt_number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<f64> {
        self.required(key, self.opt_number(key)?)
    }

    /// A flag, if present.
    pub fn opt_flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string, if present.
    pub fn opt_text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.required(key, self.opt_text(key)?)
    }
}

impl Config {
    /// The file to blame.
    pub fn path(&self) -> &Path {
        match self {
            Config::HuggingFace(c) => &c.path,
            Config::Gguf(c) => &c.path,
        }
    }
}
