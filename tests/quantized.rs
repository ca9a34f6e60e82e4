//! Checkpoints that are quantised already: what the real binary makes of those that GPTQModel wrote, and of broken
//! ones. (All widths, layouts and architectures are held against a NumPy decoder in `tests/interop`.)

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use aurora_quantizers::formats;
use common::binary::{good, printed, run};
use common::checkpoint::Checkpoint;
use half::f16;
use safetensors::Dtype;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

const REAL: [(&str, &str); 3] = [("gptq-sym-g32", "q4_0"), ("awq-sym-g32", "q4_0"), ("awq-asym-g128", "q4_1")];

fn written(checkpoint: &Checkpoint) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("model");
    checkpoint.write(&folder);
    (dir, folder)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn record(arguments: &[&str]) -> Json {
    serde_json::from_str(&printed(arguments)).unwrap()
}

#[test]
fn integers_are_kept_in_the_smallest_type_that_holds_them() {
    for (name, kind) in REAL {
        let (dir, folder) = written(&Checkpoint::quantized(name));
        let out = dir.path().join("out.gguf");
        let record = record(&["convert", text(&folder), "-o", text(&out), "--json"]);
        assert_eq!(record["type"], "keep");
        let tensors = record["tensors"].as_array().unwrap();
        let packed: Vec<_> = tensors.iter().filter(|t| t.get("packed").is_some()).collect();
        assert_eq!(packed.len(), 14, "{name}");
        let mut worst = 0.0_f64;
        for t in tensors {
            let error = t["largest_error"].as_f64().unwrap();
            worst = worst.max(error);
            if t.get("packed").is_none() {
                assert_eq!(error, 0.0, "{t}");
                continue;
            }
            assert_eq!((t["type"].as_str(), t["carried"].as_bool()), (Some(kind), Some(true)), "{t}");
        }
        // A minimum has up to 12 significant bits (8 of a BF16 scale, 4 of a zero), half precision 11.
        assert_eq!(worst == 0.0, kind == "q4_0", "{name}: {worst}");
        let embedding = tensors.iter().find(|t| t["name"] == "token_embd.weight").unwrap();
        assert_eq!(embedding["type"], "bf16");
    }
}

