//! GGUF headers as configurations: the same model as from config.json, and faults that must be named.

mod common;

use aurora_quant::checkpoint::Config;
use aurora_quant::checkpoint::config::GgufConfig;
use aurora_quant::gguf::{Metadata, Value, ValueType, array};
use aurora_quant::model::{Import, Op, RopeScaling, describe};
use common::{MODELS, changed, fixtures, hf_config};
use serde_json::json;

/// A GGUF header alone, with its tensor list, describes the same parameters and ops.
#[test]
fn gguf_headers_describe_the_same_graph() {
    let plain = MODELS.iter().map(|name| ((*name).to_owned(), hf_config(&fixtures().join("models").join(name))));
    // Not what has a factor on sine and cosine that is not the usual one: the key holds a quotient, which is rounded.
    let stretched = ["qwen3-yarn", "olmo2-yarn", "gemma2-yarn", "llama-yarn-ramp", "granite-long", "phi3-long"];
    let stretched = stretched.iter().map(|name| ((*name).to_owned(), variant(name)));
    for (name, config) in plain.chain(stretched) {
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
                && name == "tiny-mistral"
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

/// A fixture's configuration under the changes of that name.
fn variant(name: &str) -> Config {
    let table = std::fs::read(fixtures().join("variants/variants.json")).unwrap();
    let table: serde_json::Value = serde_json::from_slice(&table).unwrap();
    changed(table[name]["base"].as_str().unwrap(), table[name]["changes"].clone())
}

/// The keys of a variant that begin with that word, without the architecture.
fn keys_of(name: &str, start: &str) -> Vec<(String, Value)> {
    let config = variant(name);
    let m = describe(&config, &|_| true).unwrap();
    let Config::HuggingFace(c) = &config else { unreachable!() };
    let mut all = Metadata::new();
    (m.arch.keys)(&m.hyper, c, &mut all);
    let prefix = format!("{}.", m.arch.gguf);
    let own = all.iter().map(|(key, value)| (key.strip_prefix(&prefix).unwrap().to_owned(), value.clone()));
    own.filter(|(key, _)| key.starts_with(start)).collect()
}

/// ggml multiplies sine and cosine by 1 + 0.1 ln(factor) of itself; the key has what else there is.
#[test]
fn stretched_embeddings_have_the_keys_that_llama_cpp_reads() {
    let (text, float, whole) = (|s: &str| Value::String(s.into()), Value::F32, Value::U32);
    let usual = (1.0 + 0.1 * 4f64.ln()) as f32;
    let long = (1.0 + 16f64.ln() / 8f64.ln()).sqrt() as f32;
    let cases = [
        ("qwen3-yarn", vec![("type", text("yarn")), ("factor", float(4.0)), ("original_context_length", whole(32))]),
        (
            "mistral-yarn",
            vec![
                ("type", text("yarn")),
                ("factor", float(4.0)),
                ("original_context_length", whole(32)),
                ("attn_factor", float(0.7 / usual)),
            ],
        ),
        (
            "granite-long",
            vec![("type", text("longrope")), ("original_context_length", whole(8)), ("attn_factor", float(long))],
        ),
        ("llama-yarn-ramp", vec![("attn_factor", float(usual))]),
        ("llama-dynamic", vec![]),
        ("qwen3-both", vec![("type", text("linear")), ("factor", float(4.0))]),
    ];
    for (name, wanted) in cases {
        let found = keys_of(name, "rope.scaling.");
        let named = |(key, _): &(&str, Value)| format!("rope.scaling.{key}");
        assert_eq!(found.len(), wanted.len(), "{name}: {found:?}");
        for ((key, value), wanted) in found.iter().zip(&wanted) {
            let near = matches!((value, &wanted.1), (Value::F32(a), Value::F32(b)) if (a - b).abs() < 1e-6);
            assert!(*key == named(wanted) && (near || *value == wanted.1), "{name}: {key} {value:?}, not {wanted:?}");
        }
    }
    // What stands beside the settings that count is not even the base.
    assert_eq!(keys_of("qwen3-both", "rope.freq_base"), [("rope.freq_base".to_owned(), Value::F32(10000.0))]);
}

/// Keys of a stretched embedding that a GGUF file may have, whether or not llama.cpp reads them.
#[test]
fn gguf_headers_say_how_embeddings_are_stretched() {
    let yarn = |more: &[(&str, f32)]| {
        let mut keys = vec![
            ("llama.rope.scaling.type".to_owned(), Some(Value::String("yarn".into()))),
            ("llama.rope.scaling.factor".to_owned(), Some(Value::F32(4.0))),
        ];
        let named = |(key, x): &(&str, f32)| (format!("llama.rope.scaling.{key}"), Some(Value::F32(*x)));
        keys.extend(more.iter().map(named));
        let keys: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        describe(&header(&keys), &|n| n == "output.weight").unwrap()
    };
    let usual = 1.0 + 0.1 * 4f64.ln();
    let of = |m: &aurora_quant::model::Model| match m.hyper.rope.scaling {
        RopeScaling::Yarn(yarn) => (yarn, f64::from(m.hyper.rope.magnitude)),
        ref other => panic!("{other:?}"),
    };
    let plain = yarn(&[]);
    let (settings, magnitude) = of(&plain);
    // The context that the model was first trained with is the context, unless the file says otherwise.
    assert_eq!((settings.original_context, settings.beta_fast, settings.beta_slow), (512, 32.0, 1.0));
    assert!((magnitude - usual).abs() < 1e-6 && plain.notes.is_empty(), "{magnitude}: {:?}", plain.notes);
    let more = yarn(&[("attn_factor", 0.5), ("yarn_beta_fast", 8.0), ("yarn_log_multiplier", 1.0)]);
    let (settings, magnitude) = of(&more);
    assert_eq!(settings.beta_fast, 8.0);
    assert!((magnitude - 0.5).abs() < 1e-6, "{magnitude}");
    let told = |word: &str| more.notes.iter().any(|note| note.contains(word));
    assert!(told("yarn_beta_fast") && told("yarn_log_multiplier") && more.notes.len() == 2, "{:?}", more.notes);
}

/// Keys that look as if they changed the result, and that are not read.
#[test]
fn gguf_keys_that_nothing_reads_are_told() {
    let strange = [
        ("llama.attention.key_length_swa", Some(Value::U32(4))),
        ("llama.rope.dimension_sections", Some(Value::U32(4))),
        ("llama.pooling_type", Some(Value::U32(3))),
        ("llama.rope.scaling.attn_factor", Some(Value::F32(1.0))),
    ];
    let notes = describe(&header(&strange), &|n| n == "output.weight").unwrap().notes;
    let told = "llama.attention.key_length_swa, llama.rope.dimension_sections are not read here";
    assert!(notes.len() == 1 && notes[0].starts_with(told), "{notes:?}");
    for name in MODELS.iter() {
        let config = changed(name, json!({}));
        let m = describe(&config, &|_| true).unwrap();
        let Config::HuggingFace(c) = &config else { unreachable!() };
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", Value::String(m.arch.gguf.into()));
        (m.arch.keys)(&m.hyper, c, &mut metadata);
        metadata.set(format!("{}.vocab_size", m.arch.gguf), Value::U32(m.hyper.vocab as u32));
        let config = Config::Gguf(GgufConfig { path: "model.gguf".into(), metadata });
        let notes = describe(&config, &|n| n == "output.weight").unwrap().notes;
        assert!(notes.is_empty(), "{name}: {notes:?}");
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
        ("llama.rope.scaling.type", text("spiral"), "spiral"),
        ("llama.rope.scaling.yarn_ext_factor", Some(Value::F32(0.5)), "yarn_ext_factor"),
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
