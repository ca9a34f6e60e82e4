//! AWQ: every architecture goes through and no site gets worse; moving scales keeps the function; a model whose
//! channels were scaled against each other comes out as well as the original.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aurora_quant::checkpoint::{self, TensorSource};
use aurora_quant::export::{self, Contents, Request};
use aurora_quant::model::{self, Model};
use aurora_quant::passes::{BlockState, Log, Needs, Pass, StatsKind};
use aurora_quant::pipeline::blocks::Chain;
use aurora_quant::pipeline::{self, Rounding};
use aurora_quant::plan::Plan;
use aurora_quant::recipe::Propagate;
use aurora_quant::runtime::{Attention, CacheType, Engine, RuntimeOptions};
use aurora_quant::watch::Unwatched;
use aurora_quant::weights::Weights;
use half::bf16;
use ndarray::Array2;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use serde_json::Value as Json;
use tempfile::TempDir;

fn model(name: &str) -> PathBuf {
    common::fixtures().join("models").join(name)
}

fn text() -> PathBuf {
    common::fixtures().join("eval/eval.txt")
}

fn json(done: &Output) -> Json {
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("a JSON document")
}

fn convert(from: &Path, method: &str, file_type: &str, output: &Path, more: &[&str]) -> Json {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurora-quant"));
    command.arg("convert").arg(from).args(["--method", method, "--type", file_type, "--json", "-q", "--force", "-o"]);
    json(&command.arg(output).args(more).output().unwrap())
}

/// On the small text, in samples of 32 tokens.
fn small(name: &str, method: &str, file_type: &str, output: &Path, more: &[&str]) -> Json {
    let text = text();
    let options = ["--text", text.to_str().unwrap(), "--context", "32"];
    convert(&model(name), method, file_type, output, &[&options, more].concat())
}

fn number(v: &Json) -> f64 {
    v.as_f64().unwrap_or_else(|| panic!("{v} is a number"))
}

/// Fused matrices, experts, shared key-value heads, post-norms, norms with a term: scales or a reason for every site,
/// and never more loss on the calibration text than without.
#[test]
fn every_architecture_goes_through_and_no_site_gets_worse() {
    let dir = TempDir::new().unwrap();
    for name in common::MODELS.iter() {
        for (method, file_type) in [("awq", "q4_0"), ("awq+gptq", "q3_k_m")] {
            let out = dir.path().join("out.gguf");
            let record = small(name, method, file_type, &out, &["--grid", "5", "--samples", "16"]);
            let done = record["passes"].as_array().expect("a report");
            let scales = done.iter().filter(|r| r["pass"] == "awq");
            let mut scaled = 0;
            for site in scales {
                if let Some(note) = site["note"].as_str() {
                    assert!(!note.is_empty() && site["facts"]["exponents"].is_null(), "{name}: {site}");
                    continue;
                }
                let (before, after) = (number(&site["before"]), number(&site["after"]));
                assert!(after <= before, "{name} {method}: {site}");
                assert_eq!(site["facts"]["exponents"].is_null(), after == before, "{name}: {site}");
                assert!(
                    method == "awq" || site["facts"]["exponents"].is_null() || after < 0.75 * before,
                    "{name}: {site}"
                );
                scaled += usize::from(after < before);
            }
            // Before GPTQ only scales that gain much are taken.
            assert!(scaled > 0 || method != "awq", "{name}: no site gained anything");
            let eval = Command::new(env!("CARGO_BIN_EXE_aurora-quant"))
                .args(["eval", "--json", "-q", "--context", "32", "--chunks", "2", "--text"])
                .args([&text(), &out])
                .output()
                .unwrap();
            assert!(number(&json(&eval)["perplexity"]["value"]).is_finite(), "{name}");
        }
    }
}

#[test]
fn no_number_of_threads_changes_a_byte() {
    let dir = TempDir::new().unwrap();
    for (name, method, more) in [("tiny-llama3", "awq", &["--clip"][..]), ("tiny-mixtral", "awq+gptq", &[])] {
        let bytes = |threads: &str| {
            let out = dir.path().join("out.gguf");
            let fewer = ["--grid", "4", "--samples", "8", "--threads", threads];
            small(name, method, "q4_k_s", &out, &[more, &fewer].concat());
            fs::read(out).unwrap()
        };
        let one = bytes("1");
        assert!(one == bytes("2") && one == bytes("7"), "{name}");
    }
}

/// Scales every input that can be scaled, by made-up factors.
struct Scramble {
    powers_of_two: bool,
}

impl Pass for Scramble {
    fn needs(&self) -> Needs {
        StatsKind::Diagonal.into()
    }

