//! Pruning through the real binary: how many weights are zero in the file, which, and what is refused.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aurora_quant::checkpoint;
use aurora_quantizers::formats;
use common::binary::{printed, refused};
use common::conversion::model;
use serde_json::Value as Json;
use tempfile::TempDir;

/// The weights of every matrix of a file, with the length of its rows.
fn weights(path: &Path) -> BTreeMap<String, (usize, Vec<f32>)> {
    let source = checkpoint::open(path).unwrap();
    let matrices = source.tensors().iter().filter(|t| t.shape.len() > 1);
    let decoded = matrices.map(|t| {
        let mut out = vec![0.0; t.elements().unwrap()];
        formats::by_name(t.spec.name).unwrap().decode(source.bytes(t, 0..t.range.len()), &mut out);
        (t.name.clone(), (*t.shape.last().unwrap(), out))
    });
    decoded.collect()
}

fn convert(name: &str, output: &Path, more: &[&str]) -> Json {
    let (input, output) = (model(name), output.to_str().unwrap());
    let words = [&["convert", input.to_str().unwrap(), "-o", output, "--json", "--force"], more].concat();
    serde_json::from_str(&printed(&words)).unwrap()
}

fn zeros(weights: &[f32]) -> usize {
    weights.iter().filter(|w| **w == 0.0).count()
}

/// Matrices that are pruned unless others are named: all within blocks, but for routers.
fn usual(name: &str) -> bool {
    name.starts_with("blk.") && !name.contains("ffn_gate_inp")
}

const TEXT: [&str; 4] = ["--samples", "4", "--context", "64"];

#[test]
fn counts_are_exact_in_every_type_that_has_a_zero() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("o.gguf");
    for (method, text) in [("magnitude", &[][..]), ("wanda", &TEXT), ("sparsegpt", &TEXT), ("admm", &TEXT)] {
        for (sparsity, share) in [("50%", 0.5), ("2:4", 0.5), ("0.3", 0.3)] {
            for kind in ["f16", "f32", "q4_0"] {
                let words = [&["--method", method, "--sparsity", sparsity, "--type", kind, "--pure"], text].concat();
                let record = convert("stories260k", &out, &words);
                for (name, (cols, weights)) in weights(&out) {
                    let about = format!("{method} {sparsity} {kind} {name}");
                    let found = zeros(&weights);
                    if !usual(&name) {
                        assert!(kind == "q4_0" || found * 20 < weights.len(), "{about}: {found}");
                        continue;
                    }
                    // Row by row, or over all rows where one threshold is for all.
                    let rows = weights.len() / cols;
                    let least = match (sparsity, method) {
                        ("2:4", _) => weights.len() / 2,
                        (_, "sparsegpt") => (share * weights.len() as f64).round() as usize,
                        _ => (share * cols as f64).round() as usize * rows,
                    };
                    // Rounding makes zeros of its own.
                    match kind {
                        "f32" => assert_eq!(found, least, "{about}"),
                        _ => assert!(found >= least, "{about}: {found}, not {least}"),
                    }
                    if sparsity == "2:4" {
                        assert!(weights.chunks(4).all(|few| zeros(few) >= 2), "{about}");
                    }
                }
                let passes = record["passes"].as_array().unwrap();
                let told: u64 = passes.iter().filter_map(|p| p["facts"]["zeros"].as_u64()).sum();
                assert!(told > 0, "{method} {sparsity} {kind}");
            }
        }
    }
}

/// What is zero in floats is zero in the codes that a later pass of the chain chooses.
#[test]
fn later_passes_keep_what_is_zero() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    for first in ["wanda", "sparsegpt"] {
        let plain = [&["--method", first, "--type", "f32"], &TEXT[..]].concat();
        convert("stories260k", &at("floats.gguf"), &plain);
        let floats = weights(&at("floats.gguf"));
        for (chain, kind) in [("gptq", "q4_0"), ("awq+gptq", "q8_0"), ("awq", "q5_0"), ("rtn", "mxfp4")] {
            let method = format!("{first}+{chain}");
            let words = [&["--method", &method, "--type", kind, "--pure"], &TEXT[..]].concat();
            convert("stories260k", &at("codes.gguf"), &words);
            for (name, (_, codes)) in weights(&at("codes.gguf")) {
                let lost = floats[&name].1.iter().zip(&codes).filter(|(float, code)| **float == 0.0 && **code != 0.0);
                if usual(&name) {
                    assert_eq!(lost.count(), 0, "{method} {kind} {name}");
                }
            }
        }
    }
    // Of a mixture, only types that have a zero are taken.
    for (kind, wanted) in [("q4_0", "q4_0"), ("q3_k_m", "q3_k")] {
        let words = [&["--method", "wanda+gptq", "--type", kind], &TEXT[..]].concat();
        let record = convert("tiny-llama3", &at("codes.gguf"), &words);
        for tensor in record["tensors"].as_array().unwrap().iter().filter(|t| usual(t["name"].as_str().unwrap())) {
            assert!(["f32", "f16", wanted].contains(&tensor["type"].as_str().unwrap()), "{kind}: {tensor}");
        }
        for (name, (_, codes)) in weights(&at("codes.gguf")).into_iter().filter(|(name, _)| usual(name)) {
            assert!(zeros(&codes) * 2 >= codes.len(), "{kind} {name}");
        }
    }
    // The default types: floats, and four bits where codes are chosen.
    let record = convert("stories260k", &at("o.gguf"), &["--method", "magnitude"]);
    assert_eq!(record["type"], "f16");
    let record = convert("stories260k", &at("o.gguf"), &[&["--method", "wanda+gptq"], &TEXT[..]].concat());
    assert_eq!(record["type"], "q4_0");
}

