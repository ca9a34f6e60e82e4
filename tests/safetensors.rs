//! Checkpoints of floats that the real binary writes back: every tensor where it was, bit for bit, unless something
//! changed it.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aurora_quant::checkpoint::{self, Config, TensorSource};
use aurora_quant::text::{Special, Tokenizer};
use common::binary::{good, printed, refused};
use common::checkpoint::Checkpoint;
use common::conversion::{hashes, json, leftovers, model};
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn bytes<'s>(source: &'s dyn TensorSource, name: &str) -> &'s [u8] {
    let tensor = source.find(name).unwrap_or_else(|| panic!("no {name}"));
    source.bytes(tensor, 0..tensor.range.len())
}

/// A copy of a fixture's folder whose tensors can be changed.
fn changed(name: &str, to: &Path, change: impl Fn(&mut Tensors)) -> PathBuf {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(model(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    let path = to.join("model.safetensors");
    let data = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&data).unwrap();
    let copy = |(name, t): (String, TensorView<'_>)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()));
    let mut tensors: Tensors = file.tensors().into_iter().map(copy).collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &path).unwrap();
    to.to_owned()
}

type Tensors = BTreeMap<String, common::checkpoint::Tensor>;

/// Writes a model back and returns the folder, with the record.
fn returned(input: &Path, dir: &TempDir, more: &[&str]) -> (PathBuf, Json) {
    let out = dir.path().join("returned");
    let words = ["convert", text(input), "--format", "safetensors", "--json", "-o", text(&out)];
    let record = serde_json::from_str(&printed(&[&words[..], more].concat())).unwrap();
    assert_eq!(leftovers(dir.path()), 0);
    (out, record)
}

/// Holds every tensor of one checkpoint against another's.
fn same(found: &Path, wanted: &Path, left_out: &[&str]) {
    let (found, wanted) = (checkpoint::open(found).unwrap(), checkpoint::open(wanted).unwrap());
    for tensor in wanted.tensors().iter().filter(|t| !left_out.iter().any(|end| t.name.ends_with(end))) {
        let other = found.find(&tensor.name).unwrap_or_else(|| panic!("no {}", tensor.name));
        assert_eq!((&other.shape, other.spec.name), (&tensor.shape, tensor.spec.name), "{}", tensor.name);
        assert!(bytes(found.as_ref(), &tensor.name) == bytes(wanted.as_ref(), &tensor.name), "{}", tensor.name);
    }
    assert!(found.tensors().iter().all(|t| wanted.find(&t.name).is_some()));
}

#[test]
fn what_nothing_changed_comes_back_bit_for_bit() {
    for name in common::MODELS.iter() {
        let dir = TempDir::new().unwrap();
        let (out, record) = returned(&model(name), &dir, &[]);
        same(&out, &model(name), &[]);
        assert_eq!(json(&out.join("config.json")), json(&model(name).join("config.json")), "{name}");
        for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            assert_eq!(fs::read(out.join(file)).unwrap(), fs::read(model(name).join(file)).unwrap(), "{name} {file}");
        }
        let size = fs::metadata(out.join("model.safetensors")).unwrap().len();
        let header = size - record["file_bytes"].as_u64().unwrap();
        assert!(header > 8 && header < 40_000, "{name}: a header of {header}");
        assert_eq!(record["type"], "safetensors");
    }
}

/// A tokenizer in Mistral's file, and templates beyond the default one.
#[test]
fn every_file_of_a_tokenizer_comes_along() {
    let dir = TempDir::new().unwrap();
    let input = changed("tiny-llama3", &dir.path().join("in"), |_| {});
    fs::create_dir(input.join("additional_chat_templates")).unwrap();
    let files = ["tekken.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja"];
    files.iter().for_each(|file| fs::write(input.join(file), format!("{{# {file} #}}")).unwrap());
    let (out, record) = returned(&input, &dir, &[]);
    for file in files {
        assert_eq!(fs::read_to_string(out.join(file)).unwrap(), format!("{{# {file} #}}"));
        let named =
            |list: &str| record[list].as_array().unwrap().iter().any(|f| f["path"].as_str().unwrap().ends_with(file));
        assert!(named("inputs") && named("outputs"), "{file}: {record}");
    }
}