    fn apply(&self, block: &mut BlockState<'_>, _: &mut dyn Log) -> aurora_quant::Result<()> {
        for i in 0..block.sites().len() {
            let site = &block.sites()[i].site;
            let Ok(producer) = &site.producer else { continue };
            let mut factors = vec![1.0; site.width];
            for (g, group) in producer.groups(site.width).into_iter().enumerate() {
                let k = ((g * 7 + i * 3) % 9) as f32 - 4.0;
                let factor = if self.powers_of_two { k.exp2() } else { (k / 3.0).exp() };
                group.into_iter().for_each(|c| factors[c] = factor);
            }
            block.scale_site(i, &factors)?;
        }
        Ok(())
    }
}

/// Writes the model as F32 with the passes' scales.
fn write(source: &dyn TensorSource, model: &Model, passes: &[Box<dyn Pass>], format: &str, out: &Path) {
    let weights = Weights::bind(source, &model.graph).unwrap();
    let exporter = export::by_name(format).unwrap();
    let request = Request { file_type: Some("f32".to_owned()), ..Request::default() };
    let types = exporter.assign(&request, source, &weights).unwrap();
    let plan = Plan::keeping(model, &types.rules, &types.kept).unwrap();
    let contents = Contents { source, model, weights: &weights, plan: &plan, request: &request, importance: None };
    let prepared = exporter.prepare(contents).unwrap();
    let output = prepared.begin(contents, out, true).unwrap();
    let samples = [vec![1, 2, 3, 4, 5, 6, 7, 8]];
    let chain = Chain { samples: &samples, passes, propagate: Propagate::Quantized };
    let solved = pipeline::blocks::run(model, &weights, &plan, &chain, None, &*output, &Unwatched).unwrap();
    let rounding = Rounding { solved: Some(&solved), ..Rounding::default() };
    pipeline::run(&weights, &plan, rounding, &*output, &Unwatched).unwrap();
    output.finish(&Unwatched).unwrap();
}

fn logits(path: &Path) -> Array2<f32> {
    let source = checkpoint::open(path).unwrap();
    let source = source.as_ref();
    let model = model::describe(source.config(), &|name| source.find(name).is_some()).unwrap();
    let weights = Weights::bind(source, &model.graph).unwrap();
    let options = RuntimeOptions { context: 48, exact: true, cache: CacheType::F32, attention: Attention::Naive };
    let engine = Engine::new(&model, &weights, options).unwrap();
    let tokens: Vec<u32> = (0..48).map(|i| 3 + i * 5 % 200).collect();
    engine.forward(&mut engine.session(), &tokens, 0).unwrap()
}

/// Whether scales move through norms, values, fused rows, experts and biases without a change of function.
#[test]
fn scales_keep_the_function_and_powers_of_two_every_bit() {
    let dir = TempDir::new().unwrap();
    for name in common::MODELS.iter() {
        let source = checkpoint::open(&model(name)).unwrap();
        let source = source.as_ref();
        let described = model::describe(source.config(), &|name| source.find(name).is_some()).unwrap();
        let path = |what: &str| dir.path().join(what);
        write(source, &described, &[], "gguf", &path("plain.gguf"));
        let plain = logits(&path("plain.gguf"));
        for powers_of_two in [true, false] {
            write(source, &described, &[Box::new(Scramble { powers_of_two })], "gguf", &path("scaled.gguf"));
            assert!(fs::read(path("scaled.gguf")).unwrap() != fs::read(path("plain.gguf")).unwrap(), "{name}");
            let scaled = logits(&path("scaled.gguf"));
            let top = plain.iter().fold(0.0_f32, |top, x| top.max(x.abs()));
            let apart = plain.iter().zip(&scaled).fold(0.0_f32, |apart, (a, b)| apart.max((a - b).abs()));
            match powers_of_two {
                true => assert!(plain == scaled, "{name}: {apart} apart"),
                false => assert!(apart <= 1e-4 * top, "{name}: {apart} apart, logits up to {top}"),
            }
            // A checkpoint of what was edited computes what the file does: to the bit, unless its norms are stored less
            // one.
            let returned = path(&format!("{name}-{powers_of_two}"));
            write(source, &described, &[Box::new(Scramble { powers_of_two })], "safetensors", &returned);
            let again = logits(&returned);
            let apart = again.iter().zip(&scaled).fold(0.0_f32, |apart, (a, b)| apart.max((a - b).abs()));
            match name.contains("gemma") {
                false => assert!(again == scaled, "{name}: {apart} apart"),
                true => assert!(apart <= 1e-4 * top, "{name}: {apart} apart, logits up to {top}"),
            }
        }
    }
}

