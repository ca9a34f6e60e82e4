//! `convert --remove`: what is left computes what the whole model computes without the parts that went, in every
//! architecture; what costs nothing goes first; what stays makes up for it; and what cannot go is refused.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aurora_quant::checkpoint;
use aurora_quant::model::{ARCHS, Op, Opened, ParamId, Reader, Role};
use aurora_quant::runtime::{Engine, RuntimeOptions};
use aurora_quant::weights::{Edit, Edits, Scale, Weights};
use common::binary::{good, printed, refused};
use common::checkpoint::Checkpoint;
use common::conversion::model;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

const TEXT: [&str; 4] = ["--samples", "4", "--context", "64"];
const IDS: [u32; 12] = [1, 17, 5, 99, 42, 7, 180, 3, 3, 64, 11, 250];

/// Toy models of every architecture.
const NAMES: [&str; 14] = [
    "stories260k",
    "tiny-gemma2",
    "tiny-gemma3",
    "tiny-gpt2",
    "tiny-granite",
    "tiny-llama-bias",
    "tiny-llama3",
    "tiny-mistral",
    "tiny-mixtral",
    "tiny-olmo2",
    "tiny-phi3",
    "tiny-qwen2",
    "tiny-qwen3",
    "tiny-qwen3-moe",
];

fn words<'w>(input: &'w Path, output: &'w Path, more: &[&'w str]) -> Vec<&'w str> {
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
    [&["convert", input, "-o", output, "--json", "--force"], more].concat()
}

/// Converts, and returns the record.
fn convert(input: &Path, output: &Path, more: &[&str]) -> Json {
    serde_json::from_str(&printed(&words(input, output, more))).unwrap()
}

/// What went, of a record.
fn gone(record: &Json) -> Vec<&Json> {
    record["passes"].as_array().unwrap().iter().filter(|pass| pass["pass"] == "remove").collect()
}

/// Logits of a file or folder after some edits.
fn logits(path: &Path, edit: impl Fn(&Opened) -> Edits) -> Vec<f32> {
    let opened = Opened::open(path).unwrap();
    let weights = Weights::bind(opened.source.as_ref(), &opened.model.graph).unwrap();
    let weights = weights.edited(&edit(&opened)).unwrap();
    let engine = Engine::new(&opened.model, &weights, RuntimeOptions::exact(16)).unwrap();
    engine.forward(&mut engine.session(), &IDS, 0).unwrap().into_raw_vec_and_offset().0
}

fn plain(_: &Opened) -> Edits {
    Edits::new()
}

fn largest_gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn indices(list: &Json) -> Vec<usize> {
    list.as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as usize).collect()
}

/// Zeros in the whole model where parts went: columns of the matrix behind them, or all that a layer adds.
fn zeros(opened: &Opened, record: &Json) -> Edits {
    let (graph, h) = (&opened.model.graph, &opened.model.hyper);
    let mut edits = Edits::new();
    for pass in gone(record) {
        let block = pass["block"].as_u64().unwrap() as usize;
        let role = |id: &ParamId| graph.param(*id).role;
        for op in &graph.blocks[block] {
            let Op::Linear { weight, bias, .. } = op else { continue };
            let (param, mut edit) = (graph.param(*weight), None);
            let mut factors = vec![1.0; param.cols()];
            match (pass["facts"]["gone"].as_str().unwrap(), role(weight)) {
                ("layer", Role::AttnOut | Role::FfnDown) => {
                    edit = Some(None);
                    factors.fill(0.0);
                    bias.iter()
                        .for_each(|bias| edits.push(*bias, None, Edit::Scale(Scale::of_cols(vec![0.0; h.width]))));
                }
                ("channels", Role::FfnDown) => {
                    edit = Some(pass["expert"].as_u64().map(|expert| expert as usize));
                    indices(&pass["facts"]["channels"]).into_iter().for_each(|c| factors[c] = 0.0);
                }
                ("heads", Role::AttnOut) => {
                    edit = Some(None);
                    for head in indices(&pass["facts"]["heads"]) {
                        factors[head * h.head_dim..(head + 1) * h.head_dim].fill(0.0);
                    }
                }
                _ => {}
            }
            edit.into_iter()
                .for_each(|expert| edits.push(*weight, expert, Edit::Scale(Scale::of_cols(factors.clone()))));
        }
    }
    edits
}

