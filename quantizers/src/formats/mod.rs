//! The table of formats: a new one is one file here and one row.

use crate::Format;

mod block32;
mod floats;
mod q4_0;
mod q4_1;
mod q5_0;
mod q5_1;
mod q8_0;
#[cfg(test)]
mod twins;

/// Every format that can be encoded and decoded, in the order in which help and docs list them.
pub static FORMATS: &[&dyn Format] = &[
    &floats::F32,
    &floats::F16,
    &floats::BF16,
    &q8_0::Q8_0,
    &q5_1::Q5_1,
    &q5_0::Q5_0,
    &q4_1::Q4_1,
    &q4_0::Q4_0,
    &floats::F64,
];

/// The format with this name, in any case.
pub fn by_name(name: &str) -> Option<&'static dyn Format> {
    FORMATS.iter().copied().find(|f| f.spec().name.eq_ignore_ascii_case(name))
}

/// The format with this ggml id.
pub fn by_ggml_id(id: u32) -> Option<&'static dyn Format> {
    FORMATS.iter().copied().find(|f| f.spec().ggml_id == id)
}
