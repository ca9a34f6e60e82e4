//! `tokenizer.*` and `general.*` of every fixture model, key by key against what llama.cpp's converter wrote.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use aurora_quant::checkpoint::card::{self, ParamCounts};
use aurora_quant::checkpoint::config::HfConfig;
use aurora_quant::checkpoint::tokenizer;
use aurora_quant::gguf::{Metadata, Value};
use common::tokenizer::{Copy, json as json_file};
use serde_json::{Value as Json, json};

const MODELS: &[&str] = &[
    "stories260k",
    "tiny-gemma2",
    "tiny-gpt2",
    "tiny-llama3",
    "tiny-mistral",
    "tiny-mixtral",
    "tiny-phi3",
    "tiny-qwen2",
    "tiny-qwen3",
];

fn fixture(path: &str) -> PathBuf {
    common::plain_fixtures().join(path)
}

fn config(dir: &Path) -> HfConfig {
    let path = dir.join("config.json");
    let map = json_file(&path).as_object().unwrap().clone();
    HfConfig { path, map }
}

fn dump(model: &str) -> Json {
    json_file(&fixture(&format!("ref-gguf/{model}-f32.gguf-dump.json")))
}

fn plain(value: &Value) -> (String, Json) {
    match value {
        Value::U32(n) => ("u32".into(), json!(n)),
        Value::I32(n) => ("i32".into(), json!(n)),
        Value::F32(x) => ("f32".into(), json!(f64::from(*x))),
        Value::Bool(b) => ("bool".into(), json!(b)),
        Value::String(s) => ("string".into(), json!(s)),
        Value::Array(items) => {
            let kind = items.iter().next().map_or_else(String::new, |v| plain(v).0);
            (format!("array[{kind}]"), items.iter().map(|v| plain(v).1).collect())
        }
        other => panic!("no key of ours has the type of {other:?}"),
    }
}