#[test]
fn experts_are_pruned_and_routers_are_not() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("o.gguf");
    for method in ["magnitude", "wanda", "sparsegpt"] {
        let text = if method == "magnitude" { &[][..] } else { &["--samples", "16", "--context", "48"] };
        convert("tiny-qwen3-moe", &out, &[&["--method", method, "--type", "f32"], text].concat());
        for (name, (_, weights)) in weights(&out) {
            let share = zeros(&weights) as f64 / weights.len() as f64;
            match usual(&name) {
                // An expert that no token reached stays whole.
                true if method != "magnitude" && name.contains("exps") => assert!(share <= 0.5, "{name}: {share}"),
                true => assert_eq!(share, 0.5, "{method} {name}"),
                false => assert!(share < 0.01, "{method} {name}: {share}"),
            }
        }
    }
}

#[test]
fn patterns_prune_more_less_or_nothing() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("o.gguf");
    let rules = ["--prune", "ffn_down=75%", "--prune", "attn_[qk]=0", "--prune", "^token_embd=25%"];
    convert("stories260k", &out, &[&["--method", "magnitude", "--type", "f32"], &rules[..]].concat());
    for (name, (_, weights)) in weights(&out) {
        let share = zeros(&weights) as f64 / weights.len() as f64;
        let wanted = match name.as_str() {
            n if n.contains("ffn_down") => 0.75,
            n if n.contains("attn_q.") || n.contains("attn_k.") => 0.0,
            "token_embd.weight" => 0.25,
            _ => 0.5,
        };
        assert!((share - wanted).abs() < 1e-9, "{name}: {share}");
    }
    // The lowest of the whole matrix, so rows differ.
    convert("stories260k", &out, &["--method", "magnitude", "--scope", "matrix", "--type", "f32"]);
    let (cols, all) = &weights(&out)["blk.0.ffn_up.weight"];
    assert_eq!(zeros(all), all.len() / 2);
    let dense = weights_of("stories260k");
    let largest = all.iter().zip(&dense["blk.0.ffn_up.weight"].1).filter(|(w, _)| **w == 0.0);
    let largest = largest.map(|(_, dense)| dense.abs()).fold(0.0, f32::max);
    assert!(all.iter().all(|w| *w == 0.0 || w.abs() >= largest));
    assert!(all.chunks(*cols).any(|row| zeros(row) != cols / 2));
}

fn weights_of(name: &str) -> BTreeMap<String, (usize, Vec<f32>)> {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("dense.gguf");
    convert(name, &out, &["--type", "f32"]);
    weights(&out)
}

#[test]
fn new_values_lower_the_loss_of_every_matrix() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("o.gguf");
    for method in ["sparsegpt", "admm"] {
        let text = ["--samples", "32", "--context", "128"];
        let record = convert("stories260k", &out, &[&["--method", method], &text[..]].concat());
        let passes = record["passes"].as_array().unwrap();
        assert_eq!(passes.len(), 35);
        for pass in passes {
            let (before, after) = (pass["before"].as_f64().unwrap(), pass["after"].as_f64().unwrap());
            assert!(after < before, "{method} {}: {after}, not below {before}", pass["tensors"]);
        }
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("o.gguf");
    let input = model("stories260k");
    let fails = |more: &[&str], words: &[&str]| {
        let words_of = [&["convert", input.to_str().unwrap(), "-o", out.to_str().unwrap()], more].concat();
        let said = refused(&words_of);
        assert!(words.iter().all(|word| said.contains(word)), "{more:?}: {said}");
        assert!(!out.exists());
    };
    fails(&["--method", "magnitude", "--sparsity", "8:16"], &["--sparsity 8:16", "ffn_down", "172", "--prune"]);
    fails(&["--method", "magnitude", "--prune", "nothing=60%"], &["--prune nothing=60%", "matches no matrix"]);
    fails(&["--method", "magnitude", "--prune", "attn_norm=60%"], &["matches no matrix"]);
    fails(&["--method", "magnitude+wanda"], &["both prune"]);
    fails(&["--method", "gptq+wanda"], &["wanda must come before gptq"]);
    fails(&["--method", "gptq", "--sparsity", "50%"], &["--sparsity", "magnitude, wanda"]);
    fails(&["--method", "magnitude", "--type", "q4_1"], &["q4_1", "no exact zero", "q4_0"]);
    fails(&["--method", "magnitude", "--type", "iq4_nl", "--pure"], &["iq4_nl", "no exact zero"]);
}

#[test]
fn sparsities_that_are_none_are_refused_as_arguments() {
    for (sparsity, word) in
        [("0", "nothing"), ("100%", "leaves nothing"), ("1.5", "percent"), ("3:2", "below M"), ("2:3", "power of two")]
    {
        let words = ["convert", "x", "--method", "magnitude", "--sparsity", sparsity];
        let done = common::binary::run(&words);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(2) && said.contains(word), "{sparsity}: {said}");
    }
}
