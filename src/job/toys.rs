//! A whole job over the toy architecture (`src/model/toy.rs`), whose logits are worked out here by plain loops over the
//! checkpoint's own tensors: nothing of the description or the executor is used for them. And a conversion to a format
//! that no table has.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aurora_quantizers::spec::Kind;
use aurora_quantizers::{BlockFormat, Scales, Spec, Store, matrix};
use ndarray::Array2;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::{Destination, prepare};
use crate::export::{self, Contents, Request};
use crate::model::{Opened, ParamId, Role};
use crate::pipeline::{self, Rounding};
use crate::plan::{FileType, Plan, Rules};
use crate::recipe::Recipe;
use crate::runtime::kernels::{Acts, Dense, matmul};
use crate::runtime::{Engine, RuntimeOptions};
use crate::watch::Unwatched;
use crate::weights::Weights;

const WIDTH: usize = 64;
const FFN: usize = 96;
const VOCAB: usize = 40;
const BLOCKS: usize = 4;
/// Every second block does not rotate.
const INTERVAL: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 16;
const EPS: f64 = 1e-6;
const BASE: f64 = 10000.0;

const TOKENS: [u32; 12] = [3, 39, 0, 17, 17, 8, 21, 5, 33, 12, 3, 28];

/// The tensors of a checkpoint, row by row.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Uniform weights about as large as trained ones; norms are around one.
fn tensors() -> Tensors {
    let mut state = 20_u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut all = Tensors::new();
    let mut add = |name: String, shape: &[usize]| {
        let (size, center) = if shape.len() == 1 { (1.0, 1.0) } else { (4.0 / (shape[1] as f32).sqrt(), 0.0) };
        let values = (0..shape.iter().product()).map(|_| center + size * uniform()).collect();
        all.insert(name, (shape.to_vec(), values));
    };
    add("model.embed_tokens.weight".into(), &[VOCAB, WIDTH]);
    for i in 0..BLOCKS {
        let at = |name: &str| format!("model.layers.{i}.{name}.weight");
        add(at("input_layernorm"), &[WIDTH]);
        add(at("self_attn.q_proj"), &[HEADS * DIM, WIDTH]);
        add(at("self_attn.k_proj"), &[KV_HEADS * DIM, WIDTH]);
        add(at("self_attn.v_proj"), &[KV_HEADS * DIM, WIDTH]);
        add(at("self_attn.o_proj"), &[WIDTH, HEADS * DIM]);
        add(at("mlp.gate_proj"), &[FFN, WIDTH]);
        add(at("mlp.up_proj"), &[FFN, WIDTH]);
        add(at("mlp.down_proj"), &[WIDTH, FFN]);
    }
    add("model.norm.weight".into(), &[WIDTH]);
    add("lm_head.weight".into(), &[VOCAB, WIDTH]);
    all
}