/// bookworm-8m with channels scaled against each other by powers of two, its function the same: norms and the columns
/// that read them, rows of up and columns of down, rows of v and columns of o.
fn with_outlier_channels(to: &Path) {
    let from = model("bookworm-8m");
    for entry in fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), Dtype::BF16, "{name}");
            let values = view.data().chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
            (name, (view.shape().to_vec(), values))
        })
        .collect();
    const HEAD: usize = 64;
    // Every eleventh channel is 16 to 64 times as large.
    let factor = |c: usize| if c % 11 == 5 { f32::from(16_u8 << (c / 11 % 3)) } else { 1.0 };
    let mut columns = |name: &str, by: &dyn Fn(usize) -> f32| {
        let (shape, values) = tensors.get_mut(name).unwrap();
        let cols = *shape.last().unwrap();
        values.iter_mut().enumerate().for_each(|(i, w)| *w *= by(i % cols));
    };
    for block in 0..8 {
        let name = |what: &str| format!("model.layers.{block}.{what}.weight");
        for (norm, readers) in [
            ("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].as_slice()),
            ("post_attention_layernorm", &["mlp.gate_proj", "mlp.up_proj"]),
        ] {
            columns(&name(norm), &factor);
            readers.iter().for_each(|reader| columns(&name(reader), &|c| factor(c).recip()));
        }
        columns(&name("mlp.down_proj"), &|c| factor(c).recip());
        // Two query heads share a head of values.
        columns(&name("self_attn.o_proj"), &|c| factor(c / (2 * HEAD) * HEAD + c % HEAD).recip());
    }
    for block in 0..8 {
        for (what, width) in [("mlp.up_proj", 256), ("self_attn.v_proj", 256)] {
            let (_, values) = tensors.get_mut(&format!("model.layers.{block}.{what}.weight")).unwrap();
            values.iter_mut().enumerate().for_each(|(i, w)| *w *= factor(i / width));
        }
    }
    let bytes: BTreeMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, values))| (name, values.iter().flat_map(|w| bf16::from_f32(*w).to_le_bytes()).collect()))
        .collect();
    let views = tensors
        .iter()
        .map(|(name, (shape, _))| (name.clone(), TensorView::new(Dtype::BF16, shape.clone(), &bytes[name]).unwrap()));
    serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
}

/// What outlier channels do to each method: little to AWQ with GPTQ, much to plain rounding.
#[test]
fn outlier_channels_cost_awq_little() {
    let dir = TempDir::new().unwrap();
    let plain = model("bookworm-8m");
    let hostile = dir.path().join("hostile");
    fs::create_dir(&hostile).unwrap();
    with_outlier_channels(&hostile);
    let kl = |from: &Path, method: &str| {
        let out = dir.path().join("out.gguf");
        let more = ["--pure", "--embedding-type", "q8_0", "--output-type", "q8_0"];
        let calibration = ["--samples", "32", "--context", "256"];
        convert(from, method, "q4_k_s", &out, &[&more[..], if method == "rtn" { &[] } else { &calibration }].concat());
        let eval = Command::new(env!("CARGO_BIN_EXE_aurora-quant"))
            .args(["eval", "--json", "-q", "--exact", "--context", "256", "--chunks", "16", "--reference"])
            .args([from, &out])
            .output()
            .unwrap();
        number(&json(&eval)["divergence"]["kl"]["value"])
    };
    let (rtn, rtn_hostile) = (kl(&plain, "rtn"), kl(&hostile, "rtn"));
    let (both, both_hostile) = (kl(&plain, "awq+gptq"), kl(&hostile, "awq+gptq"));
    println!("rtn {rtn:.5} {rtn_hostile:.5}, awq+gptq {both:.5} {both_hostile:.5}");
    assert!(rtn_hostile > 2.0 * rtn, "rtn: {rtn} and {rtn_hostile}");
    assert!(both_hostile < 1.15 * both, "awq+gptq: {both} and {both_hostile}");
}

fn refused(arguments: &[&str]) -> String {
    let dir = TempDir::new().unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_aurora-quant"))
        .arg("convert")
        .arg(model("stories260k"))
        .args(arguments)
        .arg("-o")
        .arg(dir.path().join("out.gguf"))
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(1), "{arguments:?}");
    String::from_utf8_lossy(&done.stderr).into_owned()
}

#[test]
fn chains_that_make_no_sense_are_refused_with_the_reason() {
    assert!(refused(&["--method", "gptq+awq"]).contains("awq must come before gptq"));
    assert!(refused(&["--method", "awq+gptq", "--clip"]).contains("--clip works only with --method awq"));
    assert!(refused(&["--method", "awq+awq"]).contains("twice"));
}
