//! compressed-tensors' pack-quantized layout: codes packed along the inputs, scales `[out, groups]`, zeros (if any)
//! packed along the outputs. Signed integers are stored plus half their range, which is how they arrive here.

use aurora_quantizers::elements;
use serde_json::{Value as Json, json};

use super::super::sparse::SPARSE;
use super::super::{About, shards};
use super::bits::{bytes, words};
use super::layout::{BITS, Codes, GROUP_SIZE, Matrix, PackedField, PackedLayout, SYM};

/// The layout.
pub struct CompressedTensors;

static ABOUT: About = About {
    name: "compressed-tensors",
    title: "compressed-tensors",
    summary: "a folder in the compressed-tensors layout (pack-quantized, or floats without zeros)",
    settings: &["type"],
    options: &[SPARSE, BITS, GROUP_SIZE, SYM, shards::SIZE],
};

impl PackedLayout for CompressedTensors {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn fields(&self, rows: usize, cols: usize, s: Codes) -> Vec<PackedField> {
        let (per, groups) = (32 / s.bits as usize, cols / s.group);
        let mut fields = vec![
            (".weight_packed", "I32", vec![rows, cols / per]),
            (".weight_scale", "F16", vec![rows, groups]),
            (".weight_shape", "I64", vec![2]),
        ];
        if !s.symmetric {
            fields.push((".weight_zero_point", "I32", vec![rows / per, groups]));
        }
        fields
    }

    fn pack(&self, m: &Matrix, s: Codes) -> Vec<Vec<u8>> {
        let (per, (rows, groups)) = (32 / s.bits as usize, m.zeros.dim());
        let codes = elements(m.codes.view());
        let mut fields = vec![
            bytes(words(codes.len(), s.bits, |i| codes[i])),
            m.scales.iter().copied().flat_map(u16::to_le_bytes).collect(),
            m.codes.shape().iter().flat_map(|n| (*n as i64).to_le_bytes()).collect(),
        ];
        if !s.symmetric {
            let places = (0..rows / per).flat_map(|line| (0..groups).map(move |g| (line, g)));
            let zero = |(line, g): (usize, usize)| {
                words(per, s.bits, |i| m.zeros[[line * per + i, g]]).next().expect("one word")
            };
            fields.push(bytes(places.map(zero)));
        }
        fields
    }

    fn config(&self, s: Codes, skipped: &[String]) -> (Json, Option<&'static str>) {
        let weights = json!({
            "num_bits": s.bits,
            "type": "int",
            "symmetric": s.symmetric,
            "strategy": "group",
            "group_size": s.group,
            "actorder": null,
            "block_structure": null,
            "dynamic": false,
            "observer": "minmax",
            "observer_kwargs": {},
        });
        let config = json!({
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": weights,
                    "input_activations": null,
                    "output_activations": null,
                },
            },
            "ignore": skipped,
            "kv_cache_scheme": null,
            "global_compression_ratio": null,
        });
        (config, None)
    }
}
