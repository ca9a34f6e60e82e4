//! The table of formats: a new one is one file here and one row.

use crate::Store;
use block32::Block32;
pub use floats::{BF16, F16, F32};
use superblock::SuperBlock;

mod block32;
mod floats;
mod grouped;
mod half;
mod iq4_nl;
mod iq4_xs;
#[cfg(test)]
mod laws;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod superblock;
#[cfg(test)]
mod toy;
#[cfg(test)]
mod twins;

/// Every format that can be encoded and decoded, in the order in which help and docs list them.
pub static FORMATS: &[&dyn Store] = &[
    &F32,
    &F16,
    &BF16,
    &Block32(q8_0::Q8_0),
    &SuperBlock(q6_k::Q6K),
    &SuperBlock(q5_k::Q5K),
    &SuperBlock(q4_k::Q4K),
    &SuperBlock(q3_k::Q3K),
    &SuperBlock(q2_k::Q2K),
    &Block32(q5_1::Q5_1),
    &Block32(q5_0::Q5_0),
    &Block32(q4_1::Q4_1),
    &Block32(q4_0::Q4_0),
    &Block32(iq4_nl::Iq4Nl),
    &SuperBlock(iq4_xs::Iq4Xs),
    &Block32(mxfp4::Mxfp4),
    &floats::F64,
    #[cfg(test)]
    &Block32(toy::ToyBlock),
];

/// The format with this name, in any case.
pub fn by_name(name: &str) -> Option<&'static dyn Store> {
    FORMATS.iter().copied().find(|f| f.spec().name.eq_ignore_ascii_case(name))
}

/// The grid of a checkpoint of 4 or 8 bits with a scale for every `group` (32, 64 or 128) weights, and a zero if it is
/// not symmetric. GGUF's own type where there is one.
pub fn grouped(bits: u32, group: usize, symmetric: bool) -> Option<&'static dyn Store> {
    match (bits, group, symmetric) {
        (4, 32, true) => by_name("q4_0"),
        (8, 32, true) => by_name("q8_0"),
        _ => grouped::find(bits, group, symmetric).map(|f| f as &dyn Store),
    }
}
