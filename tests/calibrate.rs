//! Calibration: block by block against the engine, files against what was seen, the commands on good and bad input.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aurora_quant::calibrate::Wanted;
use aurora_quant::calibrate::imatrix::{Imatrix, Origin};
use aurora_quant::checkpoint;
use aurora_quant::model::{Opened, ParamId};
use aurora_quant::pipeline::statistics;
use aurora_quant::runtime::{Attention, BlockRunner, CacheType, Engine, LinearInput, Overrides, RuntimeOptions, Tap};
use aurora_quant::watch::Unwatched;
use aurora_quant::weights::Weights;
use common::binary::{good, refused};
use common::{MODELS, canonical, fixtures};
use ndarray::{Array2, Axis};
use serde_json::Value as Json;

const EXACT: RuntimeOptions =
    RuntimeOptions { context: 48, exact: true, cache: CacheType::F32, attention: Attention::Flash };

fn fixture(name: &str) -> PathBuf {
    fixtures().join("models").join(name)
}

fn open(name: &str) -> Opened {
    Opened::open(&fixture(name)).unwrap()
}

fn tokens(name: &str) -> Vec<u32> {
    let file = canonical::load_file(&fixture(name).join("golden.safetensors"));
    file["input_ids"].data.iter().map(|&t| t as u32).collect()
}

/// Everything that linears were shown, by matrix and expert.
#[derive(Default, PartialEq, Debug)]
struct Seen(BTreeMap<(ParamId, Option<usize>), Array2<f32>>);

impl Tap for Seen {
    fn linear_input(&mut self, input: &LinearInput<'_>) {
        let none = || Array2::zeros((0, input.x.ncols()));
        let seen = self.0.entry((input.weight, input.expert)).or_insert_with(none);
        seen.append(Axis(0), input.x).unwrap();
    }
}

#[test]
fn block_by_block_is_what_the_engine_computes() {
    for name in MODELS.iter() {
        let opened = open(name);
        let weights = Weights::bind(&*opened.source, &opened.model.graph).unwrap();
        let tokens = tokens(name);
        let engine = Engine::new(&opened.model, &weights, EXACT).unwrap();
        let mut whole = Seen::default();
        engine.forward_tapped(&mut engine.session(), &tokens, 0, &mut whole).unwrap();
        let runner = BlockRunner::new(&opened.model, &weights, EXACT).unwrap();
        let mut residual = runner.embed(&tokens).unwrap();
        let (mut seen, none) = (Seen::default(), Overrides::new());
        for i in 0..opened.model.graph.blocks.len() {
            runner.block(i, &none).run(residual.view_mut(), Some(&mut seen)).unwrap();
            runner.release(Some(i));
        }
        let output = whole.0.iter().find(|((id, _), _)| {
            let param = opened.model.graph.param(*id);
            param.block.is_none()
        });
        assert_eq!(*output.unwrap().1, runner.head_inputs(residual.view()).unwrap(), "{name}: the output's input");
        let key = *output.unwrap().0;
        whole.0.remove(&key);
        assert!(whole == seen, "{name}: the inputs of the linears");
    }
}

#[test]
fn samples_that_go_together_are_as_if_each_went_alone() {
    for name in MODELS.iter() {
        let opened = open(name);
        let weights = Weights::bind(&*opened.source, &opened.model.graph).unwrap();
        let runner = BlockRunner::new(&opened.model, &weights, EXACT).unwrap();
        let tokens = tokens(name);
        let n = tokens.len();
        let samples =
            [&tokens[..n / 2], &tokens[n - n / 2..], &tokens[1..n / 2 + 1], &tokens[..n / 3], &tokens[..n / 3]];
        let mut alone: Vec<Array2<f32>> = samples.iter().map(|tokens| runner.embed(tokens).unwrap()).collect();
        let mut together = alone.clone();
        let (mut seen_alone, mut seen_together, none) = (Seen::default(), Seen::default(), Overrides::new());
        for i in 0..opened.model.graph.blocks.len() {
            let mut block = runner.block(i, &none);
            assert_eq!([0, 2, 3].map(|at| block.together(&together[at..])), [3, 1, 2], "{name}");
            block.run_all(&mut together, Some(&mut seen_together)).unwrap();
            alone.iter_mut().for_each(|residual| block.run(residual.view_mut(), Some(&mut seen_alone)).unwrap());
        }
        // Products with few rows sum in another order.
        let close = |a: &Array2<f32>, b: &Array2<f32>| {
            let most = a.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
            a.dim() == b.dim() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * most)
        };
        assert!(alone.iter().zip(&together).all(|(a, b)| close(a, b)), "{name}: residual streams");
        assert_eq!(seen_alone.0.len(), seen_together.0.len());
        for (key, a) in &seen_alone.0 {
            assert!(close(a, &seen_together.0[key]), "{name}: inputs of {key:?}");
        }
    }
}

