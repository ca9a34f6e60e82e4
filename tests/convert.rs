//! The real binary on real folders: every file it writes is compared with what llama.cpp's own tools wrote.

mod common;

use std::collections::BTreeMap;
use std::fs;

use aurora_quant::checkpoint::{self, Config};
use aurora_quant::gguf::Value;
use aurora_quant::plan::{FILE_TYPES, FileType};
use common::binary::aurora;
use common::conversion::{convert, fixture, hashes, json, model, reshaped, run};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Fixture models with a reference dump and block hashes.
const MODELS: [&str; 9] = [
    "stories260k",
    "tiny-llama3",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen3",
    "tiny-gemma2",
    "tiny-phi3",
    "tiny-mixtral",
    "tiny-gpt2",
];

/// What `llama-quantize --pure` without importances writes.
const PURE: [&str; 3] = ["--pure", "--scales", "reference"];

/// The tensors of a reference dump in the same form, with the shape (outermost first).
fn dump_tensors(name: &str) -> BTreeMap<String, (String, String)> {
    let dump = json(&fixture("ref-gguf").join(format!("{name}.gguf-dump.json")));
    let text = |t: &Json, key: &str| t[key].as_str().expect("a string").to_owned();
    dump["tensors"]
        .as_array()
        .expect("tensors")
        .iter()
        .map(|t| (text(t, "name"), (text(t, "type"), text(t, "sha256"))))
        .collect()
}

/// Says which tensors differ, and how.
fn assert_same(what: &str, ours: &BTreeMap<String, (String, String)>, theirs: &BTreeMap<String, (String, String)>) {
    let names = |m: &BTreeMap<String, (String, String)>| m.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(ours), names(theirs), "{what}: tensor names");
    let different: Vec<_> =
        ours.iter().filter(|(name, v)| theirs[*name] != **v).map(|(name, v)| (name, &v.0)).collect();
    assert!(different.is_empty(), "{what}: {} tensors differ: {different:?}", different.len());
}

#[test]
fn float_files_hold_the_bytes_that_the_reference_converter_wrote() {
    let dir = TempDir::new().unwrap();
    for name in MODELS {
        for ty in ["f32", "bf16"] {
            let out = dir.path().join(format!("{name}-{ty}.gguf"));
            convert(&model(name), ty, &out, &[]);
            assert_same(&format!("{name} {ty}"), &hashes(&out), &dump_tensors(&format!("{name}-{ty}")));
        }
    }
}

#[test]
fn blocks_equal_those_of_llama_quantize() {
    let dir = TempDir::new().unwrap();
    let reference = json(&fixture("ref-blocks/block-hashes.json"));
    for name in MODELS {
        for (ty, theirs) in reference[name].as_object().expect("hashes of this model") {
            let out = dir.path().join(format!("{name}-{ty}.gguf"));
            convert(&model(name), ty, &out, &PURE);
            let theirs = theirs.as_object().expect("hashes of this model and type");
            let theirs = theirs.iter().map(|(tensor, v)| {
                let text = |i: usize| v[i].as_str().expect("a string").to_owned();
                (tensor.clone(), (text(0), text(1)))
            });
            // The rotary factors are no weights: llama-quantize keeps them, its hash list may leave them out.
            assert_same(&format!("{name} {ty}"), &hashes(&out), &theirs.collect());
        }
    }
}

#[test]
fn mixtures_are_written_as_planned() {
    let dir = TempDir::new().unwrap();
    let recorded = common::mixtures::recorded();
    // Rows too short for blocks of 256; experts; queries, keys and values in one matrix.
    let some = [("stories260k", &[][..]), ("tiny-mixtral", &["mxfp4", "q4_k_m"]), ("tiny-gpt2", &["q2_k", "iq4_xs"])];
    for (name, only) in some {
        let chosen = |t: &&FileType| t.base().spec().block > 1 && (only.is_empty() || only.contains(&t.name));
        for file_type in FILE_TYPES.iter().filter(chosen) {
            let what = format!("{name} {}", file_type.name);
            let row = file_type.names().find_map(|n| recorded[name].get(n.to_uppercase())).expect("a recorded mixture");
            let out = dir.path().join("mixture.gguf");
            convert(&model(name), file_type.name, &out, &["--force"]);
            common::mixtures::assert_types(&what, hashes(&out).into_iter().map(|(name, (ty, _))| (name, ty)), row);
            if let Some(bytes) = row["file_bytes"].as_u64() {
                assert_eq!(fs::metadata(&out).unwrap().len(), bytes, "{what}: file size");
            }
            let Config::Gguf(header) = checkpoint::open(&out).unwrap().config().clone() else { unreachable!() };
            let recorded = header.metadata.get("general.file_type");
            assert_eq!(recorded, Some(&Value::U32(file_type.id)), "{what}");
        }
    }
}