#[test]
fn experts_that_were_stacked_and_fused_stay_so() {
    let dir = TempDir::new().unwrap();
    let stacked = changed("tiny-qwen3-moe", &dir.path().join("in"), |tensors| {
        let config = json(&model("tiny-qwen3-moe").join("config.json"));
        let experts = config["num_experts"].as_u64().unwrap() as usize;
        for layer in 0..config["num_hidden_layers"].as_u64().unwrap() {
            let root = format!("model.layers.{layer}.mlp.experts");
            let mut take =
                |expert: usize, part: &str| tensors.remove(&format!("{root}.{expert}.{part}.weight")).unwrap();
            let (mut both, mut down, mut shapes) = (Vec::new(), Vec::new(), (Vec::new(), Vec::new()));
            let mut dtype = Dtype::F32;
            for expert in 0..experts {
                let [gate, up, last] = ["gate_proj", "up_proj", "down_proj"].map(|part| take(expert, part));
                both.extend([gate.2, up.2].concat());
                down.extend(last.2);
                shapes = (vec![experts, 2 * gate.1[0], gate.1[1]], vec![experts, last.1[0], last.1[1]]);
                dtype = gate.0;
            }
            tensors.insert(format!("{root}.gate_up_proj"), (dtype, shapes.0, both));
            tensors.insert(format!("{root}.down_proj"), (dtype, shapes.1, down));
        }
    });
    let (out, _) = returned(&stacked, &dir, &[]);
    same(&out, &stacked, &[]);
}

#[test]
fn shards_hold_what_one_file_holds() {
    let dir = TempDir::new().unwrap();
    let (out, record) = returned(&model("tiny-mistral"), &dir, &["--shard-size", "100KB"]);
    same(&out, &model("tiny-mistral"), &[]);
    let index = json(&out.join("model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], record["file_bytes"]);
    let map = index["weight_map"].as_object().unwrap();
    let files: std::collections::BTreeSet<&str> = map.values().map(|v| v.as_str().unwrap()).collect();
    assert!(files.len() > 5 && !out.join("model.safetensors").exists(), "{files:?}");
    for file in files {
        let data = fs::read(out.join(file)).unwrap();
        let tensors = SafeTensors::deserialize(&data).unwrap();
        assert!(data.len() < 110_000 || tensors.len() == 1, "{file}: {} bytes", data.len());
        assert!(tensors.names().iter().all(|name| map[*name] == file), "{file}");
    }
}

#[test]
fn a_type_is_that_of_all_tensors_and_of_the_configuration() {
    let dir = TempDir::new().unwrap();
    let (out, record) = returned(&model("tiny-gemma2"), &dir, &["--type", "F16"]);
    assert_eq!(record["type"], "safetensors-f16");
    let config = json(&out.join("config.json"));
    assert!(config["torch_dtype"] == "float16" || config["dtype"] == "float16", "{config}");
    let data = fs::read(out.join("model.safetensors")).unwrap();
    let found = SafeTensors::deserialize(&data).unwrap();
    let wanted = common::canonical::load(&model("tiny-gemma2"));
    assert_eq!(found.len(), wanted.len());
    for (name, tensor) in found.tensors() {
        assert_eq!(tensor.dtype(), Dtype::F16, "{name}");
        let numbers = tensor.data().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]));
        assert!(numbers.zip(&wanted[&name].data).all(|(a, b)| a == f16::from_f32(*b)), "{name}");
    }
}

#[test]
fn doubles_become_singles() {
    let dir = TempDir::new().unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let input = changed("stories260k", &dir.path().join("in"), |tensors| {
        let (dtype, _, bytes) = tensors.get_mut(name).unwrap();
        let single = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        (*dtype, *bytes) = (Dtype::F64, single.flat_map(|x| f64::from(x).to_le_bytes()).collect());
    });
    let (out, _) = returned(&input, &dir, &[]);
    same(&out, &model("stories260k"), &[]);
    assert_eq!(json(&out.join("config.json"))["torch_dtype"], "float32");
}