/// Half precision, in which blocks have their scales, ends at 6e-8.
#[test]
fn scales_below_half_precision_make_the_matrix_bf16() {
    let mut checkpoint = Checkpoint::quantized("gptq-sym-g32");
    for (stem, by) in [("model.layers.0.mlp.up_proj", 1e-6), ("model.layers.1.mlp.up_proj", 1e-2)] {
        let (dtype, _, bytes) = checkpoint.tensors.get_mut(&format!("{stem}.scales")).unwrap();
        let smaller = |b: &[u8; 2]| (f16::from_le_bytes(*b).to_f32() * by).to_le_bytes();
        (*dtype, *bytes) = (Dtype::F32, bytes.as_chunks().0.iter().flat_map(smaller).collect());
    }
    let (dir, folder) = written(&checkpoint);
    let out = dir.path().join("out.gguf");
    let record = record(&["convert", text(&folder), "-o", text(&out), "--json"]);
    let find = |name: &str| record["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap();
    let small = find("blk.0.ffn_up.weight");
    assert_eq!((small["requested"].as_str(), small["type"].as_str()), (Some("q4_0"), Some("bf16")), "{small}");
    assert!(small["reason"].as_str().unwrap().contains("half precision"), "{small}");
    // Eight bits of a number leave one in 512 open.
    let error = small["relative_error"].as_f64().unwrap();
    assert!(error > 0.0 && error < 1.0 / 512.0, "{small}");
    // Scales of 1e-5 lose little there, and integers stay what they are.
    let other = find("blk.1.ffn_up.weight");
    assert_eq!((other["type"].as_str(), other["carried"].as_bool()), (Some("q4_0"), Some(true)), "{other}");
    assert!(other["relative_error"].as_f64().unwrap() < 1.0 / 512.0, "{other}");
    assert!(find("blk.0.ffn_gate.weight")["relative_error"] == 0.0);
    let said = String::from_utf8(run(&["convert", text(&folder), "-o", text(&out), "--force"]).stderr).unwrap();
    assert!(said.contains("largest matrix error") && said.contains("integers of 13 of 14"), "{said}");
    assert!(!run(&["convert", text(&folder), "-o", text(&out), "--force", "--strict"]).status.success());
}

/// One matrix, field by field: what the blocks of a GPTQ matrix must be.
#[test]
fn blocks_hold_the_very_integers() {
    let checkpoint = Checkpoint::quantized("gptq-sym-g32");
    let (dir, folder) = written(&checkpoint);
    let out = dir.path().join("out.gguf");
    good(&["convert", text(&folder), "-o", text(&out), "-q"]);
    let source = aurora_quant::checkpoint::open(&out).unwrap();
    let tensor = source.find("blk.0.ffn_down.weight").unwrap();
    let (outs, ins) = (256, 768);
    let bytes = |suffix: &str| &checkpoint.tensors[&format!("model.layers.0.mlp.down_proj.{suffix}")].2;
    let format = formats::by_name("q4_0").unwrap().blocks().unwrap();
    let found = source.bytes(tensor, 0..tensor.range.len());
    let mut codes = [0; 32];
    for row in 0..outs {
        for block in 0..ins / 32 {
            let at = (row * ins / 32 + block) * 18;
            let grid = format.unpack(&found[at..at + 18], &mut codes);
            let scale = (block * outs + row) * 2;
            let scale = f16::from_le_bytes(bytes("scales")[scale..scale + 2].try_into().unwrap());
            assert_eq!(grid.scale[0], scale.to_f32());
            for (i, code) in codes.iter().enumerate() {
                let col = block * 32 + i;
                // Little-endian words [ins / 8, outs]: four bytes hold eight codes of one output.
                let byte = bytes("qweight")[(col / 8 * outs + row) * 4 + col % 8 / 2];
                let stored = if col % 2 == 0 { byte & 15 } else { byte >> 4 };
                assert_eq!(*code, stored as i8 - 8, "row {row}, column {col}");
            }
        }
    }
}

#[test]
fn the_bytes_are_the_same_for_any_number_of_threads() {
    let (dir, folder) = written(&Checkpoint::quantized("awq-asym-g128"));
    let files: Vec<Vec<u8>> = ["1", "2", "5"]
        .iter()
        .map(|threads| {
            let out = dir.path().join(format!("{threads}.gguf"));
            good(&["convert", text(&folder), "-o", text(&out), "-q", "--threads", threads]);
            fs::read(out).unwrap()
        })
        .collect();
    assert!(files[0] == files[1] && files[1] == files[2]);
}

#[test]
fn another_type_is_a_second_rounding_and_says_so() {
    let (dir, folder) = written(&Checkpoint::quantized("gptq-sym-g32"));
    let out = dir.path().join("out.gguf");
    let done = run(&["convert", text(&folder), "--type", "q4_k_m", "-o", text(&out)]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success() && said.contains("second time") && said.contains("--type keep"), "{said}");
    assert!(said.contains("largest weight error") && said.contains("integers of 0 of 14"), "{said}");
    let gptq = ["--method", "gptq", "--samples", "2", "--context", "64"];
    let all = [&["convert", text(&folder), "--type", "q4_0", "--force", "-q", "-o", text(&out)], &gptq[..]].concat();
    good(&all);
    // Nothing that rounds goes with keeping.
    for options in [&gptq[..2], &["--calibrate"], &["--scales", "reference"], &["--pure"]] {
        let all = [&["convert", text(&folder), "--force", "-o", text(&out)], options].concat();
        let done = run(&all);
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success() && said.contains(options[0]) && said.contains("--type"), "{said}");
    }
    // Unless for single tensors.
    let options = ["--embedding-type", "q8_0", "--tensor-type", "blk.0.ffn_down=q6_k", "--json", "--force"];
    let all = [&["convert", text(&folder), "-o", text(&out)], &options[..]].concat();
    let record = record(&all);
    let kind = |name: &str| {
        let t = record["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap();
        t["type"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        ["token_embd.weight", "output.weight", "blk.0.ffn_down.weight", "blk.1.ffn_down.weight"].map(kind),
        ["q8_0", "bf16", "q6_k", "q4_0"]
    );
}

#[test]
fn keeping_needs_a_quantised_checkpoint() {
    let model = common::fixtures().join("models/stories260k");
    let done = run(&["convert", text(&model), "--type", "keep", "--dry-run"]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && said.contains("quantised checkpoint"), "{said}");
}

#[test]
fn inspection_shows_how_matrices_are_packed() {
    let (_dir, folder) = written(&Checkpoint::quantized("awq-asym-g128"));
    let shown = printed(&["inspect", text(&folder)]);
    for words in ["symmetric", "act order", "awq", "128"] {
        assert!(shown.contains(words), "{shown}");
    }
    let seen = record(&["inspect", text(&folder), "--json"]);
    let tensors = seen["tensors"].as_array().unwrap();
    let q = tensors.iter().find(|t| t["name"] == "model.layers.0.self_attn.q_proj.weight").unwrap();
    assert_eq!(q["shape"], json!([256, 256]));
    assert_eq!(q["packed"]["bits"], 4);
    assert_eq!(q["packed"]["group"], 128);
    assert_eq!((&q["packed"]["symmetric"], &q["packed"]["act_order"]), (&json!(false), &json!(false)));
    // 4 bits each, and for every 128 of them 16 of scale and 4 of zero.
    assert_eq!(q["bytes"], 256 * 256 / 2 + 256 * 2 * 2 + 256 * 2 / 2);
    let one = record(&["inspect", text(&folder), "--json", "--tensor", "model.layers.0.self_attn.q_proj.weight"]);
    assert_eq!(one["count"], 256 * 256);
    assert!(one["std"].as_f64().unwrap() > 0.0);
}

#[test]
fn models_run_from_codes() {
    let (dir, folder) = written(&Checkpoint::quantized("gptq-sym-g32"));
    let statistics = dir.path().join("imatrix.gguf");
    good(&["calibrate", text(&folder), "--samples", "2", "--context", "64", "-o", text(&statistics), "-q"]);
    good(&["bench", text(&folder), "--prompt", "8", "--generate", "2", "--runs", "1", "-q"]);
    good(&["generate", text(&folder), "--prompt", "Once", "--tokens", "3", "-q"]);
    let out = dir.path().join("out.gguf");
    good(&["convert", text(&folder), "-o", text(&out), "-q"]);
    let (out, folder) = (text(&out), text(&folder));
    let seen = record(&["eval", out, "--reference", folder, "--chunks", "2", "--context", "64", "--json"]);
    assert!(seen["divergence"]["kl"]["value"].as_f64().unwrap().abs() < 1e-9, "{seen}");
}

/// Order of the columns of an act-order twin: neighbours come from anywhere.
fn shuffled(n: usize) -> Vec<usize> {
    // 768 = 3 * 256, and 365 has no factor in common with it.
    (0..n).map(|i| (i * 365 + 11) % n).collect()
}

/// The same model with act order: the inputs of every down matrix in another place, and with them what makes them.
fn with_act_order(mut checkpoint: Checkpoint) -> Checkpoint {
    let (outs, ins) = (256, 768);
    let from = shuffled(ins);
    let columns = |bytes: &[u8], width: usize| -> Vec<u8> {
        let row = |row: &[u8]| from.iter().flat_map(|&c| row[c * width..(c + 1) * width].to_vec()).collect::<Vec<_>>();
        bytes.chunks_exact(ins * width).flat_map(row).collect()
    };
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.mlp.{part}");
        for stem in ["gate_proj", "up_proj"] {
            for (suffix, width) in [("qweight", 4), ("scales", 2)] {
                let (_, shape, bytes) = checkpoint.tensors.get_mut(&name(&format!("{stem}.{suffix}"))).unwrap();
                assert_eq!(shape[1], ins);
                *bytes = columns(bytes, width);
            }
            let zeros = &checkpoint.tensors[&name(&format!("{stem}.qzeros"))].2;
            assert!(zeros.iter().all(|&byte| byte == 0x77), "symmetric: every zero is the same");
        }
        let codes = &mut checkpoint.tensors.get_mut(&name("down_proj.qweight")).unwrap().2;
        let before = codes.clone();
        let code = |col: usize, row: usize| before[(col / 8 * outs + row) * 4 + col % 8 / 2] >> (col % 2 * 4) & 15;
        codes.fill(0);
        for (col, &from) in from.iter().enumerate() {
            for row in 0..outs {
                codes[(col / 8 * outs + row) * 4 + col % 8 / 2] |= code(from, row) << (col % 2 * 4);
            }
        }
        let groups = from.iter().flat_map(|&from| (from as i32 / 32).to_le_bytes()).collect();
        checkpoint.tensors.get_mut(&name("down_proj.g_idx")).unwrap().2 = groups;
    }
    checkpoint.config["quantization_config"]["desc_act"] = json!(true);
    checkpoint
}

/// Columns go back to their groups, and rows of gate and up go with them: nothing is rounded, the model is the same.
#[test]
fn act_order_is_undone_where_the_rows_that_make_the_input_can_follow() {
    let original = Checkpoint::quantized("gptq-sym-g32");
    let (dir, folder) = written(&original);
    let plain = dir.path().join("plain.gguf");
    good(&["convert", text(&folder), "-o", text(&plain), "-q"]);
    let (twin, twin_folder) = written(&with_act_order(original));
    let out = twin.path().join("out.gguf");
    let record = record(&["convert", text(&twin_folder), "-o", text(&out), "--strict", "--json"]);
    let tensors = record["tensors"].as_array().unwrap();
    let find = |name: &str| tensors.iter().find(|t| t["name"] == name).unwrap();
    for t in tensors.iter().filter(|t| t.get("packed").is_some()) {
        assert_eq!((t["type"].as_str(), t["carried"].as_bool()), (Some("q4_0"), Some(true)), "{t}");
        assert_eq!(t["largest_error"], 0.0, "{t}");
    }
    for i in 0..2 {
        let [down, gate, up] = ["down", "gate", "up"].map(|part| format!("blk.{i}.ffn_{part}.weight"));
        let columns = format!("act order: columns permuted with the rows of {gate} and {up}");
        assert_eq!(find(&down)["permuted"], json!(columns));
        assert!(find(&down)["packed"].as_str().unwrap().contains("act order"));
        for maker in [gate, up] {
            assert_eq!(find(&maker)["permuted"], json!(format!("rows permuted with the columns of {down}")));
        }
    }
    assert!(tensors.iter().filter(|t| t.get("permuted").is_some()).count() == 6, "{record}");
    // The twin is put together column by column (g_idx) where it is run as it is.
    for reference in [&twin_folder, &plain] {
        let options = ["--exact", "--chunks", "2", "--context", "64", "--json"];
        let seen = self::record(&[&["eval", text(&out), "--reference", text(reference)], &options[..]].concat());
        assert!(seen["divergence"]["kl"]["value"].as_f64().unwrap().abs() < 1e-9, "{seen}");
    }
    let done = run(&["convert", text(&twin_folder), "-o", text(&out), "--force"]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success() && said.contains("columns sorted by group"), "{said}");
}

/// What makes the inputs need not be quantised itself, nor stored like the rest.
#[test]
fn rows_of_floats_follow_act_order_too() {
    let mut checkpoint = with_act_order(Checkpoint::quantized("gptq-sym-g32"));
    let stem = "model.layers.0.mlp.up_proj";
    checkpoint.tensors.retain(|name, _| !name.starts_with(stem));
    let weight = |i: usize| f16::from_f32(((i * 7919 % 1009) as f32 - 504.0) / 8192.0).to_le_bytes();
    let bytes = (0..768 * 256).flat_map(weight).collect();
    checkpoint.tensors.insert(format!("{stem}.weight"), (Dtype::F16, vec![768, 256], bytes));
    let (dir, folder) = written(&checkpoint);
    let out = dir.path().join("out.gguf");
    let record = record(&["convert", text(&folder), "-o", text(&out), "--json"]);
    let tensors = record["tensors"].as_array().unwrap();
    let up = tensors.iter().find(|t| t["name"] == "blk.0.ffn_up.weight").unwrap();
    assert_eq!((up["type"].as_str(), up["largest_error"].as_f64()), (Some("f16"), Some(0.0)));
    assert_eq!(up["permuted"], "rows permuted with the columns of blk.0.ffn_down.weight");
    let options = ["--exact", "--chunks", "2", "--context", "64", "--json"];
    let seen = self::record(&[&["eval", text(&out), "--reference", text(&folder)], &options[..]].concat());
    assert!(seen["divergence"]["kl"]["value"].as_f64().unwrap().abs() < 1e-9, "{seen}");
}

/// The inputs of queries come from the residual stream, whose channels nothing can move for one matrix alone.
#[test]
fn act_order_that_cannot_be_undone_says_why() {
    let mut checkpoint = Checkpoint::quantized("gptq-sym-g32");
    let groups = |n: usize| (0..n).flat_map(|i| (i as i32 % (n as i32 / 32)).to_le_bytes()).collect::<Vec<u8>>();
    for stem in ["self_attn.q_proj", "self_attn.o_proj"] {
        checkpoint.tensors.get_mut(&format!("model.layers.0.{stem}.g_idx")).unwrap().2 = groups(256);
    }
    // Its first group has 33 columns, its second 31.
    let mut uneven: Vec<i32> = (0..768).map(|i| i / 32).collect();
    uneven[32] = 0;
    let name = "model.layers.0.mlp.down_proj.g_idx";
    checkpoint.tensors.get_mut(name).unwrap().2 = uneven.iter().flat_map(|g| g.to_le_bytes()).collect();
    let (dir, folder) = written(&checkpoint);
    let out = dir.path().join("out.gguf");
    let record = record(&["convert", text(&folder), "-o", text(&out), "--json"]);
    let tensors = record["tensors"].as_array().unwrap();
    for (name, why) in [
        ("attn_q", "residual stream"),
        ("attn_output", "within heads of"),
        ("ffn_down", "number of columns that is not a multiple of 32"),
    ] {
        let t = tensors.iter().find(|t| t["name"] == format!("blk.0.{name}.weight")).unwrap();
        assert_eq!((t["requested"].as_str(), t["type"].as_str()), (Some("q4_0"), Some("f16")), "{t}");
        let reason = t["reason"].as_str().unwrap();
        assert!(reason.starts_with("act order") && reason.contains(why), "{reason}");
        assert!(t.get("permuted").is_none(), "{t}");
    }
    let options = ["--exact", "--chunks", "2", "--context", "64", "--json"];
    let seen = self::record(&[&["eval", text(&out), "--reference", text(&folder)], &options[..]].concat());
    // Half precision holds eleven bits of these products.
    assert!(seen["divergence"]["kl"]["value"].as_f64().unwrap().abs() < 1e-6, "{seen}");
    let done = run(&["convert", text(&folder), "-o", text(&out), "--force", "--strict"]);
    assert!(!done.status.success());
}

const STEM: &str = "model.layers.1.mlp.up_proj";

/// What is said of a checkpoint after a change.
fn refusal(name: &str, change: impl FnOnce(&mut Checkpoint)) -> String {
    let mut checkpoint = Checkpoint::quantized(name);
    change(&mut checkpoint);
    let (dir, folder) = written(&checkpoint);
    let out = dir.path().join("out.gguf");
    let done = run(&["convert", text(&folder), "-o", text(&out)]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(!out.exists());
    said
}

fn narrow(c: &mut Checkpoint, suffix: &str) {
    let (_, shape, bytes) = c.tensors.get_mut(&format!("{STEM}.{suffix}")).unwrap();
    shape[1] -= 1;
    bytes.truncate(shape[0] * shape[1] * 4);
}

type Change = Box<dyn FnOnce(&mut Checkpoint)>;

fn stated(key: &'static str, value: Json) -> Change {
    Box::new(move |c| c.config["quantization_config"][key] = value)
}

#[test]
fn broken_ones_name_the_tensor() {
    let gptq: Vec<(Change, &[&str])> = vec![
        (Box::new(|c| narrow(c, "qzeros")), &["up_proj.qzeros", "[8, 95]", "[8, 96]"]),
        (Box::new(|c| _ = c.tensors.remove(&format!("{STEM}.scales"))), &["up_proj.scales", "missing"]),
        (Box::new(|c| _ = c.tensors.remove(&format!("{STEM}.qzeros"))), &["up_proj.qzeros", "missing"]),
        (Box::new(|c| _ = c.tensors.remove(&format!("{STEM}.qweight"))), &["up_proj.weight", "missing"]),
        (stated("bits", json!(5)), &["qweight", "5 bits"]),
        (stated("bits", json!(0)), &["bits", "from 1 to 8", "found 0"]),
        (stated("bits", Json::Null), &["bits", "missing"]),
        (stated("group_size", json!(160)), &["qweight", "groups of 160"]),
        (stated("group_size", json!(64)), &["scales", "[24, 256]", "[12, 256]"]),
        (stated("group_size", json!(-2)), &["group_size", "-2"]),
        (stated("quant_method", json!("sphinx")), &["sphinx", "down_proj.qweight", "known: "]),
        (stated("checkpoint_format", json!("marlin")), &["marlin", "gptq_v2"]),
        (stated("dynamic", json!({"+:(": {}})), &["dynamic", "pattern"]),
        (
            Box::new(|c| {
                let (_, _, bytes) = c.tensors.get_mut(&format!("{STEM}.g_idx")).unwrap();
                bytes[4..8].copy_from_slice(&8_i32.to_le_bytes());
            }),
            &["up_proj.g_idx", "input 1", "group 8 of 8"],
        ),
        (
            Box::new(|c| {
                let (_, _, bytes) = c.tensors.get_mut(&format!("{STEM}.g_idx")).unwrap();
                bytes[8..12].copy_from_slice(&(-3_i32).to_le_bytes());
            }),
            &["up_proj.g_idx", "input 2", "group -3 of 8"],
        ),
        (
            Box::new(|c| {
                let (_, shape, bytes) = c.tensors.get_mut(&format!("{STEM}.g_idx")).unwrap();
                shape[0] -= 1;
                bytes.truncate(shape[0] * 4);
            }),
            &["up_proj.g_idx", "[255]", "[256]"],
        ),
        (
            Box::new(|c| c.tensors.get_mut(&format!("{STEM}.g_idx")).unwrap().0 = Dtype::F32),
            &["up_proj.g_idx", "f32", "i32"],
        ),
        (
            Box::new(|c| c.tensors.get_mut(&format!("{STEM}.scales")).unwrap().0 = Dtype::I16),
            &["up_proj.scales", "i16", "f16, bf16, f32 or f8_e8m0"],
        ),
        (
            Box::new(|c| c.tensors.get_mut(&format!("{STEM}.qweight")).unwrap().1 = vec![24576]),
            &["up_proj.qweight", "[24576]", "matrix"],
        ),
        (
            Box::new(|c| c.tensors.get_mut(&format!("{STEM}.qweight")).unwrap().0 = Dtype::F32),
            &["up_proj.qweight", "f32", "i32"],
        ),
        (
            Box::new(|c| {
                let scales = &mut c.tensors.get_mut(&format!("{STEM}.scales")).unwrap().2;
                scales[..2].copy_from_slice(&f16::NAN.to_le_bytes());
            }),
            &["up_proj.weight", "NaN"],
        ),
    ];
    let mut faults = Vec::new();
    for (change, words) in gptq {
        let said = refusal("gptq-sym-g32", change);
        if !words.iter().all(|w| said.contains(w)) {
            faults.push(format!("{words:?} in {said}"));
        }
    }
    for (change, words) in [
        (stated("bits", json!(8)), &["qweight", "8 bits"][..]),
        (stated("version", json!("gemv")), &["version", "gemv", "gemm"]),
        (Box::new(|c: &mut Checkpoint| narrow(c, "qzeros")) as Change, &["up_proj.qzeros", "[2, 95]"]),
        (stated("group_size", json!(100)), &["qweight", "groups of 100"]),
    ] {
        let said = refusal("awq-asym-g128", change);
        if !words.iter().all(|w| said.contains(w)) {
            faults.push(format!("{words:?} in {said}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Half of the tensors are in a file that is not there: its name is said, not those of all its tensors.
#[test]
fn a_shard_that_is_missing_is_named() {
    let checkpoint = Checkpoint::quantized("gptq-sym-g32");
    let (_dir, folder) = written(&checkpoint);
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    fs::rename(folder.join("model.safetensors"), folder.join(first)).unwrap();
    let place = |name: &String| if name.ends_with(".scales") { second } else { first };
    let map: serde_json::Map<String, Json> =
        checkpoint.tensors.keys().map(|name| (name.clone(), json!(place(name)))).collect();
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    let done = run(&["convert", text(&folder), "-o", text(&folder.join("out.gguf"))]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains(second), "{said}");
}

#[test]
fn a_bias_of_zeros_that_the_model_does_not_have_is_left_out() {
    let mut checkpoint = Checkpoint::quantized("gptq-sym-g32");
    let name = format!("{STEM}.bias");
    checkpoint.tensors.insert(name.clone(), (Dtype::F16, vec![768], vec![0; 768 * 2]));
    let (_dir, folder) = written(&checkpoint);
    good(&["convert", text(&folder), "--dry-run", "-q"]);
    let said = refusal("gptq-sym-g32", |c| {
        c.tensors.insert(name, (Dtype::F16, vec![768], vec![1; 768 * 2]));
    });
    assert!(said.contains("unexpected tensor") && said.contains("up_proj.bias"), "{said}");
}

/// Older tools state their settings in a file of their own.
#[test]
fn settings_may_stand_beside_the_configuration() {
    for (name, file, settings) in [
        ("gptq-sym-g32", "quantize_config.json", json!({"bits": 4, "group_size": 32, "sym": true})),
        ("awq-sym-g32", "quant_config.json", json!({"w_bit": 4, "q_group_size": 32, "version": "GEMM"})),
    ] {
        let mut checkpoint = Checkpoint::quantized(name);
        checkpoint.config.as_object_mut().unwrap().remove("quantization_config");
        let (_dir, folder) = written(&checkpoint);
        fs::write(folder.join(file), settings.to_string()).unwrap();
        let record = record(&["convert", text(&folder), "--dry-run", "--json"]);
        assert_eq!(record["type"], "keep");
    }
}

/// A module that `dynamic` gives other settings is read by these.
#[test]
fn modules_may_have_settings_of_their_own() {
    let mut checkpoint = Checkpoint::quantized("gptq-sym-g32");
    let stated = &mut checkpoint.config["quantization_config"];
    stated["bits"] = json!(8);
    stated["dynamic"] = json!({"-:nothing": {}, r"+:.*\.layers\.\d+\.": {"bits": 4}});
    let (_dir, folder) = written(&checkpoint);
    let record = record(&["convert", text(&folder), "--dry-run", "--json"]);
    let q = record["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "blk.0.attn_q.weight").unwrap();
    assert_eq!(q["type"], "q4_0");
}