#[test]
fn reference_scales_are_refused_where_there_are_none() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("x.gguf");
    let arguments = ["--type", "q4_0", "--scales", "reference", "-o"];
    // Without --pure the output matrix gets q6_k.
    let refused = run(aurora().arg("convert").arg(model("tiny-qwen3")).args(arguments).arg(&out));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    for word in ["output.weight", "q6_k", "--scales search", "--pure", "q4_0, "] {
        assert!(text.contains(word), "{word:?} in {text}");
    }
    assert!(!out.exists());
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let dir = TempDir::new().unwrap();
    for name in ["tiny-mixtral", "tiny-gpt2", "stories260k"] {
        for ty in ["q4_0", "q8_0", "bf16", "q4_k_m"] {
            let mut digests = Vec::new();
            for (i, threads) in ["1", "2", "7", "7"].into_iter().enumerate() {
                let out = dir.path().join(format!("{name}-{ty}-{i}.gguf"));
                convert(&model(name), ty, &out, &["--threads", threads]);
                digests.push(Sha256::digest(fs::read(&out).unwrap()));
            }
            assert!(digests.iter().all(|d| *d == digests[0]), "{name} {ty}");
        }
    }
}

#[test]
fn a_gguf_input_gives_the_same_tensors_as_the_checkpoint() {
    let dir = TempDir::new().unwrap();
    for name in MODELS {
        let (floats, direct, second) =
            (dir.path().join(format!("{name}-f32.gguf")), dir.path().join("a.gguf"), dir.path().join("b.gguf"));
        convert(&model(name), "f32", &floats, &[]);
        convert(&model(name), "q5_1", &direct, &["--force", "--pure"]);
        convert(&floats, "q5_1", &second, &["--force", "--pure"]);
        let (direct, second) = (fs::read(direct).unwrap(), fs::read(second).unwrap());
        assert!(direct == second, "{name}: the two files differ");
    }
}

#[test]
fn the_plan_predicts_the_file_to_the_byte() {
    let dir = TempDir::new().unwrap();
    for name in MODELS {
        for ty in ["f32", "f16", "q4_0", "q5_1"] {
            let out = dir.path().join(format!("{name}-{ty}.gguf"));
            let flags = ["--dry-run", "--json", "--pure", "--output-type", "q8_0", "--tensor-type", "ffn_down=f16"];
            let plan = convert(&model(name), ty, &out, &flags);
            assert!(!out.exists(), "a dry run writes nothing");
            let plan: Json = serde_json::from_slice(&plan.stdout).expect("one JSON document");
            let done = convert(&model(name), ty, &out, &flags[1..]);
            let done: Json = serde_json::from_slice(&done.stdout).expect("one JSON document");
            let size = fs::metadata(&out).unwrap().len();
            assert_eq!(plan["file_bytes"].as_u64(), Some(size), "{name} {ty}");
            assert_eq!(plan["tensors"], done["tensors"], "{name} {ty}");
            let written = hashes(&out);
            for t in plan["tensors"].as_array().unwrap() {
                let (name, ty) = (t["name"].as_str().unwrap(), t["type"].as_str().unwrap());
                assert_eq!(written[name].0, ty.to_uppercase(), "{name}");
            }
        }
    }
}