/// Every architecture goes through or is refused with the reason; as GGUF and as a folder.
#[test]
fn what_is_left_is_the_whole_model_with_zeros() {
    let dir = TempDir::new().unwrap();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for name in NAMES {
        let input = model(name);
        for part in ["ffn=25%", "heads=50%", "layers=1", "layers=auto:1", "layers=auto:2"] {
            let out = dir.path().join("o.gguf");
            // Layers that are named need no text.
            let text = if part == "layers=1" { &[][..] } else { &TEXT };
            let more = [&["--type", "f32", "--no-compensate", "--remove", part], text].concat();
            let about = format!("{name} {part}");
            if !std::process::Command::new(env!("CARGO_BIN_EXE_aurora-quant"))
                .args(words(&input, &out, &more))
                .output()
                .unwrap()
                .status
                .success()
            {
                let said = refused(&words(&input, &out, &more));
                let reasons = ["no heads can go", "windows", "at most", "possible shares", "none can go"];
                assert!(reasons.iter().any(|reason| said.contains(reason)), "{about}: {said}");
                continue;
            }
            let record = convert(&input, &out, &more);
            assert!(!gone(&record).is_empty(), "{about}");
            let want = logits(&input, |opened| zeros(opened, &record));
            let found = logits(&out, plain);
            assert!(largest_gap(&want, &found) < 1e-4, "{about}: {}", largest_gap(&want, &found));
            *seen.entry(name).or_default() += 1;
            // And as a folder of the checkpoint's own kind.
            let folder = dir.path().join("folder");
            let more = [&["--format", "safetensors"], &more[..]].concat();
            convert(&input, &folder, &more);
            let found = logits(&folder, plain);
            assert!(largest_gap(&want, &found) < 1e-4, "{about}, folder: {}", largest_gap(&want, &found));
            fs::remove_dir_all(&folder).unwrap();
            // A GGUF file of the whole model becomes the same.
            let whole = dir.path().join("whole.gguf");
            convert(&input, &whole, &["--type", "f32"]);
            let again = dir.path().join("again.gguf");
            convert(&whole, &again, &[&["--type", "f32", "--no-compensate", "--remove", part], text].concat());
            let found = logits(&again, plain);
            assert!(largest_gap(&want, &found) < 1e-3, "{about}, from GGUF: {}", largest_gap(&want, &found));
        }
    }
    for name in NAMES {
        assert!(seen.get(name).is_some_and(|count| *count >= 2), "{name}: {seen:?}");
    }
    assert!(ARCHS.len() <= NAMES.len(), "an architecture has no toy here");
}

