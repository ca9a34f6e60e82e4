//! Which type every tensor gets and how large the file will be, against what llama-quantize did
//! (`fixtures/ref-blocks/mixtures.json`).

mod common;

use aurora_quant::checkpoint;
use aurora_quant::export;
use aurora_quant::model::{self, Model};
use aurora_quant::plan::{self, FILE_TYPES, FileType, Plan, Rules};
use common::mixtures;
use serde_json::{Value as Json, json};

fn rules(file_type: &'static FileType) -> Rules {
    Rules { file_type, pure: false, calibrated: false, output: None, embedding: None, overrides: Vec::new() }
}

/// The model that a shape of `make_mixtures.py` stands for.
fn of_shape(shape: &Json) -> Model {
    let number = |key: &str| shape[key].as_u64();
    let width = number("width").unwrap_or(256);
    let (blocks, heads, kv_heads) = (&shape["blocks"], &shape["heads"], &shape["kv_heads"]);
    let llama = json!({
        "hidden_size": width, "intermediate_size": 512, "vocab_size": 320, "num_hidden_layers": blocks,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": width / heads.as_u64().unwrap(),
        "tie_word_embeddings": shape["tied"].as_bool().unwrap_or(false), "rope_scaling": null,
    });
    let config = match (shape["arch"].as_str().unwrap(), number("experts")) {
        ("llama", None) => common::changed("tiny-llama3", llama),
        ("llama", Some(experts)) => {
            let mut mixtral = llama;
            mixtral["num_local_experts"] = json!(experts);
            common::changed("tiny-mixtral", mixtral)
        }
        ("qwen2", None) => common::changed("tiny-qwen2", llama),
        ("gpt2", None) => {
            let gpt2 = json!({
                "n_embd": width, "n_inner": 512, "vocab_size": 320, "n_layer": blocks, "n_head": heads, "n_positions": 64,
                "n_ctx": 64,
            });
            common::changed("tiny-gpt2", gpt2)
        }
        other => panic!("no config for {other:?}"),
    };
    model::describe(&config, &|_| true).unwrap()
}

#[test]
fn every_mixture_gives_the_types_and_the_file_size_of_llama_quantize() {
    for (name, rows) in &mixtures::recorded() {
        let source = (rows.get("shape")).is_none().then(|| {
            checkpoint::open(&common::fixtures().join("models").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
        });
        let model = match &source {
            Some(source) => model::describe(source.config(), &|tensor| source.find(tensor).is_some()).unwrap(),
            None => of_shape(&rows["shape"]),
        };
        for file_type in FILE_TYPES.iter().filter(|t| t.name != "f32") {
            let is_recorded = |mark: &str| file_type.names().any(|n| rows.get(n.to_uppercase() + mark).is_some());
            assert!(is_recorded(""), "{name}: no mixture {}", file_type.name);
            assert!(source.is_some() || is_recorded("+"), "{name}: no mixture {} with importances", file_type.name);
        }
        for (mixture, row) in rows.as_object().unwrap().iter().filter(|(key, _)| *key != "shape") {
            let what = format!("{name} {mixture}");
            let calibrated = mixture.ends_with('+');
            let file_type = FileType::by_name(mixture.trim_end_matches('+')).unwrap();
            let plan = Plan::new(&model, &Rules { calibrated, ..rules(file_type) }).unwrap();
            let types = plan.tensors.iter().map(|t| (t.name.clone(), t.spec().name.to_owned()));
            mixtures::assert_types(&what, types, row);
            let (Some(source), Some(bytes)) = (&source, row["file_bytes"].as_u64()) else { continue };
            let (metadata, _) = export::metadata::metadata(source.as_ref(), &model, &plan, None).unwrap();
            let layout = export::gguf::layout(&plan, &metadata).unwrap();
            assert_eq!(layout.size, bytes, "{what}: file size");
        }
    }
}

#[test]
fn pure_gives_every_matrix_the_base_format() {
    for (name, file_type) in [("tiny-llama3", "q4_k_m"), ("tiny-qwen3", "mxfp4"), ("tiny-mixtral", "q2_k")] {
        let config = common::hf_config(&common::fixtures().join("models").join(name));
        let model = model::describe(&config, &|_| true).unwrap();
        let file_type = FileType::by_name(file_type).unwrap();
        let plan = Plan::new(&model, &Rules { pure: true, ..rules(file_type) }).unwrap();
        assert_eq!(plan.file_type, file_type.id);
        for (t, p) in plan.tensors.iter().zip(&model.graph.params) {
            let matrix = p.role.quantizable() && p.shape.len() > 1;
            assert_eq!(
                t.requested.spec().name,
                if matrix { file_type.base().spec().name } else { "f32" },
                "{}",
                t.name
            );
        }
    }
}

#[test]
fn what_is_asked_for_by_name_or_role_goes_before_the_mixture() {
    let config = common::hf_config(&common::fixtures().join("models/tiny-qwen3"));
    let model = model::describe(&config, &|_| true).unwrap();
    let store = |name: &str| plan::tensor_type("type", name).unwrap();
    let rules = Rules {
        output: Some(store("q8_0")),
        embedding: Some(store("q5_k")),
        overrides: vec![(regex::Regex::new("ffn_down").unwrap(), store("iq4_xs"))],
        ..rules(FileType::by_name("q4_k_m").unwrap())
    };
    let plan = Plan::new(&model, &rules).unwrap();
    let of = |name: &str| plan.tensors.iter().find(|t| t.name == name).unwrap().requested.spec().name;
    assert_eq!(of("output.weight"), "q8_0");
    assert_eq!(of("token_embd.weight"), "q5_k");
    assert_eq!(of("blk.0.ffn_down.weight"), "iq4_xs");
    assert_eq!(of("blk.1.attn_v.weight"), "q6_k");
    assert_eq!(of("blk.1.attn_q.weight"), "q4_k");
}

#[test]
fn names_and_numbers_of_file_types_are_their_own() {
    let names: Vec<_> = FILE_TYPES.iter().flat_map(FileType::names).collect();
    let ids: Vec<_> = FILE_TYPES.iter().map(|t| t.id).collect();
    for (i, name) in names.iter().enumerate() {
        assert!(!names[..i].contains(name), "{name}");
    }
    for (i, id) in ids.iter().enumerate() {
        assert!(!ids[..i].contains(id), "{id}");
    }
    // llama-quantize's names for whole files; those of formats stand for a format where a tensor is meant.
    assert_eq!(FileType::by_name("Q4_K").unwrap().name, "q4_k_m");
    assert_eq!(plan::tensor_type("type", "Q4_K").unwrap().spec().name, "q4_k");
    assert!(plan::tensor_type("type", "q4_k_m").is_err());
    assert!(FileType::by_name("q9").unwrap_err().explain().contains("q4_k_m"));
}
