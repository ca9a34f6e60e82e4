//! The descriptions of models against golden logits, and against what the reference converter writes.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use aurora_quant::checkpoint::Config;
use aurora_quant::gguf::{Metadata, Value};
use aurora_quant::model::{ARCHS, Model, Op, describe};
use common::canonical::{self, canonical};
use common::{MODELS, changed, fixtures, hf_config, interpreter};
use serde_json::Value as Json;

/// Largest difference of logits to golden ones that is still noise: transformers computes in f32 (2e-5), we in f64.
const TOLERANCE: f64 = 5e-4;

struct Fixture {
    model: Model,
    weights: Vec<Vec<f32>>,
}

fn open(dir: &Path) -> Fixture {
    open_as(dir, &hf_config(dir))
}

/// The weights in `dir`, described by `config`.
fn open_as(dir: &Path, config: &Config) -> Fixture {
    let tensors = canonical::load(dir);
    let model = describe(config, &|name| tensors.contains_key(name)).unwrap();
    let weights = model.graph.params.iter().map(|p| canonical(p, &tensors)).collect();
    let used: Vec<&String> = model.graph.params.iter().flat_map(|p| &p.parts).flat_map(|p| &p.names).collect();
    let fused = model.graph.params.iter().flat_map(|p| &p.alternatives).flatten().flat_map(|p| &p.names);
    let used: Vec<&String> = used.into_iter().chain(fused).collect();
    for name in tensors.keys() {
        assert!(used.contains(&name) || model.graph.ignores(name), "{name} is neither used nor ignored");
    }
    Fixture { model, weights }
}

/// Largest difference of logits, and how many positions have another best token.
fn compare(f: &Fixture, golden: &Path, key: &str) -> (f64, usize) {
    let golden = canonical::load_file(golden);
    let tokens: Vec<usize> = golden["input_ids"].data.iter().map(|&t| t as usize).collect();
    let ours = interpreter::logits(&f.model.graph, &f.weights, &tokens);
    let theirs = &golden[key];
    assert_eq!(theirs.shape, [1, tokens.len(), f.model.hyper.vocab]);
    let argmax = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let (mut worst, mut wrong) = (0.0, 0);
    for (a, b) in ours.iter().zip(theirs.data.chunks(f.model.hyper.vocab)) {
        let b: Vec<f64> = b.iter().map(|&x| f64::from(x)).collect();
        worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(worst, f64::max);
        wrong += usize::from(argmax(a) != argmax(&b));
    }
    (worst, wrong)
}

fn agrees(f: &Fixture, golden: &Path, key: &str) {
    let (worst, wrong) = compare(f, golden, key);
    println!("{}: {worst:.1e}", golden.display());
    assert!(worst <= TOLERANCE && wrong == 0, "{}: {worst:e}, {wrong} positions differ", golden.display());
}

#[test]
fn logits_are_golden() {
    for name in MODELS.iter() {
        let dir = fixtures().join("models").join(name);
        agrees(&open(&dir), &dir.join("golden.safetensors"), "logits");
    }
}

/// An architecture is tested if there is a fixture of it.
#[test]
fn every_architecture_has_a_fixture() {
    let models: Vec<Model> = MODELS.iter().map(|name| open(&fixtures().join("models").join(name)).model).collect();
    for arch in ARCHS {
        assert!(
            models.iter().any(|m| m.arch.title == arch.title),
            "{}: no folder in tests/fixtures/models",
            arch.title
        );
    }
}

#[test]
fn sliding_window_is_golden() {
    let dir = fixtures().join("models/tiny-mistral");
    let golden = dir.join("golden_long.safetensors");
    let mut f = open(&dir);
    agrees(&f, &golden, "logits");
    for op in f.model.graph.blocks.iter_mut().flatten() {
        if let Op::Attend { window, .. } = op {
            *window = None;
        }
    }
    agrees(&f, &golden, "logits_full_attention");
}

