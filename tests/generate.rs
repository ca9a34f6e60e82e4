//! `aurora-quant generate`, by the real binary: golden continuations, seeds, chat, and what is refused.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use aurora_quant::checkpoint;
use aurora_quant::model;
use aurora_quant::runtime::{Attention, CacheType, Engine, RuntimeOptions};
use aurora_quant::text::{Control, Special, Tokenizer};
use aurora_quant::weights::Weights;
use serde_json::Value as Json;

const PARSED: Special = Special { add: true, parse: true };

fn folder(model: &str) -> PathBuf {
    common::fixtures().join("models").join(model)
}

fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_aurora-quant"))
}

fn generate(model: &Path, args: &[&str]) -> Output {
    binary().arg("generate").arg(model).args(args).stdin(Stdio::null()).output().unwrap()
}

fn document(model: &Path, args: &[&str]) -> Json {
    let output = generate(model, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn ids(json: &Json) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn golden(model: &str) -> (Vec<u32>, Vec<u32>) {
    let bytes = std::fs::read(folder(model).join("golden.json")).unwrap();
    let json: Json = serde_json::from_slice(&bytes).unwrap();
    (ids(&json["greedy"]["prompt_ids"]), ids(&json["greedy"]["new_ids"]))
}

/// The most probable token after each other, without the sampler.
fn argmax(model: &Path, prompt: &[u32], n: usize) -> Vec<u32> {
    let source = checkpoint::open(model).unwrap();
    let described = model::describe(source.config(), &|name| source.find(name).is_some()).unwrap();
    let weights = Weights::bind(source.as_ref(), &described.graph).unwrap();
    let options = RuntimeOptions { context: 64, exact: true, cache: CacheType::F32, attention: Attention::Flash };
    let engine = Engine::new(&described, &weights, options).unwrap();
    let mut session = engine.session();
    let mut next = prompt.to_vec();
    let mut found = Vec::new();
    while found.len() < n {
        let logits = engine.forward(&mut session, &next, next.len() - 1).unwrap();
        let logits = logits.row(0);
        let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
        found.push(best);
        next = vec![best];
    }
    found
}

#[test]
fn greedy_ids_are_the_golden_ones() {
    let mut by_text = 0;
    for model in common::MODELS.iter() {
        let (prompt, mut wanted) = golden(model);
        let directory = folder(model);
        assert_eq!(argmax(&directory, &prompt, wanted.len()), wanted, "{model}");
        let source = checkpoint::open(&directory).unwrap();
        let tokenizer = Tokenizer::open(source.as_ref()).unwrap();
        let text = tokenizer.decode(&prompt, Control::Hide).unwrap();
        if tokenizer.encode(&text, PARSED).unwrap() != prompt {
            // The golden prompt is cut in the middle of a word, which tokenizes otherwise by itself.
            continue;
        }
        by_text += 1;
        let end = wanted.iter().position(|id| tokenizer.eos().contains(id));
        wanted.truncate(end.unwrap_or(wanted.len()));
        let found = document(&directory, &["--prompt", &text, "-n", "16", "--temperature", "0", "--exact"]);
        assert_eq!(ids(&found["prompt_ids"]), prompt, "{model}");
        assert_eq!(ids(&found["ids"]), wanted, "{model}");
        assert_eq!(found["stop"], if end.is_some() { "end" } else { "length" }, "{model}");
    }
    assert!(by_text >= 8, "only {by_text} prompts could be given as text");
}

#[test]
fn a_story_is_told_to_its_golden_end() {
    let story = std::fs::read_to_string(folder("stories260k").join("story_greedy.txt")).unwrap();
    let prompt = "Once upon a time";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stories.gguf");
    let mut convert = binary();
    convert.arg("convert").arg(folder("stories260k")).args(["--type", "f32", "-q", "-o"]).arg(&file);
    assert!(convert.status().unwrap().success());
    for model in [folder("stories260k"), file] {
        let output = generate(&model, &["-p", prompt, "-n", "230", "--temperature", "0"]);
        let text = format!("{prompt}{}", String::from_utf8(output.stdout).unwrap().trim_end());
        assert!(text.len() > 450, "{text}");
        assert!(story.starts_with(&text), "{text}\n\nwanted\n\n{story}");
        let summary = String::from_utf8(output.stderr).unwrap();
        assert!(summary.contains("230 generated") && summary.contains("tokens/s"), "{summary}");
    }
}

#[test]
fn a_seed_fixes_the_text() {
    let args = |seed| ["-p", "Once", "-n", "40", "--temperature", "1.5", "--top-k", "0", "--seed", seed];
    let model = folder("stories260k");
    let texts = ["1", "1", "2"].map(|seed| document(&model, &args(seed))["text"].clone());
    assert_eq!(texts[0], texts[1]);
    assert_ne!(texts[0], texts[2]);
    // Streamed or in a document, it is the same text.
    let output = generate(&model, &[&args("1")[..], &["-q"]].concat());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", texts[0].as_str().unwrap()));
    assert!(output.stderr.is_empty());
}

#[test]
fn chat_uses_the_template() {
    let model = folder("tiny-qwen2");
    let args = ["--chat", "--system", "Be brief.", "-p", "Hi", "-n", "8", "--temperature", "0", "--exact"];
    let document = document(&model, &args);
    let source = checkpoint::open(&model).unwrap();
    let tokenizer = Tokenizer::open(source.as_ref()).unwrap();
    let shown = tokenizer.decode(&ids(&document["prompt_ids"]), Control::Show).unwrap();
    let wanted = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(shown, wanted);
    // Turns from stdin: the first answer is the same; the second turn runs only what is new.
    let mut child = binary()
        .arg("generate")
        .arg(&model)
        .args(["--chat", "--system", "Be brief.", "-n", "8", "--temperature", "0", "--exact"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"Hi\n\nAnd now?\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(document["text"].as_str().unwrap()), "{text:?}");
    let summaries = String::from_utf8(output.stderr).unwrap();
    assert_eq!(summaries.matches("prompt tokens").count(), 2, "{summaries}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let long = "word ".repeat(600);
    for (model, args, code, words) in [
        ("tiny-qwen2", &["-p", ""][..], 1, "the prompt is empty"),
        ("stories260k", &["-p", long.as_str()], 1, "leaves no room in a context of"),
        ("stories260k", &["-p", "Once upon a time", "--context", "4"], 1, "context of 4"),
        ("stories260k", &["--chat", "-p", "x"], 1, "no chat template"),
        ("stories260k", &[], 2, "--prompt"),
        ("stories260k", &["-p", "x", "--system", "y"], 2, "--chat"),
        ("stories260k", &["-p", "x", "--top-p", "2"], 2, "between 0 and 1"),
        ("stories260k", &["-p", "x", "--repeat-penalty", "0"], 2, "above 0"),
        ("tiny-qwen2", &["--chat", "--json"], 1, "--prompt"),
    ] {
        let output = generate(&folder(model), args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(words), "{args:?}: {error}");
    }
    // A model that begins its texts can begin one from nothing; a full context ends it.
    let found = document(&folder("stories260k"), &["-p", "", "-n", "99", "--temperature", "0", "--context", "12"]);
    assert_eq!((ids(&found["prompt_ids"]), &found["stop"]), (vec![1], &Json::from("context")));
    assert_eq!(found["ids"].as_array().unwrap().len(), 11, "with the one of the prompt twelve");
}

/// Numbers that half precision does not reach are named with the setting that keeps them in f32, which then works.
#[test]
fn what_half_precision_does_not_hold_has_a_way_out() {
    let dir = tempfile::TempDir::new().unwrap();
    let kinds = [
        ("layers.0.self_attn.v_proj.weight", "bf16", "cached in half"),
        ("layers.0.input_layernorm.weight", "q8_0", "8 bits"),
    ];
    for (tensor, file_type, words) in kinds {
        let mut checkpoint = common::checkpoint::Checkpoint::of("tiny-llama3");
        let (_, _, bytes) = checkpoint.tensors.get_mut(&format!("model.{tensor}")).unwrap();
        for number in bytes.as_chunks_mut().0 {
            *number = half::bf16::from_f32(half::bf16::from_le_bytes(*number).to_f32() * 2f32.powi(30)).to_le_bytes();
        }
        let (folder, file) = (dir.path().join(file_type), dir.path().join(format!("{file_type}.gguf")));
        checkpoint.write_as("tiny-llama3", &folder);
        let done = binary()
            .arg("convert")
            .arg(&folder)
            .args(["--pure", "--type", file_type, "-o"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let output = generate(&file, &["-p", "one two three", "-n", "2"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(words) && error.contains("--exact"), "{tensor}: {error}");
        let output = generate(&file, &["-p", "one two three", "-n", "2", "--exact"]);
        assert!(output.status.success(), "{tensor}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_keeps_what_was_written() {
    use std::io::Read;
    let mut child = binary()
        .arg("generate")
        .arg(folder("stories260k"))
        .args(["-p", "Once", "-n", "100000", "--temperature", "1.0", "--top-k", "0", "--top-p", "1", "--min-p", "0"])
        .args(["--repeat-penalty", "1.3"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let summary = String::from_utf8(output.stderr).unwrap();
    // So small a model may be done before the signal arrives.
    assert!(output.status.success() && summary.contains("generated"), "{summary}");
}
