//! Whatever [`parse_header`] accepts lies inside the file, has the size of its shape and type, and is accepted by the
//! safetensors crate too, with the same tensors.

#![no_main]

use std::path::Path;

use aurora_quant::checkpoint::safetensors::parse_header;
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fuzz_target!(|bytes: &[u8]| {
    let Ok(tensors) = parse_header(Path::new("fuzz"), bytes) else { return };
    let theirs = SafeTensors::deserialize(bytes).expect("accepted here, refused by the crate");
    assert_eq!(tensors.len(), theirs.len());
    for t in &tensors {
        assert!(t.range.end <= bytes.len());
        assert_eq!(t.expected_bytes(), Some(t.range.len()), "{t:?}");
        let view = theirs.tensor(&t.name).expect("same names");
        assert_eq!(view.shape(), t.shape);
        assert!(std::ptr::eq(view.data(), &bytes[t.range.clone()]) || t.range.is_empty(), "{t:?}");
    }
});
