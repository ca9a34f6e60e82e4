//! Checkpoints that say one thing and hold another, or leave out what others say: what is written is what transformers
//! computes of them, or they are refused with a way out.

mod common;

use std::path::{Path, PathBuf};

use aurora_quant::checkpoint::{self, Config};
use common::binary::{good, printed, refused};
use common::checkpoint::Checkpoint;
use common::conversion::{hashes, json};
use safetensors::Dtype;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

const TABLE: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Converts a checkpoint that has the tokenizer of the fixture `base`: the output, and the notes of the record.
fn converted(checkpoint: &Checkpoint, base: &str, dir: &TempDir, more: &[&str]) -> (PathBuf, Vec<String>) {
    // The folder's name becomes the model's.
    let number = std::fs::read_dir(dir.path()).unwrap().count();
    let (input, output) = (dir.path().join(format!("{number}/model")), dir.path().join(format!("{number}/output")));
    checkpoint.write_as(base, &input);
    let words = [&["convert", text(&input), "-o", text(&output), "--json"], more].concat();
    let record: Json = serde_json::from_str(&printed(&words)).unwrap();
    let notes = record["notes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap().to_owned()).collect();
    (output, notes)
}

/// What is said of a checkpoint that cannot be converted.
fn refusal(checkpoint: &Checkpoint, base: &str, dir: &TempDir) -> String {
    let input = dir.path().join("refused");
    checkpoint.write_as(base, &input);
    refused(&["convert", text(&input), "-o", text(&dir.path().join("refused.gguf"))])
}

fn mentions(notes: &[String], words: &[&str]) -> bool {
    notes.iter().any(|note| words.iter().all(|word| note.contains(word)))
}

/// A checkpoint with a second matrix beside its embedding table: the same numbers, but for what `change` does.
fn with_head(name: &str, change: impl Fn(&mut [u8])) -> Checkpoint {
    let mut checkpoint = Checkpoint::of(name).with(json!({"tie_word_embeddings": true}));
    let (dtype, shape, mut bytes) = checkpoint.tensors[TABLE].clone();
    change(&mut bytes);
    checkpoint.tensors.insert(HEAD.to_owned(), (dtype, shape, bytes));
    checkpoint
}

/// Exchanges the first and the last row.
fn other(bytes: &mut [u8]) {
    let at = bytes.len() - 128;
    let (start, end) = bytes.split_at_mut(at);
    start[..128].swap_with_slice(end);
}

#[test]
fn an_output_matrix_of_other_numbers_is_not_tied() {
    let dir = TempDir::new().unwrap();
    let f32_file = ["--type", "f32"];
    for name in ["stories260k", "tiny-granite", "tiny-qwen3-moe", "tiny-olmo2"] {
        let apart = with_head(name, other);
        let (found, notes) = converted(&apart, name, &dir, &f32_file);
        assert!(mentions(&notes, &["tie_word_embeddings", HEAD]), "{name}: {notes:?}");
        let said = apart.clone().with(json!({"tie_word_embeddings": false}));
        let (wanted, notes) = converted(&said, name, &dir, &f32_file);
        assert!(!mentions(&notes, &[HEAD]), "{name}: {notes:?}");
        assert!(hashes(&wanted).contains_key("output.weight"), "{name}");
        assert!(std::fs::read(found).unwrap() == std::fs::read(wanted).unwrap(), "{name}");
    }
    let said = refusal(&with_head("tiny-gemma2", other), "tiny-gemma2", &dir);
    assert!(said.contains(HEAD) && said.contains(TABLE) && said.contains("remove this tensor"), "{said}");
}

/// Who only looks at a model, or scores it, learns of it too.
#[test]
fn every_command_says_so() {
    let dir = TempDir::new().unwrap();
    let input = dir.path().join("model");
    with_head("bookworm-8m", other).write_as("bookworm-8m", &input);
    let eval = ["eval", text(&input), "--chunks", "1", "--context", "64"];
    let inspect = ["inspect", text(&input)];
    let bench = ["bench", text(&input), "-p", "4", "-n", "0", "-r", "1"];
    let generate = ["generate", text(&input), "-p", "A", "-n", "1"];
    for words in [&eval[..], &inspect, &bench, &generate] {
        let said = String::from_utf8(good(words).stderr).unwrap();
        assert!(said.contains("note: config.json says tie_word_embeddings true"), "{words:?}: {said}");
    }
    for words in [&eval[..], &inspect] {
        let record: Json = serde_json::from_str(&printed(&[words, &["--json"]].concat())).unwrap();
        let notes = record["notes"].as_array().unwrap();
        assert!(notes.len() == 1 && notes[0].as_str().unwrap().contains(HEAD), "{words:?}: {notes:?}");
    }
}

#[test]
fn folders_say_that_it_is_not_tied() {
    let dir = TempDir::new().unwrap();
    let apart = with_head("bookworm-8m", other);
    let formats: [&[&str]; 2] = [&["--format", "safetensors"], &["--format", "gptq", "--codes", "nearest"]];
    for format in formats {
        let (folder, notes) = converted(&apart, "bookworm-8m", &dir, format);
        assert!(mentions(&notes, &[HEAD]), "{format:?}: {notes:?}");
        assert_eq!(json(&folder.join("config.json"))["tie_word_embeddings"], false, "{format:?}");
        let source = checkpoint::open(&folder).unwrap();
        let head = source.find(HEAD).unwrap_or_else(|| panic!("{format:?}: no {HEAD}"));
        assert!(source.bytes(head, 0..head.range.len()) == apart.tensors[HEAD].2, "{format:?}");
    }
}

/// The same numbers once more, also in another type, or under the other name alone.
#[test]
fn one_matrix_under_either_name_is_tied() {
    let dir = TempDir::new().unwrap();
    let name = "tiny-granite";
    let (wanted, _) = converted(&Checkpoint::of(name), name, &dir, &["--type", "f32"]);
    let twice = with_head(name, |_| {});
    let mut wider = twice.clone();
    let (dtype, _, bytes) = wider.tensors.get_mut(HEAD).unwrap();
    assert_eq!(*dtype, Dtype::BF16);
    *bytes = bytes.chunks_exact(2).flat_map(|two| [0, 0, two[0], two[1]]).collect();
    *dtype = Dtype::F32;
    let mut alone = twice.clone();
    alone.tensors.remove(TABLE);
    for checkpoint in [twice, wider, alone] {
        let (found, notes) = converted(&checkpoint, name, &dir, &["--type", "f32"]);
        assert!(!mentions(&notes, &[HEAD]), "{notes:?}");
        assert_eq!(hashes(&found), hashes(&wanted));
    }
}

/// The same checkpoint with other names of tensors.
fn renamed(checkpoint: &Checkpoint, name: impl Fn(&str) -> String) -> Checkpoint {
    let tensors = checkpoint.tensors.iter().map(|(old, tensor)| (name(old), tensor.clone()));
    Checkpoint { tensors: tensors.collect(), config: checkpoint.config.clone() }
}

/// Embedding models are stored without the prefix of a language model's class, and may name the class without an
/// output matrix.
#[test]
fn names_without_a_prefix_are_the_same_tensors() {
    let dir = TempDir::new().unwrap();
    for name in ["tiny-qwen3", "stories260k", "tiny-gemma3"] {
        let plain = Checkpoint::of(name);
        let (wanted, usual) = converted(&plain, name, &dir, &["--type", "f32"]);
        let bare = renamed(&plain, |old| old.trim_start_matches("model.").to_owned());
        let (found, notes) = converted(&bare, name, &dir, &["--type", "f32"]);
        assert_eq!(hashes(&found), hashes(&wanted), "{name}");
        assert_eq!(notes, usual, "{name}");
    }
}

#[test]
fn classes_without_an_output_matrix_are_tied() {
    let dir = TempDir::new().unwrap();
    let classes = [("tiny-qwen3", "Qwen3Model"), ("tiny-mistral", "MistralModel"), ("stories260k", "LlamaModel")];
    for (name, class) in classes {
        let plain = Checkpoint::of(name);
        let tied = plain.config["tie_word_embeddings"] == true;
        let mut base = plain.clone().with(json!({"architectures": [class]}));
        base.tensors.remove(HEAD);
        let base = renamed(&base, |old| old.trim_start_matches("model.").to_owned());
        let (found, notes) = converted(&base, name, &dir, &["--type", "f32"]);
        assert_eq!(mentions(&notes, &[class, "no output matrix"]), !tied, "{name}: {notes:?}");
        let (wanted, _) = converted(&plain, name, &dir, &["--type", "f32"]);
        let mut wanted = hashes(&wanted);
        wanted.remove("output.weight");
        assert_eq!(hashes(&found), wanted, "{name}");
        // A class that has one and lacks it is told how to say that it is tied.
        if !tied {
            let mut lacking = plain.clone();
            lacking.tensors.remove(HEAD);
            let said = refusal(&lacking, name, &dir);
            assert!(said.contains(HEAD) && said.contains("tie_word_embeddings"), "{said}");
        }
    }
    let mut olmo = Checkpoint::of("tiny-olmo2").with(json!({"architectures": ["Olmo2Model"]}));
    olmo.tensors.remove(HEAD);
    let said = refusal(&olmo, "tiny-olmo2", &dir);
    assert!(said.contains("Olmo2Model has no output matrix"), "{said}");
}

#[test]
fn heads_of_classifiers_are_refused_with_a_way_out() {
    let dir = TempDir::new().unwrap();
    let mut ranks = Checkpoint::of("tiny-qwen3").with(json!({"architectures": ["Qwen3ForSequenceClassification"]}));
    let said = refusal(&ranks, "tiny-qwen3", &dir);
    assert!(said.contains("classifier") && said.contains("Qwen3ForCausalLM"), "{said}");
    ranks = Checkpoint::of("tiny-qwen3");
    let width = ranks.config["hidden_size"].as_u64().unwrap() as usize;
    ranks.tensors.insert("score.weight".to_owned(), (Dtype::F32, vec![1, width], vec![0; 4 * width]));
    let said = refusal(&ranks, "tiny-qwen3", &dir);
    assert!(said.contains("score.weight") && said.contains("remove it"), "{said}");
}

/// Adds what sentence-transformers writes beside a checkpoint: modules and what the second of them says.
fn modules(folder: &Path, kinds: &[&str], pooling: Json) {
    let path = |i: usize, kind: &str| if i == 0 { String::new() } else { format!("{i}_{kind}") };
    let list = kinds.iter().enumerate().map(|(i, kind)| {
        let class = format!("sentence_transformers.models.{kind}");
        json!({"idx": i, "name": i.to_string(), "path": path(i, kind), "type": class})
    });
    std::fs::write(folder.join("modules.json"), Json::Array(list.collect()).to_string()).unwrap();
    for (i, kind) in kinds.iter().enumerate().skip(1) {
        let place = folder.join(path(i, kind));
        std::fs::create_dir_all(&place).unwrap();
        let config = if i == 1 { &pooling } else { &json!({}) };
        std::fs::write(place.join("config.json"), config.to_string()).unwrap();
    }
}

#[test]
fn pooling_of_embedding_models_is_a_key() {
    let dir = TempDir::new().unwrap();
    let input = dir.path().join("input");
    Checkpoint::of("tiny-qwen3").write_as("tiny-qwen3", &input);
    let convert = |to: &str, more: &[&str]| {
        let output = dir.path().join(to);
        let words = [&["convert", text(&input), "-o", text(&output), "--json", "--force"], more].concat();
        (serde_json::from_str::<Json>(&printed(&words)).unwrap(), output)
    };
    let pooled = |kinds: &[&str], pooling: Json| {
        modules(&input, kinds, pooling);
        let (record, output) = convert("pooled.gguf", &["--type", "f32"]);
        let source = checkpoint::open(&output).unwrap();
        let Config::Gguf(config) = source.config() else { panic!("a GGUF file") };
        (config.opt_size("qwen3.pooling_type").unwrap(), record["notes"].to_string())
    };
    // What is said of the tokenizer is said of every model that has it.
    let (plain, _) = convert("plain.gguf", &["--type", "f32"]);
    let plain = plain["notes"].to_string();
    let usual = ["Transformer", "Pooling", "Normalize"];
    let (found, notes) = pooled(&usual, json!({"pooling_mode_lasttoken": true, "pooling_mode_mean_tokens": false}));
    assert_eq!((found, notes), (Some(3), plain.clone()));
    let (found, _) = pooled(&usual, json!({"pooling_mode_mean_tokens": true}));
    assert_eq!(found, Some(1));
    let (found, notes) = pooled(&usual, json!({"pooling_mode_max_tokens": true}));
    assert!(found.is_none() && notes.contains("1_Pooling"), "{notes}");
    let (found, notes) = pooled(&["Transformer", "Pooling", "Dense"], json!({"pooling_mode_cls_token": true}));
    assert!(found == Some(2) && notes.contains("2_Dense"), "{notes}");
    assert!(notes.contains("has no Normalize"), "{notes}");
    // What is done to texts before.
    let write = |name: &str, value: Json| std::fs::write(input.join(name), value.to_string()).unwrap();
    write("sentence_bert_config.json", json!({"max_seq_length": 512, "do_lower_case": true}));
    write("config_sentence_transformers.json", json!({"prompts": {"query": "Q: "}, "default_prompt_name": "query"}));
    let (found, notes) = pooled(&usual, json!({"pooling_mode_lasttoken": true, "include_prompt": false}));
    assert_eq!(found, Some(3));
    assert!(["do_lower_case", "prompt query", "leaves prompts out"].iter().all(|word| notes.contains(word)), "{notes}");
    write("sentence_bert_config.json", json!({"max_seq_length": 512, "do_lower_case": false}));
    write("config_sentence_transformers.json", json!({"prompts": {"query": "Q: "}, "default_prompt_name": null}));
    let (_, notes) = pooled(&usual, json!({"pooling_mode_lasttoken": true, "include_prompt": true}));
    assert_eq!(notes, plain);
    pooled(&["Transformer", "Pooling", "Dense", "Normalize"], json!({"pooling_mode_cls_token": true}));
    // Git keeps no empty folders.
    std::fs::remove_dir_all(input.join("3_Normalize")).unwrap();
    // In the Hugging Face layout all of it comes along.
    let (_, folder) = convert("folder", &["--format", "safetensors"]);
    assert!(folder.join("modules.json").is_file());
    assert_eq!(json(&folder.join("1_Pooling/config.json")), json!({"pooling_mode_cls_token": true}));
    assert!(folder.join("2_Dense/config.json").is_file());
    // A list that leads elsewhere is none.
    std::fs::write(input.join("modules.json"), r#"[{"path": "../elsewhere", "type": "a.Pooling"}]"#).unwrap();
    let said = refused(&["convert", text(&input), "-o", text(&dir.path().join("elsewhere.gguf"))]);
    assert!(said.contains("modules.json") && said.contains("elsewhere"), "{said}");
}

/// llama.cpp has no windows for Mistral's files and Phi-3's; who converts one is told.
#[test]
fn a_window_that_llama_cpp_does_not_have_is_told() {
    let dir = TempDir::new().unwrap();
    let (_, notes) = converted(&Checkpoint::of("tiny-mistral"), "tiny-mistral", &dir, &["--type", "f32"]);
    assert!(mentions(&notes, &["sliding_window"]), "{notes:?}");
    let phi = Checkpoint::of("tiny-phi3").with(json!({"sliding_window": 16}));
    let (_, notes) = converted(&phi, "tiny-phi3", &dir, &["--type", "f32"]);
    assert!(mentions(&notes, &["sliding_window is 16"]), "{notes:?}");
    let wide = Checkpoint::of("tiny-mistral").with(json!({"sliding_window": 4096}));
    let (_, notes) = converted(&wide, "tiny-mistral", &dir, &["--type", "f32"]);
    assert!(!mentions(&notes, &["sliding_window"]), "{notes:?}");
}