fn write(tensors: &Tensors, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let config = json!({
        "architectures": ["ToyForCausalLM"], "model_type": "toy", "hidden_size": WIDTH, "intermediate_size": FFN,
        "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": DIM,
        "vocab_size": VOCAB, "max_position_embeddings": 64, "rms_norm_eps": EPS, "rope_theta": BASE,
        "hidden_act": "silu", "tie_word_embeddings": false, "no_rope_layer_interval": INTERVAL,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let tokenizer = json!({
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "decoder": {"type": "ByteLevel"},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let bytes: Vec<Vec<u8>> =
        tensors.values().map(|(_, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, (shape, _)), bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

fn norm(x: &[f64], weight: &[f32]) -> Vec<f64> {
    let mut square = 0.0;
    for x in x {
        square += x * x;
    }
    let root = (square / x.len() as f64 + EPS).sqrt();
    x.iter().zip(weight).map(|(x, w)| x / root * f64::from(*w)).collect()
}

fn product(weight: &(Vec<usize>, Vec<f32>), x: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; weight.0[0]];
    for (row, out) in out.iter_mut().enumerate() {
        for (col, x) in x.iter().enumerate() {
            *out += f64::from(weight.1[row * weight.0[1] + col]) * x;
        }
    }
    out
}

/// Turns the pairs (i, i + half) of every head.
fn rotate(x: &mut [f64], position: usize) {
    for head in x.chunks_mut(DIM) {
        for i in 0..DIM / 2 {
            let angle = position as f64 * BASE.powf(-2.0 * i as f64 / DIM as f64);
            let (a, b) = (head[i], head[i + DIM / 2]);
            head[i] = a * angle.cos() - b * angle.sin();
            head[i + DIM / 2] = b * angle.cos() + a * angle.sin();
        }
    }
}

/// Logits of every position. `interval`: every how many blocks one does not rotate.
fn logits(tensors: &Tensors, tokens: &[u32], interval: usize) -> Vec<f64> {
    let embedding = &tensors["model.embed_tokens.weight"].1;
    let row = |t: &u32| embedding[*t as usize * WIDTH..][..WIDTH].iter().map(|x| f64::from(*x)).collect();
    let mut stream: Vec<Vec<f64>> = tokens.iter().map(row).collect();
    for block in 0..BLOCKS {
        let get = |name: &str| &tensors[&format!("model.layers.{block}.{name}.weight")];
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (position, x) in stream.iter_mut().enumerate() {
            let normed = norm(x, &get("input_layernorm").1);
            let mut query = product(get("self_attn.q_proj"), &normed);
            let mut key = product(get("self_attn.k_proj"), &normed);
            if (block + 1) % interval != 0 {
                rotate(&mut query, position);
                rotate(&mut key, position);
            }
            keys.push(key);
            values.push(product(get("self_attn.v_proj"), &normed));
            let mut attended = vec![0.0; HEADS * DIM];
            for head in 0..HEADS {
                let (own, shared) = (head * DIM, head / (HEADS / KV_HEADS) * DIM);
                let mut weights = Vec::new();
                for key in &keys {
                    let mut score = 0.0;
                    for i in 0..DIM {
                        score += query[own + i] * key[shared + i];
                    }
                    weights.push((score / (DIM as f64).sqrt()).exp());
                }
                let total: f64 = weights.iter().sum();
                for (weight, value) in weights.iter().zip(&values) {
                    for i in 0..DIM {
                        attended[own + i] += weight / total * value[shared + i];
                    }
                }
            }
            let mut inner = product(get("mlp.up_proj"), &normed);
            for (inner, gate) in inner.iter_mut().zip(product(get("mlp.gate_proj"), &normed)) {
                *inner *= gate / (1.0 + (-gate).exp());
            }
            let branches = [product(get("self_attn.o_proj"), &attended), product(get("mlp.down_proj"), &inner)];
            for branch in branches {
                for (x, y) in x.iter_mut().zip(branch) {
                    *x += y;
                }
            }
        }
    }
    let last = &tensors["model.norm.weight"].1;
    stream.iter().flat_map(|x| product(&tensors["lm_head.weight"], &norm(x, last))).collect()
}

/// What the executor makes of a checkpoint or a file.
fn run(path: &Path) -> Vec<f64> {
    let opened = Opened::open(path).unwrap();
    let weights = Weights::bind(opened.source.as_ref(), &opened.model.graph).unwrap();
    let engine = Engine::new(&opened.model, &weights, RuntimeOptions::exact(TOKENS.len())).unwrap();
    let logits = engine.forward(&mut engine.session(), &TOKENS, 0).unwrap();
    logits.into_iter().map(f64::from).collect()
}

/// Root mean square of the difference, in units of that of `wanted`.
fn apart(found: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let square = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    let difference = square(&mut found.iter().zip(wanted).map(|(a, b)| a - b));
    (difference / square(&mut wanted.iter().copied())).sqrt()
}

fn convert(from: &Path, format: &str, file_type: &str, to: &Path) {
    let mut recipe = Recipe::new(from);
    (recipe.format.name, recipe.file_type) = (format.to_owned(), Some(file_type.to_owned()));
    let to = Destination { path: Some(to.to_owned()), ..Destination::default() };
    let record = prepare(&recipe).unwrap().run(&to, &Unwatched).unwrap();
    assert_eq!(record.architecture, "toy");
}

/// An architecture is its row: it is read, run, written and read back, and nothing else has to know of it.
#[test]
fn a_row_of_archs_is_an_architecture() {
    /// What single precision costs; the other tolerances are a hundred times that and more.
    const NOISE: f64 = 1e-5;
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, file) = (dir.path().join("toy"), dir.path().join("toy.gguf"));
    let tensors = tensors();
    write(&tensors, &checkpoint);
    let wanted = logits(&tensors, &TOKENS, INTERVAL);
    // A detail that is wrong would show.
    assert!(apart(&logits(&tensors, &TOKENS, 1), &wanted) > 1e-2);
    assert!(apart(&logits(&tensors, &TOKENS, BLOCKS + 1), &wanted) > 1e-2);

    assert!(apart(&run(&checkpoint), &wanted) < NOISE);
    convert(&checkpoint, "gguf", "f32", &file);
    assert!(apart(&run(&file), &wanted) < NOISE);
    let (from, to) = (Opened::open(&checkpoint).unwrap().model, Opened::open(&file).unwrap().model);
    assert_eq!((to.arch.title, &to.hyper, &to.graph), ("Toy", &from.hyper, &from.graph));

    let quantised = dir.path().join("toy-q8_0.gguf");
    convert(&checkpoint, "gguf", "q8_0", &quantised);
    let error = apart(&run(&quantised), &wanted);
    assert!(error > NOISE && error < 0.05, "{error}");

    let back = dir.path().join("back");
    convert(&file, "safetensors", "f32", &back);
    assert!(apart(&run(&back), &wanted) < NOISE);
    assert_eq!(Opened::open(&back).unwrap().model.hyper, from.hyper);
}

/// What reads one norm is seen from the ops: queries, keys and values, and the MLP beside them.
#[test]
fn sites_of_a_new_architecture_are_derived() {
    let dir = tempfile::tempdir().unwrap();
    write(&tensors(), dir.path());
    let graph = Opened::open(dir.path()).unwrap().model.graph;
    let first = &graph.sites()[0];
    let readers: Vec<_> = first.readers.iter().map(|r| graph.param(r.weight).name.as_str()).collect();
    let wanted = ["attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"].map(|name| format!("blk.0.{name}.weight"));
    assert_eq!(readers, wanted);
    assert!(first.producer.is_ok(), "the norm can absorb factors");
}

/// Whole steps of 1/64, one byte each.
struct Fixed;

static FIXED: Spec =
    Spec { name: "fixed", ggml_id: None, block: 1, bytes: 1, kind: Kind::Float, max_abs: 127.0 / 64.0, fine: 0.0 };

impl Store for Fixed {
    fn spec(&self) -> &'static Spec {
        &FIXED
    }

    fn encode(&self, x: &[f32], _: Scales<'_>, out: &mut [u8]) {
        x.iter().zip(out).for_each(|(x, out)| *out = (x * 64.0).round() as i8 as u8);
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        bytes.iter().zip(out).for_each(|(byte, out)| *out = f32::from(*byte as i8) / 64.0);
    }

    fn blocks(&self) -> Option<&dyn BlockFormat> {
        None
    }
}

/// Everyone after the plan holds a format, and looks none up: one that stands in no table is written and multiplied
/// with like any other.
#[test]
fn a_format_is_what_its_store_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("toy.bin");
    write(&tensors(), dir.path());
    let opened = Opened::open(dir.path()).unwrap();
    let (source, model) = (opened.source.as_ref(), &opened.model);
    let weights = Weights::bind(source, &model.graph).unwrap();
    let rules = Rules {
        file_type: FileType::by_name("f32").unwrap(),
        pure: false,
        calibrated: false,
        output: None,
        embedding: None,
        overrides: vec![(regex::Regex::new("ffn").unwrap(), &Fixed)],
    };
    let plan = Plan::new(model, &rules).unwrap();
    let request = Request::default();
    let contents = Contents { source, model, weights: &weights, plan: &plan, request: &request, importance: None };
    let prepared = export::by_name("toy").unwrap().prepare(contents).unwrap();
    let sink = prepared.begin(contents, &path, false).unwrap();
    pipeline::run(&weights, &plan, Rounding::default(), &*sink, &Unwatched).unwrap();
    sink.finish(&Unwatched).unwrap();

    let written = fs::read(&path).unwrap();
    let mut rest = &written[..];
    for (i, param) in model.graph.params.iter().enumerate() {
        let values = weights.whole(ParamId(i));
        let fixed = matches!(param.role, Role::FfnGate | Role::FfnUp | Role::FfnDown);
        let (bytes, after) = rest.split_at(param.len() * if fixed { 1 } else { 4 });
        rest = after;
        if !fixed {
            assert!(bytes.iter().copied().eq(values.iter().flat_map(|x| x.to_le_bytes())), "{}", param.name);
            continue;
        }
        let x: Vec<f32> = (0..param.cols()).map(|i| 1.0 - i as f32 / 50.0).collect();
        let mut found = Array2::from_elem((1, param.rows()), f32::NAN);
        let dense = Dense::new(&Fixed, param.rows(), param.cols(), Cow::Borrowed(bytes), None);
        matmul(&dense, &Acts::new(matrix(&x, param.cols())), false, found.view_mut());
        for (row, found) in values.rows().into_iter().zip(found) {
            let mut sum = 0.0;
            for (w, x) in row.iter().zip(&x) {
                sum += f64::from((w * 64.0).round()) / 64.0 * f64::from(*x);
            }
            assert!((f64::from(found) - sum).abs() < 1e-5, "{}: {found}, wanted {sum}", param.name);
        }
    }
    assert!(rest.is_empty());
}