fn rows(dump: &Json) -> usize {
    let embedding = dump["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "token_embd.weight").unwrap();
    embedding["shape"][1].as_u64().unwrap() as usize
}

/// As gguf-py counts: an `_exps` tensor holds every expert.
fn counts(dump: &Json) -> ParamCounts {
    let mut counts = ParamCounts::default();
    for t in dump["tensors"].as_array().unwrap() {
        let shape: Vec<u64> = t["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        let size: u64 = shape.iter().product();
        counts.total += size;
        if t["name"].as_str().unwrap().contains("_exps.") {
            counts.expert_count = shape[2];
            counts.expert += size / shape[2];
        } else {
            counts.shared += size;
        }
    }
    counts
}

/// Keys, types and values in file order.
fn written(out: &Metadata) -> Vec<(String, String, Json)> {
    out.iter().map(|(k, v)| (k.to_owned(), plain(v).0, plain(v).1)).collect()
}

fn compare(model: &str, found: &[(String, String, Json)], dump: &Json, ours: impl Fn(&str) -> bool) {
    let wanted: Vec<_> = dump["kv"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["key"].as_str().unwrap(), e["type"].as_str().unwrap(), &e["value"]))
        .filter(|e| ours(e.0))
        .collect();
    let keys = |all: &mut dyn Iterator<Item = &str>| all.collect::<Vec<_>>().join("\n");
    assert_eq!(
        keys(&mut found.iter().map(|e| e.0.as_str())),
        keys(&mut wanted.iter().map(|e| e.0)),
        "{model}: keys and their order"
    );
    for ((key, kind, value), (_, wanted_kind, wanted)) in found.iter().zip(&wanted) {
        assert_eq!(kind, wanted_kind, "{model}: type of {key}");
        match (value.as_array(), wanted.as_array()) {
            (Some(a), Some(b)) => {
                assert_eq!(a.len(), b.len(), "{model}: length of {key}");
                for (i, (a, b)) in a.iter().zip(b).enumerate() {
                    assert_eq!(a, b, "{model}: {key}[{i}]");
                }
            }
            _ => assert_eq!(&value, wanted, "{model}: {key}"),
        }
    }
}

#[test]
fn tokenizers_equal_the_reference() {
    for model in MODELS {
        let dir = fixture(&format!("models/{model}"));
        let dump = dump(model);
        let mut out = Metadata::new();
        let notes = tokenizer::metadata(&dir, &config(&dir), rows(&dump), None, &mut out);
        notes.unwrap_or_else(|e| panic!("{model}: {e}"));
        compare(model, &written(&out), &dump, |key| key.starts_with("tokenizer."));
    }
}

#[test]
fn cards_equal_the_reference() {
    let others = ["general.architecture", "general.file_type", "general.quantization_version"];
    for model in MODELS {
        let dir = fixture(&format!("models/{model}"));
        let dump = dump(model);
        let mut out = Metadata::new();
        let notes = card::general(&dir, &config(&dir), counts(&dump), &mut out);
        assert!(notes.is_empty(), "{model}: {notes:?}");
        compare(model, &written(&out), &dump, |key| key.starts_with("general.") && !others.contains(&key));
    }
}

fn list(out: &Metadata, key: &str) -> Vec<Json> {
    plain(out.get(&format!("tokenizer.ggml.{key}")).unwrap()).1.as_array().unwrap().clone()
}

/// tokenizer.json alone gives the same tokens as tokenizer.model, and merges in the same order.
#[test]
fn tokenizer_json_stands_in_for_tokenizer_model() {
    for (model, space) in
        [("stories260k", None), ("tiny-mistral", None), ("tiny-mixtral", None), ("tiny-gemma2", Some(false))]
    {
        let dump = dump(model);
        let with = Copy::of(model).read(rows(&dump)).unwrap();
        let without = Copy::of(model).without("tokenizer.model").read(rows(&dump)).unwrap();
        for key in ["tokens", "token_type"] {
            assert_eq!(list(&with, key), list(&without, key), "{model}: {key}");
        }
        let order = |out: &Metadata| {
            let (tokens, scores, types) = (list(out, "tokens"), list(out, "scores"), list(out, "token_type"));
            let mut merged: Vec<usize> = (0..tokens.len())
                .filter(|&i| types[i] == 1 && tokens[i].as_str().unwrap().chars().count() > 1)
                .collect();
            merged.sort_by(|&a, &b| scores[b].as_f64().unwrap().total_cmp(&scores[a].as_f64().unwrap()));
            merged
        };
        assert_eq!(order(&with), order(&without), "{model}: order of merges");
        let written = without.get("tokenizer.ggml.add_space_prefix").and_then(Value::as_bool);
        assert_eq!(written, space, "{model}: space before the text");
    }
}

/// transformers 5 writes neither special_tokens_map.json nor added_tokens_decoder.
#[test]
fn tokenizer_json_alone_knows_the_added_tokens() {
    for model in ["tiny-mistral", "tiny-gemma2", "tiny-qwen3"] {
        let dump = dump(model);
        let full = Copy::of(model).read(rows(&dump)).unwrap();
        let lean = Copy::of(model).without("special_tokens_map.json").edited("tokenizer_config.json", |c| {
            c.as_object_mut().unwrap().remove("added_tokens_decoder");
        });
        assert_eq!(written(&full), written(&lean.read(rows(&dump)).unwrap()), "{model}");
    }
}

#[test]
fn vocab_json_and_merges_txt_will_do() {
    for model in ["tiny-gpt2", "tiny-qwen2"] {
        let dump = dump(model);
        let full = Copy::of(model).read(rows(&dump)).unwrap();
        let slow = Copy::of(model).without("tokenizer.json").read(rows(&dump)).unwrap();
        for key in ["tokens", "token_type", "merges"] {
            assert_eq!(list(&full, key), list(&slow, key), "{model}: {key}");
        }
        assert_eq!(full.get("tokenizer.ggml.pre"), slow.get("tokenizer.ggml.pre"), "{model}");
    }
}

#[test]
fn odd_tokens_survive() {
    let copy = Copy::of("tiny-qwen3").edited("tokenizer.json", |t| {
        t["model"]["vocab"]["ĠŃ×Ķ"] = json!(548);
        t["model"]["vocab"]["a b"] = json!(549);
        t["model"]["merges"] = json!([["Ġ", "Ń×Ķ"], ["a ", "b"], ["é", "漢"]]);
        let added = t["added_tokens"].as_array_mut().unwrap();
        added.push(json!({"id": 550, "content": "<｜end▁of▁sentence｜>", "special": false}));
        added.push(json!({"id": 551, "content": "  ▁x", "special": false}));
    });
    let out = copy.read(553).unwrap();
    let tokens = list(&out, "tokens");
    assert_eq!(tokens[548..], ["ĠŃ×Ķ", "a b", "<｜end▁of▁sentence｜>", "   x", "[PAD552]"].map(Json::from));
    assert_eq!(list(&out, "token_type")[548..], [1, 1, 3, 4, 5].map(Json::from));
    assert_eq!(list(&out, "merges"), ["Ġ Ń×Ķ", "aĠ b", "é 漢"].map(Json::from));
}

#[test]
fn templates_have_names() {
    let config = |c: &mut Json| {
        c["chat_template"] = json!([
            {"name": "default", "template": "D"}, {"name": "tool use", "template": "T"}, {"name": "rag", "template": "R"}
        ]);
    };
    let listed = Copy::of("tiny-qwen2").edited("tokenizer_config.json", config).read(640).unwrap();
    let beside = Copy::of("tiny-qwen3").with("chat_template.jinja", "D");
    let more = beside.0.path().join("additional_chat_templates");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("tool use.jinja"), "T").unwrap();
    fs::write(more.join("rag.jinja"), "R").unwrap();
    for out in [listed, beside.read(548).unwrap()] {
        let get = |key: &str| out.get(&format!("tokenizer.{key}")).map(|v| plain(v).1);
        assert_eq!(get("chat_template"), Some(json!("D")));
        assert_eq!(get("chat_template.tool_use"), Some(json!("T")));
        assert_eq!(get("chat_template.rag"), Some(json!("R")));
        assert_eq!(get("chat_templates"), Some(json!(["rag", "tool_use"])));
    }
    let json =
        Copy::of("tiny-qwen3").without("chat_template.jinja").with("chat_template.json", r#"{"chat_template": "J"}"#);
    assert_eq!(json.read(548).unwrap().get("tokenizer.chat_template").and_then(Value::as_str), Some("J"));
}

fn mentions(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn bad_tokenizers_are_refused_by_name() {
    let stories = || Copy::of("stories260k").without("tokenizer.model");
    mentions(&stories().without("tokenizer.json").error(512), &["no tokenizer found"]);
    let tekken = stories().without("tokenizer.json").with("tekken.json", "{}");
    mentions(&tekken.error(512), &["tekken.json"]);
    mentions(&stories().with("tokenizer.json", "{\"model\": {").error(512), &["tokenizer.json", "not valid JSON"]);
    let add = |id: Json| {
        stories().edited("tokenizer.json", move |t| {
            t["added_tokens"].as_array_mut().unwrap().push(json!({"id": id, "content": "<x>", "special": true}));
        })
    };
    for id in [json!(-1), json!(1.5), json!("7"), json!(null)] {
        mentions(&add(id).error(512), &["tokenizer.json", "line 1"]);
    }
    let edit = |edit: fn(&mut Json)| stories().edited("tokenizer.json", edit);
    mentions(&edit(|t| t["model"]["vocab"]["new"] = json!(5)).error(512), &["same id 5"]);
    mentions(&edit(|t| t["model"]["vocab"]["new"] = json!(u64::MAX)).error(512), &["outside any vocabulary"]);
    mentions(&edit(|t| t["model"]["merges"][0] = json!(7)).error(512), &["merge"]);
    mentions(&edit(|t| t["model"]["merges"][0] = json!(["a", "b", "c"])).error(512), &["two tokens"]);
    mentions(&edit(|t| t["model"] = json!({"type": "WordPiece", "vocab": {"a": 0}})).error(512), &["WordPiece"]);
    mentions(&edit(|t| t["model"] = json!({"type": "Unigram", "vocab": [["a", 0.5]]})).error(512), &["Unigram"]);
    mentions(&edit(|t| t["model"]["byte_fallback"] = json!(false)).error(512), &["neither"]);
    mentions(&edit(|t| t["model"] = json!([1, 2])).error(512), &["tokenizer.json"]);
    mentions(&stories().with("tokenizer.model", [0xff; 40]).error(512), &["tokenizer.model", "SentencePiece"]);
    mentions(&stories().with("tokenizer.model", "").error(512), &["tokenizer.model"]);
    let strange = Copy::of("tiny-llama3").edited("tokenizer.json", |t| {
        t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("[a-z]+");
    });
    mentions(&strange.error(640), &["[a-z]+", "`pre`", "llama-bpe"]);
    let long = edit(|t| t["normalizer"] = Json::Array(vec![json!(0); 600_000]));
    mentions(&long.error(512), &["tokenizer.json", "1048576"]);
    // Holes are no fault: the rows of the embedding that nothing names are padding.
    let holes = edit(|t| {
        t["model"]["vocab"].as_object_mut().unwrap().shift_remove("<0x41>");
    });
    assert_eq!(list(&holes.read(512).unwrap(), "tokens")[3 + 0x41], "[PAD68]");
}

/// The fewer rows the embedding has, the fewer tokens are written: finetunes often add tokens without rows.
#[test]
fn tokens_without_rows() {
    let out = Copy::of("tiny-phi3").read(522).unwrap();
    assert_eq!(list(&out, "tokens").len(), 522);
    mentions(&Copy::of("tiny-llama3").error(639), &["639"]);
}

/// Whatever the bytes of the files are, the answer is a value or an error.
#[test]
fn mangled_files_do_not_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for (model, rows) in [("tiny-phi3", 544), ("tiny-qwen3", 548), ("tiny-gemma2", 512)] {
        let copy = Copy::of(model);
        for file in ["tokenizer.model", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"] {
            let path = copy.0.path().join(file);
            let Ok(good) = fs::read(&path) else { continue };
            for round in 0..60 {
                let mut bad = good.clone();
                match round % 3 {
                    0 => bad.truncate(random(good.len())),
                    1 => bad[random(good.len())] = random(256) as u8,
                    // Swapping pieces keeps JSON valid more often than noise does.
                    _ => {
                        let (a, b, n) = (random(good.len()), random(good.len()), random(12));
                        let piece = good[a..(a + n).min(good.len())].to_vec();
                        bad.splice(b..(b + n).min(good.len()), piece);
                    }
                }
                fs::write(&path, &bad).unwrap();
                if let Ok(out) = copy.read(rows) {
                    assert_eq!(list(&out, "tokens").len(), rows);
                }
            }
            fs::write(&path, &good).unwrap();
        }
    }
}