/// The same weights under other configurations: what no fixture has in its config.json.
#[test]
fn variants_are_golden() {
    let dir = fixtures().join("variants");
    let table: Json = serde_json::from_slice(&std::fs::read(dir.join("variants.json")).unwrap()).unwrap();
    for (name, variant) in table.as_object().unwrap() {
        let base = variant["base"].as_str().unwrap();
        let config = changed(base, variant["changes"].clone());
        let f = open_as(&fixtures().join("models").join(base), &config);
        agrees(&f, &dir.join(format!("{name}.safetensors")), "logits");
    }
}

/// Golden logits of stretched embeddings tell whether they are stretched, and by how much sine and cosine grow.
#[test]
fn stretching_shows() {
    let dir = fixtures().join("variants");
    let table: Json = serde_json::from_slice(&std::fs::read(dir.join("variants.json")).unwrap()).unwrap();
    for name in ["qwen3-yarn", "qwen2-yarn", "mistral-yarn", "olmo2-yarn", "gemma2-yarn"] {
        let base = table[name]["base"].as_str().unwrap();
        let config = changed(base, table[name]["changes"].clone());
        let breaks: [fn(&mut Op); 2] = [
            |op| {
                if let Op::Rope { yarn, .. } = op {
                    assert!(yarn.take().is_some(), "YaRN");
                }
            },
            |op| {
                if let Op::Rope { magnitude, .. } = op {
                    *magnitude = 1.0;
                }
            },
        ];
        for break_it in breaks {
            let mut f = open_as(&fixtures().join("models").join(base), &config);
            f.model.graph.blocks.iter_mut().flatten().for_each(break_it);
            let (worst, _) = compare(&f, &dir.join(format!("{name}.safetensors")), "logits");
            assert!(worst > 10.0 * TOLERANCE, "{name}: a wrong detail moves logits by {worst:e} only");
        }
    }
}

/// Golden logits are only worth something if a wrong detail moves them.
#[test]
fn wrong_details_show() {
    type Break = fn(&mut Op);
    let cases: [(&str, Break); 15] = [
        ("stories260k", |op| {
            if let Op::Rope { style, .. } = op {
                *style = aurora_quant::model::RopeStyle::Halves;
            }
        }),
        ("tiny-llama3", |op| {
            if let Op::Rope { factors, .. } = op {
                *factors = None;
            }
        }),
        ("tiny-qwen2", |op| {
            if let Op::Linear { bias, .. } = op {
                *bias = None;
            }
        }),
        ("tiny-qwen3", |op| {
            if let Op::Norm { eps, .. } = op {
                *eps = 1e-2;
            }
        }),
        ("tiny-gemma2", |op| {
            if let Op::Attend { softcap, .. } = op {
                *softcap = None;
            }
        }),
        ("tiny-gemma2", |op| {
            if let Op::Attend { window, .. } = op {
                *window = None;
            }
        }),
        ("tiny-phi3", |op| {
            if let Op::Gate { gate, up, .. } = op {
                std::mem::swap(gate, up);
            }
        }),
        ("tiny-mixtral", |op| {
            if let Op::Route { normalize, .. } = op {
                *normalize = false;
            }
        }),
        ("tiny-gpt2", |op| {
            if let Op::Act { act, .. } = op {
                *act = aurora_quant::model::Activation::Silu;
            }
        }),
        ("tiny-gemma3", |op| {
            if let Op::Attend { window, .. } = op {
                *window = None;
            }
        }),
        ("tiny-gemma3", |op| {
            if let Op::Rope { base, .. } = op {
                *base = 1e6;
            }
        }),
        ("tiny-qwen3-moe", |op| {
            if let Op::Route { normalize, .. } = op {
                *normalize = false;
            }
        }),
        ("tiny-granite", |op| {
            if let Op::Add { scale, .. } = op {
                *scale = 1.0;
            }
        }),
        ("tiny-olmo2", |op| {
            if let Op::Rope { style, .. } = op {
                *style = aurora_quant::model::RopeStyle::Interleaved;
            }
        }),
        ("tiny-llama-bias", |op| {
            if let Op::Rope { linear, .. } = op {
                *linear = 1.0;
            }
        }),
    ];
    for (name, break_it) in cases {
        let dir = fixtures().join("models").join(name);
        let mut f = open(&dir);
        f.model.graph.blocks.iter_mut().flatten().for_each(break_it);
        let (worst, _) = compare(&f, &dir.join("golden.safetensors"), "logits");
        assert!(worst > 100.0 * TOLERANCE, "{name}: a wrong detail moves logits by {worst:e} only");
    }
}