#[test]
fn values_of_the_callers_choice_are_used() {
    let opened = open("tiny-mixtral");
    let graph = &opened.model.graph;
    let weights = Weights::bind(&*opened.source, graph).unwrap();
    let runner = BlockRunner::new(&opened.model, &weights, EXACT).unwrap();
    let start = runner.embed(&tokens("tiny-mixtral")).unwrap();
    let run = |overrides: &Overrides<'_>| {
        let mut residual = start.clone();
        runner.block(0, overrides).run(residual.view_mut(), None).unwrap();
        residual
    };
    let plain = run(&Overrides::new());
    let (mut same, mut other) = (Overrides::new(), Overrides::new());
    let of_block = (0..graph.params.len()).map(ParamId).filter(|id| graph.param(*id).block == Some(0));
    for id in of_block {
        same.floats(id, weights.whole(id).view());
        if graph.param(id).name == "blk.0.ffn_down_exps.weight" {
            other.floats(id, Array2::zeros(weights.dim(id)).view());
        }
    }
    let apart = |a: &Array2<f32>, b: &Array2<f32>| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // BF16 weights as F32 take another kernel, which sums in another order.
    assert!(apart(&plain, &run(&same)) < 1e-4);
    assert!(apart(&plain, &run(&other)) > 1e-2, "no expert adds anything");
}

/// Statistics of the library's run.
fn collect(name: &str, samples: &[Vec<u32>], gram: bool) -> (Opened, Imatrix) {
    let opened = open(name);
    let mut all = Imatrix::new(Origin::default());
    {
        let weights = Weights::bind(&*opened.source, &opened.model.graph).unwrap();
        let runner = BlockRunner::new(&opened.model, &weights, EXACT).unwrap();
        let mut sink = |feed: &_, stats: aurora_quantizers::SiteStats| {
            assert_eq!(stats.gram().is_some(), gram);
            all.put(&opened.model.graph, feed, &stats);
            Ok(())
        };
        statistics::collect(&runner, samples, Wanted { gram, output: true }, &mut sink, &Unwatched).unwrap();
    }
    (opened, all)
}

/// Sums over what the engine shows, in f64, matrix by matrix.
#[test]
fn sums_are_those_of_what_linears_see() {
    for name in MODELS.iter() {
        let tokens = tokens(name);
        let samples = [tokens[..20].to_vec(), tokens[20..].to_vec()];
        let (opened, all) = collect(name, &samples, false);
        let weights = Weights::bind(&*opened.source, &opened.model.graph).unwrap();
        let engine = Engine::new(&opened.model, &weights, EXACT).unwrap();
        let mut seen = Seen::default();
        for sample in &samples {
            engine.forward_tapped(&mut engine.session(), sample, 0, &mut seen).unwrap();
        }
        let mut matrices = 0;
        for ((id, expert), x) in &seen.0 {
            let param = opened.model.graph.param(*id);
            let entry = &all.entries[&param.name];
            let at = expert.unwrap_or(0);
            assert_eq!((entry.counts[at] as usize, entry.dim().1), x.dim(), "{name}: {}", param.name);
            for (c, column) in x.columns().into_iter().enumerate() {
                let column = column.into_iter().map(|&x| f64::from(x));
                let (sq, abs) = (column.clone().map(|x| x * x).sum::<f64>(), column.map(f64::abs).sum::<f64>());
                // f64 sums, rounded once.
                let close = |found: f32, want: f64| (f64::from(found) - want).abs() <= want * 1e-7;
                let found = [&entry.sum_sq, entry.sum_abs.as_ref().unwrap()].map(|sums| sums[[at, c]]);
                assert!(close(found[0], sq) && close(found[1], abs), "{name}: {} column {c}", param.name);
            }
            matrices += 1;
        }
        assert!(matrices >= all.entries.len(), "{name}: nothing was made up");
    }
}