#[test]
fn fallbacks_are_reported_and_strict_refuses_them() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("stories.gguf");
    let strict =
        run(aurora().arg("convert").arg(model("stories260k")).args(["--type", "q4_0", "--strict", "-o"]).arg(&out));
    let text = String::from_utf8_lossy(&strict.stderr).into_owned();
    assert_eq!(strict.status.code(), Some(1), "{text}");
    assert!(!out.exists());
    for word in ["blk.4.ffn_down.weight", "172 columns", "multiple of 32", "f16"] {
        assert!(text.contains(word), "{word:?} in {text}");
    }
    let plain = convert(&model("stories260k"), "q4_0", &out, &["--json"]);
    let record: Json = serde_json::from_slice(&plain.stdout).unwrap();
    // The tied embedding asks for q6_k, whose blocks are wider than the model.
    assert_eq!(record["fallbacks"], 6);
    let down = record["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "blk.0.ffn_down.weight").unwrap();
    assert_eq!((&down["requested"], &down["type"]), (&"q4_0".into(), &"f16".into()));
    assert!(down["reason"].as_str().unwrap().contains("172"));
    let human = convert(&model("stories260k"), "q4_0", &out, &["--force"]);
    assert!(String::from_utf8_lossy(&human.stderr).contains("blk.0.ffn_down.weight"));
    let fits = convert(&model("tiny-llama3"), "q4_0", &dir.path().join("fits.gguf"), &["--strict", "--pure"]);
    assert!(fits.status.success());
}

#[test]
fn types_can_be_chosen_per_tensor() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("x.gguf");
    let flags = ["--embedding-type", "q5_0", "--output-type", "f16", "--tensor-type", "blk\\.0\\..*ffn_(up|gate)=q8_0"];
    convert(&model("tiny-qwen3"), "q4_0", &out, &flags);
    let types = hashes(&out);
    for (name, ty) in [
        ("token_embd.weight", "Q5_0"),
        ("output.weight", "F16"),
        ("blk.0.ffn_up.weight", "Q8_0"),
        ("blk.1.ffn_up.weight", "Q4_0"),
        ("blk.0.attn_norm.weight", "F32"),
        ("blk.0.attn_q_norm.weight", "F32"),
    ] {
        assert_eq!(types[name].0, ty, "{name}");
    }
    let typo =
        run(aurora().arg("convert").arg(model("tiny-qwen3")).args(["--tensor-type", "fnn_up=q8_0", "--dry-run"]));
    assert_eq!(typo.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&typo.stderr).contains("fnn_up"));
}

#[test]
fn quantised_input_needs_a_word_where_it_is_rounded_again() {
    let dir = TempDir::new().unwrap();
    let (first, second) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    convert(&model("tiny-llama3"), "q8_0", &first, &[]);
    let again = |file_type: &str, more: &[&str]| {
        run(aurora()
            .arg("convert")
            .arg(&first)
            .args(["--type", file_type, "-q", "--force", "-o"])
            .arg(&second)
            .args(more))
    };
    for more in [&[][..], &["--format", "safetensors"], &["--method", "gptq", "--samples", "2", "--context", "32"]] {
        let refused = again("f16", more);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{more:?}");
        assert!(said.contains("--allow-requantize") && said.contains("q8_0") && said.contains("f16"), "{said}");
    }
    assert!(again("q4_0", &["--allow-requantize", "--pure"]).status.success());
    assert_eq!(hashes(&second)["blk.0.attn_q.weight"].0, "Q4_0");
    // Nothing is lost: the same bytes, and single precision.
    assert!(again("q8_0", &[]).status.success());
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap());
    assert!(again("f32", &[]).status.success());
    assert_eq!(hashes(&second)["blk.0.attn_q.weight"].0, "F32");
}

