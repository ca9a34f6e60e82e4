//! Configurations: spellings that must mean the same, faults that must be named, variations that must be refused.

mod common;

use std::collections::BTreeMap;

use aurora_quant::checkpoint::Config;
use aurora_quant::checkpoint::config::HfConfig;
use aurora_quant::gguf::{Metadata, Value};
use aurora_quant::model::{ARCHS, Import, Model, Op, Param, RopeScaling, describe};
use common::canonical::{self, Tensor, canonical};
use common::{MODELS, changed, fixtures, hf_config};
use serde_json::{Value as Json, json};

fn open(config: &Config) -> Model {
    describe(config, &|_| true).unwrap_or_else(|e| panic!("{e}"))
}

fn refusal(config: &Config) -> String {
    match describe(config, &|_| true) {
        Ok(m) => panic!("{} was described", m.arch.title),
        Err(e) => e.explain(),
    }
}

#[test]
fn faults_are_named() {
    let cases = [
        ("stories260k", json!({"hidden_size": null}), "hidden_size"),
        ("stories260k", json!({"num_hidden_layers": null}), "num_hidden_layers"),
        ("stories260k", json!({"num_hidden_layers": -1}), "num_hidden_layers"),
        ("stories260k", json!({"num_hidden_layers": 4_000_000_000_u32}), "num_hidden_layers"),
        ("tiny-gpt2", json!({"n_layer": 4_000_000_000_u32}), "n_layer"),
        ("tiny-gemma3", json!({"num_hidden_layers": 4_000_000_000_u32}), "num_hidden_layers"),
        ("tiny-gemma2", json!({"num_hidden_layers": 4_000_000_000_u32}), "num_hidden_layers"),
        ("tiny-qwen3", json!({"num_hidden_layers": 4_000_000_000_u32, "layer_types": null}), "num_hidden_layers"),
        ("tiny-mixtral", json!({"num_local_experts": 4_000_000_000_u32}), "num_local_experts"),
        ("tiny-mixtral", json!({"num_experts_per_tok": 5}), "num_experts_per_tok"),
        ("stories260k", json!({"intermediate_size": 4_000_000_000_u32}), "intermediate_size"),
        ("stories260k", json!({"vocab_size": 4_000_000_000_u32}), "vocab_size"),
        ("stories260k", json!({"head_dim": 4_000_000_000_u32}), "head_dim"),
        ("stories260k", json!({"hidden_size": "thirty-two"}), "hidden_size"),
        ("stories260k", json!({"num_attention_heads": 0}), "num_attention_heads"),
        ("stories260k", json!({"num_attention_heads": 5}), "num_attention_heads"),
        ("stories260k", json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        ("stories260k", json!({"head_dim": 7}), "head_dim"),
        ("stories260k", json!({"architectures": ["FooBarForCausalLM"]}), "FooBarForCausalLM"),
        ("stories260k", json!({"architectures": null, "model_type": "foobar"}), "foobar"),
        ("stories260k", json!({"architectures": null, "model_type": null}), "architectures"),
        ("stories260k", json!({"quantization_config": {"quant_method": "gptq"}}), "gptq"),
        ("stories260k", json!({"rope_scaling": {"rope_type": "spiral", "factor": 4.0}}), "spiral"),
        ("stories260k", json!({"rope_scaling": {"factor": 4.0}}), "rope_type"),
        ("stories260k", json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
        ("stories260k", json!({"rope_scaling": {"type": "linear", "factor": 0}}), "rope_scaling.factor"),
        ("stories260k", json!({"rope_scaling": 4.0}), "rope_scaling"),
        ("stories260k", json!({"rope_theta": -1}), "rope_theta"),
        ("tiny-qwen3", json!({"layer_types": ["full_attention"]}), "layer_types"),
        ("tiny-mistral", json!({"num_key_value_heads": null}), "num_key_value_heads"),
    ];
    for (name, changes, mention) in cases {
        let said = refusal(&changed(name, changes.clone()));
        assert!(said.contains(mention) && said.contains("config.json"), "{name} {changes}: {said}");
    }
}

#[test]
fn what_cannot_be_expressed_is_refused() {
    let yarn = |key: &str, value: Json| {
        let mut yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
        yarn[key] = value;
        json!({ "rope_scaling": yarn })
    };
    let long = json!({"type": "longrope", "short_factor": vec![1.0; 32], "long_factor": vec![2.0; 32]});
    let cases = [
        ("tiny-llama3", json!({"hidden_act": "gelu"}), "hidden_act"),
        ("tiny-llama3", yarn("factor", json!(0.5)), "rope_scaling.factor"),
        ("tiny-llama3", yarn("original_max_position_embeddings", json!(1)), "original_max_position_embeddings"),
        ("tiny-llama3", yarn("attention_factor", json!(0)), "attention_factor"),
        ("tiny-llama3", yarn("truncate", json!("yes")), "truncate"),
        ("tiny-qwen2", yarn("beta_fast", json!(16)), "beta_fast"),
        ("tiny-qwen3", yarn("beta_slow", json!(2)), "beta_slow"),
        ("tiny-olmo2", yarn("truncate", json!(false)), "truncate"),
        ("tiny-gemma3", yarn("beta_fast", json!(32)), "yarn"),
        ("tiny-phi3", yarn("short_factor", json!([1.0])), "long_factor"),
        ("tiny-qwen2", json!({ "rope_scaling": long }), "longrope"),
        ("tiny-llama3", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        ("tiny-qwen2", json!({"use_sliding_window": true, "max_window_layers": 1}), "use_sliding_window"),
        ("tiny-qwen3-moe", json!({"use_sliding_window": true}), "use_sliding_window"),
        ("tiny-qwen2", json!({"head_dim": 32}), "head_dim"),
        ("tiny-qwen3", json!({"attention_bias": true}), "attention_bias"),
        ("tiny-qwen3", json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
        ("tiny-qwen2", json!({"rope_scaling": {"type": "llama3", "factor": 2.0}}), "llama3"),
        ("tiny-qwen3-moe", json!({"norm_topk_prob": null}), "norm_topk_prob"),
        ("tiny-qwen3-moe", json!({"decoder_sparse_step": 2}), "decoder_sparse_step"),
        ("tiny-qwen3-moe", json!({"mlp_only_layers": [0]}), "mlp_only_layers"),
        ("tiny-gemma2", json!({"query_pre_attn_scalar": 144}), "query_pre_attn_scalar"),
        ("tiny-gemma2", json!({"query_pre_attn_scalar": null}), "query_pre_attn_scalar"),
        ("tiny-gemma2", json!({"hidden_activation": "gelu"}), "hidden_activation"),
        ("tiny-gemma2", json!({"attention_bias": true}), "attention_bias"),
        ("tiny-gemma2", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        ("tiny-qwen3", json!({"is_causal": false}), "is_causal"),
        ("tiny-qwen3", json!({"is_causal": Json::Null, "text_config": {"is_causal": null}}), "is_causal"),
        ("tiny-gpt2", json!({"is_causal": false}), "is_causal"),
        ("tiny-gpt2", json!({"max_position_embeddings": 16}), "max_position_embeddings"),
        ("tiny-mixtral", json!({"num_experts": 2}), "num_experts"),
        ("tiny-gemma2", json!({"final_logit_softcapping": 0.0}), "final_logit_softcapping"),
        ("tiny-gemma2", json!({"tie_word_embeddings": false}), "tie_word_embeddings"),
        ("tiny-gemma2", json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
        ("tiny-gemma3", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        ("tiny-gemma3", json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        ("tiny-phi3", json!({"attention_bias": true}), "attention_bias"),
        ("tiny-phi3", json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "linear"),
        ("tiny-olmo2", json!({"tie_word_embeddings": true}), "tie_word_embeddings"),
        ("tiny-olmo2", json!({"attention_bias": true}), "attention_bias"),
        ("tiny-gpt2", json!({"activation_function": "relu"}), "activation_function"),
        ("tiny-gpt2", json!({"scale_attn_by_inverse_layer_idx": true}), "scale_attn_by_inverse_layer_idx"),
        ("tiny-gpt2", json!({"reorder_and_upcast_attn": true}), "reorder_and_upcast_attn"),
        ("tiny-gpt2", json!({"scale_attn_weights": false}), "scale_attn_weights"),
        ("tiny-gpt2", json!({"add_cross_attention": true}), "add_cross_attention"),
        ("tiny-granite", json!({"attention_multiplier": 0}), "attention_multiplier"),
    ];
    for (name, changes, mention) in cases {
        let said = refusal(&changed(name, changes.clone()));
        assert!(said.contains(mention), "{name} {changes}: {said}");
    }
}

/// A note names keys that look as if they changed the result and that no class reads, but not those of training or
/// those that say nothing. The fixtures have none.
#[test]
fn keys_that_nothing_reads_are_told() {
    for name in MODELS.iter() {
        assert_eq!(open(&changed(name, json!({}))).notes, Vec::<String>::new(), "{name}");
    }
    let strange = json!({
        "attn_logit_softcapping": 50.0, "attention_sink_size": 4, "qk_layernorm": true, "logits_scaling": 8.0,
        "attention_dropout": 0.1, "lm_head_bias": false, "num_shared_experts": 0, "residual_multiplier": 1.0,
        "initializer_range": 0.02, "clip_qkv": null,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "finetuned": true,
                         "extrapolation_factor": 1.0},
    });
    let notes = open(&changed("tiny-llama3", strange)).notes;
    let [note] = &notes[..] else { panic!("{notes:?}") };
    let told = [
        "attn_logit_softcapping 50.0",
        "attention_sink_size 4",
        "qk_layernorm true",
        "logits_scaling 8.0",
        "rope_scaling.finetuned true",
        "rope_scaling.extrapolation_factor 1.0",
        "Llama",
    ];
    assert!(told.iter().all(|word| note.contains(word)), "{note}");
    let quiet = ["dropout", "lm_head_bias", "num_shared", "residual", "initializer", "clip", "factor 4", "original"];
    assert!(!quiet.iter().any(|word| note.contains(word)), "{note}");
    let granite = open(&changed("tiny-granite", json!({"logits_scaling": 8.0}))).notes;
    assert_eq!(granite, Vec::<String>::new());
    // Where all of our architectures have something, false is what tells.
    let flags = json!({"use_rope": false, "causal": false, "rope_interleaved": false, "use_rms_norm": true});
    let notes = open(&changed("tiny-olmo2", flags)).notes;
    assert!(notes.len() == 1 && notes[0].contains("use_rope false, causal false: Transformers"), "{notes:?}");
    // Keys of a text model within another, and of the rotary settings of layers with a window.
    let nested = json!({
        "text_config": {"router_scale": 2.0},
        "rope_parameters": {
            "full_attention": {"rope_type": "default"}, "sliding_attention": {"factor": 8.0, "type": "default"},
        },
    });
    let notes = open(&changed("tiny-gemma3", nested)).notes;
    let told = ["router_scale 2.0", "rope_parameters.sliding_attention.factor 8.0"];
    assert!(notes.len() == 1 && told.iter().all(|word| notes[0].contains(word)), "{notes:?}");
}

/// Keys that may change nothing without a word, and in which models (all, if none is named): those of training and
/// running, those that count only beside others, and those whose value here is the usual one.
const SILENT: &[(&str, &[&str])] = &[
    ("attention_bias", &["Llama"]),
    ("attention_dropout", &[]),
    ("head_dim", &["Llama"]),
    ("hidden_act", &["Gemma 2", "Gemma 3"]),
    ("max_window_layers", &["Qwen2", "Qwen3", "Qwen3 MoE"]),
    ("mlp_bias", &["Llama"]),
    ("num_key_value_heads", &["Gemma 3", "Granite", "Llama", "OLMo 2", "Qwen3 MoE"]),
    ("original_max_position_embeddings", &[]),
    ("router_jitter_noise", &[]),
    ("sliding_window", &["Qwen2", "Qwen3", "Qwen3 MoE"]),
    ("tie_word_embeddings", &["Llama", "Mistral", "Mixtral", "OLMo 2", "Phi-3", "Qwen3"]),
    ("use_cache", &[]),
    // Without layers that slide.
    ("use_sliding_window", &["Qwen2", "Qwen3"]),
];

/// What changes the logits of Transformers changes the model here, or is refused. All else leaves the model as it is,
/// and a note says so unless the key is known. `counts.json` has what Transformers does (see make_counts.py).
#[test]
fn keys_that_count_are_read_or_refused() {
    let table = std::fs::read(fixtures().join("variants/counts.json")).unwrap();
    let table: Json = serde_json::from_slice(&table).unwrap();
    let mut faults = Vec::new();
    for (name, row) in table["models"].as_object().unwrap() {
        let plain = open(&changed(name, json!({})));
        for (key, value) in table["values"].as_object().unwrap() {
            let value = if key == "layer_types" { &row["layer_types"] } else { value };
            let listed = |what: &str| row[what].as_array().is_some_and(|keys| keys.contains(&json!(key)));
            let described = describe(&changed(name, json!({ key: value })), &|_| true);
            let model = match described {
                Err(e) => {
                    let said = e.explain();
                    // What Gemma's files leave unsaid follows from the heads.
                    let follows = key == "head_dim" && said.contains("query_pre_attn_scalar");
                    if !said.contains(key.as_str()) && !follows {
                        faults.push(format!("{name}, {key} {value}: {said}"));
                    }
                    continue;
                }
                Ok(model) => model,
            };
            let same = model.graph.blocks == plain.graph.blocks && model.hyper == plain.hyper;
            let noted = |start: &str| model.notes.iter().any(|n| n.starts_with(start) && n.contains(key.as_str()));
            let told = noted("config.json has");
            match (listed("other"), listed("refused")) {
                (true, _) if same || told => faults.push(format!("{name}, {key} {value}: counts in Transformers")),
                (_, true) if same && !told => faults.push(format!("{name}, {key} {value}: Transformers refuses it")),
                (true, _) | (_, true) => {}
                _ if same && !noted("") => {
                    let known = SILENT.iter().find(|(known, _)| known == key);
                    if !known.is_some_and(|(_, titles)| titles.is_empty() || titles.contains(&plain.arch.title)) {
                        faults.push(format!("{name}, {key} {value}: nothing is said"));
                    }
                }
                _ => {}
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Dynamic NTK beyond the model's context, and settings beside those that count.
#[test]
fn rotary_settings_that_do_not_count_are_told() {
    let dynamic = open(&changed("tiny-llama3", json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}))).notes;
    assert!(dynamic.len() == 1 && dynamic[0].contains("dynamic") && dynamic[0].contains("512"), "{dynamic:?}");
    let both = json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0}});
    let both = open(&changed("tiny-qwen3", both)).notes;
    assert!(both.len() == 1 && both[0].contains("rope_parameters") && both[0].contains("rope_theta"), "{both:?}");
    let same = json!({"rope_type": "linear", "factor": 4.0});
    let same = open(&changed("tiny-qwen3", json!({"rope_scaling": same, "rope_parameters": same}))).notes;
    assert_eq!(same, Vec::<String>::new());
    let outside = open(&changed("tiny-qwen3", json!({"rope_theta": 500.0}))).notes;
    assert!(outside.len() == 1 && outside[0].contains("rope_theta 500.0 is not used"), "{outside:?}");
}

#[test]
fn unknown_architectures_list_the_known() {
    let said = refusal(&changed("stories260k", json!({"architectures": ["FooBarForCausalLM"]})));
    for arch in ARCHS {
        assert!(said.contains(arch.hf[0]), "{said}");
    }
}

/// What transformers 4 and 5 write for one model is one model.
#[test]
fn old_and_new_spellings_mean_the_same() {
    let llama3 = json!({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let local = json!({"full_attention": {"rope_type": "default", "rope_theta": 1e6},
                       "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}});
    let kinds = ["sliding_attention"; 5].iter().chain(&["full_attention"]).collect::<Vec<_>>();
    let cases = [
        ("tiny-llama3", json!({"rope_theta": null, "rope_scaling": null, "rope_parameters": llama3, "head_dim": null})),
        (
            "tiny-gemma3",
            json!({"rope_theta": null, "rope_local_base_freq": null, "rope_parameters": local,
                               "sliding_window_pattern": null, "layer_types": kinds}),
        ),
        ("tiny-gemma2", json!({"layer_types": ["sliding_attention", "full_attention"], "rope_theta": null})),
        ("tiny-mistral", json!({"layer_types": ["sliding_attention", "sliding_attention"]})),
        ("tiny-qwen3", json!({"rope_parameters": null, "rope_theta": 1000000, "layer_types": null, "head_dim": null})),
        ("tiny-mixtral", json!({"architectures": null})),
    ];
    for (name, changes) in cases {
        let (a, b) = (open(&changed(name, json!({}))), open(&changed(name, changes.clone())));
        assert_eq!(a.hyper, b.hyper, "{name} {changes}");
        assert_eq!(a.graph, b.graph, "{name} {changes}");
    }
}

/// Google's own files of Gemma 3 with vision say little and nest it.
#[test]
fn gemma_3_with_vision_is_read_through_its_text_part() {
    let map = json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "vision_config": {},
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
    });
    let Json::Object(map) = map else { unreachable!() };
    let m = open(&Config::HuggingFace(HfConfig { path: "config.json".into(), map }));
    assert_eq!((m.hyper.heads, m.hyper.kv_heads, m.hyper.head_dim, m.hyper.vocab), (8, 4, 256, 262208));
    let names = &m.graph.params[1].parts[0].names;
    assert!(names.contains(&"language_model.model.layers.0.input_layernorm.weight".to_owned()), "{names:?}");
    assert!(m.graph.ignores("vision_tower.vision_model.head.probe") && m.graph.ignores("lm_head.weight"));
    assert!(!m.graph.ignores("language_model.model.layers.0.other.weight"));
    let stretched: Vec<bool> = (m.graph.blocks.iter().flatten())
        .filter_map(|o| if let Op::Rope { linear, .. } = o { Some(*linear != 1.0) } else { None })
        .collect();
    let every_sixth: Vec<bool> = (0..34).flat_map(|i| [i % 6 == 5; 2]).collect();
    assert_eq!(stretched, every_sixth);
}

/// A tied model has no output matrix of its own; one that a checkpoint carries along is a copy.
#[test]
fn tied_models_ignore_a_second_output_matrix() {
    let output = |m: &Model| m.graph.params.iter().any(|p| p.name == "output.weight");
    let tied = open(&changed("tiny-llama3", json!({})));
    assert!(!output(&tied) && tied.graph.ignores("lm_head.weight"));
    let untied = open(&changed("tiny-llama3", json!({"tie_word_embeddings": null})));
    assert!(output(&untied) && !untied.graph.ignores("lm_head.weight"));
    assert!(open(&changed("tiny-gemma2", json!({}))).hyper.tied && open(&changed("tiny-gpt2", json!({}))).hyper.tied);
    assert!(untied.graph.ignores("model.layers.0.self_attn.rotary_emb.inv_freq"));
    assert!(open(&changed("tiny-gpt2", json!({}))).graph.ignores("h.0.attn.bias"));
    assert!(!open(&changed("tiny-gpt2", json!({}))).graph.ignores("h.0.attn.c_attn.bias"));
}

/// Phi-4-mini rotates three quarters of every head.
#[test]
fn part_of_a_head_may_rotate_in_phi_3() {
    let m = open(&changed("tiny-phi3", json!({"partial_rotary_factor": 0.75})));
    assert_eq!((m.hyper.rope.dims, m.hyper.head_dim), (48, 64));
}

#[test]
fn absent_windows_are_transformers_defaults() {
    let window = |name, changes| open(&changed(name, changes)).hyper.window;
    assert_eq!(window("tiny-mistral", json!({"sliding_window": null})), Some(4096));
    assert_eq!(window("tiny-mixtral", json!({"sliding_window": null})), None);
    assert_eq!(window("tiny-gemma2", json!({"sliding_window": null})), Some(4096));
    assert_eq!(window("tiny-gemma3", json!({"sliding_window_pattern": 1})), None);
}

#[test]
fn phi_3_long_factors_become_parameters_and_keys() {
    let factors = |by: f64| (0..32).map(|i| by + f64::from(i)).collect::<Vec<_>>();
    let scaling = json!({"type": "longrope", "long_factor": factors(2.0), "short_factor": factors(1.0)});
    let config = changed("tiny-phi3", json!({"rope_scaling": scaling, "max_position_embeddings": 4096}));
    let m = open(&config);
    let find = |name: &str| m.graph.params.iter().find(|p| p.name == name).unwrap();
    let computed = |p: &Param| match &p.import {
        Import::Computed(x) => x.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(computed(find("rope_factors_long.weight"))[..2], [2.0, 3.0]);
    assert_eq!(computed(find("rope_factors_short.weight"))[..2], [1.0, 2.0]);
    let RopeScaling::Long { original_context, .. } = m.hyper.rope.scaling else { panic!() };
    let expected = (1.0 + 8f64.ln() / 512f64.ln()).sqrt() as f32;
    assert_eq!((original_context, m.hyper.rope.magnitude), (512, expected));
    let Config::HuggingFace(c) = &config else { unreachable!() };
    let mut keys = Metadata::new();
    (m.arch.keys)(&m.hyper, c, &mut keys);
    assert_eq!(keys.get("phi3.rope.scaling.attn_factor"), Some(&Value::F32(expected)));
    let ropes =
        m.graph.blocks.iter().flatten().filter(|o| matches!(o, Op::Rope { long: Some(l), .. } if l.beyond == 512));
    assert_eq!(ropes.count(), 4);
    let short = json!({"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]});
    assert!(refusal(&changed("tiny-phi3", json!({"rope_scaling": short}))).contains("long_factor"));
}

/// Experts fused by newer libraries are the same experts.
#[test]
fn fused_experts_are_the_same_experts() {
    for (name, list, [gate, up, down]) in [
        ("tiny-mixtral", "block_sparse_moe.experts", ["w1", "w3", "w2"]),
        ("tiny-qwen3-moe", "mlp.experts", ["gate_proj", "up_proj", "down_proj"]),
    ] {
        let dir = fixtures().join("models").join(name);
        let m = open(&hf_config(&dir));
        let (h, e) = (&m.hyper, m.hyper.experts.as_ref().unwrap());
        let separate = canonical::load(&dir);
        let mut fused: BTreeMap<String, Tensor> =
            separate.iter().filter(|(k, _)| !k.contains("experts")).map(|(k, t)| (k.clone(), t.clone())).collect();
        for i in 0..h.blocks {
            let get = |n: usize, w: &str| separate[&format!("model.layers.{i}.{list}.{n}.{w}.weight")].data.clone();
            let both = (0..e.count).flat_map(|n| [get(n, gate), get(n, up)].concat()).collect();
            let all = (0..e.count).flat_map(|n| get(n, down)).collect();
            let at = format!("model.layers.{i}.mlp.experts");
            fused.insert(format!("{at}.gate_up_proj"), Tensor { shape: vec![e.count, 2 * h.ffn, h.width], data: both });
            fused.insert(format!("{at}.down_proj"), Tensor { shape: vec![e.count, h.width, h.ffn], data: all });
        }
        for p in &m.graph.params {
            assert!(canonical(p, &separate) == canonical(p, &fused), "{name}: {}", p.name);
        }
    }
}

#[test]
fn graphs_are_well_formed() {
    for name in MODELS.iter() {
        let m = open(&changed(name, json!({})));
        assert_eq!(m.graph.blocks.len(), m.hyper.blocks);
        assert_eq!(m.graph.slots[m.graph.residual.0], m.hyper.width);
        assert_eq!(m.graph.slots[m.graph.logits.0], m.hyper.vocab);
        for p in &m.graph.params {
            for parts in std::iter::once(&p.parts).chain(&p.alternatives) {
                let rows: usize = parts.iter().map(|part| part.rows).sum();
                let computed = matches!(p.import, Import::Computed(_));
                assert_eq!(rows, if computed { 0 } else { p.rows() }, "{name}: {}", p.name);
            }
        }
    }
}
