//! The GGUF container's header: an ordered list of keys and values, and the rules of alignment.
//!
//! The one seam to gguf-rs-lib: its `MetadataValue` is our value type, its reader and writer of single values are
//! used for the bytes. The frame around them (magic, version, counts, tensor table) is walked here, because the
//! library's whole-file reader refuses files that llama.cpp accepts: keys with hyphens (`gpt-oss.block_count`),
//! version 2, arrays beyond its limits; and because its map loses the order of keys.
//!
//! Knows nothing of models, of tensors' contents or of where the bytes come from.

pub use gguf_rs_lib::format::metadata::{MetadataArray, MetadataValue as Value};
pub use gguf_rs_lib::format::types::GGUFValueType as ValueType;

/// Alignment of tensor data when `general.alignment` is absent.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// Keys in file order; no key twice.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// No keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Sets `key`, in its place if it is there already, else at the end.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.entries.iter_mut().find(|(k, _)| *k == key) {
            Some((_, v)) => *v = value,
            None => self.entries.push((key, value)),
        }
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
}

/// An array value; all elements must be of `element`'s type.
///
/// # Panics
/// If they are not.
pub fn array(element: ValueType, values: Vec<Value>) -> Value {
    Value::Array(Box::new(MetadataArray::new(element, values).expect("elements of one type")))
}

/// `n` rounded up to a multiple of `alignment`.
pub fn align(n: u64, alignment: u64) -> u64 {
    n.next_multiple_of(alignment)
}