#[test]
fn quantised_matrices_become_floats() {
    for (name, exact) in [("gptq-sym-g32", "f32"), ("awq-asym-g128", "f32")] {
        let dir = TempDir::new().unwrap();
        let input = dir.path().join("in");
        Checkpoint::quantized(name).write(&input);
        let [before, after] = ["before.gguf", "after.gguf"].map(|n| dir.path().join(n));
        let (out, record) = returned(&input, &dir, &["--type", exact]);
        good(&["convert", text(&input), "--type", "f32", "-q", "-o", text(&before)]);
        good(&["convert", text(&out), "--type", "f32", "-q", "-o", text(&after)]);
        assert_eq!(hashes(&before), hashes(&after), "{name}");
        let config = json(&out.join("config.json"));
        assert!(config.get("quantization_config").is_none() && config["dtype"] == "float32", "{config}");
        assert!(record["notes"].to_string().contains("quantised"), "{}", record["notes"]);
        fs::remove_dir_all(&out).unwrap();
        let (out, _) = returned(&input, &dir, &[]);
        let source = checkpoint::open(&out).unwrap();
        assert_eq!(source.find("model.layers.0.mlp.up_proj.weight").unwrap().spec.name, "f16");
        assert_eq!(json(&out.join("config.json"))["dtype"], "float16");
    }
}

#[test]
fn what_the_model_does_not_use_is_left_out_with_a_note() {
    let dir = TempDir::new().unwrap();
    let extra = "model.layers.0.self_attn.rotary_emb.inv_freq";
    let input = changed("tiny-llama3", &dir.path().join("in"), |tensors| {
        tensors.insert(extra.to_owned(), (Dtype::F32, vec![2], vec![0; 8]));
    });
    let (out, record) = returned(&input, &dir, &[]);
    same(&out, &input, &[".inv_freq"]);
    assert!(record["notes"][0].as_str().unwrap().contains(extra), "{}", record["notes"]);
}

