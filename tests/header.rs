//! GGUF headers as configurations: the same model as from config.json, and faults that must be named.

mod common;

use aurora_quant::checkpoint::Config;
use aurora_quant::checkpoint::config::GgufConfig;
use aurora_quant::gguf::{Metadata, Value, ValueType, array};
use aurora_quant::model::{Import, Op, describe};
use common::{MODELS, changed, fixtures, hf_config};
use serde_json::json;

/// A GGUF header alone, with its tensor list, describes the same parameters and ops.
#[test]
fn gguf_headers_describe_the_same_graph() {
    for name in MODELS.iter() {
        let dir = fixtures().join("models").join(name);
        let config = hf_config(&dir);
        let hf = describe(&config, &|_| true).unwrap();
        let Config::HuggingFace(config) = config else { unreachable!() };
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", Value::String(hf.arch.gguf.to_owned()));
        (hf.arch.keys)(&hf.hyper, &config, &mut metadata);
        let tokens = vec![Value::String("x".to_owned()); hf.hyper.vocab];
        metadata.set("tokenizer.ggml.tokens", array(ValueType::String, tokens));
        let gguf = Config::Gguf(GgufConfig { path: "model.gguf".into(), metadata });
        let names: Vec<&str> = hf.graph.params.iter().map(|p| p.name.as_str()).collect();
        let mut ours = describe(&gguf, &|n| names.contains(&n)).unwrap().graph;
        // The one known loss: "llama" in GGUF has no window.
        let mut theirs = hf.graph.clone();
        for op in theirs.blocks.iter_mut().chain(&mut ours.blocks).flatten() {
            if let Op::Attend { window, .. } = op
                && name == &"tiny-mistral"
            {
                *window = None;
            }
        }
        for (a, b) in ours.params.iter_mut().zip(&mut theirs.params) {
            if matches!(b.import, Import::Computed(_)) {
                (a.import, b.import) = (Import::AsIs, Import::AsIs);
            }
        }
        assert_eq!(ours, theirs, "{name}");
    }
}

fn header(changes: &[(&str, Option<Value>)]) -> Config {
    let config = changed("stories260k", json!({}));
    let m = describe(&config, &|_| true).unwrap();
    let Config::HuggingFace(c) = &config else { unreachable!() };
    let mut all = Metadata::new();
    all.set("general.architecture", Value::String("llama".into()));
    (m.arch.keys)(&m.hyper, c, &mut all);
    let mut metadata = Metadata::new();
    for (key, value) in all.iter().filter(|(k, _)| changes.iter().all(|c| c.0 != *k)) {
        metadata.set(key, value.clone());
    }
    for (key, value) in changes.iter().filter_map(|(k, v)| v.clone().map(|v| (k, v))) {
        metadata.set(*key, value);
    }
    Config::Gguf(GgufConfig { path: "model.gguf".into(), metadata })
}

#[test]
fn faults_of_gguf_headers_are_named() {
    let (text, int) = (|s: &str| Some(Value::String(s.into())), |n: u32| Some(Value::U32(n)));
    let cases = [
        ("general.architecture", None, "general.architecture"),
        ("general.architecture", text("foobar"), "foobar"),
        ("llama.embedding_length", None, "llama.embedding_length"),
        ("llama.block_count", text("one"), "llama.block_count"),
        ("llama.block_count", int(u32::MAX), "llama.block_count"),
        ("llama.attention.head_count", int(0), "llama.attention.head_count"),
        ("llama.attention.head_count_kv", int(3), "llama.attention.head_count_kv"),
        ("llama.attention.value_length", int(16), "llama.attention.value_length"),
        ("llama.rope.dimension_count", int(64), "llama.rope.dimension_count"),
        ("llama.rope.scaling.type", text("yarn"), "yarn"),
        ("llama.expert_count", int(8), "llama.expert_used_count"),
        ("llama.expert_group_count", int(4), "llama.expert_group_count"),
        ("llama.attention.causal", Some(Value::Bool(false)), "llama.attention.causal"),
        ("llama.attention.layer_norm_rms_epsilon", None, "layer_norm_rms_epsilon"),
        ("llama.vocab_size", None, "llama.vocab_size"),
    ];
    for (key, value, mention) in cases {
        let said = match describe(&header(&[(key, value)]), &|n| n == "output.weight") {
            Ok(_) => panic!("{key} was let through"),
            Err(e) => e.explain(),
        };
        assert!(said.contains(mention) && said.contains("model.gguf"), "{key}: {said}");
    }
}

#[test]
fn the_token_list_counts_not_the_vocab_size_beside_it() {
    let tokens = vec![Value::String("x".into()); 500];
    let list = array(ValueType::String, tokens);
    let model = describe(&header(&[("tokenizer.ggml.tokens", Some(list))]), &|_| true).unwrap();
    assert_eq!(model.hyper.vocab, 500);
}

/// What a header does not say is read off the tensor list.
#[test]
fn gguf_biases_and_ties_are_read_off_the_tensors() {
    let has = |names: &'static [&'static str]| describe(&header(&[]), &|n| names.contains(&n)).unwrap().hyper;
    let plain = has(&["output.weight"]);
    assert!(!plain.tied && !plain.qkv_bias && !plain.attn_out_bias && !plain.mlp_bias);
    let other = has(&["blk.0.attn_q.bias", "blk.0.attn_output.bias", "blk.0.ffn_up.bias"]);
    assert!(other.tied && other.qkv_bias && other.attn_out_bias && other.mlp_bias);
}