#[test]
fn experts_without_a_token_count_alike_and_are_named() {
    // Two tokens with two experts each leave at least none of four for certain, but the same token twice leaves two.
    let (opened, all) = collect("tiny-mixtral", &[vec![5]], false);
    let found = all.importances(&opened.model.graph).unwrap();
    let graph = &opened.model.graph;
    let blocks = graph.blocks.len();
    // One token, two of four experts: two idle ones in each of three matrices of every block.
    assert_eq!(found.idle.len(), 2 * 3 * blocks);
    for (id, expert) in &found.idle {
        assert!(found.values[id].row(*expert).iter().all(|x| *x == 1.0));
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
        self.path(name)
    }
}

fn text() -> String {
    std::fs::read_to_string(fixtures().join("eval/eval.txt")).unwrap()
}

fn model(name: &str) -> String {
    fixture(name).to_str().unwrap().to_owned()
}

#[test]
fn threads_and_repeats_give_the_same_file() {
    let dir = Folder::new();
    let (model, text) = (model("stories260k"), dir.write("t.txt", text()));
    let make = |threads: &str, out: &str| {
        let out = dir.path(out);
        let args =
            ["calibrate", &model, "--text", &text, "--context", "64", "--hessian", "--threads", threads, "-o", &out];
        good(&args);
        std::fs::read(out).unwrap()
    };
    let one = make("1", "a.gguf");
    assert!(one == make("2", "b.gguf") && one == make("3", "c.gguf"));
}

#[test]
fn seeds_choose_samples() {
    let dir = Folder::new();
    let (model, text) = (model("stories260k"), dir.write("t.txt", text()));
    let make = |seed: &str, out: &str| {
        let out = dir.path(out);
        let args =
            ["calibrate", &model, "--text", &text, "--context", "32", "--samples", "3", "--seed", seed, "--json"];
        let args: Vec<&str> = args.into_iter().chain(["-o", &out]).collect();
        let record: Json = serde_json::from_slice(&good(&args).stdout).unwrap();
        assert_eq!((&record["samples"], &record["context"]), (&Json::from(3), &Json::from(32)));
        assert!(record["available"].as_u64().unwrap() > 3);
        let entries = Imatrix::open(Path::new(&out)).unwrap().entries;
        assert!(entries.values().all(|e| e.counts == [96.0]));
        entries
    };
    let one = make("1", "a.gguf");
    assert!(one == make("1", "b.gguf"));
    assert!(one != make("2", "c.gguf"));
}

