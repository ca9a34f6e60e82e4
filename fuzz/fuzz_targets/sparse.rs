//! Whatever opens of a GGUF file with sparse matrices can be read: no panic, and rows of the shape that the model has.

#![no_main]

use std::sync::LazyLock;

use aurora_quant::model::{Opened, ParamId};
use aurora_quant::weights::Weights;
use libfuzzer_sys::fuzz_target;

/// Files are mapped, so each input becomes one.
static PLACE: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|bytes: &[u8]| {
    let path = PLACE.path().join("x.gguf");
    std::fs::write(&path, bytes).expect("a small file");
    let Ok(opened) = Opened::open(&path) else { return };
    let graph = &opened.model.graph;
    let Ok(weights) = Weights::bind(opened.source.as_ref(), graph) else { return };
    for id in (0..graph.params.len()).map(ParamId) {
        let (rows, cols) = weights.dim(id);
        // A header alone can ask for more than there is memory for.
        if rows.saturating_mul(cols) <= 1 << 20 {
            assert_eq!(weights.whole(id).dim(), (rows, cols));
        }
    }
});
