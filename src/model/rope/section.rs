//! One object of rotary settings in config.json: which of the two that there may be, and its numbers.

use serde_json::{Map, Value as Json};

use crate::checkpoint::config::HfConfig;
use crate::{Error, Result};

/// Releases of transformers before 5 write this one, and it wins where both are.
const OLD: &str = "rope_scaling";
/// Later ones write this.
const NEW: &str = "rope_parameters";
/// The context that a stretched model was first trained with, beside these settings or among them.
pub(crate) const ORIGINAL_CONTEXT: &str = "original_max_position_embeddings";
/// Where settings differ by the type of the layer, those that layers without a window have.
const FULL: &str = "full_attention";

/// Where the settings of layers with a window are, if they differ.
pub(super) const SLIDING: &str = "rope_parameters.sliding_attention";

/// The settings of layers with a window, if they have their own.
pub(super) fn sliding(c: &HfConfig) -> Option<&Map<String, Json>> {
    let (outer, inner) = SLIDING.split_once('.')?;
    c.get(outer)?.get(inner)?.as_object()
}

/// One object of rotary settings, and the key it stood under.
pub(super) struct Section<'a> {
    pub config: &'a HfConfig,
    pub key: &'static str,
    pub map: Map<String, Json>,
}

impl<'a> Section<'a> {
    /// The settings that count, if there are any. If both keys are there, Transformers reads `rope_scaling` and nothing
    /// of the other, not even its base. Only if settings differ by the type of the layer (Gemma 3), it puts the first
    /// on top of the second.
    ///
    /// # Errors
    /// If one of them is no object.
    pub fn of(config: &'a HfConfig) -> Result<Option<Section<'a>>> {
        let full = |map: &Map<String, Json>| map.get(FULL).and_then(Json::as_object).cloned();
        let old = config.opt_object(OLD)?.filter(|map| !map.is_empty());
        let new = config.opt_object(NEW)?;
        let section = |key, map| Some(Section { config, key, map });
        Ok(match (old, new) {
            (None, None) => None,
            (None, Some(new)) => section(NEW, full(new).unwrap_or_else(|| new.clone())),
            (Some(old), new) => {
                let under = new.and_then(full).unwrap_or_default();
                section(OLD, under.into_iter().chain(full(old).unwrap_or_else(|| old.clone())).collect())
            }
        })
    }

    /// Settings beside those that count, which do not.
    pub fn beside(config: &HfConfig) -> Option<(&'static str, &'static str, &Map<String, Json>)> {
        let object = |key| config.get(key).and_then(Json::as_object).filter(|map: &&Map<String, Json>| !map.is_empty());
        let (old, new) = (object(OLD)?, object(NEW)?);
        let differs = new.iter().any(|(key, value)| old.get(key).is_some_and(|v| v != value) || !old.contains_key(key));
        (differs && !new.contains_key(FULL)).then_some((OLD, NEW, new))
    }

    /// An error about a setting.
    pub fn error(&self, name: &str, what: impl Into<String>) -> Error {
        self.config.error(&format!("{}.{name}", self.key), what.into())
    }

    /// An error about a setting that asks for what is not read or run.
    pub fn unsupported(&self, name: &str, what: impl Into<String>) -> Error {
        self.config.unsupported(&format!("{}.{name}", self.key), what)
    }

    /// A number, if present.
    pub fn opt_number(&self, name: &str) -> Result<Option<f64>> {
        match self.map.get(name).filter(|v| !v.is_null()) {
            None => Ok(None),
            Some(v) => match v.as_f64().filter(|x| x.is_finite()) {
                Some(x) => Ok(Some(x)),
                None => Err(self.error(name, format!("must be a number, found {v}"))),
            },
        }
    }

    /// A number above zero.
    pub fn number(&self, name: &str) -> Result<f64> {
        match self.opt_number(name)? {
            Some(x) if x > 0.0 => Ok(x),
            Some(x) => Err(self.error(name, format!("must be above zero, found {x}"))),
            None => Err(self.error(name, "missing")),
        }
    }

    /// A list of `len` numbers above zero.
    pub fn numbers(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let read = |v: &Json| v.as_f64().map(|x| x as f32).filter(|x| x.is_finite() && *x > 0.0);
        let list = self.map.get(name).and_then(Json::as_array);
        let list: Option<Vec<f32>> = list.and_then(|l| l.iter().map(read).collect());
        list.filter(|l| l.len() == len)
            .ok_or_else(|| self.error(name, format!("must be a list of {len} numbers above zero")))
    }

    /// The kind of rotary embedding.
    pub fn kind(&self) -> Result<&str> {
        match self.map.get("rope_type").or_else(|| self.map.get("type")) {
            Some(v) => v.as_str().ok_or_else(|| self.error("rope_type", format!("must be a string, found {v}"))),
            None if self.map.contains_key("factor") => Err(self.error("rope_type", "missing")),
            None => Ok("default"),
        }
    }

    /// The context that a stretched model was first trained with: the key of its own wins, then the one among these
    /// settings. `usual`: what stands for a key of its own where there is none (Phi-3). Without any it is the whole
    /// context.
    pub fn original_context(&self, usual: Option<usize>, context: usize) -> Result<usize> {
        const KEY: &str = ORIGINAL_CONTEXT;
        if let Some(own) = self.config.opt_size(KEY)?.or(usual) {
            return Ok(own);
        }
        match self.map.get(KEY).filter(|v| !v.is_null()) {
            None => Ok(context),
            Some(v) => {
                let read = v.as_u64().filter(|&n| n > 0 && n <= u64::from(u32::MAX)).map(|n| n as usize);
                read.ok_or_else(|| self.error(KEY, format!("must be a positive integer, found {v}")))
            }
        }
    }
}