#[test]
fn merged_files_are_the_single_run() {
    let dir = Folder::new();
    let text = text();
    let half = (text.len() / 2..).find(|&i| text.is_char_boundary(i)).unwrap();
    let parts = [dir.write("a.txt", &text[..half]), dir.write("b.txt", &text[half..])];
    let make = |texts: &[&str], out: &str| {
        let (model, out) = (model("stories260k"), dir.path(out));
        let mut args = vec!["calibrate", &model, "--context", "64", "--hessian", "-o", &out];
        texts.iter().for_each(|t| args.extend(["--text", t]));
        good(&args);
        out
    };
    let whole = make(&[&parts[0], &parts[1]], "whole.gguf");
    let (a, b) = (make(&[&parts[0]], "a.gguf"), make(&[&parts[1]], "b.gguf"));
    let sum = dir.path("sum.gguf");
    good(&["calibrate", "--merge", &a, &b, "-o", &sum]);
    let (whole, sum) = (Imatrix::open(Path::new(&whole)).unwrap(), Imatrix::open(Path::new(&sum)).unwrap());
    assert_eq!(whole.origin, sum.origin);
    assert!(whole.entries.keys().eq(sum.entries.keys()));
    // Each sum is rounded to f32 once in the single run, and twice more on its way through two files.
    let close = |a: f64, b: f64, scale: f64| (a - b).abs() <= 2.0 * f64::from(f32::EPSILON) * scale;
    let mut grams = 0;
    for (name, one) in &whole.entries {
        let two = &sum.entries[name];
        assert_eq!((one.dim(), &one.counts), (two.dim(), &two.counts), "{name}");
        let abs = [one, two].map(|entry| entry.sum_abs.as_ref().unwrap());
        for (a, b) in one.sum_sq.iter().zip(&two.sum_sq).chain(abs[0].iter().zip(abs[1])) {
            assert!(close(f64::from(*a), f64::from(*b), f64::from(*a)), "{name}: {a} {b}");
        }
        let (Some(a), Some(b)) = (whole.gram(name, 0).unwrap(), sum.gram(name, 0).unwrap()) else { continue };
        grams += 1;
        let diagonal = a.diagonal();
        // Factors of products are rounded to a 2047th of their channel's largest of 512 tokens, and the parts' 512
        // begin at other tokens. The largest is at most the root of the sum of squares, so by how roundings add up,
        // sums are off by one part in 2047 * sqrt(6) of that or so; four times as much would be no accident.
        let apart = |a: f64, b: f64, scale: f64| (a - b).abs() / (4.0 / (2047.0 * 6f64.sqrt()) * scale);
        for i in 0..one.dim().1 {
            // The diagonal is the sum of squares, summed another way.
            let squares = f64::from(one.sum_sq[[0, i]]);
            assert!(apart(diagonal[i], squares, squares) <= 1.0, "{name} at {i}");
            for j in 0..=i {
                let scale = (diagonal[i] * diagonal[j]).sqrt();
                assert!(apart(a.get(i, j), b.get(i, j), scale) <= 1.0, "{name} at {i} {j}");
            }
        }
    }
    assert_eq!(grams, 4 * 5, "four inputs in each of five blocks");
}

#[test]
fn conversations_go_through_the_models_template() {
    let dir = Folder::new();
    let line = serde_json::json!({ "messages": [
        { "role": "user", "content": "Tell me of the sea, at length and in detail." },
        { "role": "assistant", "content": "It is wide and deep and there are ships on it; some are old." },
    ] });
    let document = serde_json::json!({ "text": "Once there was a ship upon the sea." });
    let jsonl = dir.write("chat.jsonl", format!("{line}\n\n{document}\n"));
    let out = dir.path("o.gguf");
    let args = ["calibrate", &model("tiny-llama3"), "--text", &jsonl, "--context", "16", "-o", &out];
    good(&args);
    assert!(Imatrix::open(Path::new(&out)).unwrap().origin.chunks >= 2);
    let plain = ["calibrate", &model("stories260k"), "--text", &jsonl, "--context", "16", "-o", &dir.path("p.gguf")];
    assert!(refused(&plain).contains("template"), "that model has none");
    let bad = dir.write("bad.jsonl", "{\"text\": \"fine\"}\n{\"texts\": 1}\n");
    let args = ["calibrate", &model("tiny-llama3"), "--text", &bad, "-o", &dir.path("q.gguf")];
    assert!(refused(&args).contains("line 2: must be an object"));
}

/// Tokens of one file of conversations, by the refusal to make a sample of so many.
fn counted(dir: &Folder, model: &str, jsonl: &str) -> String {
    let error = refused(&["calibrate", model, "--text", jsonl, "--context", "500", "-o", &dir.path("none.gguf")]);
    error.split("the text has ").nth(1).and_then(|rest| rest.split(" tokens").next()).unwrap_or(&error).to_owned()
}

