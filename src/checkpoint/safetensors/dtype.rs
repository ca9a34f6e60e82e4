//! The types that a safetensors header can name, as storage specs.
//!
//! All of them, not only those that can hold weights: checkpoints carry buffers (GPT-2's BOOL masks, I64 position
//! ids) that the model never reads, and they must not stop a run. Those without a row in ggml's table get one here.

use aurora_quantizers::spec::{self, Kind, Spec};
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as SerdeError;

const fn extra(name: &'static str, block: usize, bytes: usize) -> Spec {
    Spec { name, ggml_id: None, block, bytes, kind: Kind::Int, max_abs: f32::MAX, fine: 0.0 }
}

/// Types that nothing here decodes. The small floats are listed as [`Kind::Int`] too: without the scales that go with
/// them they are codes, not numbers.
static EXTRA: &[(Dtype, Spec)] = &[
    (Dtype::BOOL, extra("bool", 1, 1)),
    (Dtype::U8, extra("u8", 1, 1)),
    (Dtype::U16, extra("u16", 1, 2)),
    (Dtype::U32, extra("u32", 1, 4)),
    (Dtype::U64, extra("u64", 1, 8)),
    (Dtype::C64, extra("c64", 1, 8)),
    (Dtype::F8_E5M2, extra("f8_e5m2", 1, 1)),
    (Dtype::F8_E4M3, extra("f8_e4m3", 1, 1)),
    (Dtype::F8_E8M0, extra("f8_e8m0", 1, 1)),
    (Dtype::F8_E4M3FNUZ, extra("f8_e4m3fnuz", 1, 1)),
    (Dtype::F8_E5M2FNUZ, extra("f8_e5m2fnuz", 1, 1)),
    (Dtype::F6_E2M3, extra("f6_e2m3", 4, 3)),
    (Dtype::F6_E3M2, extra("f6_e3m2", 4, 3)),
    (Dtype::F4, extra("f4", 2, 1)),
];

/// A matrix in several tensors: its numbers lie in no one place.
pub static PACKED: Spec = extra("packed", 1, 1);

/// The spec of the type that a header calls `name`, spelled exactly so.
pub(super) fn spec_of(name: &str) -> Option<&'static Spec> {
    let name: serde::de::value::StrDeserializer<SerdeError> = name.into_deserializer();
    let dtype = Dtype::deserialize(name).ok()?;
    match EXTRA.iter().find(|(d, _)| *d == dtype) {
        Some((_, spec)) => Some(spec),
        None => spec::by_name(&dtype.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_the_crate_has_its_size() {
        let names = "BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 \
                     I32 U32 F32 C64 F64 I64 U64";
        for name in names.split_whitespace() {
            let spec = spec_of(name).unwrap_or_else(|| panic!("{name} has no spec"));
            let dtype: Dtype = serde_json::from_str(&format!("\"{name}\"")).unwrap();
            assert_eq!(spec.bytes * 8, dtype.bitsize() * spec.block, "{name}");
        }
        assert!(spec_of("F7").is_none());
        assert!(spec_of("bf16").is_none());
        assert!(spec_of("Q4_0").is_none());
    }
}