fn dump(name: &str, kind: &str) -> Json {
    let path = fixtures().join(format!("ref-gguf/{name}-{kind}.gguf-dump.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn parameters_are_those_of_the_reference_file() {
    for name in MODELS.iter() {
        let f = open(&fixtures().join("models").join(name));
        let ours: BTreeMap<&str, Vec<usize>> =
            f.model.graph.params.iter().map(|p| (p.name.as_str(), p.shape.clone())).collect();
        assert_eq!(ours.len(), f.model.graph.params.len(), "{name}: no name twice");
        let dump = dump(name, "f32");
        let shape =
            |t: &Json| t["shape"].as_array().unwrap().iter().rev().map(|n| n.as_u64().unwrap() as usize).collect();
        let theirs: BTreeMap<&str, Vec<usize>> =
            dump["tensors"].as_array().unwrap().iter().map(|t| (t["name"].as_str().unwrap(), shape(t))).collect();
        assert_eq!(ours, theirs, "{name}");
    }
}

/// The canonical numbers are the reference file's, bit for bit: every `Import` is what the converter does.
#[test]
fn canonical_numbers_are_those_of_the_reference_file() {
    use sha2::{Digest, Sha256};
    for name in MODELS.iter() {
        let f = open(&fixtures().join("models").join(name));
        let dump = dump(name, "f32");
        for t in dump["tensors"].as_array().unwrap() {
            let i = f.model.graph.params.iter().position(|p| t["name"] == p.name.as_str()).unwrap();
            let bytes: Vec<u8> = f.weights[i].iter().flat_map(|x| x.to_le_bytes()).collect();
            let sha: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(t["sha256"], sha, "{name}: {}", t["name"]);
        }
    }
}

/// Roles that stay F32 are those that the reference keeps in F32 when all else is bf16.
#[test]
fn roles_kept_in_f32_are_those_of_the_reference_file() {
    for name in MODELS.iter() {
        let f = open(&fixtures().join("models").join(name));
        let dump = dump(name, "bf16");
        for t in dump["tensors"].as_array().unwrap() {
            let param = f.model.graph.params.iter().find(|p| t["name"] == p.name.as_str()).unwrap();
            if param.role.quantizable() {
                assert_ne!(t["type"], "F32", "{name}: {}", param.name);
            } else {
                assert_eq!(t["type"], "F32", "{name}: {}", param.name);
            }
        }
    }
}

/// `keys` of a configuration, in order, against a list of the reference converter's.
fn same_keys(name: &str, config: &Config, theirs: &Json) {
    let model = describe(config, &|_| true).unwrap();
    let Config::HuggingFace(hf) = config else { unreachable!() };
    let mut metadata = Metadata::new();
    (model.arch.keys)(&model.hyper, hf, &mut metadata);
    let ours: Vec<(String, String, Json)> = metadata.iter().map(|(k, v)| spell(k, v)).collect();
    let text = |e: &Json, field: &str| e[field].as_str().unwrap().to_owned();
    let theirs = theirs.as_array().unwrap().iter().map(|e| (text(e, "key"), text(e, "type"), e["value"].clone()));
    let prefix = format!("{}.", model.arch.gguf);
    let theirs: Vec<_> = theirs.filter(|(key, ..)| key.starts_with(&prefix)).collect();
    assert_eq!(ours, theirs, "{name}");
}

#[test]
fn keys_are_those_of_the_reference_file() {
    for name in MODELS.iter() {
        same_keys(name, &hf_config(&fixtures().join("models").join(name)), &dump(name, "f32")["kv"]);
    }
    let read = |name: &str| -> Json {
        serde_json::from_slice(&std::fs::read(fixtures().join("variants").join(name)).unwrap()).unwrap()
    };
    let (variants, keys) = (read("variants.json"), read("keys.json"));
    for (name, theirs) in keys.as_object().unwrap() {
        let variant = &variants[name];
        same_keys(name, &changed(variant["base"].as_str().unwrap(), variant["changes"].clone()), theirs);
    }
}

fn spell(key: &str, value: &Value) -> (String, String, Json) {
    let (kind, json) = match value {
        Value::U32(n) => ("u32", Json::from(*n)),
        Value::F32(x) => ("f32", Json::from(f64::from(*x))),
        Value::Bool(b) => ("bool", Json::from(*b)),
        Value::String(s) => ("string", Json::from(s.as_str())),
        other => panic!("{key}: {other:?}"),
    };
    (key.to_owned(), kind.to_owned(), json)
}

/// The numbers in `text` that stand in brackets behind `word`, sorted and each once: what an op's fields say, read off
/// its debug text.
fn mentioned(text: &str, word: &str) -> Vec<usize> {
    let found = text.match_indices(word).map(|(at, _)| {
        let digits = text[at + word.len()..].split(')').next().unwrap();
        digits.parse().unwrap()
    });
    sorted(found)
}

fn sorted(numbers: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut all: Vec<usize> = numbers.collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What an op says that it touches is what its fields name, for every kind of op; no parameter is without one, and
/// nothing is read before it is written.
#[test]
fn ops_touch_what_their_fields_name() {
    let (mut kinds, mut long) = (Vec::new(), 0);
    let factors = |x: f64| vec![x; 32];
    let scaling = serde_json::json!({ "type": "longrope", "long_factor": factors(2.0), "short_factor": factors(1.0) });
    let changes = serde_json::json!({ "rope_scaling": scaling, "original_max_position_embeddings": 64 });
    let configs = MODELS.iter().map(|name| (*name, hf_config(&fixtures().join("models").join(name))));
    for (name, config) in configs.chain([("tiny-phi3", changed("tiny-phi3", changes))]) {
        let tensors = canonical::load(&fixtures().join("models").join(name));
        let graph = describe(&config, &|name| tensors.contains_key(name)).unwrap().graph;
        let mut used = vec![false; graph.params.len()];
        let mut written = vec![false; graph.slots.len()];
        for op in graph.embed.iter().chain(graph.blocks.iter().flatten()).chain(&graph.head) {
            let (text, params) = (format!("{op:?}"), op.params());
            assert_eq!(sorted(params.iter().map(|id| id.0)), mentioned(&text, "ParamId("), "{name}: {text}");
            let (reads, writes) = (op.reads(), op.writes());
            let slots = reads.iter().chain(&writes).map(|slot| slot.0);
            assert_eq!(sorted(slots), mentioned(&text, "Slot("), "{name}: {text}");
            assert!(reads.iter().all(|slot| written[slot.0]), "{name}: {text} reads what nothing wrote");
            writes.iter().for_each(|slot| written[slot.0] = true);
            params.iter().for_each(|id| used[id.0] = true);
            kinds.push(op.name());
            long += usize::from(matches!(op, Op::Rope { factors: Some(_), long: Some(_), .. }));
        }
        let idle = used.iter().position(|used| !used).map(|i| &graph.params[i].name);
        assert_eq!(idle, None, "{name}: used by no op");
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), 14, "every kind of op, each with a name of its own: {kinds:?}");
    assert!(long > 0, "a rotary embedding with factors of both kinds");
}