/// Calls, tools, parts and empty contents reach the template; the counts are those of what transformers renders.
#[test]
fn conversations_are_handed_on_as_they_are() {
    let dir = Folder::new();
    let folder = dir.path("model");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(model("tiny-llama3")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, Path::new(&folder).join(path.file_name().unwrap())).unwrap();
    }
    let template = "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}{% for m in messages %}\
        <|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{% if m.tool_calls %}{% for c in m.tool_calls %}\
        CALL {{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}{% elif m.content is string %}\
        {{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}<|eot_id|>{% endfor %}";
    std::fs::write(Path::new(&folder).join("chat_template.jinja"), template).unwrap();
    let call = serde_json::json!({"type": "function", "function": {"name": "tides", "arguments": {"port": "Vigo"}}});
    let line = |content: serde_json::Value| {
        serde_json::json!({
            "messages": [
                {"role": "user", "content": content},
                {"role": "assistant", "content": null, "tool_calls": [call]},
                {"role": "tool", "name": "tides", "content": "high at 4"},
            ],
            "tools": [{"type": "function", "function": {"name": "tides"}}],
        })
    };
    let text = line("When is high tide?".into());
    let parts = line(serde_json::json!([{"type": "text", "text": "When is "}, {"type": "text", "text": "high tide?"}]));
    let head = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
    let rendered = format!(
        "TOOLS [{{\"type\": \"function\", \"function\": {{\"name\": \"tides\"}}}}]\n{}When is high tide?<|eot_id|>{}\
         CALL tides {{\"port\": \"Vigo\"}}<|eot_id|>{}high at 4<|eot_id|>",
        head("user"),
        head("assistant"),
        head("tool")
    );
    let source = checkpoint::open(Path::new(&folder)).unwrap();
    let tokenizer = aurora_quant::text::Tokenizer::open(source.as_ref()).unwrap();
    let wanted = tokenizer.encode(&rendered, aurora_quant::text::Special::RENDERED).unwrap().len().to_string();
    for (name, content) in [
        ("plain.jsonl", format!("{text}\n")),
        ("parts.jsonl", format!("{parts}\n")),
        ("marked.jsonl", format!("\u{feff}{text}\r\n")),
    ] {
        assert_eq!(counted(&dir, &folder, &dir.write(name, content)), wanted, "{name}");
    }
    let refusing = "{{ raise_exception('no ' ~ messages[0].role) }}";
    std::fs::write(Path::new(&folder).join("chat_template.jinja"), refusing).unwrap();
    let refusal = counted(&dir, &folder, &dir.write("two.jsonl", format!("{{\"text\": \"a\"}}\n{text}\n")));
    assert!(refusal.contains("two.jsonl: line 2") && refusal.contains("no user"), "{refusal}");
    let nan = dir.write("nan.jsonl", "{\"text\": \"a\", \"score\": NaN}\n");
    assert!(counted(&dir, &folder, &nan).contains("NaN is a number in Python"));
}

#[test]
fn texts_that_are_no_samples_are_refused() {
    let dir = Folder::new();
    let out = dir.path("o.gguf");
    let calibrate = |text: &str, more: &[&str]| {
        let model = model("stories260k");
        let args: Vec<&str> =
            ["calibrate", &model, "--text", text, "-o", &out].into_iter().chain(more.to_vec()).collect();
        refused(&args)
    };
    assert!(calibrate(&dir.write("empty.txt", " \n"), &[]).contains("the text is empty"));
    let short = calibrate(&dir.write("short.txt", "Once upon a time"), &["--context", "64"]);
    assert!(short.contains("one sample of --context 64 needs 64") && short.contains("longer text"), "{short}");
    assert!(calibrate(&dir.write("latin.txt", b"caf\xe9"), &[]).contains("not UTF-8"));
    assert!(calibrate(&dir.write("t.txt", text()), &["--context", "1"]).contains("at least 2"));
    assert!(calibrate(&dir.write("t.txt", text()), &["--context", "100000"]).contains("needs 100000"));
    assert!(calibrate(&dir.path("missing.txt"), &[]).contains("cannot read"));
    assert!(!Path::new(&out).exists());
}

#[test]
fn without_a_text_the_embedded_one_is_used() {
    let dir = Folder::new();
    let model = model("stories260k");
    let out = dir.path("o.gguf");
    let done = good(&["calibrate", &model, "--samples", "2", "--context", "32", "--json", "-q", "-o", &out]);
    let record: Json = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(record["datasets"], serde_json::json!(["mix (embedded)"]));
    assert!(record["available"].as_u64().unwrap() > 1000, "about a megabyte of text: {}", record["available"]);
}

