//! Tokenizers and chat templates: what Hugging Face and llama.cpp make of the fixtures, round trips, hostile keys.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use aurora_quant::checkpoint;
use aurora_quant::gguf::{Metadata, Value, f32_array, i32_array, string, string_array};
use aurora_quant::text::{Control, Decoder, Special, Tokenizer};
use serde_json::Value as Json;

const PARSED: Special = Special { add: true, parse: true };

struct Case {
    text: String,
    ids: Vec<u32>,
    inner: Vec<u32>,
    decoded: String,
}

/// The cases of a model; `llama`: with llama.cpp's ids where they differ.
fn cases(model: &str, llama: bool) -> Vec<Case> {
    let path = common::fixtures().join("models").join(model).join("tokenizer_cases.json");
    let json: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = json["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 22);
    cases
        .iter()
        .map(|c| {
            let prefix = if llama && c["llama_cpp_agrees"] == false { "llama_cpp_" } else { "" };
            let ids = |key: &str| {
                let ids = c[format!("{prefix}{key}")].as_array().unwrap();
                ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
            };
            Case {
                text: c["text"].as_str().unwrap().to_owned(),
                ids: ids("ids"),
                inner: ids("ids_without_special"),
                decoded: c["decoded"].as_str().unwrap().to_owned(),
            }
        })
        .collect()
}

fn folder(model: &str) -> PathBuf {
    common::fixtures().join("models").join(model)
}

fn open(path: &Path) -> Tokenizer {
    let source = checkpoint::open(path).unwrap();
    Tokenizer::open(source.as_ref()).unwrap_or_else(|e| panic!("{e}"))
}

/// Converts a checkpoint with the binary under test.
fn convert(model: &Path, to: &Path) -> PathBuf {
    let file = to.join(format!("{}.gguf", model.file_name().unwrap().to_str().unwrap()));
    let output = Command::new(env!("CARGO_BIN_EXE_aurora-quant"))
        .arg("convert")
        .arg(model)
        .args(["--type", "f32", "-q", "-o"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    file
}

fn holds(tokenizer: &Tokenizer, model: &str, cases: &[Case]) {
    let mut faults = Vec::new();
    for case in cases {
        for (special, wanted) in [(PARSED, &case.ids), (Special { add: false, parse: true }, &case.inner)] {
            let found = tokenizer.encode(&case.text, special).unwrap();
            if found != *wanted {
                faults.push(format!("{model} {:?}: {found:?}, wanted {wanted:?}", case.text));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn directories_tokenize_as_hugging_face_does() {
    for model in common::MODELS.iter() {
        holds(&open(&folder(model)), model, &cases(model, false));
    }
}

#[test]
fn files_tokenize_as_llama_cpp_does() {
    let dir = tempfile::tempdir().unwrap();
    for model in common::MODELS.iter() {
        holds(&open(&convert(&folder(model), dir.path())), model, &cases(model, true));
    }
}

#[test]
fn decoding_gives_the_text_back() {
    let dir = tempfile::tempdir().unwrap();
    for model in common::MODELS.iter() {
        let file = open(&convert(&folder(model), dir.path()));
        let directory = open(&folder(model));
        for case in cases(model, false) {
            let shown = directory.decode(&case.inner, Control::Show).unwrap();
            assert_eq!(shown, case.decoded, "{model}");
            for (hugging_face, tokenizer) in [(false, &file), (true, &directory)] {
                let ids = tokenizer.encode(&case.text, Special { add: false, parse: false }).unwrap();
                let mut stream = Decoder::new(tokenizer, Control::Show);
                let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
                streamed.push_str(&stream.finish());
                let whole = tokenizer.decode(&ids, Control::Show).unwrap();
                assert!(streamed == whole || streamed == format!(" {whole}"), "{model} {streamed:?} {whole:?}");
                // Lost for good: what Hugging Face's NFC folds, a first space where its tokenizer takes one for its
                // own, and the difference between U+2581 and a space in SentencePiece, which spells a space so.
                let spaced = case.text.replace('\u{2581}', " ");
                let first = hugging_face && spaced.strip_prefix(' ') == Some(whole.as_str());
                let folded = case.text.contains('\u{301}') && whole.chars().count() < case.text.chars().count();
                let lossy = first || folded || whole == spaced;
                assert!(lossy || whole == case.text, "{model} {whole:?} of {:?}", case.text);
            }
        }
    }
}

#[test]
fn slow_tokenizer_files_are_enough() {
    for (model, keep) in [
        ("stories260k", &["tokenizer.model"][..]),
        ("tiny-gpt2", &["vocab.json", "merges.txt"]),
        ("tiny-qwen2", &["vocab.json", "merges.txt"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let files = ["config.json", "model.safetensors", "tokenizer_config.json", "generation_config.json"];
        for file in files.iter().chain(keep) {
            std::fs::copy(folder(model).join(file), dir.path().join(file)).unwrap();
        }
        let tokenizer = open(dir.path());
        for case in cases(model, true).iter().filter(|c| !c.text.contains('<')) {
            assert_eq!(tokenizer.encode(&case.text, PARSED).unwrap(), case.ids, "{model} {:?}", case.text);
        }
    }
}

#[test]
fn ends_of_generation() {
    let dir = tempfile::tempdir().unwrap();
    for (model, wanted) in [
        ("stories260k", &["</s>"][..]),
        ("tiny-llama3", &["<|end_of_text|>", "<|eot_id|>"]),
        ("tiny-qwen2", &["<|endoftext|>", "<|im_end|>"]),
        ("tiny-gemma2", &["<end_of_turn>", "<eos>"]),
        ("tiny-gpt2", &["<|endoftext|>"]),
    ] {
        for path in [folder(model), convert(&folder(model), dir.path())] {
            let tokenizer = open(&path);
            let mut found: Vec<_> = tokenizer.eos().iter().map(|&id| tokenizer.token(id).unwrap()).collect();
            found.sort_unstable();
            found.retain(|text| !text.starts_with("<|eom"));
            assert_eq!(found, wanted, "{}", path.display());
        }
    }
}

#[test]
fn spellings_of_marks_are_text_unless_parsed() {
    let dir = tempfile::tempdir().unwrap();
    let directory = folder("tiny-llama3");
    for path in [directory.clone(), convert(&directory, dir.path())] {
        let tokenizer = open(&path);
        let mark = tokenizer.id("<|eot_id|>").unwrap();
        let parsed = tokenizer.encode("a<|eot_id|>", Special::RENDERED).unwrap();
        assert_eq!(parsed.last(), Some(&mark));
        let text = tokenizer.encode("a<|eot_id|>", Special::TEXT).unwrap();
        assert!(!text.contains(&mark));
        assert_eq!(text.first(), tokenizer.bos().as_ref());
        assert_eq!(tokenizer.decode(&text, Control::Hide).unwrap(), "a<|eot_id|>");
        assert_eq!(tokenizer.decode(&parsed, Control::Hide).unwrap(), "a");
    }
}

/// A byte-level vocabulary of "a", "b", "ab".
fn byte_level() -> Metadata {
    let mut keys = Metadata::new();
    keys.set("tokenizer.ggml.model", string("gpt2"));
    keys.set("tokenizer.ggml.pre", string("gpt-2"));
    keys.set("tokenizer.ggml.tokens", string_array(["a", "b", "ab"]));
    keys.set("tokenizer.ggml.token_type", i32_array([1, 1, 1]));
    keys.set("tokenizer.ggml.merges", string_array(["a b"]));
    keys
}

/// A SentencePiece vocabulary of five tokens.
fn sentence_piece() -> Metadata {
    let mut keys = Metadata::new();
    keys.set("tokenizer.ggml.model", string("llama"));
    keys.set("tokenizer.ggml.tokens", string_array(["<unk>", "<s>", "</s>", "\u{2581}", "a"]));
    keys.set("tokenizer.ggml.scores", f32_array([0.0, 0.0, 0.0, -1.0, -2.0]));
    keys.set("tokenizer.ggml.token_type", i32_array([2, 3, 3, 1, 1]));
    keys
}

fn from(keys: &Metadata) -> aurora_quant::Result<Tokenizer> {
    Tokenizer::from_keys(Path::new("keys.gguf"), keys)
}

#[test]
fn hostile_keys_are_errors() {
    let good = from(&byte_level()).unwrap();
    assert_eq!(good.encode("abba c", Special::TEXT).unwrap(), [2, 1, 0]);
    let good = from(&sentence_piece()).unwrap();
    assert_eq!(good.encode("a a", Special::TEXT).unwrap(), [1, 3, 4, 3, 4]);
    let error = good.encode("b", Special::TEXT).unwrap_err().explain();
    assert!(error.contains("<0x62>"), "{error}");
    let b = "tokenizer.ggml.";
    let faults: Vec<(Metadata, &str, Option<Value>, &str)> = vec![
        (byte_level(), "model", None, "missing"),
        (byte_level(), "model", Some(string("bert")), "bert"),
        (byte_level(), "model", Some(Value::U32(1)), "string"),
        (byte_level(), "pre", Some(string("nonsense")), "nonsense"),
        (byte_level(), "pre", Some(Value::Bool(true)), "string"),
        (byte_level(), "tokens", None, "missing"),
        (byte_level(), "tokens", Some(string_array::<&str>([])), "0 tokens"),
        (byte_level(), "tokens", Some(i32_array([1, 2, 3])), "strings"),
        (byte_level(), "tokens", Some(string("a")), "array"),
        (byte_level(), "tokens", Some(string_array(["a", "b", "c"])), "\"ab\" is not in the vocabulary"),
        (byte_level(), "token_type", Some(i32_array([1])), "1 elements for 3"),
        (byte_level(), "token_type", Some(f32_array([1.0; 3])), "integers"),
        (byte_level(), "merges", None, "missing"),
        (byte_level(), "merges", Some(string_array(["a c"])), "\"c\" is not in the vocabulary"),
        (byte_level(), "merges", Some(string_array(["ab"])), "two tokens"),
        (byte_level(), "merges", Some(i32_array([1])), "strings"),
        (byte_level(), "add_bos_token", Some(Value::Bool(true)), "beginning-of-text"),
        (byte_level(), "add_bos_token", Some(string("yes")), "true or false"),
        (byte_level(), "eos_token_id", Some(string("2")), "token id"),
        (sentence_piece(), "scores", None, "missing"),
        (sentence_piece(), "scores", Some(f32_array([0.0])), "1 elements for 5"),
        (sentence_piece(), "scores", Some(f32_array([f32::NAN; 5])), "not a number"),
        (sentence_piece(), "scores", Some(string_array(["x"; 5])), "numbers"),
        (sentence_piece(), "tokens", Some(string_array(["a"; 6])), "5 elements for 6"),
    ];
    for (good, key, value, words) in faults {
        let mut keys = Metadata::new();
        for (k, v) in good.iter().filter(|(k, _)| *k != format!("{b}{key}")) {
            keys.set(k, v.clone());
        }
        if let Some(value) = value.clone() {
            keys.set(format!("{b}{key}"), value);
        }
        let error = from(&keys).expect_err(words).explain();
        assert!(error.contains(words) && error.contains("keys.gguf"), "{key} {value:?}: {error}");
    }
    // Ids without a token are ignored, as llama.cpp does.
    let mut keys = sentence_piece();
    keys.set("tokenizer.ggml.bos_token_id", Value::U32(99));
    keys.set("tokenizer.ggml.eos_token_id", Value::I32(-1));
    let tokenizer = from(&keys).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), &[2][..]));
    assert!(tokenizer.decode(&[5], Control::Show).is_err());
}

#[test]
fn every_pre_tokenizer_has_expressions_that_keep_the_text() {
    let letters: Vec<String> = (0x21..0x7f).chain(0xa1..0x144).filter_map(char::from_u32).map(String::from).collect();
    let text = "Hello  wOrld's\r\n\n 12345 x\u{301} 中文，かな 한국 \t!? <sentinel:1>  ...\n";
    let mut unknown = Vec::new();
    for pre in checkpoint::tokenizer::known_pre_tokenizers().into_iter().chain(["default"]) {
        let mut keys = byte_level();
        keys.set("tokenizer.ggml.pre", string(pre));
        keys.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
        keys.set("tokenizer.ggml.tokens", string_array(letters.iter().map(String::as_str)));
        keys.set("tokenizer.ggml.token_type", i32_array(vec![1; letters.len()]));
        keys.set("tokenizer.ggml.merges", string_array::<&str>([]));
        match from(&keys) {
            Ok(tokenizer) => {
                let ids = tokenizer.encode(text, Special::TEXT).unwrap();
                assert_eq!(tokenizer.decode(&ids, Control::Hide).unwrap(), text, "{pre}");
            }
            Err(e) => {
                assert!(e.explain().contains("not supported"), "{pre}: {e}");
                unknown.push(pre);
            }
        }
    }
    let special = ["afmoe", "gemma4", "granite-embed-multi-311m", "granite-embed-multi-97m", "kimi-k2"];
    let others = ["laguna", "sarvam-moe", "spark2_5", "whitespace"];
    assert_eq!(unknown, [&special[..], &others].concat());
}
