//! GPTQ: codes packed along the inputs, zeros along the outputs, scales `[groups, out]`, and the group of every input.
//!
//! Symmetric matrices are written in the first format, which every loader of GPTQ checkpoints reads and which stores
//! zeros minus one. Others are written in the second, which stores zeros as they are: programs used to disagree about
//! such zeros in the first format, and GPTQModel refuses them there unless it wrote them itself.

use serde_json::{Value as Json, json};

use super::super::About;
use super::bits::{bytes, words};
use super::layout::{Codes, Matrix, OPTIONS, PackedField, PackedLayout};

/// The layout.
pub struct Gptq;

static ABOUT: About = About {
    name: "gptq",
    title: "GPTQ",
    summary: "a folder in the GPTQ layout, for vLLM, Transformers and similar programs",
    settings: &[],
    options: OPTIONS,
};

/// The format's name, and what is subtracted from every zero.
fn format(s: Codes) -> (&'static str, u8) {
    if s.symmetric { ("gptq", 1) } else { ("gptq_v2", 0) }
}

impl PackedLayout for Gptq {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn fields(&self, rows: usize, cols: usize, s: Codes) -> Vec<PackedField> {
        let (per, groups) = (32 / s.bits as usize, cols / s.group);
        vec![
            (".qweight", "I32", vec![cols / per, rows]),
            (".qzeros", "I32", vec![groups, rows / per]),
            (".scales", "F16", vec![groups, rows]),
            (".g_idx", "I32", vec![cols]),
        ]
    }

    fn pack(&self, m: &Matrix, s: Codes) -> Vec<Vec<u8>> {
        let (per, (rows, cols)) = (32 / s.bits as usize, m.codes.dim());
        let lines = (0..cols / per).flat_map(|line| (0..rows).map(move |row| (line, row)));
        let codes =
            lines.map(|(line, row)| words(per, s.bits, |i| m.codes[[row, line * per + i]]).next().expect("one word"));
        let (_, less) = format(s);
        let zeros = m.zeros.columns().into_iter().flat_map(|g| words(rows, s.bits, move |row| g[row] - less));
        vec![
            bytes(codes),
            bytes(zeros),
            m.scales.t().iter().flat_map(|scale| scale.to_le_bytes()).collect(),
            bytes((0..cols).map(|col| (col / s.group) as u32)),
        ]
    }

    fn config(&self, s: Codes, skipped: &[String]) -> (Json, Option<&'static str>) {
        let (format, _) = format(s);
        let mut config = json!({
            "quant_method": "gptq",
            "bits": s.bits,
            "group_size": s.group,
            "sym": s.symmetric,
            "desc_act": false,
            "lm_head": false,
            "true_sequential": true,
            "checkpoint_format": format,
            "format": format,
            "pack_dtype": "int32",
            "meta": {"quantizer": [concat!("aurora-quant:", env!("CARGO_PKG_VERSION"))]},
        });
        // `lm_head` already excludes the output matrix.
        let skipped: Vec<_> = skipped.iter().filter(|name| *name != "lm_head").collect();
        if !skipped.is_empty() {
            let rules = skipped.iter().map(|name| (format!("-:^{}$", regex::escape(name)), json!({})));
            config["dynamic"] = Json::Object(rules.collect());
        }
        (config, Some("quantize_config.json"))
    }
}
