use super::*;

fn config(json: Json) -> HfConfig {
    HfConfig { path: "config.json".into(), map: json.as_object().unwrap().clone() }
}

fn text<'a>(meta: &'a Metadata, key: &str) -> Option<&'a str> {
    meta.get(&format!("general.{key}")).and_then(Value::as_str)
}

/// Figures from gguf-py's `size_label`.
#[test]
fn sizes_are_rounded_as_gguf_py_rounds_them() {
    for (total, label) in [
        (0, "0.00K"),
        (1, "0.00K"),
        (999, "1.0K"),
        (1000, "1.0K"),
        (9999, "10K"),
        (99_499, "99K"),
        (263_744, "264K"),
        (1_000_000, "1000K"),
        (1_000_001, "1.0M"),
        (9_960_000, "10M"),
        (124_439_808, "124M"),
        (999_500_000, "1000M"),
        (8_030_261_248, "8.0B"),
        (1_500_000_000_000, "1.5T"),
    ] {
        assert_eq!(rounded(total), label, "{total}");
    }
    let moe = ParamCounts { total: 46_702_792_704, shared: 1_605_636_096, expert: 5_637_144_576, expert_count: 8 };
    assert_eq!(size_label(moe), "8x7.2B");
}

#[test]
fn the_cache_of_the_hub_names_the_repository() {
    let dir = "/c/hub/models--Qwen--Qwen2.5-0.5B-Instruct/snapshots/7ae557604adf67be50417f59c2c2f167def9a775";
    assert_eq!(directory_id(Path::new(dir)).unwrap(), "Qwen/Qwen2.5-0.5B-Instruct");
    let mut out = Metadata::new();
    let params = ParamCounts { total: 494_032_768, ..ParamCounts::default() };
    general(Path::new(dir), &config(serde_json::json!({})), params, &mut out);
    assert_eq!(text(&out, "name"), Some("Qwen2.5 0.5B Instruct"));
    assert_eq!(text(&out, "organization"), Some("Qwen"));
    assert_eq!(text(&out, "finetune"), Some("Instruct"));
    assert_eq!(text(&out, "size_label"), Some("0.5B"));
    assert_eq!(directory_id(Path::new("/c/snapshots/abc")).unwrap(), "abc");
    assert_eq!(directory_id(Path::new("x/tiny/")).unwrap(), "tiny");
    assert!(directory_id(Path::new(".")).is_some_and(|n| n != "."));
}

/// Every key, type and value as gguf-py's `Metadata.load` and `set_gguf_meta_model` write them for this directory.
#[test]
fn a_full_card_is_handed_on() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("My-Model-7B-Chat-v1.2");
    std::fs::create_dir(&dir).unwrap();
    let card = "---\nlicense: other\nlicense_name: my-license\nlicense_link: LICENSE\ntags:\n- x\n- no\n\
        pipeline_tag: text-generation\nlanguage:\n- en\n- de\nbase_model:\n- meta-llama/Llama-2-7b-hf\n\
        - https://huggingface.co/mistralai/Mistral-7B-v0.1\n- https://example.org/x\ndatasets:\n- tatsu-lab/alpaca\n\
        model_creator: Somebody\n---\n# hi\n";
    std::fs::write(dir.join("README.md"), card).unwrap();
    let generation = r#"{"top_k": 20, "temperature": 0.6, "repetition_penalty": 1.05, "do_sample": true}"#;
    std::fs::write(dir.join("generation_config.json"), generation).unwrap();
    let mut out = Metadata::new();
    let params = ParamCounts { total: 6_738_415_616, ..ParamCounts::default() };
    let notes = general(&dir, &config(serde_json::json!({"_name_or_path": "/home/me/x/y"})), params, &mut out);
    assert!(notes.is_empty(), "{notes:?}");
    let found: Vec<String> = out
        .iter()
        .map(|(k, v)| match v {
            Value::Array(a) => format!("{k} {:?}", a.iter().filter_map(Value::as_str).collect::<Vec<_>>()),
            Value::String(s) => format!("{k} {s}"),
            other => format!("{k} {other:?}"),
        })
        .collect();
    let wanted = include_str!("oracle.txt");
    let mut sorted: Vec<&str> = found.iter().map(String::as_str).collect();
    let mut expected: Vec<&str> = wanted.lines().collect();
    sorted.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sorted, expected);
}

#[test]
fn a_broken_card_is_a_remark() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("README.md"), "---\na: [\n---\n").unwrap();
    std::fs::write(dir.path().join("generation_config.json"), "{").unwrap();
    let mut out = Metadata::new();
    let notes = general(dir.path(), &config(serde_json::json!({})), ParamCounts::default(), &mut out);
    assert!(notes.len() == 1 && notes[0].contains("README.md"), "{notes:?}");
}
