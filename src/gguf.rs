//! The GGUF container's header: an ordered list of keys and values, a tensor table, and the rules of alignment.
//!
//! The one seam to gguf-rs-lib: its `MetadataValue` is our value type, its reader and writer of single values are
//! used for the bytes. The frame around them (magic, version, counts, tensor table) is walked in [`read`] and laid
//! out in [`mod@write`], because the library's whole-file reader refuses files that llama.cpp accepts: keys with
//! hyphens (`gpt-oss.block_count`), version 2, arrays beyond its limits; and because its map loses the order of keys.
//!
//! Knows nothing of models or of tensors' contents.

use std::collections::HashMap;

pub mod read;
pub mod write;

pub use gguf_rs_lib::format::metadata::{MetadataArray, MetadataValue as Value};
pub use gguf_rs_lib::format::types::GGUFValueType as ValueType;
pub use read::{Header, RawTensor, read_header};
pub use write::{TensorEntry, write_header};

use crate::error::printable;

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The version that is written.
pub const VERSION: u32 = 3;

/// Alignment of tensor data when `general.alignment` is absent.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The key that overrides [`DEFAULT_ALIGNMENT`].
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// Dimensions that ggml's tensors have (`GGML_MAX_DIMS`).
pub const MAX_DIMS: usize = 4;

/// Keys in file order; no key twice.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    /// Where each key is: a hostile file has hundreds of thousands.
    places: HashMap<String, usize>,
}

impl Metadata {
    /// No keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.places.get(key).map(|&i| &self.entries[i].1)
    }

    /// Sets `key`, in its place if it is there already, else at the end.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.places.get(&key) {
            Some(&i) => self.entries[i].1 = value,
            None => {
                self.places.insert(key.clone(), self.entries.len());
                self.entries.push((key, value));
            }
        }
    }

    /// Drops the keys for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.entries.retain(|(key, _)| keep(key));
        self.places = self.entries.iter().enumerate().map(|(i, (key, _))| (key.clone(), i)).collect();
    }

    /// All keys and values in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The alignment of tensor data: [`ALIGNMENT_KEY`] or the default. `Err` says what is wrong with it.
    pub fn alignment(&self) -> Result<u64, String> {
        match self.get(ALIGNMENT_KEY) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(value) => value.as_u64().filter(|n| n.is_power_of_two()).ok_or_else(|| {
                format!("must be a positive power of two, found {}", printable(&value.to_string_representation()))
            }),
        }
    }
}

/// A string value.
pub fn string(text: impl Into<String>) -> Value {
    Value::String(text.into())
}

/// An array value; all elements must be of `element`'s type.
///
/// # Panics
/// If they are not.
pub fn array(element: ValueType, values: Vec<Value>) -> Value {
    Value::Array(Box::new(MetadataArray::new(element, values).expect("elements of one type")))
}

/// An array of strings.
pub fn string_array<S: Into<String>>(values: impl IntoIterator<Item = S>) -> Value {
    array(ValueType::String, values.into_iter().map(|s| Value::String(s.into())).collect())
}

/// An array of 32-bit integers.
pub fn i32_array(values: impl IntoIterator<Item = i32>) -> Value {
    array(ValueType::I32, values.into_iter().map(Value::I32).collect())
}

/// An array of 32-bit floats.
pub fn f32_array(values: impl IntoIterator<Item = f32>) -> Value {
    array(ValueType::F32, values.into_iter().map(Value::F32).collect())
}

/// An array of flags.
pub fn bool_array(values: impl IntoIterator<Item = bool>) -> Value {
    array(ValueType::Bool, values.into_iter().map(Value::Bool).collect())
}

/// `n` rounded up to a multiple of `alignment`.
///
/// # Panics
/// If `alignment` is zero or the result overflows: for sizes of our own, not for numbers read from a file.
pub fn align(n: u64, alignment: u64) -> u64 {
    n.next_multiple_of(alignment)
}
