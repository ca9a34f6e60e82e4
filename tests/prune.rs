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

#[test]
fn a_size_prunes_what_is_below_it() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("o.gguf");
    let dense = weights_of("stories260k");
    let words = ["--method", "magnitude", "--threshold", "0.05", "--prune", "attn_q=30%", "--type", "f32"];
    convert("stories260k", &out, &words);
    for (name, (cols, found)) in weights(&out) {
        let dense = &dense[&name].1;
        if name.contains("attn_q") {
            assert_eq!(zeros(&found), (0.3 * cols as f64).round() as usize * (found.len() / cols), "{name}");
            continue;
        }
        let size = if usual(&name) { 0.05 } else { 0.0 };
        let wanted = dense.iter().map(|w| if w.abs() < size { 0.0 } else { *w });
        assert!(found.iter().copied().eq(wanted), "{name}");
    }
    // What `inspect` foretells.
    let told = printed(&["inspect", model("stories260k").to_str().unwrap(), "--below", "0.05", "--json"]);
    let told: Json = serde_json::from_str(&told).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let tensor = told["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap();
    let found = &weights(&out)["blk.1.ffn_up.weight"].1;
    assert_eq!(tensor["sparsity"]["below"]["share"], zeros(found) as f64 / found.len() as f64);
}

/// The lowest of all matrices together, counted exactly.
#[test]
fn a_global_share_compares_all_matrices() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("o.gguf");
    for name in ["stories260k", "tiny-qwen3-moe"] {
        let words = ["--method", "magnitude", "--scope", "global", "--sparsity", "37%", "--type", "f32"];
        convert(name, &out, &words);
        let (dense, found) = (weights_of(name), weights(&out));
        let usual: Vec<_> = found.iter().filter(|(name, _)| usual(name)).collect();
        let all: usize = usual.iter().map(|(_, (_, found))| found.len()).sum();
        let gone: usize = usual.iter().map(|(_, (_, found))| zeros(found)).sum();
        assert_eq!(gone, (0.37 * all as f64).round() as usize, "{name}");
        let pairs = || usual.iter().flat_map(|(name, (_, found))| found.iter().zip(&dense[*name].1));
        let largest = pairs().filter(|(found, _)| **found == 0.0).map(|(_, dense)| dense.abs()).fold(0.0, f32::max);
        assert!(pairs().all(|(found, dense)| *found == 0.0 || (found == dense && found.abs() >= largest)), "{name}");
        let shares = usual.iter().map(|(_, (_, found))| zeros(found) as f64 / found.len() as f64);
        assert!(shares.clone().any(|s| s > 0.4) || shares.clone().any(|s| s < 0.34), "{name}");
    }
}

#[test]
fn exchanges_lower_losses_and_keep_counts() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("o.gguf");
    for (method, sparsity) in [("wanda", "50%"), ("ria", "2:4")] {
        let words = ["--method", method, "--sparsity", sparsity, "--exchange", "20", "--type", "f32"];
        let record = convert("stories260k", &out, &[&words[..], &["--samples", "32", "--context", "128"]].concat());
        let passes = record["passes"].as_array().unwrap();
        let ratio = |pass: &Json| pass["after"].as_f64().unwrap() / pass["before"].as_f64().unwrap();
        assert!(passes.len() == 35 && passes.iter().all(|pass| ratio(pass) <= 1.0), "{method}");
        assert!(passes.iter().map(ratio).sum::<f64>() / 35.0 < 0.9, "{method}");
        let found = weights(&out);
        let dense = weights_of("stories260k");
        for (name, (cols, found)) in found.iter().filter(|(name, _)| usual(name)) {
            let run = if sparsity == "2:4" { 4 } else { *cols };
            assert!(found.chunks(run).all(|few| zeros(few) == run / 2), "{method} {name}");
            assert!(found.iter().zip(&dense[name].1).all(|(a, b)| *a == 0.0 || a == b), "{method} {name}");
        }
    }
}

/// Blocks get shares around the one asked for, those with more outliers less; with a file of statistics the same.
#[test]
fn owl_gives_blocks_shares_by_their_outliers() {
    let dir = TempDir::new().unwrap();
    let (out, stats) = (dir.path().join("o.gguf"), dir.path().join("s.gguf"));
    let input = model("stories260k");
    let (input, file) = (input.to_str().unwrap(), stats.to_str().unwrap());
    printed(&[&["calibrate", input, "-o", file], &TEXT[..]].concat());
    let mut all = Vec::new();
    for text in [&TEXT[..], &["--stats", file]] {
        let words = [&["--method", "wanda", "--allocation", "owl", "--sparsity", "60%", "--type", "f32"], text];
        convert("stories260k", &out, &words.concat());
        let found = weights(&out);
        let share = |block: usize| {
            let here = found.iter().filter(|(name, _)| usual(name) && name.starts_with(&format!("blk.{block}.")));
            let (gone, all) = here.fold((0, 0), |(gone, all), (_, (_, w))| (gone + zeros(w), all + w.len()));
            gone as f64 / all as f64
        };
        all.push((0..5).map(share).collect::<Vec<_>>());
    }
    assert_eq!(all[0], all[1]);
    let (least, most) = (all[0].iter().copied().fold(1.0, f64::min), all[0].iter().copied().fold(0.0, f64::max));
    let mean = all[0].iter().sum::<f64>() / 5.0;
    // Counted in whole weights of rows of 64 and 172.
    assert!((mean - 0.6).abs() < 0.01 && (most - least - 0.16).abs() < 0.015, "{:?}", all[0]);
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
    fails(&["--method", "magnitude", "--threshold", "0.1", "--sparsity", "50%"], &["--threshold", "--sparsity"]);
    fails(&["--method", "magnitude", "--threshold", "0.1", "--scope", "row"], &["--threshold", "--scope"]);
    fails(&["--method", "magnitude", "--scope", "global", "--sparsity", "2:4"], &["--scope", "N:M"]);
    fails(&["--method", "wanda", "--scope", "global"], &["--scope", "--method magnitude"]);
    fails(&["--method", "wanda", "--allocation", "owl", "--sparsity", "2:4"], &["--allocation", "owl"]);
    fails(&["--method", "wanda", "--threshold", "0.1"], &["--threshold", "magnitude"]);
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