/// A checkpoint without the layer, made by hand.
#[test]
fn removed_layers_equal_a_checkpoint_without_them() {
    let dir = TempDir::new().unwrap();
    let mut hand = Checkpoint::of("tiny-llama3");
    let layers = hand.config["num_hidden_layers"].as_u64().unwrap();
    let left = std::mem::take(&mut hand.tensors).into_iter().filter_map(|(name, tensor)| {
        let Some((index, rest)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
            return Some((name, tensor));
        };
        match index.parse::<u64>().unwrap() {
            0 => None,
            i => Some((format!("model.layers.{}.{rest}", i - 1), tensor)),
        }
    });
    hand.tensors = left.collect();
    let hand = hand.with(json!({"num_hidden_layers": layers - 1}));
    let folder = dir.path().join("hand");
    hand.write_as("tiny-llama3", &folder);
    let [a, b] = ["a.gguf", "b.gguf"].map(|name| dir.path().join(name));
    convert(&folder, &a, &["--type", "f32"]);
    convert(&model("tiny-llama3"), &b, &["--type", "f32", "--remove", "layers=0", "--no-compensate"]);
    let tensors = |path: &Path| {
        let source = checkpoint::open(path).unwrap();
        let all = source.tensors().iter().map(|t| (t.name.clone(), source.bytes(t, 0..t.range.len()).to_vec()));
        all.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(tensors(&a), tensors(&b));
}

/// A checkpoint without the experts, made by hand; and the experts with the lowest scores go.
#[test]
fn removed_experts_equal_a_checkpoint_without_them() {
    let dir = TempDir::new().unwrap();
    for (name, list, router) in [
        ("tiny-mixtral", "block_sparse_moe.experts", "block_sparse_moe.gate.weight"),
        ("tiny-qwen3-moe", "mlp.experts", "mlp.gate.weight"),
    ] {
        let out = dir.path().join("o.gguf");
        let record = convert(
            &model(name),
            &out,
            &[&["--type", "f32", "--remove", "experts=50%", "--no-compensate"], &TEXT[..]].concat(),
        );
        let mut hand = Checkpoint::of(name);
        let mut count = 0;
        for pass in gone(&record) {
            let block = pass["block"].as_u64().unwrap();
            let lost = indices(&pass["facts"]["experts"]);
            let scores: Vec<f64> =
                pass["facts"]["scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap()).collect();
            let most = lost.iter().map(|i| scores[*i]).fold(0.0, f64::max);
            let stay: Vec<usize> = (0..scores.len()).filter(|i| !lost.contains(i)).collect();
            assert!(stay.iter().all(|i| scores[*i] >= most), "{name}: {scores:?}, {lost:?}");
            count = stay.len();
            let root = format!("model.layers.{block}.");
            let (dtype, mut shape, bytes) = hand.tensors.remove(&format!("{root}{router}")).unwrap();
            let row = bytes.len() / shape[0];
            shape[0] = count;
            let rows = stay.iter().flat_map(|i| bytes[i * row..(i + 1) * row].to_vec()).collect();
            hand.tensors.insert(format!("{root}{router}"), (dtype, shape, rows));
            let of_experts: Vec<String> =
                hand.tensors.keys().filter(|key| key.starts_with(&format!("{root}{list}."))).cloned().collect();
            for key in of_experts {
                let tensor = hand.tensors.remove(&key).unwrap();
                let (index, rest) = key[root.len() + list.len() + 1..].split_once('.').unwrap();
                if let Some(now) = stay.iter().position(|i| *i == index.parse::<usize>().unwrap()) {
                    hand.tensors.insert(format!("{root}{list}.{now}.{rest}"), tensor);
                }
            }
        }
        let key = ["num_local_experts", "num_experts"].into_iter().find(|key| hand.config.get(*key).is_some()).unwrap();
        let hand = hand.with(json!({key: count}));
        let folder = dir.path().join(format!("{name}-hand"));
        hand.write_as(name, &folder);
        let (want, found) = (logits(&folder, plain), logits(&out, plain));
        assert!(largest_gap(&want, &found) < 1e-5, "{name}: {}", largest_gap(&want, &found));
        // As a folder, too.
        let back = dir.path().join(format!("{name}-back"));
        let more = [&["--format", "safetensors", "--remove", "experts=50%", "--no-compensate"], &TEXT[..]].concat();
        convert(&model(name), &back, &more);
        assert!(largest_gap(&want, &logits(&back, plain)) < 1e-5, "{name}");
    }
}

/// Channels that do nothing go, and nothing changes, whether or not the rest makes up for them.
#[test]
fn what_costs_nothing_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let (input, whole, out) = (model("stories260k"), dir.path().join("w.gguf"), dir.path().join("o.gguf"));
    let idle = |opened: &Opened| {
        let mut edits = Edits::new();
        for site in opened.model.graph.sites() {
            let Reader { weight, .. } = site.readers[0];
            if opened.model.graph.param(weight).role == Role::FfnDown {
                let cols = opened.model.graph.param(weight).cols();
                let factors = (0..cols).map(|c| if c % 4 == 1 { 0.0 } else { 1.0 }).collect();
                edits.push(weight, None, Edit::Scale(Scale::of_cols(factors)));
            }
        }
        edits
    };
    // The same zeros in a file.
    let opened = Opened::open(&input).unwrap();
    let cols = opened.model.hyper.ffn;
    let mut hand = Checkpoint::of("stories260k");
    for (name, (_, _, bytes)) in &mut hand.tensors {
        if name.ends_with("down_proj.weight") {
            bytes.chunks_exact_mut(4).enumerate().filter(|(i, _)| i % cols % 4 == 1).for_each(|(_, b)| b.fill(0));
        }
    }
    let folder = dir.path().join("hand");
    hand.write_as("stories260k", &folder);
    convert(&folder, &whole, &["--type", "f32"]);
    let want = logits(&whole, plain);
    assert!(largest_gap(&want, &logits(&input, idle)) < 1e-5);
    for more in [&[][..], &["--no-compensate"]] {
        let share = format!("ffn={}", (0..cols).filter(|c| c % 4 == 1).count() as f64 / cols as f64);
        convert(&folder, &out, &[&["--type", "f32", "--remove", &share], &TEXT[..], more].concat());
        let found = logits(&out, plain);
        assert!(
            found.len() == want.len() && largest_gap(&want, &found) < 1e-4,
            "{more:?}: {}",
            largest_gap(&want, &found)
        );
    }
}

/// The loss of every matrix falls, bytes do not depend on threads, recipes do what flags do, and methods follow.
#[test]
fn losses_fall_and_the_rest_follows() {
    let dir = TempDir::new().unwrap();
    let (input, out, again) = (model("stories260k"), dir.path().join("o.gguf"), dir.path().join("again.gguf"));
    let recipe = dir.path().join("r.toml");
    let more = ["--remove", "ffn=25%", "--remove", "heads=50%", "--remove", "layers=2", "--method", "gptq"];
    let more = [&more[..], &["--type", "q4_0", "--save-recipe", recipe.to_str().unwrap()], &TEXT].concat();
    let record = convert(&input, &out, &[&more[..], &["--threads", "1"]].concat());
    let known = gone(&record);
    assert!(known.iter().any(|pass| pass["before"].is_number()));
    for pass in known {
        if let (Some(before), Some(after)) = (pass["before"].as_f64(), pass["after"].as_f64()) {
            assert!(after <= before, "{pass}");
        }
    }
    assert!(record["passes"].as_array().unwrap().iter().any(|pass| pass["pass"] == "gptq"));
    let opened = Opened::open(&out).unwrap();
    let (before, after) = (Opened::open(&input).unwrap().model.hyper, opened.model.hyper);
    assert_eq!((after.blocks, after.heads, after.kv_heads), (before.blocks - 1, before.heads / 2, before.kv_heads / 2));
    assert!(after.ffn < before.ffn && after.head_dim == before.head_dim);
    convert(&input, &again, &[&more[..], &["--threads", "3"]].concat());
    assert!(fs::read(&out).unwrap() == fs::read(&again).unwrap(), "threads");
    good(&["convert", "--recipe", recipe.to_str().unwrap(), "-o", again.to_str().unwrap(), "--force"]);
    assert!(fs::read(&out).unwrap() == fs::read(&again).unwrap(), "recipe");
}

/// What cannot be done is refused before any work, with what can.
#[test]
fn what_cannot_go_is_refused() {
    let dir = TempDir::new().unwrap();
    let (out, stats) = (dir.path().join("o.gguf"), dir.path().join("s.gguf"));
    let out = out.to_str().unwrap();
    for (name, more, said) in [
        ("stories260k", &["--remove", "layers=5"][..], "there is no layer 5; the model has layers 0 to 4"),
        ("stories260k", &["--remove", "layers=0-4"], "at least one of 5 must stay"),
        ("stories260k", &["--remove", "layers=auto:5"], "at most 4 can go"),
        ("stories260k", &["--remove", "layers=auto:0"], "removes nothing"),
        ("stories260k", &["--remove", "layers=1,1"], "layer 1 stands twice"),
        ("stories260k", &["--remove", "ffn=0"], "above 0 and below 100%"),
        ("stories260k", &["--remove", "ffn=100%"], "above 0 and below 100%"),
        ("stories260k", &["--remove", "heads=1.5"], "above 0 and below 100%"),
        ("stories260k", &["--remove", "heads=30%"], "possible shares: 25%, 50%, 75%"),
        ("stories260k", &["--remove", "width=25%"], "known: layers, ffn, heads, experts"),
        ("stories260k", &["--remove", "experts=25%"], "the model has no experts"),
        ("stories260k", &["--no-compensate"], "--remove"),
        ("stories260k", &["--remove", "ffn=25%", "--format", "gptq"], "--remove is only for GGUF, safetensors"),
        ("stories260k", &["--remove", "ffn=25%", "--imatrix", "none.gguf"], "of the whole model"),
        ("tiny-mixtral", &["--remove", "experts=90%"], "every token uses"),
        ("tiny-gemma2", &["--remove", "layers=0"], "windows"),
        ("tiny-gemma2", &["--remove", "layers=auto:1"], "multiple of 2"),
        ("tiny-gpt2", &["--remove", "heads=50%"], "no heads can go"),
    ] {
        let input = model(name);
        let error = refused(&[&["convert", input.to_str().unwrap(), "-o", out], more].concat());
        assert!(error.contains(said), "{name} {more:?}: {error}");
        assert!(!Path::new(out).exists());
    }
    // The plan knows all sizes.
    let input = model("stories260k");
    let plan = printed(&["convert", input.to_str().unwrap(), "--remove", "ffn=25%", "--dry-run", "--json"]);
    let plan: Json = serde_json::from_str(&plan).unwrap();
    assert!(plan["notes"].to_string().contains("channels of every MLP stay"), "{}", plan["notes"]);
    assert!(!stats.exists());
}
