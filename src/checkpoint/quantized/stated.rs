//! What a checkpoint states of its quantised weights: `quantization_config` of config.json, or a quantiser's own file.

use std::path::PathBuf;

use serde_json::{Map, Value as Json};

use crate::checkpoint::config::{HfConfig, read_json_object};
use crate::error::{Fault, printable};
use crate::{Error, Result};

/// Keys of config.json under which it may be, the usual one first.
const KEYS: [&str; 2] = ["quantization_config", "compression_config"];

/// Where MLX has its settings. It writes a copy as `quantization_config`, which names no method.
const MLX: &str = "quantization";

/// Files that quantisers write beside config.json, and the method that they mean where they do not say.
const FILES: [(&str, &str); 3] =
    [("quantize_config.json", "gptq"), ("quant_config.json", "awq"), ("hf_quant_config.json", "modelopt")];

/// AutoRound's names for itself; what it writes is in the layout of another method.
const AUTO_ROUND: [&str; 2] = ["auto-round", "intel/auto-round"];

/// Settings, and where they stand.
#[derive(Debug, Clone)]
pub struct Stated {
    path: PathBuf,
    /// What their keys are put behind in errors: `quantization_config.`, or nothing.
    prefix: String,
    implied: Option<&'static str>,
    map: Map<String, Json>,
}

impl Stated {
    /// What a checkpoint states, if it states anything.
    ///
    /// # Errors
    /// If it is not a JSON object.
    pub fn of(config: &HfConfig) -> Result<Option<Stated>> {
        if let Some(Json::Object(map)) = config.get(MLX) {
            let (path, map) = (config.path.clone(), map.clone());
            return Ok(Some(Stated { path, prefix: format!("{MLX}."), implied: Some("mlx"), map }));
        }
        for key in KEYS {
            match config.get(key) {
                None => {}
                Some(Json::Object(map)) => {
                    let (path, map) = (config.path.clone(), map.clone());
                    return Ok(Some(Stated { path, prefix: format!("{key}."), implied: None, map }));
                }
                Some(other) => {
                    let what = format!("must be an object, found {}", printable(&other.to_string()));
                    return Err(config.error(key, what));
                }
            }
        }
        for (name, method) in FILES {
            let path = config.path.with_file_name(name);
            if path.is_file() {
                let map = read_json_object(&path)?;
                let stated = Stated { path, prefix: String::new(), implied: Some(method), map };
                // ModelOpt's are one level down, beside who wrote them.
                return match stated.object(MLX)? {
                    Some(inner) => stated.inner(MLX, &Json::Object(inner.clone())).map(Some),
                    None => Ok(Some(stated)),
                };
            }
        }
        Ok(None)
    }

    /// The method's name.
    ///
    /// # Errors
    /// If it is no string, or AutoRound's with a layout that is not read.
    pub fn method(&self) -> Result<Option<&str>> {
        let named = self.text("quant_method")?.or(self.implied);
        if !named.is_some_and(|name| AUTO_ROUND.contains(&name)) {
            return Ok(named);
        }
        let packing = self.text("packing_format")?.unwrap_or_default();
        match ["gptq", "awq"].into_iter().find(|method| packing.contains(method)) {
            Some(method) => Ok(Some(method)),
            None => {
                let found = printable(packing);
                let what = format!(
                    "\"{found}\" is not supported, only AutoRound's layouts of gptq and awq; \
                     use the original checkpoint"
                );
                Err(self.error("packing_format", what))
            }
        }
    }

    /// The name of the file that says all this.
    pub fn file(&self) -> String {
        printable(&self.path.file_name().unwrap_or_default().to_string_lossy())
    }

    /// An error about a key.
    pub fn error(&self, key: &str, what: impl Into<Fault>) -> Error {
        what.into().of_key(&self.path, format!("{}{}", self.prefix, printable(key)))
    }

    /// An error about a key that asks for something that is not read.
    pub fn unsupported(&self, key: &str, what: impl Into<String>) -> Error {
        self.error(key, Fault::unsupported(what))
    }

    /// Whether a key is there, and not null.
    pub fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|v| !v.is_null())
    }

    fn typed<'a, T>(&'a self, key: &str, need: &str, read: impl Fn(&'a Json) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.map.get(key).filter(|v| !v.is_null()) else { return Ok(None) };
        let wrong = || self.error(key, format!("must be {need}, found {}", printable(&value.to_string())));
        read(value).map(Some).ok_or_else(wrong)
    }

    /// A string, if present.
    ///
    /// # Errors
    /// If it is something else.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Json::as_str)
    }

    /// A flag, if present.
    ///
    /// # Errors
    /// If it is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Json::as_bool)
    }

    /// An object, if present.
    ///
    /// # Errors
    /// If it is something else.
    pub fn object(&self, key: &str) -> Result<Option<&Map<String, Json>>> {
        self.typed(key, "an object", Json::as_object)
    }

    /// All objects inside, by their keys.
    pub fn objects(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.map.iter().filter(|(_, value)| value.is_object()).map(|(key, value)| (key.as_str(), value))
    }

    /// An object inside, with the same file to blame.
    ///
    /// # Errors
    /// If it is no object.
    pub fn inner(&self, key: &str, value: &Json) -> Result<Stated> {
        let empty = Json::Object(Map::new());
        let value = if value.is_null() { &empty } else { value };
        match value {
            Json::Object(map) => {
                let prefix = format!("{}{}.", self.prefix, printable(key));
                Ok(Stated { path: self.path.clone(), prefix, implied: self.implied, map: map.clone() })
            }
            other => Err(self.error(key, format!("must be an object, found {}", printable(&other.to_string())))),
        }
    }

    /// A number of bits, from 1 to 8.
    ///
    /// # Errors
    /// If it is missing, or something else.
    pub fn bits(&self, key: &str) -> Result<u32> {
        let found = self.typed(key, "a number of bits, from 1 to 8", |v| v.as_u64().filter(|n| (1..=8).contains(n)))?;
        let missing = || {
            let method = self.method().ok().flatten().unwrap_or("the method");
            self.error(key, format!("missing; {method} cannot be read without it"))
        };
        found.map(|n| n as u32).ok_or_else(missing)
    }

    /// Columns that share a scale; `None` for the whole row, which is stated as -1.
    ///
    /// # Errors
    /// If it is missing, or something else.
    pub fn group(&self, key: &str) -> Result<Option<usize>> {
        let found = self.typed(key, "a positive number, or -1 for whole rows", |v| {
            v.as_i64().filter(|&n| n == -1 || (1..=i64::from(u32::MAX)).contains(&n))
        })?;
        let missing = || self.error(key, "missing; it says how many weights share a scale");
        found.map(|n| usize::try_from(n).ok()).ok_or_else(missing)
    }

    /// Two positive numbers, if present.
    ///
    /// # Errors
    /// If it is something else.
    pub fn pair(&self, key: &str) -> Result<Option<[usize; 2]>> {
        self.typed(key, "two positive numbers", |v| {
            let size = |v: &Json| v.as_u64().filter(|&n| n > 0 && n <= u64::from(u32::MAX)).map(|n| n as usize);
            match v.as_array()?.as_slice() {
                [a, b] => Some([size(a)?, size(b)?]),
                _ => None,
            }
        })
    }

    /// A list of strings; none counts as empty.
    ///
    /// # Errors
    /// If it is something else.
    pub fn texts(&self, key: &str) -> Result<Vec<String>> {
        let read = |v: &Json| v.as_array()?.iter().map(|t| t.as_str().map(str::to_owned)).collect();
        Ok(self.typed(key, "a list of strings", read)?.unwrap_or_default())
    }
}