/// Matrices that have their type already keep their bytes, whatever they were rounded by; what an importance matrix did
/// to others is not said any more.
#[test]
fn what_has_its_type_is_copied() {
    let dir = TempDir::new().unwrap();
    let [imatrix, first, second] = ["i.gguf", "a.gguf", "b.gguf"].map(|name| dir.path().join(name));
    let text = common::fixtures().join("eval/eval.txt");
    let some = ["--context", "32", "--samples", "2"];
    let done = run(aurora()
        .arg("calibrate")
        .arg(model("tiny-llama3"))
        .arg("--text")
        .arg(&text)
        .args(some)
        .arg("-o")
        .arg(&imatrix));
    assert!(done.status.success());
    convert(&model("tiny-llama3"), "q4_k_m", &first, &["--imatrix", imatrix.to_str().unwrap()]);
    let keys = |path: &std::path::Path| {
        let source = checkpoint::open(path).unwrap();
        let Config::Gguf(config) = source.config() else { unreachable!() };
        config.metadata.iter().filter(|(key, _)| key.starts_with("quantize.imatrix.")).count()
    };
    assert!(keys(&first) > 0);
    let again = |more: &[&str]| {
        let done = run(aurora().arg("convert").arg(&first).args(["--json", "--force", "-o"]).arg(&second).args(more));
        assert!(done.status.success(), "{more:?}: {}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice::<Json>(&done.stdout).unwrap()
    };
    let gptq = ["--method", "gptq", "--allow-requantize", "--context", "32", "--samples", "2", "--type", "q4_k_m"];
    for more in [&["--type", "q4_k_m"][..], &["--type", "q4_k_m", "--threads", "3"], &gptq] {
        again(more);
        assert_eq!(hashes(&first), hashes(&second), "{more:?}");
        assert!(more.len() > 4 || keys(&second) == keys(&first), "{more:?}");
    }
    let changed = ["--type", "q4_k_m", "--tensor-type", "ffn_up=q8_0", "--allow-requantize"];
    let record = again(&changed);
    assert_eq!(keys(&second), 0);
    let after = hashes(&second);
    for t in record["tensors"].as_array().unwrap() {
        let (name, block) = (t["name"].as_str().unwrap(), t["type"] != "f32");
        let same = hashes(&first)[name] == after[name];
        assert_eq!(same, !name.contains("ffn_up"), "{name}");
        assert_eq!(t["carried"] == true, same && block, "{t}");
    }
}

/// A copy of a model whose first down matrix is multiplied with a power of two.
fn scaled(dir: &std::path::Path, name: &str, power: i32) -> std::path::PathBuf {
    let to = dir.join(format!("{name}-{power}"));
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(model(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    let weights = to.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str, t: &safetensors::tensor::TensorView<'_>| -> Vec<u8> {
        let by = if name.ends_with("layers.0.mlp.down_proj.weight") { 2f32.powi(power) } else { 1.0 };
        let value = |b: &[u8; 2]| (half::bf16::from_le_bytes(*b).to_f32() * by).to_le_bytes();
        t.data().as_chunks().0.iter().flat_map(value).collect()
    };
    let values: Vec<_> = file.tensors().into_iter().map(|(n, t)| (floats(&n, &t), t.shape().to_vec(), n)).collect();
    let views = values.iter().map(|(bytes, shape, name)| {
        assert_eq!(bytes.len(), shape.iter().product::<usize>() * 4, "{name}: BF16 in the fixture");
        (name.as_str(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &weights).unwrap();
    to
}

/// A matrix of small numbers loses what it does at ordinary size, or the record says how much more, the summary which
/// one, and strict mode refuses it: as numbers that are too large.
#[test]
fn small_matrices_are_kept_or_told() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out.gguf");
    let name = "blk.0.ffn_down.weight";
    let of_it =
        |record: &Json| record["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap().clone();
    for file_type in ["q8_0", "q6_k", "q4_k_s", "iq4_nl", "q4_0", "f16", "bf16"] {
        let mut at_one = 0.0;
        for power in [0, 15, -10, -16, -24, -60] {
            let input = scaled(dir.path(), "tiny-llama3", power);
            let words = ["--type", file_type, "--pure", "--codes", "nearest", "--json", "--force", "-o"];
            let done = run(aurora().arg("convert").arg(&input).args(words).arg(&out));
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let record: Json = serde_json::from_slice(&done.stdout).unwrap();
            let what = format!("{file_type} times 2^{power}");
            let error = error(&input, &out, name);
            at_one = if power == 0 { error } else { at_one };
            let t = of_it(&record);
            let told = t["too_small"]["error"].as_f64();
            assert!(error <= 1.0 + 1e-6, "{what}: {error}");
            assert!(told.is_some() || error <= (at_one * 1.19).max(0.01), "{what}: {error}, {at_one} at one");
            let noted = record["notes"].as_array().unwrap().iter().any(|n| n.as_str().unwrap().contains(name));
            assert_eq!(noted, told.is_some(), "{what}: {}", record["notes"]);
            let Some(told) = told else { continue };
            assert!((told / error - 1.0).abs() < 1e-3 && t["relative_error"] == t["too_small"]["error"], "{what}: {t}");
            let usual = t["too_small"]["usual"].as_f64().unwrap();
            // F16 holds nearly all of the fixture at one.
            assert!((usual - at_one).abs() < 0.1 * at_one.max(1e-6), "{what}: {t}, {at_one} at one");
        }
    }
    // Whoever chooses the codes.
    let input = scaled(dir.path(), "tiny-llama3", -24);
    let some = ["--context", "32", "--samples", "2"];
    for method in ["rtn", "gptq", "awq"] {
        let words = ["--type", "q6_k", "--method", method, "--force", "-o", out.to_str().unwrap()];
        let words = [&words[..], if method == "rtn" { &[] } else { &some }].concat();
        let done = run(aurora().arg("convert").arg(&input).args(&words));
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success() && said.contains(name) && said.contains("too small for q6_k"),
            "{method}: {said}"
        );
        fs::remove_file(&out).unwrap();
        let done = run(aurora().arg("convert").arg(&input).args(&words).arg("--strict"));
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(said.contains("too small for q6_k") && said.contains("--tensor-type"), "{method}: {said}");
        assert!(!done.status.success() && !out.exists(), "{method}");
    }
}

/// The relative error of one written matrix.
fn error(input: &std::path::Path, output: &std::path::Path, name: &str) -> f64 {
    let values = |path: &std::path::Path, name: &str| -> Vec<f32> {
        let source = checkpoint::open(path).unwrap();
        let info = source.find(name).unwrap();
        let mut out = vec![0.0; info.shape.iter().product()];
        let store = aurora_quantizers::formats::by_name(info.spec.name).unwrap();
        store.decode(source.bytes(info, 0..info.range.len()), &mut out);
        out
    };
    let (x, y) = (values(input, "model.layers.0.mlp.down_proj.weight"), values(output, name));
    let square: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    let error: f64 = x.iter().zip(&y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
    (error / square).sqrt()
}

#[test]
fn a_tensor_of_many_chunks_and_groups_is_whole() {
    let dir = TempDir::new().unwrap();
    // 5.1 million weights: three groups of chunks whose pages are given back.
    let (name, rows) = ("model.embed_tokens.weight", 80_000);
    let input = reshaped(dir.path(), serde_json::json!({"vocab_size": rows}), &[(name, [rows, 64])], rows * 64);
    let (out, floats) = (dir.path().join("q.gguf"), dir.path().join("f.gguf"));
    convert(&input, "q8_0", &out, &["--threads", "3"]);
    convert(&input, "f32", &floats, &["--threads", "7"]);
    let source = checkpoint::open(&input).unwrap();
    let original = source.find(name).unwrap();
    let bytes = source.bytes(original, 0..original.range.len());
    let written = checkpoint::open(&floats).unwrap();
    let copy = written.find("token_embd.weight").unwrap();
    assert!(written.bytes(copy, 0..copy.range.len()) == bytes, "F32 is a copy");
    // In one call, without chunks: what the chunks must add up to.
    let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let mut blocks = vec![0; values.len() / 32 * 34];
    aurora_quantizers::formats::by_name("q8_0").unwrap().encode(
        &values,
        aurora_quantizers::Scales::Reference,
        &mut blocks,
    );
    let written = checkpoint::open(&out).unwrap();
    let encoded = written.find("token_embd.weight").unwrap();
    assert!(written.bytes(encoded, 0..encoded.range.len()) == blocks, "blocks");
}