#[test]
fn what_cannot_be_is_refused_before_any_work() {
    let dir = TempDir::new().unwrap();
    let (out, input) = (dir.path().join("out"), model("tiny-llama3"));
    for (arguments, words) in [
        (&["--type", "q4_0"][..], &["--type", "bf16"][..]),
        (&["--bits", "4"], &["--bits", "GPTQ", "--format safetensors", "--shard-size"]),
        (&["--pre", "qwen2"], &["--pre", "GGUF"]),
    ] {
        let words_of = ["convert", text(&input), "--format", "safetensors", "-o", text(&out)];
        let said = refused(&[&words_of[..], arguments].concat());
        assert!(words.iter().all(|w| said.contains(w)), "{said}");
    }
    // What chooses codes would run the model and find none to choose.
    for arguments in [&["--method", "awq+gptq"][..], &["--method", "awq", "--clip"], &["--calibrate"]] {
        let said =
            refused(&[&["convert", text(&input), "--format", "safetensors", "-o", text(&out)], arguments].concat());
        assert!(said.contains(arguments[0]) && said.contains("stay floats: leave it out"), "{said}");
        assert!(said.contains("--format") && !out.exists(), "{said}");
    }
    let said = refused(&["convert", text(&input), "--shard-size", "1GB", "-o", text(&out)]);
    assert!(said.contains("--shard-size") && said.contains("safetensors"), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_dry_run_says_how_much_there_will_be() {
    let dir = TempDir::new().unwrap();
    let asked =
        ["convert", text(&model("tiny-gpt2")), "--format", "safetensors", "--dry-run", "--json"].map(str::to_owned);
    let planned: Json = serde_json::from_str(&printed(&asked.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
    let (_, record) = returned(&model("tiny-gpt2"), &dir, &[]);
    assert_eq!(planned["file_bytes"], record["file_bytes"]);
    assert_ne!(planned["file_bytes"], json!(0));
}

/// The keys of a GGUF file that are about the model and its tokenizer, as text.
fn keys(path: &Path) -> BTreeMap<String, String> {
    let source = checkpoint::open(path).unwrap();
    let Config::Gguf(config) = source.config() else { unreachable!() };
    let kept = config.metadata.iter().filter(|(key, _)| !key.starts_with("general."));
    kept.map(|(key, value)| (key.to_owned(), format!("{value:?}"))).collect()
}

/// Which type the matrices of a checkpoint have.
fn own_type(name: &str) -> &'static str {
    let source = checkpoint::open(&model(name)).unwrap();
    source.tensors().iter().find(|t| t.name.contains("embed") || t.name.contains("wte")).unwrap().spec.name
}

/// A GGUF file becomes the checkpoint that it was made from, and that makes the same file again.
#[test]
fn a_gguf_file_returns_to_where_it_came_from() {
    for name in common::MODELS.iter() {
        let dir = TempDir::new().unwrap();
        let [before, after] = ["before.gguf", "after.gguf"].map(|n| dir.path().join(n));
        let kind = own_type(name);
        good(&["convert", text(&model(name)), "--type", kind, "-q", "-o", text(&before)]);
        let (out, record) = returned(&before, &dir, &[]);
        // What a norm loses where one is added to a small number stays lost.
        same(&out, &model(name), if name.contains("gemma") { &["norm.weight"] } else { &[] });
        assert!(record["notes"].to_string().contains("GGUF file's keys"), "{}", record["notes"]);
        let (made, own) = (json(&out.join("config.json")), json(&model(name).join("config.json")));
        // Mistral's files are of Llama's architecture, and have no window.
        let class = if *name == "tiny-mistral" { &json!(["LlamaForCausalLM"]) } else { &own["architectures"] };
        assert_eq!(&made["architectures"], class, "{name}");
        for key in ["vocab_size", "num_hidden_layers", "n_layer", "tie_word_embeddings"] {
            assert!(own.get(key).is_none_or(|own| made[key] == *own), "{name} {key}: {made}");
        }
        good(&["convert", text(&out), "--type", kind, "-q", "-o", text(&after)]);
        assert_eq!(hashes(&before), hashes(&after), "{name}");
        let (before, after) = (keys(&before), keys(&after));
        // A list of merges has no scores; the width of an MLP that no block has, and tokens that our reader takes for
        // special by their spelling, are not asked for again.
        let lost = |key: &str| {
            key == "tokenizer.ggml.scores"
                || key == "qwen3moe.feed_forward_length"
                || name.contains("gemma") && key == "tokenizer.ggml.token_type"
        };
        for (key, value) in before.iter().filter(|(key, _)| !lost(key)) {
            let found = after.get(key).unwrap_or_else(|| panic!("{name}: no {key}"));
            assert!(found == value, "{name} {key}: {found:.200}, was {value:.200}");
        }
    }
}

#[test]
fn a_tokenizer_out_of_a_gguf_file_reads_as_one_of_the_two_did() {
    let special = |add| Special { add, parse: true };
    for name in common::MODELS.iter() {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("x.gguf");
        good(&["convert", text(&model(name)), "--type", "f32", "-q", "-o", text(&file)]);
        let (out, _) = returned(&file, &dir, &[]);
        let open = |path: &Path| Tokenizer::open(checkpoint::open(path).unwrap().as_ref()).unwrap();
        let [found, gguf, checkpoint] = [open(&out), open(&file), open(&model(name))];
        for case in json(&model(name).join("tokenizer_cases.json"))["cases"].as_array().unwrap() {
            let words = case["text"].as_str().unwrap();
            for add in [true, false] {
                let [found, gguf, checkpoint] =
                    [&found, &gguf, &checkpoint].map(|t| t.encode(words, special(add)).unwrap());
                assert!(
                    found == gguf || found == checkpoint,
                    "{name} {words:?}: {found:?}, were {gguf:?}, {checkpoint:?}"
                );
            }
        }
        assert_eq!(found.eos(), gguf.eos(), "{name}");
    }
}

#[test]
fn a_quantised_gguf_file_becomes_half_precision() {
    let dir = TempDir::new().unwrap();
    let [file, before, after] = ["x.gguf", "before.gguf", "after.gguf"].map(|n| dir.path().join(n));
    good(&["convert", text(&model("tiny-llama3")), "--type", "q4_k_m", "-q", "-o", text(&file)]);
    let said = refused(&["convert", text(&file), "--format", "safetensors", "-o", text(&after)]);
    assert!(said.contains("--allow-requantize"), "{said}");
    let (out, _) = returned(&file, &dir, &["--allow-requantize"]);
    assert_eq!(json(&out.join("config.json"))["torch_dtype"], "float16");
    good(&["convert", text(&file), "--type", "f16", "--allow-requantize", "-q", "-o", text(&before)]);
    good(&["convert", text(&out), "--type", "f16", "-q", "-o", text(&after)]);
    assert_eq!(hashes(&before), hashes(&after));
}