#[test]
fn weights_that_are_not_finite_are_named_with_their_block() {
    let dir = Folder::new();
    let source = fixture("stories260k");
    let copy = dir.0.path().join("model");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let file = copy.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let table: Json = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let at = table["model.layers.2.mlp.up_proj.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header + at..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let text = dir.write("t.txt", text());
    let args = ["calibrate", copy.to_str().unwrap(), "--text", &text, "--context", "64", "-o", &dir.path("o.gguf")];
    let message = refused(&args);
    assert!(message.contains("block 2") && message.contains("up_proj"), "{message}");
}

/// A file of statistics with every column's importance of our choice.
fn made_up(dir: &Folder, name: &str, importance: impl Fn(usize) -> f32) -> String {
    let opened = open(name);
    let (_, mut all) = collect(name, &[vec![5, 6, 7]], false);
    all.entries.retain(|n, _| n.starts_with("blk."));
    for entry in all.entries.values_mut() {
        entry.counts.iter_mut().for_each(|c| *c = 2.0);
        entry.sum_sq.iter_mut().enumerate().for_each(|(i, s)| *s = 2.0 * importance(i));
    }
    assert!(!opened.model.graph.params.is_empty());
    all.origin = Origin { datasets: vec!["made up".to_owned()], chunks: 3, chunk_size: 64 };
    let path = dir.path("made-up.gguf");
    all.write(Path::new(&path), true, &Unwatched).unwrap();
    path
}

#[test]
fn importances_reach_the_encoder_and_the_record() {
    use aurora_quantizers::{Scales, formats, matrix_mut};
    let dir = Folder::new();
    for name in ["stories260k", "tiny-mixtral"] {
        let importance = |i: usize| [1.0, 50.0, 0.0, 3.0, 0.5][i % 5] + (i / 7) as f32 * 0.01;
        let file = made_up(&dir, name, importance);
        let out = dir.path(&format!("{name}.gguf"));
        let args =
            ["convert", &model(name), "--type", "q4_0", "--codes", "nearest", "--imatrix", &file, "-o", &out, "--json"];
        let record: Json = serde_json::from_slice(&good(&args).stdout).unwrap();
        let used: Vec<&str> =
            record["importance"]["used"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        assert!(!used.is_empty());
        assert_eq!(record["importance"]["chunks"], 3);
        let notes = record["notes"].to_string();
        assert!(notes.contains("no importances for token_embd.weight") && notes.contains("weigh the same"), "{notes}");
        let source = checkpoint::open(Path::new(&out)).unwrap();
        let original = open(name);
        let weights = Weights::bind(&*original.source, &original.model.graph).unwrap();
        for (i, param) in original.model.graph.params.iter().enumerate() {
            let info = source.find(&param.name).unwrap();
            let Some(format) = formats::by_name(info.spec.name).filter(|f| f.blocks().is_some()) else {
                continue;
            };
            let (cols, rows) = (param.cols(), param.rows());
            let matrix = param.shape[param.shape.len() - 2];
            let row_bytes = info.spec.bytes_for(cols).unwrap();
            let (mut values, mut bytes) = (vec![0.0; cols], vec![0; row_bytes]);
            let all: Vec<f32> = (0..rows / matrix * cols).map(importance).map(|x| 2.0 * x / 2.0).collect();
            for row in 0..rows {
                weights.rows(ParamId(i), row..row + 1, matrix_mut(&mut values, cols));
                let expert = row / matrix;
                let own = used.contains(&&*param.name).then(|| &all[expert * cols..(expert + 1) * cols]);
                format.encode(&values, Scales::Search(own), &mut bytes);
                let found = source.bytes(info, row * row_bytes..(row + 1) * row_bytes);
                assert!(found == bytes, "{name}: {} row {row}", param.name);
            }
        }
    }
}

#[test]
fn statistics_made_on_the_fly_are_those_of_a_file() {
    let dir = Folder::new();
    let (model, text) = (model("tiny-qwen2"), dir.write("t.txt", text()));
    let sampling = ["--text", &text, "--context", "32", "--samples", "4", "--seed", "9"];
    let file = dir.path("i.gguf");
    good(&[&["calibrate", &model, "-o", &file], &sampling[..]].concat());
    let (a, b) = (dir.path("a.gguf"), dir.path("b.gguf"));
    good(&["convert", &model, "--type", "q4_0", "--imatrix", &file, "-o", &a]);
    good(&[&["convert", &model, "--type", "q4_0", "--calibrate", "-o", &b], &sampling[..]].concat());
    let (a, b) = (checkpoint::open(Path::new(&a)).unwrap(), checkpoint::open(Path::new(&b)).unwrap());
    for (x, y) in a.tensors().iter().zip(b.tensors()) {
        assert!(a.bytes(x, 0..x.range.len()) == b.bytes(y, 0..y.range.len()), "{}", x.name);
    }
}

#[test]
fn a_matrix_of_another_model_is_refused() {
    let dir = Folder::new();
    let file = made_up(&dir, "tiny-llama3", |_| 1.0);
    let args = |name: &str| refused(&["convert", &model(name), "--imatrix", &file, "-o", &dir.path("o.gguf")]);
    let wrong = args("stories260k");
    assert!(wrong.contains("importances, needed 64 columns"), "{wrong}");
    let unknown = args("tiny-gpt2");
    assert!(unknown.contains("the model has no matrix of this name"), "{unknown}");
}

fn dat(entries: &[(&str, i32, &[f32])], tail: &[u8]) -> Vec<u8> {
    let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, calls, values) in entries {
        bytes.extend((name.len() as i32).to_le_bytes());
        bytes.extend(name.bytes());
        bytes.extend(calls.to_le_bytes());
        bytes.extend((values.len() as i32).to_le_bytes());
        values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    }
    bytes.extend(tail);
    bytes
}

#[test]
fn the_older_format_is_read() {
    let dir = Folder::new();
    let values: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let mut tail = 7_i32.to_le_bytes().to_vec();
    tail.extend(5_i32.to_le_bytes());
    tail.extend(b"a.txt");
    let path = dir.write("i.dat", dat(&[("blk.0.attn_q.weight", 4, &values)], &tail));
    let file = Imatrix::open(Path::new(&path)).unwrap();
    assert_eq!(file.origin, Origin { datasets: vec!["a.txt".to_owned()], chunks: 7, chunk_size: 0 });
    let opened = open("stories260k");
    let found = file.importances(&opened.model.graph).unwrap();
    let (_, importance) = found.values.iter().next().unwrap();
    assert!(importance.iter().enumerate().all(|(i, x)| *x == i as f32 / 4.0));
    assert_eq!(found.dead_columns, 1);
}

/// No beginning of a file, and no file with some bytes changed, may panic or ask for gigabytes.
#[test]
fn damaged_files_are_errors() {
    let dir = Folder::new();
    let gguf = std::fs::read(made_up(&dir, "stories260k", |i| i as f32)).unwrap();
    let old = dat(&[("blk.0.attn_q.weight", 4, &[1.0; 64]), ("blk.0.attn_k.weight", 4, &[1.0; 64])], &[]);
    let read = |bytes: &[u8]| Imatrix::open(Path::new(&dir.write("x", bytes)));
    let opened = open("stories260k");
    for whole in [&gguf, &old] {
        assert!(read(whole).is_ok());
        let step = (whole.len() / 300).max(1);
        for end in (0..whole.len() - 1).step_by(step) {
            assert!(read(&whole[..end]).is_err(), "the first {end} of {} bytes", whole.len());
        }
        for at in (0..whole.len().min(20_000)).step_by((step / 7).max(1)) {
            for value in [0, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                // Anything may come of it but a panic.
                if let Ok(file) = read(&bytes) {
                    let _ = file.importances(&opened.model.graph);
                    let _ = file.entries.keys().map(|name| file.gram(name, 0)).collect::<Vec<_>>();
                }
            }
        }
    }
    assert!(read(b"").is_err());
    let negative = made_up(&dir, "stories260k", |i| if i == 3 { -1.0 } else { 1.0 });
    let message = refused(&["convert", &model("stories260k"), "--imatrix", &negative, "-o", &dir.path("o.gguf")]);
    assert!(message.contains("sum of squares -2 at 3"), "{message}");
}
